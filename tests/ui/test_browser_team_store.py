"""My work, review and admin in a real browser, over the real application and a store."""

import hashlib
import json

import pytest
from browsing import (
    PHONE,
    WIDE,
    Served,
    Visits,
    make_task,
    press,
    sync_api,
    texts,
    violations,
)

from rlhf.config import RankingsExportConfig
from rlhf.rankings.exporting import export_rankings
from rlhf.store import Submission

pytestmark = pytest.mark.browser

expect = sync_api.expect
TEXTS = ["alpha", "beta", "gamma"]
ADMIN = ("admin", "admin/quality", "admin/people", "admin/tasks", "admin/export", "admin/audit")


@pytest.fixture
def served(tmp_path):
    """Two tasks that two people have put into opposite orders."""
    desk = Served(tmp_path / "store.sqlite")
    for name, role in (("ann", "annotator"), ("bob", "annotator"), ("rev", "reviewer")):
        desk.add_person(name, role)
    desk.add_person("adm", "admin")
    desk.store.change_settings(random_share=0.0, max_overlap=2)
    prompts = ("first prompt", "second prompt")
    desk.store.add_tasks([make_task(texts=TEXTS, prompt=prompt, overlap=2) for prompt in prompts])
    for name, order in (("ann", TEXTS), ("bob", TEXTS[::-1])):
        for place in range(2):
            task = desk.store.claim(name)
            ranks = tuple(order.index(text) + 1 for text in task.completions)
            request = hashlib.md5(f"{name}{place}".encode()).hexdigest()
            desk.store.submit(task.id, name, Submission(request, ranks, active_ms=20_000))
    desk.start()
    yield desk
    desk.close()


@pytest.fixture
def visits(chromium, served):
    opened = Visits(chromium, served)
    yield opened
    opened.close()


def visit(visits, name, screen, **options):
    return visits.open(name, f"rank/#/{screen}", ".tm h1:focus", **options)


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_axe_finds_nothing_in_the_real_page(visits, size, scheme):
    screens = [("ann", "work"), ("rev", "review"), ("rev", "review/1"), ("bob", "work")]
    for name, screen in [*screens, *(("adm", screen) for screen in ADMIN)]:
        page = visit(visits, name, screen, viewport=size, color_scheme=scheme)
        assert violations(page) == [], screen
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], screen
        page.context.close()


def test_a_ranking_is_corrected_from_my_work(visits, served):
    page = visit(visits, "ann", "work")
    entry = page.locator(".tm-entry").first
    assert "second prompt" in entry.inner_text()
    entry.get_by_role("link", name="Correct").click()
    page.wait_for_selector(".rk-card")
    shown = texts(page)
    for letter, text in zip("abc", shown, strict=True):
        press(page, f"{letter} {1 if text == 'beta' else 2}")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".rk-card")).to_have_count(0)
    page.locator(".rk-header").get_by_role("link", name="My work").click()
    page.get_by_text("corrected once").wait_for()
    latest = [r for r in served.rankings("ann") if r.prompt.text == "second prompt"]
    given = dict(zip(latest[0].completions, latest[0].ranks, strict=True))
    assert given == {"alpha": 2, "beta": 1, "gamma": 2}


def test_a_reviewer_decides_sends_back_and_the_note_arrives(visits, served):
    page = visit(visits, "rev", "review")
    expect(page.locator("tbody tr")).to_have_count(2)
    assert page.locator("tbody td:nth-child(3)").all_inner_texts() == ["\u22121.00"] * 2
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector(".rk-card")
    shown = texts(page)
    wanted = {"alpha": 2, "beta": 1, "gamma": 3}
    for place, text in enumerate(shown):
        press(page, f"{'abc'[place]} {wanted[text]}")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Your ranking decides the task.").wait_for()
    page.get_by_label("Note to the people who ranked it").fill("Beta quotes its source.")
    page.get_by_role("button", name="Send back").click()
    page.get_by_text("There is nothing more to review.").wait_for()
    verdicts = {one.task_id: one for one in served.store.reviews.verdicts()}
    (decided,) = verdicts.values()
    assert dict(zip(decided.completions, decided.ranks, strict=True)) == wanted
    (other,) = {1, 2} - set(verdicts)
    overlaps = {task.id: task.overlap for task in served.store.tasks()}
    assert overlaps == {decided.task_id: 2, other: 3}
    theirs = visit(visits, "ann", "work")
    assert theirs.get_by_text("Beta quotes its source.").count() == 1


def test_a_reviewer_accepts_what_a_person_said(visits, served):
    page = visit(visits, "rev", "review/1")
    row = page.locator("tbody tr", has=page.get_by_text("Person 2"))
    letters = dict(zip("ABC", texts(page), strict=True))
    order = row.locator(".tm-order").inner_text()
    row.get_by_role("button", name="Accept").click()
    page.get_by_text("The ranking of Person 2 is accepted.").wait_for()
    (decided,) = served.store.reviews.verdicts()
    by_rank = dict(zip(decided.ranks, decided.completions, strict=True))
    assert [by_rank[rank] for rank in (1, 2, 3)] == [letters[one] for one in order.split(" > ")]


def test_a_reviewer_who_comes_second_sees_the_first_and_keeps_what_they_did(visits, served):
    visits.expected = ("409",)
    served.add_person("sam", "reviewer")
    page = visit(visits, "sam", "review/1")
    shown = texts(page)
    press(page, "a 1 b 2 c 3")
    page.get_by_label("Note to the people who ranked it").fill("A is to the point.")
    first = served.store.reviews.add(
        "rev", 1, request_id="review-of-rev", verdict="send_back", note="Beta, please."
    )
    anew = page.get_by_role("button", name="Load the task anew")
    expect(anew).to_have_count(0)
    page.get_by_role("button", name="Decide by my ranking").click()
    page.get_by_text("Not stored: somebody has reviewed this task meanwhile").wait_for()
    assert violations(page) == []
    assert served.store.reviews.of_task(1) == (first,)
    anew.click()
    page.get_by_text("Beta, please.").wait_for()
    expect(page.locator("h1")).to_be_focused()
    expect(anew).to_have_count(0)
    assert texts(page) == shown
    assert page.locator(".tm-own").inner_text() == "A > B > C"
    note = page.get_by_label("Note to the people who ranked it")
    assert note.input_value() == "A is to the point."
    press(page, "c 2")  # once, not twice: the keys of the first drawing are gone
    assert page.locator(".tm-own").inner_text() == "A > B = C"
    press(page, "u")
    assert page.locator(".tm-own").inner_text() == "A > B > C"
    page.keyboard.press("Control+Enter")
    page.get_by_text("Your ranking decides the task.").wait_for()
    (_, second) = served.store.reviews.of_task(1)
    assert second.note == "A is to the point."
    completions = served.store.reviews.open_task(1).completions
    assert [dict(zip(completions, second.ranks, strict=True))[text] for text in shown] == [1, 2, 3]


def test_an_admin_pauses_a_person_and_a_task(visits, served):
    served.store.add_tasks([make_task(7)])
    page = visit(visits, "adm", "admin/people")
    page.get_by_role("button", name="Pause bob").click()
    page.get_by_text("bob is paused.").wait_for()
    assert served.store.people.account("bob").state == "paused"
    page.get_by_role("link", name="Tasks").click()
    page.get_by_role("button", name="Pause task 3").click()
    page.get_by_text("Task 3 is paused.").wait_for()
    assert served.store.claim("ann") is None
    page.get_by_role("link", name="Audit log").click()
    expect(page.locator("tbody th").first).to_have_text("task paused")
    assert "task: 3" in page.locator("tbody tr").first.inner_text()


def test_the_downloaded_export_is_that_of_the_command(visits, served, tmp_path):
    page = visit(visits, "adm", "admin/export")
    page.get_by_label("Format").select_option("trl")
    page.get_by_label("Prompts").select_option("all")
    page.get_by_role("button", name="Preview").click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    content = waiting.value.path().read_bytes()
    output = tmp_path / "command.jsonl"
    config = RankingsExportConfig(store=str(served.place), output=str(output), format="trl")
    figures = export_rankings(config)
    assert content == output.read_bytes()
    assert figures["sha256"] in page.locator(".tm-facts").inner_text()
    assert len([json.loads(line) for line in content.splitlines()]) == 12  # 2 people, 2 x 3 pairs


def test_the_figures_are_those_of_the_store(visits):
    page = visit(visits, "adm", "admin")
    tiles = [tile.inner_text().split("\n") for tile in page.locator(".tm-tiles > div").all()]
    assert [tile[1] for tile in tiles[:4]] == ["2", "0", "4", "20.0"]
    page.get_by_role("link", name="Quality").click()
    page.get_by_text("All tasks, 2 prompts").wait_for()
    values = page.locator("table", has_text="Strict pairs").locator("tbody td:nth-child(2)")
    # Opposite orders: no pair alike, and tau-b is -1.
    assert values.first.inner_text() == "0.000"
    assert values.nth(2).inner_text() == "\u22121.000"
