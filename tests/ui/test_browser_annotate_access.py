"""The annotator's screen for everyone: axe, phones, themes, long and hostile texts, scripts."""

import pytest
from browsing import PHONE, WIDE, given, make_task, press, status, texts, violations

from rlhf.store import Gold

pytestmark = pytest.mark.browser

LONG = "Sunlight is a mix of colours. " * 150
RICH = (
    "# Short\n\nA **bold** word, `code`, \\(x^2\\) and a [link](https://example.org).\n\n- one\n\n"
    "> quoted\n\n```python\n" + "x = " + "1 + " * 60 + "1\n```\n\n"
    "| colour | nm | " + "a long heading | " * 9 + "\n|---|---|" + "---|" * 9 + "\n| blue | 450 |"
)
ARABIC = "\u0627\u0644\u0633\u0645\u0627\u0621 \u0632\u0631\u0642\u0627\u0621.\n\nIn short: blue."
TEXTS = [LONG, RICH, ARABIC, "Blue.", "x" * 600, "", "Red.", "Green.", "No."]
HOSTILE = [
    "<script>document.title='fired'</script>",
    "<img src=x onerror=\"document.title='fired'\">",
    "<svg onload=\"document.title='fired'\">",
    "${document.title='fired'} `${document.title='fired'}`",
    "{{document.title='fired'}} {{{value}}} {{#each value}}x{{/each}}",
    "</div></template></script><script>document.title='fired'</script>",
    "<iframe src=\"javascript:parent.document.title='fired'\"></iframe>",
    "![x](http://192.0.2.1/p.png) <link rel=stylesheet href=//192.0.2.1/x.css>",
    "[click](javascript:document.title='fired') <style>*{display:none}</style>",
]
VIEWS = [
    pytest.param(viewport, scheme, id=f"{viewport['width']}-{scheme}")
    for viewport in (WIDE, PHONE)
    for scheme in ("light", "dark")
]


def cards(page, count):
    page.wait_for_function(f"document.querySelectorAll('.rk-card').length === {count}")


def tasks_in_order(served, *new):
    """Tasks that are given in this order."""
    served.store.change_settings(random_share=0.0)
    served.store.add_tasks(list(new))


# ---- axe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("viewport", "scheme"), VIEWS)
def test_axe_finds_nothing_while_ranking(visits, served, viewport, scheme):
    served.store.change_settings(strengths=True, guidelines="# Read this\n\n" + LONG)
    tasks_in_order(served, *(make_task(k, texts=TEXTS[:k]) for k in (9, 4, 2)))
    page = visits.open(viewport=viewport, color_scheme=scheme, ready="dialog")
    found = {"guidelines": violations(page)}
    press(page, "Escape Shift+?")
    found["shortcuts"] = violations(page)
    press(page, "Escape")
    found["nothing ranked"] = violations(page)
    press(page, "a 1 b 2 c 2 Shift+F Control+Enter")
    page.wait_for_selector("text=Draft saved")
    found["partial ranking, flags, strengths"] = violations(page)
    press(page, "m l l x")
    found["raw, one at a time, all bad"] = violations(page)
    press(page, "Control+Enter")
    cards(page, 4)
    press(page, "s")
    found["four answers, notice, skip"] = violations(page)
    press(page, "Escape l m 1 2 3 4 Control+Enter")
    cards(page, 2)
    found["two answers"] = violations(page)
    assert found == {state: [] for state in found}


@pytest.mark.parametrize(("viewport", "scheme"), VIEWS)
def test_axe_finds_nothing_around_the_ranking(visits, served, viewport, scheme):
    visits.expected = ("409", "ERR_FAILED")
    gold = Gold((1, 2, 3), "The **first** one is right.")
    tasks_in_order(
        served,
        make_task(0, texts=TEXTS[1:4], pool="training", gold=gold),
        make_task(1, texts=TEXTS[1:4]),
    )
    page = visits.open(viewport=viewport, color_scheme=scheme)
    found = {"training": violations(page)}
    press(page, "1 2 3 Control+Enter")
    page.wait_for_selector("text=Next task")
    found["feedback"] = violations(page)
    page.get_by_role("button", name="Next task").click()
    page.wait_for_selector(".rk-sheet")
    other = visits.window(page.context)
    press(page, "1 2 3")
    page.route("**/api/submit", lambda route: route.abort())
    press(page, "Control+Enter")
    page.wait_for_selector("text=not yet stored")
    found["server away"] = violations(page)
    page.unroute("**/api/submit")
    page.wait_for_selector("text=Thank you")
    found["done"] = violations(page)
    page.goto(f"{served.url}rank/#/rank/2")
    page.wait_for_selector("text=Correct your ranking")
    found["correction"] = violations(page)
    press(other, "3 2 1 Control+Enter")
    other.wait_for_selector("text=This task has been ranked already")
    found["two rankings"] = violations(other)
    assert found == {state: [] for state in found}


# ---- phones, long texts --------------------------------------------------------------------------

SMALL = """() => [...document.querySelectorAll(
    '.rk button, .rk label:has(input), .rk summary, .rk select, .rk-header a')]
  .filter((node) => node.offsetParent)
  .filter((node) => { const box = node.getBoundingClientRect();
    return box.width < 24 || box.height < 24; })
  .map((node) => node.outerHTML)"""
CUT = """() => [...document.querySelectorAll('.rk-text')].filter((node) => node.offsetParent)
  .filter((node) => node.scrollHeight > node.clientHeight + 1
    || node.scrollWidth > node.clientWidth + 1).length"""


@pytest.mark.parametrize("width", [320, 390, 700, 1400])
def test_nothing_scrolls_sideways_and_no_text_is_cut(visits, served, width):
    served.store.change_settings(strengths=True)
    tasks_in_order(served, make_task(0, texts=TEXTS, prompt=LONG))
    page = visits.open(viewport={"width": width, "height": 800})
    press(page, "a 1 b 2 c 3 Control+Enter Shift+F")
    for layout in ("columns", "stacked", "single"):
        page.get_by_label("Layout").select_option(layout)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, layout
        assert page.evaluate(CUT) == 0, layout
        assert page.evaluate(SMALL) == [], layout


def test_the_ranks_of_a_long_text_stay_in_reach(visits, served):
    tasks_in_order(served, make_task(0, texts=[LONG * 3, LONG * 2]))
    page = visits.open(viewport=PHONE)
    row = page.locator(".rk-ranks").first.bounding_box()
    assert row["y"] + row["height"] <= PHONE["height"] + 1


@pytest.mark.usefixtures("tasks")
def test_layouts_by_keyboard_and_remembered(visits):
    page = visits.open()
    columns = {page.locator(".rk-card").nth(n).bounding_box()["x"] for n in range(4)}
    assert len(columns) == 2
    wide = page.locator(".rk-card").first.bounding_box()["width"]
    press(page, "e")
    assert page.locator(".rk-card").first.bounding_box()["width"] > 1.9 * wide
    press(page, "l")  # stacked
    assert len({page.locator(".rk-card").nth(n).bounding_box()["x"] for n in range(4)}) == 1
    press(page, "l")  # one at a time
    seen = lambda: page.locator(".rk-card:visible .rk-letter").all_inner_texts()  # noqa: E731
    assert seen() == ["A"]
    press(page, "ArrowRight n")
    assert seen() == ["C"]
    press(page, "p 2")
    assert seen() == ["C"]  # ranked B, and on
    page.reload()
    page.wait_for_selector(".rk-pager")
    assert seen() == ["A"]


# ---- scripts and what no eye sees ----------------------------------------------------------------


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(visits, served):
    tasks_in_order(served, make_task(0, texts=HOSTILE, prompt=HOSTILE[0]))
    page = visits.open()
    assert page.title() == "Rank"
    press(page, "m")  # raw
    shown = texts(page)
    assert sorted(shown) == sorted(HOSTILE)
    press(page, " ".join(str(rank) for rank in range(1, 10)) + " Control+Enter")
    page.wait_for_selector("text=Thank you")
    assert given(shown, served.rankings()[0]) == list(range(1, 10))
    assert page.title() == "Rank"
    assert page.locator("img, iframe, svg").count() == 0


def test_the_raw_view_names_what_is_unseen(visits, served):
    tasks_in_order(served, make_task(0, texts=["a\u202eb\u200bc\x07d\ne\tf", "**bold**"]))
    page = visits.open()
    assert page.locator(".rk-card strong").inner_text() == "bold"
    page.get_by_role("button", name="Raw text").click()
    raw = sorted(page.locator(".rk-card > .rk-text").all_text_contents())
    assert raw == ["**bold**", "aU+202EbU+200BcU+0007d\ne\tf"]


def test_every_paragraph_has_its_own_direction(visits, served):
    tasks_in_order(served, make_task(0, texts=[ARABIC, "plain"]))
    page = visits.open()
    arabic = page.locator(".rk-card", has_text="In short").locator("p")
    directions = arabic.evaluate_all("(all) => all.map((p) => getComputedStyle(p).direction)")
    assert directions == ["rtl", "ltr"]


# ---- the shell -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_the_theme_follows_the_system_until_somebody_chooses(visits):
    page = visits.open(color_scheme="dark")

    def ground_is(colour):
        ground = "getComputedStyle(document.body).backgroundColor"
        page.wait_for_function(f"{ground} === '{colour}'", timeout=5_000)

    dark, light = "rgb(17, 21, 27)", "rgb(245, 246, 248)"
    ground_is(dark)
    page.emulate_media(color_scheme="light")
    ground_is(light)
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    ground_is(dark)
    page.reload()
    page.wait_for_selector("text=Theme: dark")
    ground_is(dark)


@pytest.mark.usefixtures("tasks")
def test_navigation_is_by_role_and_logging_out_ends_the_session(visits, served):
    served.add_person("adm", "admin")
    links = "nav[aria-label=Screens] a"
    page = visits.open("adm")
    assert page.locator(links).all_inner_texts() == ["Rank", "My work", "Review", "Admin"]
    assert page.locator(f"{links}[aria-current]").inner_text() == "Rank"
    page = visits.open("ann", path="rank/#/admin")  # not for annotators: their own screen
    assert page.locator(links).all_inner_texts() == ["Rank", "My work"]
    press(page, "1")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto(f"{served.url}rank/")
    assert page.url.endswith("/login")
    page = visits.open("ann")  # what was on the screen had been sent before
    page.wait_for_selector(".rk-ranked")


@pytest.mark.usefixtures("tasks")
def test_changes_are_told_to_screen_readers_and_the_focus_is_seen(visits):
    page = visits.open()
    live = page.locator("[aria-live=polite].rk-hidden")
    press(page, "a 2")
    assert live.inner_text() == "Answer A: rank 2. Now answer B."
    page.locator(".rk-card").nth(1).locator(".rk-ranks input").nth(1).check()
    assert live.inner_text() == "Answer B: rank 2, tied with A"
    press(page, "u")
    assert live.inner_text() == "Undone"
    outlines = set()
    for _ in range(25):
        press(page, "Tab")
        outlines.add(
            page.evaluate(
                """() => { const node = document.activeElement;
                const seen = node.matches('.rk-ranks input') ? node.parentNode : node;
                return node === document.body ? 'body' : getComputedStyle(seen).outlineStyle; }"""
            )
        )
    assert outlines <= {"solid", "body"}


@pytest.mark.usefixtures("tasks")
def test_nothing_moves_for_who_asked_for_that(visits):
    page = visits.open(reduced_motion="reduce")
    moving = "[...document.querySelectorAll('.rk *')].filter((n) => getComputedStyle(n)\
        .transitionDuration !== '0s').length"
    assert page.evaluate(moving) == 0
    assert status(page) == ["not ranked yet"] * 4
