"""Accounts, sessions, failed logins and the audit log.

A name stands in ``annotators`` alone; everything here knows a number, so that a person can be
erased and what they ranked stays. Passwords arrive hashed, tokens and subjects as sha256.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.store.checks import check_json, is_label
from rlhf.store.engine import Database
from rlhf.store.hashes import failure_subject
from rlhf.store.queue import add_annotator, find_person
from rlhf.store.schema import (
    accounts,
    annotators,
    assignments,
    audit,
    drafts,
    login_failures,
    sessions,
)

ROLES = ("annotator", "reviewer", "admin")
"""Each may do what those before it may."""
STATES = ("active", "paused", "disabled")
"""Who is paused may log in and gets no task; who is disabled can't log in."""
IDLE_SECONDS = 8 * 3600
"""A session that was not used for so long has ended."""

_TOUCH_MS = 60 * 1000
_KEEP_FAILURES_MS = 7 * 24 * 3600 * 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Account:
    """A person who may log in."""

    annotator_id: int
    name: str
    pseudonym: str
    role: str
    state: str
    has_password: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that was done; ``data`` holds ids and pseudonyms, never a name."""

    id: int
    at_ms: int
    actor_id: int | None
    """None for who works on the machine itself."""
    actor: str | None
    """Their pseudonym."""
    kind: str
    data: Mapping[str, Any]


class People:
    """The people of a store; ``RankingStore.people`` gives it.

    What changes an account writes its own audit entry; ``actor_id`` says who did it, None for who
    works on the machine itself.
    """

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms

    # -- accounts ----------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        role: str,
        password_hash: str | None = None,
        *,
        actor_id: int | None = None,
    ) -> Account:
        """Make an account for a person, known as an annotator or not.

        Raises:
            StoreError: If there is one already, or name or role can't be.
        """
        _check_one_of("role", role, ROLES)
        with self._database.write() as conn:
            now_ms = self._now_ms()
            person, pseudonym = add_annotator(conn, name, random_pseudonym(), now_ms)
            if _read_account(conn, person) is not None:
                raise StoreError(f"{name.strip()!r} has an account already")
            conn.execute(
                accounts.insert().values(
                    annotator_id=person,
                    role=role,
                    state="active",
                    password_hash=password_hash,
                    created_ms=now_ms,
                )
            )
            write_note(conn, now_ms, "account_added", actor_id, person=pseudonym, role=role)
            return _need(_read_account(conn, person))

    def account(self, name: str) -> Account | None:
        """Find an account by name, whatever its case."""
        with self._database.read() as conn:
            person = find_person(conn, name)
            return None if person is None else _read_account(conn, person.id)

    def accounts(self) -> tuple[Account, ...]:
        """Give every account, oldest first."""
        query = _ACCOUNTS.order_by(accounts.c.created_ms, accounts.c.annotator_id)
        with self._database.read() as conn:
            return tuple(map(_account, conn.execute(query)))

    def password_hash(self, name: str) -> str | None:
        """Give the stored hash; None for an unknown person or one without a password."""
        with self._database.read() as conn:
            person = find_person(conn, name)
            if person is None:
                return None
            wanted = accounts.c.annotator_id == person.id
            found = conn.scalar(sa.select(accounts.c.password_hash).where(wanted))
            return None if found is None else str(found)

    def set_password_hash(
        self, name: str, password_hash: str, *, actor_id: int | None = None
    ) -> None:
        """Change a password and end all sessions of the person."""
        change = _Change("password_changed", {"password_hash": password_hash}, ends_sessions=True)
        self._change(name, change, actor_id)

    def set_role(self, name: str, role: str, *, actor_id: int | None = None) -> None:
        """Change what a person may do; it holds from their next request on."""
        _check_one_of("role", role, ROLES)
        self._change(name, _Change("role_changed", {"role": role}, {"role": role}), actor_id)

    def set_state(self, name: str, state: str, *, actor_id: int | None = None) -> None:
        """Activate, pause or disable a person; disabling ends all sessions."""
        _check_one_of("state", state, STATES)
        new = {"state": state}
        change = _Change("state_changed", new, new, ends_sessions=state == "disabled")
        self._change(name, change, actor_id)

    def _change(self, name: str, change: _Change, actor_id: int | None) -> None:
        with self._database.write() as conn:
            person = find_person(conn, name)
            account = None if person is None else _read_account(conn, person.id)
            if account is None:
                raise StoreError(f"nobody called {name!r} has an account")
            mine = accounts.c.annotator_id == account.annotator_id
            conn.execute(accounts.update().where(mine).values(change.columns))
            if change.ends_sessions:
                _end_sessions(conn, account.annotator_id)
            now_ms, told = self._now_ms(), {"person": account.pseudonym, **change.told}
            write_note(conn, now_ms, change.kind, actor_id, **told)

    def erase(self, name: str, *, actor_id: int | None = None) -> str:
        """Forget who a person was; give the pseudonym under which their rankings stay.

        Name, account, sessions, drafts and failed logins (by ``failure_subject``) go, from the
        database and from its files. What the person wrote into comments stays: it is history.

        Raises:
            StoreError: If nobody has this name (any more), or the files can't be rewritten now;
                then the name is gone from the tables, and ``purge`` finishes the work.
        """
        with self._database.write() as conn:
            person = find_person(conn, name)
            if person is None:
                raise StoreError(f"nobody is called {name!r}; erased already, or never known")
            me = int(person.id)
            of_me = sa.select(assignments.c.id).where(assignments.c.annotator_id == me)
            conn.execute(drafts.delete().where(drafts.c.assignment_id.in_(of_me)))
            _end_sessions(conn, me)
            conn.execute(accounts.delete().where(accounts.c.annotator_id == me))
            subject = failure_subject("account", name)
            conn.execute(login_failures.delete().where(login_failures.c.subject == subject))
            nameless = annotators.update().where(annotators.c.id == me)
            conn.execute(nameless.values(name=None, name_key=None))
            write_note(conn, self._now_ms(), "erased", actor_id, person=person.pseudonym)
        self.purge()
        return str(person.pseudonym)

    def purge(self) -> None:
        """Rewrite the files so that nothing of an erased person is left in them.

        Raises:
            StoreError: If others use the store all the while; try again.
        """
        self._database.purge("annotators", "accounts", "sessions", "login_failures", "drafts")

    # -- sessions ----------------------------------------------------------------------------------

    def open_session(self, annotator_id: int, token_sha256: str, *, hours: float = 24) -> None:
        """Begin a session that ends after ``hours``, or earlier when it is not used."""
        with self._database.write() as conn:
            now_ms = self._now_ms()
            conn.execute(sessions.delete().where(sessions.c.expires_ms <= now_ms))
            conn.execute(
                sessions.insert().values(
                    token_sha256=token_sha256,
                    annotator_id=annotator_id,
                    created_ms=now_ms,
                    seen_ms=now_ms,
                    expires_ms=now_ms + round(hours * 3600 * 1000),
                )
            )

    def session(self, token_sha256: str) -> Account | None:
        """Give the account of a live session of a person who is not disabled."""
        now_ms = self._now_ms()
        with self._database.read() as conn:
            row = conn.execute(_SESSION, {"token": token_sha256}).first()
        if row is None or row.state == "disabled":
            return None
        if row.expires_ms <= now_ms or row.seen_ms <= now_ms - IDLE_SECONDS * 1000:
            return None
        if row.seen_ms <= now_ms - _TOUCH_MS:
            with self._database.write() as conn:
                conn.execute(_TOUCH, {"token": token_sha256, "now": now_ms})
        return _account(row)

    def close_session(self, token_sha256: str) -> None:
        """End a session, known or not."""
        with self._database.write() as conn:
            conn.execute(sessions.delete().where(sessions.c.token_sha256 == token_sha256))

    # -- failed logins -----------------------------------------------------------------------------

    def note_failure(self, subjects: str | Iterable[str]) -> None:
        """Count a failed login against each subject, a sha256 such as ``failure_subject``'s."""
        named = [subjects] if isinstance(subjects, str) else list(subjects)
        if any(not _SHA256.fullmatch(subject) for subject in named):
            raise StoreError("a subject must be a sha256 in hex, never a name or an address")
        with self._database.write() as conn:
            now_ms = self._now_ms()
            old = login_failures.c.at_ms < now_ms - _KEEP_FAILURES_MS
            conn.execute(login_failures.delete().where(old))
            for subject in named:
                conn.execute(login_failures.insert().values(subject=subject, at_ms=now_ms))

    def recent_failures(self, subject: str, since_ms: int) -> int:
        """Count failed logins at or after a time; those of more than a week ago are forgotten."""
        failures = login_failures.c
        query = sa.select(sa.func.count()).select_from(login_failures)
        with self._database.read() as conn:
            counted = query.where(failures.subject == subject, failures.at_ms >= since_ms)
            return int(conn.scalar(counted) or 0)

    def forget_failures(self, subject: str) -> None:
        """Clear the failed logins of a subject."""
        with self._database.write() as conn:
            conn.execute(login_failures.delete().where(login_failures.c.subject == subject))

    # -- audit -------------------------------------------------------------------------------------

    def note(self, kind: str, actor_id: int | None = None, **data: Any) -> None:
        """Write an audit entry; never put a name, an address or a password into ``data``."""
        with self._database.write() as conn:
            write_note(conn, self._now_ms(), kind, actor_id, **data)

    def audit(self, limit: int = 200, before: int | None = None) -> tuple[AuditEntry, ...]:
        """Give the newest entries, newest first; ``before`` is the id where the last page ended."""
        query = (
            sa.select(audit, annotators.c.pseudonym)
            .outerjoin(annotators, annotators.c.id == audit.c.actor_id)
            .order_by(audit.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(audit.c.id < before)
        with self._database.read() as conn:
            return tuple(
                AuditEntry(row.id, row.at_ms, row.actor_id, row.pseudonym, row.kind, row.data)
                for row in conn.execute(query)
            )


def write_note(
    conn: sa.Connection, now_ms: int, kind: str, actor_id: int | None = None, **data: Any
) -> None:
    """Write an audit entry inside a transaction of the caller."""
    if not is_label(kind):
        raise StoreError(f"audit kind {kind!r:.80} must be a short label such as 'login'")
    check_json("data", data)
    conn.execute(audit.insert().values(at_ms=now_ms, actor_id=actor_id, kind=kind, data=data))


def random_pseudonym() -> str:
    """Make a name that tells nothing."""
    return f"annotator-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class _Change:
    kind: str
    columns: Mapping[str, Any]
    told: Mapping[str, Any] = field(default_factory=dict)
    ends_sessions: bool = False


def _check_one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise StoreError(f"{what} {value!r:.80} is not one of {', '.join(known)}")


def _end_sessions(conn: sa.Connection, annotator_id: int) -> None:
    conn.execute(sessions.delete().where(sessions.c.annotator_id == annotator_id))


def _read_account(conn: sa.Connection, annotator_id: int) -> Account | None:
    row = conn.execute(_ACCOUNTS.where(accounts.c.annotator_id == annotator_id)).first()
    return None if row is None else _account(row)


def _need(account: Account | None) -> Account:
    assert account is not None
    return account


def _account(row: sa.Row[Any]) -> Account:
    return Account(
        annotator_id=row.annotator_id,
        name=row.name,
        pseudonym=row.pseudonym,
        role=row.role,
        state=row.state,
        has_password=row.has_password,
        created_ms=row.created_ms,
    )


# -- statements, built once ------------------------------------------------------------------------

_ACCOUNTS = sa.select(
    accounts.c.annotator_id,
    annotators.c.name,
    annotators.c.pseudonym,
    accounts.c.role,
    accounts.c.state,
    accounts.c.password_hash.is_not(None).label("has_password"),
    accounts.c.created_ms,
).join(annotators, annotators.c.id == accounts.c.annotator_id)
_SESSION = (
    _ACCOUNTS.add_columns(sessions.c.seen_ms, sessions.c.expires_ms)
    .join(sessions, sessions.c.annotator_id == accounts.c.annotator_id)
    .where(sessions.c.token_sha256 == sa.bindparam("token"))
)
_TOUCH = (
    sessions.update()
    .where(
        sessions.c.token_sha256 == sa.bindparam("token"), sessions.c.seen_ms < sa.bindparam("now")
    )
    .values(seen_ms=sa.bindparam("now"))
)
