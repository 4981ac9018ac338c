"""The ways in and out: the login page, the link of a local start, logging out.

What a failed login says and how long it takes don't depend on whether the name is known.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from labeling_ui.answers import page, refuse, static
from labeling_ui.bodies import Refused
from labeling_ui.passwords import Passwords, device_mark
from labeling_ui.security import LOGIN, PAGE
from labeling_ui.sessions import LocalSessions, StoredSessions, set_cookie
from labeling_ui.site import Site
from labeling_ui.throttle import Throttle
from labeling_ui.workers import Workers
from rlhf.errors import StoreError
from rlhf.store import Account, RankingStore, failure_subject
from rlhf.store.checks import annotator_key

WRONG = "Name and password do not match."
DEVICE_HOURS = 90 * 24
WAITING_LOGINS = 32
"""Logins that may wait for their turn to be checked; more are turned away at once."""


@dataclass(slots=True)
class Login:
    """Login with a name and a password."""

    site: Site
    store: RankingStore
    workers: Workers
    sessions: StoredSessions
    passwords: Passwords
    clock: Callable[[], float]
    throttle: Throttle = field(init=False)
    _waiting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.throttle = Throttle(self.store.people, self.workers)

    def routes(self) -> list[Route]:
        """Give the routes to add to the application."""
        return [
            Route(LOGIN, self.show, methods=["GET"]),
            Route(LOGIN, self.enter, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """Show the login page, or the ranking page to who is logged in."""
        if await self.sessions.visitor(request.scope) is not None:
            return RedirectResponse(f"{PAGE}/", 303)
        return _form()

    async def enter(self, request: Request) -> Response:
        """Check a name and a password; open a session."""
        name, password = _read_form(request, await request.body())
        if self._waiting >= WAITING_LOGINS:
            return _form("Too many people are logging in. Try again in a moment.", name, status=503)
        self._waiting += 1
        try:
            return await self._try(request, name, password)
        finally:
            self._waiting -= 1

    async def _try(self, request: Request, name: str, password: str) -> Response:
        key = _key(name)
        account, stored = await self.workers.store(self._look_up, name)
        subjects = (
            self._person(request, key, stored),
            failure_subject("address", _address(request)),
        )
        wait_ms = await self.throttle.wait_for(subjects, round(self.clock() * 1000))
        if wait_ms:
            return _form(f"Too many tries. Try again in {_spell(wait_ms)}.", name, 429, wait_ms)
        failed = True
        try:
            right = await self.workers.hashing(self.passwords.check, password, stored)
            failed = not right or account is None or account.state == "disabled"
        finally:
            await self.throttle.decide(subjects, failed=failed)
        if failed or account is None or stored is None:
            await self.workers.store(self._note_failure, account)
            return _form(WRONG, name, 401)
        response = RedirectResponse(f"{PAGE}/", 303)
        await self.workers.store(self._open, account, request, response)
        set_cookie(response, self._device, device_mark(key, stored), self.site, hours=DEVICE_HOURS)
        return response

    def _look_up(self, name: str) -> tuple[Account | None, str | None]:
        people = self.store.people
        try:
            return people.account(name), people.password_hash(name)
        except StoreError:  # no person's name looks like this
            return None, None

    def _open(self, account: Account, request: Request, response: Response) -> None:
        self.sessions.open(account.annotator_id, request.scope, response)
        self.store.people.note("login", account.annotator_id)

    def _note_failure(self, account: Account | None) -> None:
        about = None if account is None else account.pseudonym
        self.store.people.note("login_failed", person=about)

    def _person(self, request: Request, key: str, stored: str | None) -> str:
        """Name whose tries these are; a browser that has been let in before counts apart.

        So nobody is kept out for good by the guesses of others.
        """
        mark = request.cookies.get(self._device, "")
        if hmac.compare_digest(mark.encode(), device_mark(key, stored or "").encode()) and stored:
            return failure_subject("device", mark)
        return failure_subject("account", key)

    @property
    def _device(self) -> str:
        return self.site.cookie.replace("session", "device")


@dataclass(frozen=True, slots=True)
class LocalEntrance:
    """The link that the start of a local server prints."""

    sessions: LocalSessions

    def routes(self) -> list[Route]:
        """Give the routes to add to the application."""
        return [
            Route("/enter", self.enter, methods=["GET"]),
            Route(LOGIN, self.explain, methods=["GET"]),
        ]

    async def explain(self, request: Request) -> Response:
        """Say how the page is opened, as there is nothing to log in to."""
        if await self.sessions.visitor(request.scope) is not None:
            return RedirectResponse(f"{PAGE}/", 303)
        raise Refused(401, "this page opens with the link that its start printed")

    async def enter(self, request: Request) -> Response:
        """Open a session by the key, which is then used up."""
        response = RedirectResponse(f"{PAGE}/", 303)
        if await self.sessions.visitor(request.scope) is not None:
            return response
        if self.sessions.enter(request.query_params.get("key", ""), response):
            return response
        line = "this link has been used, or is of an earlier start; start the server again"
        return refuse(request.scope, Refused(401, line))


def ways_out(sessions: LocalSessions | StoredSessions) -> list[Route]:
    """Give the routes that every application has beside its entrance."""
    style = static("login.css")

    async def log_out(request: Request) -> Response:
        response = RedirectResponse("/" if sessions.local else LOGIN, 303)
        await sessions.leave(request.scope, response)
        return response

    async def show_style(_request: Request) -> Response:
        return Response(style, headers={"Cache-Control": "no-cache"}, media_type="text/css")

    return [
        Route("/logout", log_out, methods=["POST"]),
        Route("/login.css", show_style, methods=["GET"]),
    ]


def _form(error: str = "", name: str = "", status: int = 200, wait_ms: int = 0) -> Response:
    headers = {"Retry-After": str(-(-wait_ms // 1000))} if wait_ms else None
    return page("login.html", status, headers, error=error, name=name)


def _read_form(request: Request, body: bytes) -> tuple[str, str]:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(400, "the login form is sent as application/x-www-form-urlencoded")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=8, keep_blank_values=True)
    except ValueError:
        raise Refused(400, "the login form can't be read") from None
    name, password = (fields.get(key, [""])[-1] for key in ("name", "password"))
    return name[:64], password


def _key(name: str) -> str:
    try:
        return annotator_key(name)
    except StoreError:
        return name


def _address(request: Request) -> str:
    """Name the sender; a /64 network of IPv6 counts as one, as one person may own all of it."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def _spell(wait_ms: int) -> str:
    seconds = -(-wait_ms // 1000)
    return f"{seconds} seconds" if seconds < 120 else f"{-(-seconds // 60)} minutes"
