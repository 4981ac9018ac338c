"""The annotator's screen in a real browser: ranking by keyboard, mouse and finger, and its ends."""

import pytest
from browsing import PHONE, given, make_task, next_task, press, status, texts

from rlhf.store import Gold

pytestmark = pytest.mark.browser


def complaint(page):
    return page.locator(".rk-error").inner_text()


def chips(page, rank):
    """Letters that stand on a tier of the rail; '' is what is not ranked."""
    return "".join(page.locator(f".rk-tier[data-rank='{rank}'] .rk-chip").all_inner_texts())


# ---- by keyboard ---------------------------------------------------------------------------------


def test_nine_answers_take_nineteen_keys(visits, served):
    served.store.add_tasks([make_task(0, k=9), make_task(1)])
    page = visits.open()
    while len(texts(page)) != 9:  # the other task came first
        shown = texts(page)
        press(page, "1 2 3 Control+Enter")
        next_task(page, shown)
    shown = texts(page)
    assert page.locator(".rk-card input:checked").count() == 0
    press(page, "a 9 b 8 c 7 d 6 e 5 f 4 g 3 h 2 i 2 Control+Enter")
    page.wait_for_function("document.querySelectorAll('.rk-card').length !== 9")
    (ranking,) = [r for r in served.rankings() if len(r.ranks) == 9]
    assert given(shown, ranking) == [8, 7, 6, 5, 4, 3, 2, 1, 1]
    # The order on the screen is the one that is stored.
    assert [ranking.completions[place] for place in ranking.meta["shown_order"]] == shown


@pytest.mark.usefixtures("tasks")
def test_a_digit_goes_on_to_the_next_answer_that_has_no_rank(visits, served):
    page = visits.open()
    shown = texts(page)
    press(page, "b 2 4 1 1 Control+Enter")  # B, then C, D and A
    next_task(page, shown)
    (ranking,) = served.rankings()
    assert given(shown, ranking) == [1, 2, 3, 1]


@pytest.mark.usefixtures("tasks")
def test_a_digit_that_names_no_rank_and_a_held_key_do_nothing(visits):
    page = visits.open()
    press(page, "5 9")
    page.keyboard.down("3")
    page.keyboard.down("3")  # the keyboard repeats
    assert status(page) == ["rank 3", "not ranked yet", "not ranked yet", "not ranked yet"]


@pytest.mark.usefixtures("tasks")
def test_undo_takes_back_one_step_at_a_time(visits):
    page = visits.open()
    press(page, "a 1 b 1")
    assert status(page)[:2] == ["rank 1 = B", "rank 1 = A"]
    press(page, "u")
    assert status(page)[:2] == ["rank 1", "not ranked yet"]
    page.get_by_role("button", name="Clear all").click()
    assert status(page) == ["not ranked yet"] * 4
    press(page, "Control+z")
    assert status(page)[:2] == ["rank 1", "not ranked yet"]
    page.get_by_role("button", name="Undo").click()
    assert status(page) == ["not ranked yet"] * 4
    assert page.get_by_role("button", name="Undo").is_disabled()


@pytest.mark.usefixtures("tasks")
def test_chips_move_by_arrow_keys_in_and_out_of_ties(visits):
    page = visits.open()
    press(page, "a 1 b 2 c 3")
    page.get_by_role("button", name="Answer C, rank 3").focus()
    press(page, "ArrowUp")
    assert (chips(page, 1), chips(page, 2), chips(page, 3)) == ("A", "BC", "")
    press(page, "ArrowUp")
    assert (chips(page, 1), chips(page, 2), chips(page, 3)) == ("A", "C", "B")
    press(page, "ArrowDown Delete")
    assert (chips(page, 1), chips(page, 2), chips(page, "")) == ("A", "B", "CD")
    page.get_by_role("button", name="Answer D, not ranked yet").focus()
    press(page, "ArrowUp")
    assert chips(page, 3) == "D"
    # The focus stays on the chip that moved; Enter leads to its answer.
    press(page, "Enter")
    assert page.evaluate("document.activeElement.className").startswith("rk-card")
    assert page.locator(".rk-current .rk-letter").inner_text() == "D"


@pytest.mark.usefixtures("tasks")
def test_shortcuts_can_be_switched_off_for_this_browser(visits, served):
    page = visits.open()
    press(page, "Shift+?")
    assert "undo" in page.locator("dialog").inner_text()
    page.get_by_label("Letters and digits are shortcuts").uncheck()
    press(page, "Escape a 1 x")
    assert status(page) == ["not ranked yet"] * 4
    assert page.locator(".rk-ask").is_hidden()
    page.reload()
    page.wait_for_selector(".rk-card")
    shown = texts(page)
    press(page, "a 1")
    assert status(page) == ["not ranked yet"] * 4
    for card in range(4):
        page.locator(".rk-card").nth(card).get_by_label(str(card + 1), exact=True).check()
    press(page, "Control+Enter")
    next_task(page, shown)
    assert given(shown, served.rankings()[0]) == [1, 2, 3, 4]


# ---- by mouse and finger -------------------------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_radios_rank_and_clear(visits):
    page = visits.open()
    first = page.locator(".rk-card").first
    first.locator(".rk-ranks label").nth(2).click()
    assert status(page)[0] == "rank 3"
    assert first.get_by_role("radio", name="3").is_checked()
    first.get_by_role("button", name="Clear the rank of answer A").click()
    assert status(page)[0] == "not ranked yet"
    assert first.locator("input:checked").count() == 0


def middle(page, selector, part=0.5):
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] * part


def drag(page, letter, x, y):
    page.mouse.move(*middle(page, f".rk-chip >> text='{letter}'"))
    page.mouse.down()
    page.mouse.move(x - 5, y)
    page.mouse.move(x, y)
    assert page.locator(".rk-ghost").count() == 1
    page.mouse.up()
    assert page.locator(".rk-ghost").count() == 0


@pytest.mark.usefixtures("tasks")
def test_chips_are_dragged_by_mouse(visits, served):
    page = visits.open()
    shown = texts(page)
    drag(page, "A", *middle(page, ".rk-tier[data-rank='2']"))
    assert chips(page, 2) == "A"
    drag(page, "B", *middle(page, ".rk-tier[data-rank='2']"))
    assert chips(page, 2) == "AB"  # dropped on it: a tie
    drag(page, "C", *middle(page, ".rk-tier[data-rank='2']", 0.1))
    assert (chips(page, 1), chips(page, 2)) == ("C", "AB")  # on its edge: before it
    drag(page, "D", *middle(page, ".rk-tier[data-rank='1']", 0.9))
    assert (chips(page, 1), chips(page, 2), chips(page, 3)) == ("C", "D", "AB")
    drag(page, "B", *middle(page, ".rk-pool .rk-tier"))
    assert chips(page, "") == "B"
    drag(page, "B", 300, 300)  # beside the rail: nothing happens
    assert chips(page, "") == "B"
    drag(page, "B", *middle(page, ".rk-tier[data-rank='4']"))
    page.get_by_role("button", name="Submit").click()
    next_task(page, shown)
    assert given(shown, served.rankings()[0]) == [3, 4, 1, 2]


@pytest.mark.usefixtures("tasks")
def test_escape_ends_a_drag(visits):
    page = visits.open()
    page.mouse.move(*middle(page, ".rk-chip >> text='A'"))
    page.mouse.down()
    page.mouse.move(*middle(page, ".rk-tier[data-rank='1']"), steps=3)
    press(page, "Escape")
    page.mouse.up()
    assert chips(page, "") == "ABCD"


@pytest.mark.usefixtures("tasks")
def test_chips_are_dragged_by_finger_without_scrolling(visits):
    page = visits.open(viewport=PHONE, has_touch=True, is_mobile=True)
    page.locator(".rk-card").nth(1).locator(".rk-ranks label").nth(1).tap()
    page.wait_for_selector(".rk-tier[data-rank='2'] .rk-chip")
    page.locator(".rk-rail").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    start = middle(page, ".rk-chip >> text='A'")
    end = middle(page, ".rk-tier[data-rank='1']")
    wire = page.context.new_cdp_session(page)

    def touch(kind, *points):
        at = [{"x": x, "y": y} for x, y in points]
        wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", start)
    for share in (0.25, 0.5, 0.75, 1):
        between = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
        touch("touchMove", between)
    touch("touchEnd")
    page.wait_for_function("document.querySelector(\"[data-rank='1'] .rk-chip\") !== null")
    assert (chips(page, 1), chips(page, 2)) == ("A", "B")
    assert page.evaluate("scrollY") == before


# ---- what is refused, and the other ends ---------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_an_incomplete_ranking_is_refused_until_it_says_what_it_means(visits, served):
    page = visits.open()
    shown = texts(page)
    press(page, "Control+Enter")
    assert "Nothing is ranked yet" in complaint(page)
    press(page, "w c 4 Control+Enter")
    assert "Not ranked yet: A, B, D" in complaint(page)
    assert served.rankings() == []
    assert page.get_by_role("radio", name="I can\u2019t tell").is_disabled()  # of one alone
    press(page, "w Control+Enter")
    next_task(page, shown)
    (ranking,) = served.rankings()
    assert (given(shown, ranking), ranking.others_worse) == ([None, None, 1, None], True)
    shown = texts(page)
    press(page, "a 1 b 2 Control+Enter t Control+Enter")
    next_task(page, shown)
    ranking = served.rankings()[1]
    assert (given(shown, ranking), ranking.others_worse) == ([1, 2, None, None], False)


@pytest.mark.usefixtures("tasks")
def test_enter_alone_never_submits(visits, served):
    page = visits.open()
    press(page, "1 2 3 4 Enter s Enter Escape x Enter")
    page.wait_for_timeout(300)
    assert served.rankings() == []


@pytest.mark.usefixtures("tasks")
def test_skip_and_cannot_judge_ask_why_and_all_bad_keeps_the_ranks(visits, served):
    page = visits.open()
    shown = texts(page)
    press(page, "s Control+Enter")  # no reason yet
    assert page.locator(".rk-ask .rk-primary").is_disabled()
    press(page, "Space Control+Enter")
    next_task(page, shown)
    shown = texts(page)
    press(page, "a 1 j ArrowDown Control+Enter")
    next_task(page, shown)
    press(page, "a 1 x Control+Enter")
    page.wait_for_selector("text=Thank you")
    assert "You have ranked 2 tasks." in page.locator(".rk-box").inner_text()
    skipped, unclear, bad = served.rankings()
    assert (skipped.action, skipped.meta["reason"]) == ("skip", "too_long")
    assert (unclear.action, unclear.meta["reason"]) == ("cannot_judge", "unclear_prompt")
    assert (bad.action, sorted(bad.ranks, key=str)) == ("all_bad", [1, None, None, None])


@pytest.mark.usefixtures("tasks")
def test_flags_and_a_comment_go_with_the_ranking(visits, served):
    page = visits.open()
    shown = texts(page)
    press(page, "1 2 3 4 b f Space Tab Tab Space")
    page.get_by_text("Comment", exact=True).first.click()
    page.locator("#rk-comment").fill("x")
    page.locator("#rk-comment").press_sequentially(" a 1 u s")  # typed here, keys do nothing
    press(page, "Control+Enter")
    next_task(page, shown)
    (ranking,) = served.rankings()
    raised = dict(zip(ranking.completions, ranking.flags, strict=True))
    assert [raised[text] for text in shown] == [(), ("fails_instruction", "harmful"), (), ()]
    assert ranking.meta["comment"] == "x a 1 u s"
    assert given(shown, ranking) == [1, 2, 3, 4]


@pytest.mark.usefixtures("tasks")
def test_strengths_are_asked_only_where_they_are_wanted_and_then_all(visits, served):
    served.store.change_settings(strengths=True)
    page = visits.open()
    shown = texts(page)
    press(page, "a 1 b 2 c 2 d 3")
    steps = page.locator(".rk-step")
    assert steps.locator("legend").all_inner_texts() == ["A over B = C", "B = C over D"]
    steps.nth(0).get_by_label("clearly").check()
    press(page, "Control+Enter")
    assert "how much better B = C is than D" in complaint(page)
    steps.nth(1).get_by_label("slightly").check()
    press(page, "d 4")  # a rank that changes no tier keeps what was said
    press(page, "Control+Enter")
    next_task(page, shown)
    assert list(served.rankings()[0].strengths) == [2, 1]
    shown = texts(page)
    press(page, "1 2 3 4 Control+Enter")  # nothing said is fine too
    next_task(page, shown)
    assert served.rankings()[1].strengths is None


# ---- correcting ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_undo_after_submit_reopens_the_ranking_as_a_correction(visits, served):
    page = visits.open()
    first = texts(page)
    press(page, "1 2 3 4 Control+Enter")
    next_task(page, first)
    second = texts(page)
    press(page, "3")
    page.locator(".rk-notice").get_by_role("button", name="Undo").click()
    next_task(page, second)
    assert texts(page) == first
    assert status(page) == ["rank 1", "rank 2", "rank 3", "rank 4"]
    assert "Correct your ranking" in page.locator("h1").inner_text()
    press(page, "a 4 d 1 Control+Enter")
    next_task(page, first)
    (ranking,) = served.rankings()
    assert (given(first, ranking), ranking.meta["revision"]) == ([4, 2, 3, 1], 2)
    # The task that was left for it is as it was.
    assert texts(page) == second
    assert status(page)[0] == "rank 3"
    assert page.evaluate("location.hash") == "#/rank"


@pytest.mark.usefixtures("tasks")
def test_the_way_back_is_offered_for_ten_seconds(visits):
    page = visits.open(clock=True)
    shown = texts(page)
    press(page, "1 2 3 4 Control+Enter")
    next_task(page, shown)
    page.clock.run_for(9_000)
    assert page.locator(".rk-notice").is_visible()
    page.clock.run_for(1_500)
    assert page.locator(".rk-notice").is_hidden()


@pytest.mark.usefixtures("tasks")
def test_an_address_reopens_a_ranking_and_only_one_s_own(visits, served):
    served.add_person("bob")
    visits.expected = ("/api/reopen",)
    page = visits.open()
    shown = texts(page)
    press(page, "s Space Control+Enter")
    next_task(page, shown)
    page.goto(f"{served.url}rank/#/rank/1")
    page.wait_for_selector("text=Stored now: Skipped: too long for now")
    other = visits.open("bob", path="rank/#/rank/1")
    other.wait_for_selector("text=This ranking can\u2019t be opened")
    assert "Rank the answers" in other.locator("h1").inner_text()


# ---- what the team has set up --------------------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_guidelines_open_by_themselves_when_they_are_new(visits, served):
    served.store.change_settings(guidelines="Prefer *true* answers.")
    page = visits.open(ready="dialog")
    assert "Prefer true answers." in page.locator("dialog").inner_text()
    press(page, "1 Escape")  # a drawer over the page keeps its keys
    assert status(page)[0] == "not ranked yet"
    page.reload()
    page.wait_for_selector(".rk-card")
    page.wait_for_timeout(300)
    assert page.locator("dialog").count() == 0
    press(page, "g")
    page.wait_for_selector("dialog")
    served.store.change_settings(guidelines="Prefer short answers.")
    page.reload()
    page.wait_for_selector("dialog >> text=Prefer short answers.")


def test_training_shows_how_it_was_meant(visits, served):
    gold = Gold((1, 2, 3), "The first one is *right*.")
    served.store.add_tasks([make_task(0, pool="training", gold=gold), make_task(1)])
    page = visits.open()
    shown = texts(page)
    assert page.locator(".rk-tag").inner_text() == "Training"
    ranks = [3 - int(text[-1]) for text in shown]  # the other way round
    press(page, " ".join(str(rank) for rank in ranks) + " Control+Enter")
    page.wait_for_selector("text=Not passed. You ordered 0 % of the pairs in the same way.")
    assert "The first one is right." in page.locator(".rk-after").inner_text()
    best = "ABC"[shown.index("answer 0.0")]
    assert page.locator(".rk-orders dd").first.inner_text().startswith(best)
    page.get_by_role("button", name="Next task").click()
    next_task(page, shown)
    assert page.locator(".rk-tag").count() == 0


def test_the_ends_of_the_work(visits, served):
    page = visits.open(ready=".rk-box")
    assert page.locator("h1").inner_text() == "Nothing to rank yet"
    served.store.add_tasks([make_task(0, overlap=2), make_task(1, overlap=2)])
    page.get_by_role("button", name="Look again").click()
    page.wait_for_selector(".rk-card")
    shown = texts(page)
    press(page, "1 2 3 Control+Enter")
    next_task(page, shown)
    press(page, "1 2 3 Control+Enter")
    page.wait_for_selector("text=2 tasks wait for other people")
    served.store.people.set_state("ann", "paused")
    page.get_by_role("button", name="Look again").click()
    page.wait_for_selector("text=Your work is paused")


@pytest.mark.usefixtures("tasks")
def test_progress_and_pace_are_shown(visits):
    page = visits.open()
    shown = texts(page)
    line = page.locator(".rk-toolbar .rk-hint")
    pace = "0 today \u00b7 0 in the last hour \u00b7 0 in all"
    assert line.inner_text() == f"{pace} \u00b7 up to 10 open for the team"
    page.wait_for_timeout(1_100)
    press(page, "1 2 3 4 Control+Enter")
    next_task(page, shown)
    assert line.inner_text().startswith(
        "1 today \u00b7 1 in the last hour \u00b7 1 in all \u00b7 usually 0:0"
    )
