"""What is on the screen is what gets stored, once: reloads, closed tabs, dead servers, two tabs."""

import json

import pytest
from browsing import Killable, Visits, given, make_task, next_task, press, status, texts

pytestmark = pytest.mark.browser

GONE = ("ERR_CONNECTION_REFUSED", "ERR_SOCKET_NOT_CONNECTED", "ERR_CONNECTION_RESET", "ERR_EMPTY")
CONFLICT = ("409 (Conflict)",)


@pytest.fixture
def killable(tmp_path):
    desk = Killable(tmp_path / "store.sqlite")
    desk.add_person("ann")
    desk.store.change_settings(random_share=0.0)
    desk.store.add_tasks([make_task(number, k=4) for number in range(2)])
    desk.start()
    yield desk
    desk.close()


@pytest.fixture
def patient(chromium, killable):
    opened = Visits(chromium, killable)
    opened.expected = GONE
    yield opened
    opened.close()


# ---- drafts --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_a_reload_keeps_everything_on_the_screen(visits, served):
    served.store.change_settings(strengths=True)
    page = visits.open()
    shown = texts(page)
    press(page, "b 2 d 1 f Space")
    page.get_by_label("slightly").check()
    page.get_by_text("Comment", exact=True).first.click()
    page.locator("#rk-comment").fill("half a thought")
    page.reload()
    page.wait_for_selector(".rk-ranked")
    assert texts(page) == shown
    assert status(page) == ["not ranked yet", "rank 2", "not ranked yet", "rank 1"]
    assert page.get_by_label("slightly").is_checked()
    assert page.locator("#rk-comment").input_value() == "half a thought"
    assert page.locator(".rk-flags input:checked").count() == 1


@pytest.mark.usefixtures("tasks")
def test_a_tab_closed_at_once_leaves_its_draft_on_the_server(visits, served):
    page = visits.open()
    shown = texts(page)
    press(page, "c 3")
    page.close(run_before_unload=True)  # before the second is over after which drafts are sent
    elsewhere = visits.open()  # another browser: nothing is kept there
    elsewhere.wait_for_selector(".rk-ranked")
    assert texts(elsewhere) == shown
    assert status(elsewhere)[2] == "rank 3"


@pytest.mark.usefixtures("tasks")
def test_a_tab_closed_while_its_draft_is_on_the_way_sends_it_once_more(visits, served):
    page = visits.open()
    page.evaluate(
        """() => { window.beacons = [];
          navigator.sendBeacon = (url, blob) => { blob.text().then((t) => beacons.push(t));
            return true; }; }"""
    )
    page.route("**/api/draft", lambda route: None)  # never answered
    with page.expect_request("**/api/draft"):
        press(page, "c 3")
    page.evaluate("window.dispatchEvent(new Event('pagehide'))")
    page.wait_for_function("beacons.length === 1")
    assert json.loads(page.evaluate("beacons[0]"))["body"]["ranks"] == [None, None, 3, None]
    page.unroute("**/api/draft")


@pytest.mark.usefixtures("tasks")
def test_a_draft_older_than_that_of_another_window_is_not_called_saved(visits, served):
    page = visits.open()
    body = {"ranks": [4, None, None, None], "revision": 0}
    assert served.store.keep_draft(1, "ann", 2**52, body)
    press(page, "a 1")
    page.wait_for_selector("text=Another window has saved a newer draft")


@pytest.mark.usefixtures("tasks")
def test_a_draft_sent_twice_is_not_called_saved_where_it_may_be_beaten(visits, served):
    """The server answers the same to a draft that it has and to one older than another's."""
    page = visits.open(clock=True)
    body = {"ranks": [4, None, None, None], "revision": 0}
    assert served.store.keep_draft(1, "ann", 2**52, body)
    press(page, "a 1")
    page.evaluate("window.dispatchEvent(new Event('pagehide'))")  # sends it by beacon
    page.clock.run_for(61_000)
    page.get_by_text("Draft saved, unless another window has a newer one", exact=True).wait_for()


@pytest.mark.usefixtures("tasks")
def test_the_newer_of_two_drafts_wins(visits, served):
    page = visits.open()
    press(page, "a 1")
    page.wait_for_selector("text=Draft saved")
    other = visits.open()
    other.wait_for_selector(".rk-ranked")
    press(other, "a 4")
    other.wait_for_selector("text=Draft saved")
    page.reload()
    page.wait_for_selector(".rk-ranked")
    assert status(page)[0] == "rank 4"


@pytest.mark.usefixtures("tasks")
def test_a_draft_is_sent_a_second_after_the_last_change(visits, served):
    page = visits.open(clock=True)
    sent = []
    page.on("request", lambda r: r.url.endswith("/api/draft") and sent.append(r.post_data_json))
    press(page, "a 1")
    page.clock.run_for(900)
    press(page, "b 2")
    page.clock.run_for(900)
    assert sent == []
    with page.expect_response("**/api/draft"):
        page.clock.run_for(200)
    assert [one["body"]["ranks"] for one in sent] == [[1, 2, None, None]]


@pytest.mark.usefixtures("tasks")
def test_two_people_in_one_browser_keep_their_drafts_apart(visits, served):
    served.add_person("bob")
    page = visits.open("ann")
    press(page, "a 1")
    page.context.route("**/api/draft", lambda route: route.abort())
    page.context.add_cookies([served.cookie("bob")])
    visits.expected = ("ERR_FAILED",)
    page.reload()
    page.wait_for_selector("text=bob")
    page.wait_for_selector(".rk-card")
    assert status(page) == ["not ranked yet"] * 4
    names = page.evaluate("JSON.stringify(Object.entries(localStorage))")
    assert "ann" not in names
    assert "answer" not in names


# ---- the outbox ----------------------------------------------------------------------------------


def test_a_killed_server_gets_the_newest_ranking_once_when_it_is_back(patient, killable):
    page = patient.open()
    shown = texts(page)
    press(page, "1 1 1 1")
    page.wait_for_selector("text=Draft saved")
    killable.kill()
    press(page, "a 4 b 3 c 2 d 1 Control+Enter")
    page.wait_for_selector("text=Your ranking is kept in this browser and not yet stored.")
    press(page, "a 2 u x")  # what is on its way can't be changed
    assert status(page) == ["rank 4", "rank 3", "rank 2", "rank 1"]
    killable.start()
    next_task(page, shown)
    (ranking,) = killable.rankings()
    assert given(shown, ranking) == [4, 3, 2, 1]
    assert page.locator(".rk-away").is_hidden()


def test_a_tab_closed_while_the_server_is_dead_delivers_from_the_next_one(patient, killable):
    page = patient.open()
    shown = texts(page)
    press(page, "1 1 1 1")
    page.wait_for_selector("text=Draft saved")
    killable.kill()
    press(page, "a 4 b 3 c 2 d 1 Control+Enter")
    page.wait_for_selector("text=Your ranking is kept in this browser")
    context = page.context
    page.close()
    killable.start()
    page = patient.window(context)
    page.wait_for_selector("text=A ranking that had waited in this browser is stored now.")
    next_task(page, shown)
    (ranking,) = killable.rankings()
    assert given(shown, ranking) == [4, 3, 2, 1]
    assert status(page) == ["not ranked yet"] * 4


@pytest.mark.usefixtures("tasks")
def test_an_answer_lost_on_the_way_stores_nothing_twice(visits, served):
    visits.expected = ("ERR_FAILED", "502")
    page = visits.open()
    shown = texts(page)
    lost = []

    def swallow(route):
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch().status)  # the server has stored it; the page never hears
            route.abort()

    page.route("**/api/submit", swallow)
    press(page, "1 2 3 4 Control+Enter")
    next_task(page, shown)
    assert lost == [200]
    (ranking,) = served.rankings()
    assert (given(shown, ranking), ranking.meta["revision"]) == ([1, 2, 3, 4], 1)


@pytest.mark.usefixtures("tasks")
def test_a_server_that_says_later_gets_the_ranking_later(visits, served):
    visits.expected = ("408", "429")
    page = visits.open()
    shown = texts(page)
    answers = [408, 429]

    def refuse(route):
        if answers:
            route.fulfill(status=answers.pop(0), json={"error": "too much at once"})
        else:
            route.continue_()

    page.route("**/api/submit", refuse)
    press(page, "1 2 3 4 Control+Enter")
    next_task(page, shown)
    assert answers == []
    assert given(shown, served.rankings()[0]) == [1, 2, 3, 4]


@pytest.mark.usefixtures("tasks")
def test_a_browser_that_keeps_nothing_does_not_say_that_it_did(visits, served):
    visits.expected = ("ERR_FAILED",)
    page = visits.open()
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    page.route("**/api/draft", lambda route: route.abort())
    press(page, "1 2 3 4")
    page.wait_for_selector("text=Draft not saved; leave this page open")
    page.route("**/api/submit", lambda route: route.abort())
    press(page, "Control+Enter")
    page.wait_for_selector("text=Your ranking is not yet stored; leave this page open.")


@pytest.mark.usefixtures("tasks")
def test_two_tabs_deliver_what_waits_side_by_side(visits, served):
    """The one finds gone what the other has sent."""
    visits.expected = ("ERR_FAILED", "422")
    page = visits.open()
    shown = texts(page)
    press(page, "1 2 3 4")
    page.route("**/api/submit", lambda route: route.abort())
    press(page, "Control+Enter")
    page.wait_for_selector("text=kept in this browser")
    page.evaluate(
        """() => { for (const [key, job] of Object.entries(localStorage))
          if (key.includes('outbox')) localStorage.setItem(`${key}f`,
            job.replace(/"assignment":\\d+/, '"assignment":999')
              .replace(/("request_id":"[0-9a-f]+)/, '$1f')); }"""
    )
    held = []
    context = page.context
    page.close()
    page = context.new_page()
    page.route("**/api/submit", lambda route: held.append(route))
    page.goto(f"{served.url}rank/")
    while not held:
        page.wait_for_timeout(50)
    other = visits.window(context)
    other.wait_for_selector("text=An earlier ranking was not stored")
    held[0].continue_()
    next_task(page, shown)
    assert len(served.rankings()) == 1


@pytest.mark.usefixtures("tasks")
def test_a_double_press_stores_once(visits, served):
    page = visits.open()
    shown = texts(page)
    press(page, "1 2 3 4")
    page.evaluate(
        """() => { for (let i = 0; i < 5; i += 1) document.dispatchEvent(
            new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true, bubbles: true })); }"""
    )
    next_task(page, shown)
    page.wait_for_timeout(300)
    assert len(served.rankings()) == 1


@pytest.mark.usefixtures("tasks")
def test_who_is_logged_out_finds_the_ranking_stored_after_the_next_login(visits, served):
    visits.expected = ("401 (Unauthorized)",)
    page = visits.open()
    shown = texts(page)
    press(page, "4 3 2 1")
    page.context.clear_cookies()
    press(page, "Control+Enter")
    page.wait_for_url("**/login")
    assert served.rankings() == []
    page.context.add_cookies([served.cookie("ann")])
    page = visits.window(page.context)
    next_task(page, shown)
    assert given(shown, served.rankings()[0]) == [4, 3, 2, 1]


@pytest.mark.usefixtures("tasks")
def test_a_ranking_that_will_never_be_taken_is_told_with_what_it_was(visits, served):
    visits.expected = ("422", "ERR_FAILED")
    page = visits.open()
    press(page, "2 1 3 3")
    page.route("**/api/submit", lambda route: route.abort())
    press(page, "Control+Enter")
    page.wait_for_selector("text=kept in this browser")
    page.evaluate(
        """() => { for (const [key, job] of Object.entries(localStorage))
          if (key.includes('outbox'))
            localStorage.setItem(key, job.replace(/"assignment":\\d+/, '"assignment":999')); }"""
    )
    context = page.context
    page.close()
    page = visits.window(context)
    page.wait_for_selector("text=An earlier ranking was not stored")
    assert "It was: B > A > C = D." in page.locator(".rk-notice").inner_text()
    assert served.rankings() == []


# ---- two tabs ------------------------------------------------------------------------------------


def rank_in_two_tabs(visits):
    visits.expected = CONFLICT
    page = visits.open()
    other = visits.window(page.context)
    shown = texts(page)
    assert texts(other) == shown
    press(page, "1 2 3 4 Control+Enter")
    next_task(page, shown)
    press(other, "a 4 b 3 c 2 d 1 Control+Enter")
    other.wait_for_selector("text=This task has been ranked already")
    assert other.locator(".rk-orders dd").all_inner_texts() == ["A > B > C > D", "D > C > B > A"]
    return other, shown


@pytest.mark.usefixtures("tasks")
def test_the_second_tab_may_keep_what_is_stored(visits, served):
    page, shown = rank_in_two_tabs(visits)
    page.get_by_role("button", name="Keep the stored one").click()
    next_task(page, shown)
    (ranking,) = served.rankings()
    assert (given(shown, ranking), ranking.meta["revision"]) == ([1, 2, 3, 4], 1)


@pytest.mark.usefixtures("tasks")
def test_the_second_tab_may_replace_what_is_stored_even_after_it_was_closed(visits, served):
    page, shown = rank_in_two_tabs(visits)
    context = page.context
    page.close()
    page = visits.window(context, ready="text=This task has been ranked already")
    page.get_by_role("button", name="Store mine instead").click()
    page.wait_for_selector("text=Your ranking is stored in place of the other.")
    next_task(page, shown)
    (ranking,) = served.rankings()
    assert (given(shown, ranking), ranking.meta["revision"]) == ([4, 3, 2, 1], 2)
    page.reload()
    page.wait_for_selector(".rk-sheet")
    assert page.evaluate("Object.keys(localStorage).filter((k) => k.includes('outbox'))") == []


# ---- time ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tasks")
def test_only_active_time_counts(visits, served):
    page = visits.open(clock=True)
    shown = texts(page)
    press(page, "1")
    page.clock.run_for(200_000)  # a walk: the first minute counts, as it can't be told apart
    press(page, "2")
    page.clock.run_for(10_000)
    press(page, "3 4 Control+Enter")
    next_task(page, shown)
    assert 69_000 <= served.rankings()[0].meta["active_ms"] <= 75_000


@pytest.mark.usefixtures("tasks")
def test_reading_for_long_keeps_the_place(visits, served):
    page = visits.open(clock=True)
    with page.expect_request("**/api/draft") as sent:
        for _ in range(7):
            page.clock.run_for(59_000)
            page.mouse.wheel(0, 10)
            page.mouse.move(200, 200)
            page.mouse.move(220, 200)
    body = json.loads(sent.value.post_data)["body"]
    assert body["ranks"] == [None] * 4
