"""My work, review and admin in a real browser, over answers made up by ``fake_team``."""

import hashlib

import pytest
from browsing import WIDE, sync_api, violations, wait_until
from fake_team import ANSWERS, PEOPLE, FakeTeam, serve
from xss_strings import FAMILIES, HOST

pytestmark = pytest.mark.browser

expect = sync_api.expect
ADMIN = ("admin", "admin/quality", "admin/people", "admin/tasks", "admin/export", "admin/audit")
SCREENS = ("work", "review", "review/40", *ADMIN)
WORST = [text for family in FAMILIES for text in [*family()][:: len([*family()]) // 6][:6]]
"""Six of each family of texts that try to become code."""


@pytest.fixture
def open_page(chromium):
    """Open a page that must log no error and ask no other server for anything."""
    contexts, complaints = [], []

    def make(url, **options):
        context = chromium.new_context(**{"viewport": WIDE} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: is_fault(line) and complaints.append(line.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:", "about:")) or complaints.append(request.url)
            ),
        )
        page.site = url
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


def is_fault(line):
    """Chromium notes every 4xx as an error; what the screen makes of a 422 is tested."""
    return line.type == "error" and "status of 422" not in line.text


@pytest.fixture
def team():
    return FakeTeam()


@pytest.fixture
def site(team):
    with serve(team) as url:
        yield url


def show(page, screen):
    page.goto("about:blank")
    page.goto(f"{page.site}#/{screen}")
    page.wait_for_selector(".tm h1:focus")


def headings(page):
    return [text.strip() for text in page.locator("thead th").all_inner_texts()]


# ---- every screen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(open_page, site, width, scheme):
    page = open_page(site, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for screen in SCREENS:
        show(page, screen)
        if screen == "admin/export":
            page.get_by_role("button", name="Preview").click()
            page.wait_for_selector(".tm-download")
        assert violations(page) == [], screen
        assert page.evaluate("document.documentElement.scrollWidth") <= width, screen


def test_every_table_has_a_caption_scopes_and_aligned_numbers(open_page, site):
    page = open_page(site)
    for screen in SCREENS[1:]:
        show(page, screen)
        faults = page.evaluate(
            """() => [...document.querySelectorAll('table')].flatMap((table) => [
              table.caption && table.caption.textContent ? null : 'no caption',
              ...[...table.querySelectorAll('th')].map((cell) => cell.scope ? null : 'no scope'),
              ...[...table.tBodies[0].rows].map((row) =>
                row.querySelectorAll('th[scope=row]').length === 1 ? null : 'no row heading'),
              ...[...table.querySelectorAll('.rk-number')].map((cell) => {
                const style = getComputedStyle(cell);
                return style.textAlign === 'end' && style.fontVariantNumeric === 'tabular-nums'
                  ? null : 'a number that is not aligned';
              }),
            ]).filter(Boolean)"""
        )
        assert faults == [], screen


def test_a_wide_table_takes_the_focus_only_where_it_scrolls(open_page, site):
    wide, narrow = open_page(site), open_page(site, viewport={"width": 390, "height": 900})
    for page in (wide, narrow):
        show(page, "admin/people")
    assert wide.get_by_role("region", name="People").count() == 0
    region = narrow.get_by_role("region", name="People")
    assert region.get_attribute("tabindex") == "0"
    region.focus()
    narrow.keyboard.press("ArrowRight")
    wait_until(lambda: region.evaluate("node => node.scrollLeft") > 0, "it does not scroll")


# ---- my work


def test_my_work_lists_the_newest_first_and_loads_more(open_page, site):
    page = open_page(site)
    show(page, "work")
    entries = page.locator(".tm-entry")
    assert entries.count() == 30
    times = [entry.get_attribute("datetime") for entry in page.locator(".tm-entry time").all()]
    assert times == sorted(times, reverse=True)
    links = page.locator(".tm-entry a")
    assert links.first.get_attribute("href") == "#/rank/1065"
    for count in (60, 65):
        page.get_by_role("button", name="Load more").click()
        expect(entries).to_have_count(count)
    assert page.get_by_role("button", name="Load more").count() == 0
    assert links.last.get_attribute("href") == "#/rank/1001"


def test_my_work_says_what_was_said_of_each(open_page):
    with serve(FakeTeam(comments=("because",))) as url:
        page = open_page(url)
        show(page, "work")
        entries = page.locator(".tm-entry")
        # 62 = 7 * 8 + 6 = 11 * 5 + 7, 64 = 13 * 4 + 12 = 9 * 7 + 1, 59 = 7 * 8 + 3, 57 = 11 * 5 + 2
        all_bad, noted = entries.nth(3).inner_text(), entries.nth(1).inner_text()
        assert "A > B; C, D not ranked\nAll bad" in all_bad
        assert "Flags: A states something wrong, harmful; C states something wrong" in all_bad
        assert "B > A = C > D" in noted
        assert "Reviewer\n\nbecause" in noted
        assert "corrected once" in noted
        assert "Skipped: too long for now" in entries.nth(6).inner_text()
        assert "late" in entries.nth(8).inner_text()


def test_my_work_can_be_filtered_by_keyboard(open_page, site):
    page = open_page(site)
    show(page, "work")
    page.keyboard.press("Tab")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    shown = page.locator(".tm-entry:visible")
    # Of 36 to 65 those of the form 7 n + 3: 38, 45, 52, 59.
    assert shown.count() == 4
    assert all("Skipped" in text for text in shown.all_inner_texts())
    labels = page.locator(".tm-filters label").all_inner_texts()
    assert [text.split("\n") for text in labels][4] == ["Skipped", "4"]


def test_my_work_is_empty_at_first(open_page, team, site):
    team.mine_total = 0
    page = open_page(site)
    page.goto(f"{site}#/work")
    page.get_by_role("link", name="Rank a task").wait_for()
    assert page.get_by_role("heading", level=1).inner_text() == "Nothing here yet"


# ---- review


def test_review_accepts_a_ranking_and_goes_on(open_page, team, site):
    page = open_page(site)
    show(page, "review")
    assert headings(page) == ["Prompt", "People", "Agreement (tau-b)", "Decision"]
    assert page.locator("tbody td:nth-child(3)").first.inner_text() == "\u22120.82"
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("text=Who ranked what")
    texts = page.locator(".rk-card .rk-text").all_inner_texts()
    assert texts == [text.replace("*", "") for text in ANSWERS]
    rows = [row.inner_text().split("\t") for row in page.locator("tbody tr").all()]
    assert [row[:6] for row in rows] == [
        ["Person 1", "1", "3", "2", "4", "A > C > B > D"],
        ["Person 2", "4", "1", "3", "2", "B > D > C > A"],
        ["Person 3", "1", "2", "2", "-", "A > B = C > D"],
    ]
    assert rows[1][6].strip() == "A states something wrong; D doesn\u2019t follow the instruction"
    page.get_by_role("button", name="Accept the ranking of Person 2").click()
    page.wait_for_selector("h1:focus:text('Task 41')")
    page.get_by_text("The ranking of Person 2 is accepted.").wait_for()
    (decided,) = team.decided
    assert (decided["task"], decided["verdict"], decided["ranking"]) == (40, "accept", 901)
    assert len(decided["request_id"]) == 32


def test_review_decides_by_keyboard_alone(open_page, team, site):
    page = open_page(site)
    show(page, "review/41")
    page.keyboard.press("Control+Enter")
    error = page.locator(".rk-error")
    assert "Not ranked yet: A, B, C, D." in error.inner_text()
    for key in "a2b1c2d4u":
        page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    assert "Not ranked yet: D." in error.inner_text()
    assert team.decided == []
    page.keyboard.press("4")  # the answer that was missing has the focus
    assert page.locator(".tm-own").inner_text() == "B > A = C > D"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("h1:focus:text('Task 42')")
    (decided,) = team.decided
    assert (decided["verdict"], decided["ranks"]) == ("override", [2, 1, 2, 4])


def test_review_sends_back_with_a_note_only_and_the_last_leads_to_the_list(open_page, team, site):
    team.decided = [{"task": task, "verdict": "accept", "note": ""} for task in (40, 41, 42, 43)]
    page = open_page(site)
    show(page, "review/44")
    page.get_by_role("button", name="Send back").click()
    page.get_by_text("Say in the note why it goes back.").wait_for()
    assert len(team.decided) == 4
    page.keyboard.type("a1: B names no source.")  # the note has the focus: no shortcuts there
    page.get_by_role("button", name="Send back").click()
    page.get_by_text("There is nothing more to review.").wait_for()
    assert team.decided[4]["verdict"] == "send_back"
    assert team.decided[4]["note"] == "a1: B names no source."
    assert set(page.locator("tbody td:last-child").all_inner_texts()) == {"made"}


def test_review_shows_earlier_decisions_and_what_the_server_refuses(open_page, team, site):
    team.decided = [{"task": 42, "verdict": "send_back", "note": "look again"}]
    team.refusal = "this ranking was corrected meanwhile"
    page = open_page(site)
    show(page, "review/42")
    assert "look again" in page.locator(".tm-earlier").inner_text()
    accept = page.get_by_role("button", name="Accept the ranking of Person 1")
    with page.expect_response("**/decide"):
        accept.click()
    page.get_by_text("Not stored: this ranking was corrected meanwhile.").wait_for()
    assert accept.is_enabled()


# ---- admin


def test_the_overview_counts_what_the_server_says(open_page, site):
    page = open_page(site)
    show(page, "admin")
    tiles = [tile.inner_text().split("\n") for tile in page.locator(".tm-tiles > div").all()]
    assert tiles[0] == ["Tasks done", "1,261", "of 1,800 (70\xa0%)"]
    assert tiles[2][:2] == ["Rankings", "412"]
    assert tiles[4][:2] == ["Time left", "26\xa0h 24\xa0min"]
    hours = page.locator("figure").first
    assert hours.locator("rect").count() == 24
    heights = [float(bar.get_attribute("height")) for bar in hours.locator("rect").all()]
    assert max(heights) == pytest.approx(100 * 61 / 80)  # the axis ends at a round number above 61
    assert "412\xa0rankings; the most in an hour: 61" in hours.inner_text()
    hours.get_by_text("Numbers").click()
    cells = hours.locator("tbody td").all_inner_texts()
    assert [int(cell) for cell in cells][8:16] == [3, 18, 41, 52, 49, 12, 38, 57]


def test_quality_says_in_words_what_the_test_found(open_page, site):
    page = open_page(site)
    show(page, "admin/quality")
    text = page.locator(".tm-page").first.inner_text()
    assert "0.702 to 0.768" in text
    position = page.locator("section", has_text="Position").inner_text()
    assert "No sign of position bias: chance alone makes differences as large in 78" in position
    assert "answers shown 1st are ranked best more often than chance would explain" in position
    assert "p\xa0=\xa00.783" in position
    assert "p\xa0<\xa00.001" in position


def test_a_person_is_paused_and_resumed_in_place(open_page, team, site):
    page = open_page(site)
    show(page, "admin/people")
    assert headings(page)[:5] == [
        "Person",
        "Rankings",
        "Agreement (%)",
        "95 % interval (%)",
        "Gold passed",
    ]
    last = page.locator("tbody tr").last.inner_text().split("\t")
    assert last[1:6] == ["0", "-", "-", "-", "-"]  # nothing is known of who ranked nothing
    page.get_by_role("button", name="Pause Ada Lovelace").click()
    page.get_by_text("Ada Lovelace is paused.").wait_for()
    assert team.paused_people == {"a1", "a4"}
    assert page.evaluate("document.activeElement.ariaLabel") == "Resume Ada Lovelace"
    page.keyboard.press("Enter")
    page.get_by_text("Ada Lovelace gets tasks again.").wait_for()
    assert team.paused_people == {"a4"}


def test_a_refused_pause_changes_nothing_on_the_screen(open_page, team, site):
    team.refusal = "this account is disabled"
    page = open_page(site)
    show(page, "admin/people")
    page.get_by_role("button", name="Pause Ada Lovelace").click()
    page.get_by_text("Not done: this account is disabled.").wait_for()
    assert page.get_by_role("button", name="Pause Ada Lovelace").is_enabled()


def test_a_task_is_paused_and_found_among_the_paused(open_page, team, site):
    page = open_page(site)
    show(page, "admin/tasks")
    assert page.locator("tbody tr").count() == 50
    page.get_by_role("button", name="Load more").click()
    expect(page.locator("tbody tr")).to_have_count(100)
    page.get_by_role("button", name="Pause task 117").click()
    page.get_by_text("Task 117 is paused.").wait_for()
    page.get_by_text("Paused", exact=True).click()
    page.get_by_role("button", name="Resume task 117").wait_for()
    assert team.paused_tasks == {117}


def test_an_export_is_looked_at_and_downloaded(open_page, team, site):
    page = open_page(site)
    show(page, "admin/export")
    page.get_by_label("Format").select_option("trl")
    page.get_by_role("button", name="Preview").click()
    link = page.get_by_role("link", name="Download 12\xa0rows")
    link.wait_for()
    assert team.exports == [{"format": "trl", "aggregate": "none", "split": "all"}]
    facts = page.locator(".tm-facts").inner_text()
    with page.expect_download() as waiting:
        link.click()
    content = waiting.value.path().read_bytes()
    assert hashlib.sha256(content).hexdigest() in facts
    assert waiting.value.url.endswith("export?format=trl&aggregate=none&split=all")
    assert '"ranks": [ 1, 2, 2, null ]' in page.locator(".tm-sample").inner_text()
    page.get_by_label("Prompts").select_option("train")
    assert link.count() == 0  # what was counted is not what is chosen any more


def test_the_audit_log_grows(open_page, site):
    page = open_page(site)
    show(page, "admin/audit")
    page.get_by_role("button", name="Load more").click()
    expect(page.locator("tbody tr")).to_have_count(200)
    assert "format: rankings, rows: 2660" in page.locator("tbody").inner_text()


def test_refresh_asks_the_server_again(open_page, team, site):
    page = open_page(site)
    show(page, "admin")
    show(page, "admin/people")
    with page.expect_response("**/api/admin/figures"):
        page.get_by_role("button", name="Refresh").click()
    page.wait_for_selector("button:enabled:has-text('Refresh')")


# ---- hostile texts

STRANGERS = """() => [...document.querySelectorAll('.rk *')].filter((node) =>
  ['SCRIPT', 'IFRAME', 'IMG', 'OBJECT', 'EMBED', 'LINK', 'STYLE', 'META', 'BASE', 'FORM', 'VIDEO',
   'AUDIO', 'FRAME', 'MARQUEE'].includes(node.tagName.toUpperCase())
  || [...node.attributes].some((one) => one.name.startsWith('on')
    || /^\\s*(javascript|data|vbscript):/i.test(one.value))).map((node) => node.outerHTML)"""


def test_hostile_texts_stay_texts_on_every_screen(open_page):
    assert len(WORST) == 66
    hostile = FakeTeam(names=WORST, prompts=WORST, answers=WORST[:9], comments=WORST)
    with serve(hostile) as url:
        page = open_page(url)
        page.add_init_script("window.alert = () => { throw new Error('fired'); };")
        for screen in SCREENS:
            show(page, screen)
            for more in page.get_by_role("button", name="Load more").all():
                more.click()
            for preview in page.get_by_role("button", name="Preview").all():
                preview.click()
                page.wait_for_selector(".tm-download")
            assert page.evaluate(STRANGERS) == [], screen
            if screen == "admin/people":
                names = page.evaluate(
                    "() => [...document.querySelectorAll('tbody th bdi')].map(n => n.textContent)"
                )
                assert names == WORST
        assert HOST not in page.url


def test_hostile_answers_stay_texts_in_review(open_page):
    for start in range(0, len(WORST), 9):
        answers = WORST[start : start + 9]
        with serve(FakeTeam(prompts=answers, answers=answers, comments=answers)) as url:
            page = open_page(url)
            for task in (40, 41, 42):
                show(page, f"review/{task}")
                assert page.evaluate(STRANGERS) == []
                page.get_by_role("button", name="Raw text").click()
                assert page.evaluate(STRANGERS) == []


def test_a_name_keeps_its_own_direction(open_page):
    """A right-to-left override in a name does not turn the pseudonym behind it."""
    names = ("\u202eabc", *PEOPLE[1:])
    with serve(FakeTeam(names=names)) as url:
        page = open_page(url)
        show(page, "admin/people")
        assert page.locator("tbody th bdi").first.inner_text() == names[0]
