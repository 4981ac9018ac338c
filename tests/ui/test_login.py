"""Getting in and out: names and passwords, sessions and their ends, how often one may try."""

import asyncio
import re
import threading

import pytest
from visitors import CHEAP, HOST, PEOPLE, browser, log_in, password_of

from labeling_ui.app import create_app
from labeling_ui.login import WRONG
from labeling_ui.throttle import LONGEST_WAIT_MS, QUICK_TRIES, Throttle, wait_after
from labeling_ui.workers import Workers
from rlhf.store import failure_subject

HOUR = 3600

pytestmark = pytest.mark.usefixtures("no_gradio")


def is_in(client):
    return client.get("/api/me").status_code == 200


@pytest.mark.parametrize("name", PEOPLE)
def test_who_knows_the_password_gets_in(app, name):
    client = browser(app)
    reply = log_in(client, name)
    assert (reply.status_code, reply.headers["location"]) == (303, "/rank/")
    assert client.get("/api/me").json()["role"] == PEOPLE[name]


def test_case_and_spaces_around_a_name_dont_matter(app):
    assert log_in(browser(app), " ANN ", password_of("ann")).status_code == 303


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ann", "wrong"),
        ("ann", ""),
        ("ann", password_of("ann") + " "),
        ("ann", password_of("ann").upper()),
        ("ann", password_of("ann") * 20),
        ("ann", password_of("bob")),
        ("nobody", password_of("ann")),
        ("", ""),
        ("a\nb", "x"),
        ("\u202e" * 64, "x"),
        ("ann\0", password_of("ann")),
    ],
)
def test_all_others_read_the_same_line_and_get_no_cookie(app, name, password):
    reply = log_in(browser(app), name, password)
    assert reply.status_code == 401
    assert WRONG in reply.text
    assert "set-cookie" not in reply.headers


def test_a_name_is_shown_again_as_text_alone(app):
    hostile = '"><script>fire()</script>${fire()}'
    reply = log_in(browser(app), hostile, "x")
    assert "<script" not in reply.text
    assert "&quot;&gt;&lt;script&gt;fire()" in reply.text
    assert "${fire()}" in reply.text  # a template of ours is filled once


def test_unknown_people_cost_a_hash_as_known_ones_do(app, people, monkeypatch):
    checked = []
    real = CHEAP._hasher.__class__.verify

    def verify(self, stored, password):
        checked.append(stored)
        return real(self, stored, password)

    monkeypatch.setattr(CHEAP._hasher.__class__, "verify", verify)
    for name in ("ann", "nobody", "rev"):
        log_in(browser(app), name, "wrong password")
    people.people.add("keyless", "annotator")
    log_in(browser(app), "keyless", "wrong password")
    assert len(checked) == 4
    costs = {re.match(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+", stored)[0] for stored in checked}
    assert len(costs) == 1


def test_hashing_happens_on_other_threads_two_at_a_time():
    async def work():
        workers, busy, most, seen = Workers(), 0, 0, set()
        lock = threading.Lock()

        def hash_something():
            nonlocal busy, most
            with lock:
                busy += 1
                most = max(most, busy)
            seen.add(threading.current_thread())
            threading.Event().wait(0.02)
            with lock:
                busy -= 1

        await asyncio.gather(*(workers.hashing(hash_something) for _ in range(8)))
        return most, seen

    most, seen = asyncio.run(work())
    assert most == 2
    assert threading.current_thread() not in seen


def test_a_disabled_person_reads_the_same_line(app, people):
    people.people.set_state("ann", "disabled")
    reply = log_in(browser(app), "ann")
    assert (reply.status_code, WRONG in reply.text) == (401, True)


def test_a_paused_person_gets_in_and_gets_no_task(as_person, people, new_task):
    people.add_tasks([new_task(1)])
    client = as_person("ann")
    people.people.set_state("ann", "paused")
    assert client.post("/api/next", json={}).json()["status"] == "paused"


# -- sessions --------------------------------------------------------------------------------------


def test_the_cookie_is_for_this_server_alone_and_unreadable_to_scripts(app):
    cookie = log_in(browser(app), "ann").headers["set-cookie"]
    assert re.match(r"session-7860=[A-Za-z0-9_-]{43};", cookie)
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=86400"):
        assert part in cookie
    assert "Domain" not in cookie


def test_the_store_holds_no_token(app, people, tmp_path):
    client = browser(app)
    log_in(client, "ann")
    token = client.cookies["session-7860"]
    for file in tmp_path.iterdir():
        assert token.encode() not in file.read_bytes()


def test_each_login_has_a_new_token_and_ends_the_session_before(app):
    client = browser(app)
    log_in(client, "ann")
    first = client.cookies["session-7860"]
    log_in(client, "ann")
    assert client.cookies["session-7860"] != first
    assert is_in(client)
    client.cookies.clear()
    client.cookies.set("session-7860", first)
    assert not is_in(client)


def test_a_token_chosen_by_somebody_else_is_not_taken_over(app):
    client = browser(app)
    client.cookies.set("session-7860", "A" * 43)
    assert not is_in(client)
    cookie = log_in(client, "ann").headers["set-cookie"]
    assert "A" * 43 not in cookie


@pytest.mark.parametrize(
    "token", ["", "x", "A" * 44, "A" * 42 + "!", "A" * 4000, "\u00e9" * 43, '"' + "A" * 43 + '"']
)
def test_cookies_that_are_no_token_are_nobodys(app, token):
    headers = {b"cookie": f"session-7860={token}".encode()}
    assert browser(app).get("/api/me", headers=headers).status_code == 401


def test_logging_out_ends_the_session_on_the_server(as_person):
    client = as_person("ann")
    token = client.cookies["session-7860"]
    assert client.get("/logout").status_code == 405
    assert is_in(client)
    reply = client.post("/logout", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/login")
    client.cookies.set("session-7860", token)
    assert not is_in(client)


def test_a_session_ends_after_eight_idle_hours(as_person, clock):
    client = as_person("ann")
    clock.now += 7.9 * HOUR
    assert is_in(client)
    clock.now += 7.9 * HOUR
    assert is_in(client)
    clock.now += 8.1 * HOUR
    assert not is_in(client)


def test_a_session_ends_after_a_day_however_it_is_used(as_person, clock):
    client = as_person("ann")
    for _ in range(23):
        clock.now += HOUR
        assert is_in(client)
    clock.now += HOUR
    assert not is_in(client)


def test_sessions_outlive_the_process(people, clock):
    client = browser(create_app(people, passwords=CHEAP, clock=clock))
    log_in(client, "ann")
    again = browser(create_app(people, passwords=CHEAP, clock=clock))
    again.cookies.set("session-7860", client.cookies["session-7860"])
    assert is_in(again)


def test_a_new_password_or_being_disabled_ends_sessions(as_person, people):
    ann, bob = as_person("ann"), as_person("bob")
    people.people.set_password_hash("ann", CHEAP.hash("another long secret"))
    people.people.set_state("bob", "disabled")
    assert not is_in(ann)
    assert not is_in(bob)


def test_a_role_holds_from_the_next_request_on(as_person, people):
    client = as_person("ann")
    assert client.get("/api/admin/audit").status_code == 403
    people.people.set_role("ann", "admin")
    assert client.get("/api/admin/audit").status_code == 200


def test_who_is_logged_in_is_led_from_the_login_page_to_the_work(as_person):
    reply = as_person("ann").get("/login", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/rank/")


# -- the link of a local start ---------------------------------------------------------------------


@pytest.fixture
def local(store, clock):
    return create_app(store, annotator="Me", clock=clock)


def test_the_link_opens_the_page_once(local):
    client, other = browser(local), browser(local)
    reply = client.get(local.state.link, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/rank/")
    assert client.get("/api/me").json() | {"settings": None, "store": None} == {
        "name": "Me",
        "role": "admin",
        "local": True,
        "settings": None,
        "store": None,
    }
    assert other.get(local.state.link).status_code == 401
    assert not is_in(other)
    assert client.get(local.state.link, follow_redirects=False).status_code == 303


@pytest.mark.parametrize("key", ["", "x", "A" * 43, "\u00e9", "%00"])
def test_no_other_key_opens_it(local, key):
    assert browser(local).get(f"/enter?key={key}").status_code == 401
    assert browser(local).get(local.state.link, follow_redirects=False).status_code == 303


def test_looking_at_the_link_without_following_it_does_not_use_it_up(local):
    assert browser(local).head(local.state.link).status_code == 405
    assert browser(local).get(local.state.link, follow_redirects=False).status_code == 303


def test_there_is_nothing_to_log_in_to_locally(local):
    reply = browser(local).get("/login", headers={"accept": "text/html"})
    assert (reply.status_code, "link that its start printed" in reply.text) == (401, True)
    assert log_in(browser(local), "Me", "x").status_code == 405


def test_accounts_have_no_link(app):
    assert app.state.link == "/login"
    assert browser(app).get("/enter?key=None").status_code == 404


# -- how often -------------------------------------------------------------------------------------


def test_waits_grow_from_fifteen_seconds_to_fifteen_minutes():
    waits = [wait_after(failures) for failures in (0, 9, 10, 11, 12, 13, 16, 1000)]
    assert waits == [0, 0, 15_000, 30_000, 60_000, 120_000, LONGEST_WAIT_MS, LONGEST_WAIT_MS]


def guess(app, clock, name="ann", tries=1, address="10.0.0.1", step=0.0):
    """Try wrong passwords; give how many were looked at."""
    looked_at = 0
    for _ in range(tries):
        looked_at += log_in(browser(app, address), name, "a wrong one").status_code == 401
        clock.now += step
    return looked_at


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_ten_quick_tries_whether_or_not_the_name_is_known(app, clock, name):
    assert guess(app, clock, name, tries=40) == QUICK_TRIES
    reply = log_in(browser(app, "10.0.0.2"), name)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "15")
    assert "Try again in 15 seconds" in reply.text


def test_an_address_has_ten_quick_tries_however_many_names_it_knows(app, clock):
    assert sum(guess(app, clock, f"name{number}") for number in range(40)) == QUICK_TRIES


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:DB8::2", True),
        ("2001:db8::1", "2001:db8::5:0:0:0:2", False),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::1:2:3:4", "::5:6:7:8", True),
        ("::ffff:10.0.0.9", "10.0.0.9", True),
        ("::ffff:10.0.0.9", "::ffff:10.0.0.8", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("10.0.0.9", "10.0.0.8", False),
        ("a name", "another name", False),
    ],
)
def test_a_network_of_ipv6_has_ten_quick_tries_however_spelt(app, clock, one, other, is_same):
    assert guess(app, clock, "ann", tries=11, address=one) == QUICK_TRIES
    assert guess(app, clock, "bob", tries=1, address=other) == (not is_same)


def test_a_guesser_gets_few_tries_an_hour(app, clock):
    assert guess(app, clock, tries=720, step=5.0) < 25


def test_a_right_password_after_the_wait_gets_in(app, clock):
    guess(app, clock, tries=10)
    assert log_in(browser(app), "ann").status_code == 429
    clock.now += 15.1
    client = browser(app)
    assert log_in(client, "ann").status_code == 303
    assert is_in(client)


def test_getting_in_forgives_the_name_and_not_the_address(app, clock):
    guess(app, clock, "ann", tries=9, address="10.0.0.9")
    assert log_in(browser(app, "10.0.0.9"), "ann").status_code == 303
    assert guess(app, clock, "ann", tries=9, address="10.0.0.1") == 9
    assert guess(app, clock, "bob", tries=9, address="10.0.0.9") == 1


def test_guesses_of_others_dont_keep_out_a_browser_that_has_been_in(app, clock):
    client = browser(app)
    log_in(client, "ann")
    client.post("/logout")
    for number in range(20):
        guess(app, clock, "ann", address=f"10.1.0.{number}")
    assert log_in(browser(app), "ann").status_code == 429
    assert log_in(client, "ann").status_code == 303


def test_that_mark_of_a_browser_is_no_password_and_is_throttled_itself(app):
    client = browser(app)
    log_in(client, "ann")
    client.post("/logout")
    tries = [log_in(client, "ann", "a wrong one").status_code for _ in range(12)]
    assert tries == [401] * 10 + [429] * 2
    assert not is_in(client)


@pytest.mark.parametrize("mark", ["old", "made up", ""])
def test_other_marks_count_as_none(app, clock, people, mark):
    client = browser(app)
    log_in(client, "ann")
    given = {"old": client.cookies["device-7860"], "made up": "a" * 64, "": ""}[mark]
    people.people.set_password_hash("ann", CHEAP.hash("another long secret"))
    guess(app, clock, "ann", tries=10)
    other = browser(app, "10.0.0.7")
    other.cookies.set("device-7860", given)
    assert log_in(other, "ann", "another long secret").status_code == 429


def test_failures_outlive_the_process(people, clock):
    guess(create_app(people, passwords=CHEAP, clock=clock), clock, tries=10)
    again = create_app(people, passwords=CHEAP, clock=clock)
    assert log_in(browser(again), "ann").status_code == 429


def test_a_hundred_guesses_at_once_are_ten(people, clock):
    """All are under way before the first is decided."""

    async def attack():
        throttle, workers = Throttle(people.people, Workers()), []
        subjects = (failure_subject("account", "ann"), failure_subject("address", "10.0.0.1"))

        async def one():
            if await throttle.wait_for(subjects, round(clock.now * 1000)):
                return
            workers.append(1)
            await asyncio.sleep(0.05)
            await throttle.decide(subjects, failed=True)

        await asyncio.gather(*(one() for _ in range(100)))
        return len(workers), dict(throttle._under_way)

    assert asyncio.run(attack()) == (QUICK_TRIES, {})


def test_the_audit_log_tells_of_logins_without_names(app, people):
    log_in(browser(app), "ann")
    log_in(browser(app), "ann", "a wrong one")
    log_in(browser(app), "nobody", "a wrong one")
    newest = people.people.audit(3)
    ann = people.people.account("ann")
    assert [(entry.kind, entry.actor_id, dict(entry.data)) for entry in newest] == [
        ("login_failed", None, {"person": None}),
        ("login_failed", None, {"person": ann.pseudonym}),
        ("login", ann.annotator_id, {}),
    ]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"name=ann", "application/json"),
        (b"name=ann", "multipart/form-data; boundary=x"),
        (b"\xff", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(9)), "application/x-www-form-urlencoded"),
    ],
)
def test_forms_that_our_page_would_not_send_are_refused(app, content, content_type):
    reply = browser(app).post("/login", content=content, headers={"content-type": content_type})
    assert reply.status_code == 400


def test_the_login_page_is_plain_and_labelled(app):
    page = browser(app).get("/login").text
    assert "<script" not in page
    assert "<title>" in page
    assert 'lang="en"' in page
    assert page.count("<label for=") == 2
    asked_for = set(re.findall(r'(?:href|src|action)="([^"]*)"', page))
    assert asked_for == {"/login", "/login.css", "data:,"}  # the last: no icon
    assert HOST not in page
