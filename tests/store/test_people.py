"""Accounts, sessions, failed logins, the audit log, and forgetting a person."""

import hashlib

import pytest
import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.store import RankingStore, Submission, failure_subject

HOUR = 3600


def token(text="secret"):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def people(store):
    return store.people


# -- accounts --------------------------------------------------------------------------


def test_an_account_is_found_by_any_spelling(people):
    made = people.add("Zoë Müller", "reviewer", "$argon2id$x")
    assert (made.name, made.role, made.state) == ("Zoë Müller", "reviewer", "active")
    assert made.has_password
    assert people.account(" zoe\u0308 MÜLLER ") == made
    assert people.password_hash("zoë müller") == "$argon2id$x"
    assert people.account("bob") is people.password_hash("bob") is None
    assert "argon2" not in repr(made)


def test_an_annotator_keeps_pseudonym_and_work_with_an_account(store, people, new_task):
    store.add_tasks([new_task(1)])
    store.submit(store.claim("ann").id, "ann", Submission("request-1", (1, 2, 3, 4)))
    assert people.account("ann") is None
    account = people.add("Ann", "annotator")
    assert account.pseudonym == store.pseudonym("ann")
    assert not account.has_password
    assert people.password_hash("ann") is None
    assert store.standing("ann").mine == 1


def test_accounts_are_listed_oldest_first(people, clock):
    for name in ("cy", "ann", "bob"):
        clock.now += 1
        people.add(name, "annotator")
    assert [account.name for account in people.accounts()] == ["cy", "ann", "bob"]


@pytest.mark.parametrize(
    ("name", "role", "message"),
    [
        ("Ann", "admin", "has an account already"),
        ("bob", "owner", "role 'owner' is not one of annotator, reviewer, admin"),
        ("", "admin", "annotator name"),
        ("a\nb", "admin", "annotator name"),
    ],
)
def test_impossible_accounts_are_refused(people, name, role, message):
    people.add("ann", "annotator")
    with pytest.raises(StoreError, match=message):
        people.add(name, role)
    assert len(people.accounts()) == 1


def test_what_is_changed_of_an_account(people):
    people.add("ann", "annotator")
    people.set_role("ANN", "admin")
    people.set_state("ann", "paused")
    people.set_password_hash("ann", "hash")
    account = people.account("ann")
    assert (account.role, account.state, account.has_password) == ("admin", "paused", True)
    for change in (
        lambda: people.set_role("bob", "admin"),
        lambda: people.set_state("bob", "active"),
        lambda: people.set_password_hash("bob", "hash"),
    ):
        with pytest.raises(StoreError, match="nobody called 'bob' has an account"):
            change()
    with pytest.raises(StoreError, match="state 'gone' is not one of active, paused, disabled"):
        people.set_state("ann", "gone")


def test_the_database_refuses_other_roles_and_states(people, raw):
    people.add("ann", "annotator")
    for column in ("role", "state"):
        with pytest.raises(sa.exc.IntegrityError), raw.begin() as connection:
            connection.exec_driver_sql(f"UPDATE accounts SET {column} = 'root'")


# -- sessions --------------------------------------------------------------------------


def test_a_session_lasts_while_it_is_used(people, clock):
    account = people.add("ann", "annotator")
    people.open_session(account.annotator_id, token(), hours=24)
    for _ in range(3):
        clock.now += 7.9 * HOUR
        assert people.session(token()) == account
    clock.now += 0.2 * HOUR  # 23.9 hours after the beginning
    assert people.session(token()) == account
    clock.now += 0.1 * HOUR
    assert people.session(token()) is None


def test_an_idle_session_ends_after_eight_hours(people, clock):
    people.open_session(people.add("ann", "annotator").annotator_id, token())
    clock.now += 8 * HOUR
    assert people.session(token()) is None
    clock.now -= 1
    assert people.session(token()) is not None


def test_seeing_a_session_writes_at_most_once_a_minute(people, clock, raw):
    people.open_session(people.add("ann", "annotator").annotator_id, token())

    def seen():
        with raw.begin() as connection:
            return connection.exec_driver_sql("SELECT seen_ms FROM sessions").scalar_one()

    begun = seen()
    clock.now += 59
    assert people.session(token())
    assert seen() == begun
    clock.now += 1
    assert people.session(token())
    assert seen() == begun + 60_000


def test_a_session_carries_the_role_of_now(people):
    people.open_session(people.add("ann", "annotator").annotator_id, token())
    people.set_role("ann", "reviewer")
    assert people.session(token()).role == "reviewer"
    people.set_state("ann", "paused")
    assert people.session(token()).state == "paused"


@pytest.mark.parametrize(
    "end",
    [
        lambda people: people.close_session(token()),
        lambda people: people.set_state("ann", "disabled"),
        lambda people: people.set_password_hash("ann", "new"),
        lambda people: people.erase("ann"),
    ],
)
def test_what_ends_sessions(people, end):
    people.open_session(people.add("bob", "annotator").annotator_id, token("bob"))
    people.open_session(people.add("ann", "annotator").annotator_id, token())
    end(people)
    assert people.session(token()) is None
    assert people.session(token("bob")) is not None


def test_enabling_somebody_again_brings_no_session_back(people):
    people.open_session(people.add("ann", "annotator").annotator_id, token())
    people.set_state("ann", "disabled")
    people.set_state("ann", "active")
    assert people.session(token()) is None


def test_a_session_is_no_session_without_an_account(store, people):
    store.add_annotator("ann")
    people.open_session(1, token())
    assert people.session(token()) is None
    assert people.session("unknown") is None
    people.close_session("unknown")


def test_ended_sessions_are_swept_out(people, clock, raw):
    account = people.add("ann", "annotator")
    for number in range(3):
        people.open_session(account.annotator_id, token(str(number)), hours=1)
        clock.now += 2 * HOUR
    with raw.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one() == 1


# -- failed logins --------------------------------------------------------------------------


def test_failures_are_counted_by_subject_and_time(people, clock):
    ann, here = failure_subject("account", "Ann"), failure_subject("address", "192.0.2.1")
    people.note_failure([ann, here])
    clock.now += 10
    people.note_failure(here)
    start = round((clock.now - 10) * 1000)
    assert (people.recent_failures(ann, start), people.recent_failures(here, start)) == (1, 2)
    assert people.recent_failures(here, start + 1) == 1
    people.forget_failures(here)
    assert (people.recent_failures(ann, start), people.recent_failures(here, start)) == (1, 0)


def test_spellings_are_one_subject_and_kinds_are_not():
    assert failure_subject("account", "Zoë") == failure_subject("account", " zoe\u0308 ")
    assert failure_subject("account", "ann") != failure_subject("address", "ann")
    assert failure_subject("address", "Ann") != failure_subject("address", "ann")
    assert len(failure_subject("account", "\ud800")) == 64


def test_failures_are_forgotten_after_a_week(people, clock):
    subject = failure_subject("address", "192.0.2.1")
    people.note_failure(subject)
    clock.now += 8 * 24 * HOUR
    people.note_failure(failure_subject("address", "192.0.2.2"))
    assert people.recent_failures(subject, 0) == 0


@pytest.mark.parametrize("subject", ["ann", "192.0.2.1", "A" * 64, ""])
def test_a_name_or_an_address_in_clear_is_no_subject(people, subject):
    with pytest.raises(StoreError, match="must be a sha256"):
        people.note_failure(subject)


# -- audit --------------------------------------------------------------------------


def test_who_did_what(store, people, clock):
    boss = people.add("Boss", "admin")
    clock.now += 1
    ann = people.add("Ann", "annotator", actor_id=boss.annotator_id)
    people.set_role("ann", "reviewer", actor_id=boss.annotator_id)
    people.set_state("ann", "paused")
    people.set_password_hash("ann", "hash")
    people.note("login", ann.annotator_id, address="none")
    found = people.audit()
    assert [(entry.kind, entry.actor, entry.data) for entry in found] == [
        ("login", ann.pseudonym, {"address": "none"}),
        ("password_changed", None, {"person": ann.pseudonym}),
        ("state_changed", None, {"person": ann.pseudonym, "state": "paused"}),
        ("role_changed", boss.pseudonym, {"person": ann.pseudonym, "role": "reviewer"}),
        ("account_added", boss.pseudonym, {"person": ann.pseudonym, "role": "annotator"}),
        ("account_added", None, {"person": boss.pseudonym, "role": "admin"}),
    ]
    assert found[0].at_ms == found[-1].at_ms + 1000
    assert people.audit(limit=2) == found[:2]
    assert people.audit(limit=2, before=found[1].id) == found[2:4]


def test_nothing_is_told_of_what_failed(people):
    people.add("ann", "annotator")
    with pytest.raises(StoreError):
        people.add("ann", "annotator")
    assert len(people.audit()) == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET kind = 'x'", "DELETE FROM audit", "UPDATE audit SET id = 9"]
)
def test_the_audit_log_is_append_only(people, raw, statement):
    people.note("login")
    before = people.audit()
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), raw.begin() as connection:
        connection.exec_driver_sql(statement)
    assert people.audit() == before


def test_replacing_an_entry_is_no_way_around(people, raw, path):
    people.note("login")
    statement = "REPLACE INTO audit (id, at_ms, kind, data) VALUES (1, 0, 'x', '{}')"
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), raw.begin() as connection:
        connection.exec_driver_sql(statement)


def test_an_entry_is_a_label_with_json(people):
    with pytest.raises(StoreError, match="audit kind"):
        people.note("Somebody logged in")
    with pytest.raises(Exception, match="as JSON"):
        people.note("login", x=object())


# -- erasing --------------------------------------------------------------------------

NAME = "Wilhelmina Qxzjv"


@pytest.fixture
def known(store, new_task):
    """Somebody with an account, a session, failures, a ranking and a draft."""
    store.add_tasks(new_task(n) for n in range(2))
    account = store.people.add(NAME, "annotator", "$argon2id$canary")
    store.people.open_session(account.annotator_id, token())
    store.people.note_failure(failure_subject("account", NAME))
    held = store.claim(NAME)
    store.submit(held.id, NAME, Submission("request-1", (1, 2, 3, 4)))
    held = store.claim(NAME)
    store.keep_draft(held.id, NAME, 1, {"comment": f"signed, {NAME}"})
    return account


def test_erasing_keeps_the_rankings_and_nothing_of_the_person(store, known, raw):
    before = store.fingerprint()
    assert store.people.erase(NAME.upper()) == known.pseudonym
    assert store.fingerprint() == before
    assert [ranking.annotator for ranking in store.rankings()] == [known.pseudonym]
    assert store.people.account(NAME) is store.pseudonym(NAME) is None
    assert store.people.session(token()) is None
    with raw.begin() as connection:
        for table in ("accounts", "sessions", "login_failures", "drafts"):
            counted = connection.exec_driver_sql(f"SELECT count(*) FROM {table}")
            assert counted.scalar_one() == 0, table
    assert store.people.audit()[0].data == {"person": known.pseudonym}


def test_no_byte_of_the_name_is_left_in_the_files(store, known, path):
    def found():
        files = [f for f in path.parent.iterdir() if f.name.startswith(path.name)]
        content = b"".join(f.read_bytes() for f in files).lower()
        wanted = (NAME.lower().encode(), b"qxzjv", b"canary", token().encode())
        return [word for word in wanted if word in content]

    assert len(found()) == 4
    store.people.erase(NAME)
    assert found() == []


def test_erasing_somebody_twice_is_told(store, known):
    store.people.erase(NAME)
    with pytest.raises(StoreError, match="erased already, or never known"):
        store.people.erase(NAME)


def test_the_name_is_free_for_somebody_else(store, known):
    store.people.erase(NAME)
    again = store.people.add(NAME, "annotator")
    assert again.pseudonym != known.pseudonym
    assert store.own_rankings(NAME) == ()


def test_the_place_of_somebody_erased_runs_out(store, known, clock):
    store.people.erase(NAME)
    assert store.claim("bob") is None
    clock.now += 1800
    assert store.claim("bob") is not None


def test_others_lose_nothing(store, known, new_task, place):
    store.add_tasks([new_task(n) for n in range(5, 8)])
    other = store.people.add("bob", "reviewer", "hash")
    store.people.open_session(other.annotator_id, token("bob"))
    store.people.note_failure(failure_subject("account", "bob"))
    held = store.claim("bob")
    store.keep_draft(held.id, "bob", 1, {"n": 1})
    store.people.erase(NAME)
    with RankingStore.open(place) as reopened:
        clock_free = reopened.people
        assert clock_free.account("bob") == other
        assert clock_free.recent_failures(failure_subject("account", "bob"), 0) == 1
        assert clock_free.password_hash("bob") == "hash"
    assert store.people.session(token("bob")) == other
    assert store.claim("bob").draft.body == {"n": 1}
