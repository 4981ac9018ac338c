"""Who is asking: sessions by cookie, kept in the store; on one's own machine, by a link.

A cookie holds 256 random bits; the store knows only their sha256. A store without accounts is
served to one person: whoever opens the link that the start prints, once.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope

from labeling_ui.site import Site
from labeling_ui.workers import Workers
from rlhf.store import RankingStore
from rlhf.store.people import ROLES

SESSION_HOURS = 24
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
VISITOR = "labeling_ui.visitor"
"""Where a request's scope holds its ``Visitor``."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The person behind a request."""

    name: str
    role: str
    annotator_id: int | None = None
    """None for the one person of a store without accounts."""

    def may(self, role: str) -> bool:
        """Say whether this person may do what ``role`` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Sessions(Protocol):
    """Where sessions are kept."""

    @property
    def local(self) -> bool:
        """Whether there is one person and no login."""

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Give who is asking, None for a stranger."""

    async def leave(self, scope: Scope, response: Response) -> None:
        """End the session of a request."""


@dataclass(slots=True)
class LocalSessions:
    """One person on this machine; sessions last as long as the process."""

    site: Site
    name: str
    local: bool = field(default=True, init=False)
    _key: str | None = field(default=None, init=False)
    _known: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._key = secrets.token_urlsafe(32)

    @property
    def path(self) -> str:
        """The link that opens the page, once."""
        return f"/enter?key={self._key}"

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Give the person if the browser has opened the link."""
        token = read_token(scope, self.site)
        known = token is not None and _sha256(token) in self._known
        return Visitor(self.name, "admin") if known else None

    def enter(self, key: str, response: Response) -> bool:
        """Open a session by the key of the link, which is then used up."""
        if self._key is None or not hmac.compare_digest(key.encode(), self._key.encode()):
            return False
        self._key = None
        self._known.add(_sha256(give_token(response, self.site)))
        return True

    async def leave(self, scope: Scope, response: Response) -> None:
        """End the session of a request."""
        self._known.discard(_sha256(read_token(scope, self.site) or ""))
        take_token(response, self.site)


@dataclass(frozen=True, slots=True)
class StoredSessions:
    """People with accounts; their sessions outlive the process."""

    site: Site
    store: RankingStore
    workers: Workers
    local: bool = field(default=False, init=False)

    async def visitor(self, scope: Scope) -> Visitor | None:
        """Give the person whose session the cookie names."""
        token = read_token(scope, self.site)
        if token is None:
            return None
        account = await self.workers.store(self.store.people.session, _sha256(token))
        if account is None or account.role not in ROLES:
            return None
        return Visitor(account.name, account.role, account.annotator_id)

    def open(self, annotator_id: int, scope: Scope, response: Response) -> None:
        """Open a session and end the one that the browser had; blocks."""
        old = read_token(scope, self.site)
        if old is not None:
            self.store.people.close_session(_sha256(old))
        token = give_token(response, self.site)
        self.store.people.open_session(annotator_id, _sha256(token), hours=SESSION_HOURS)

    async def leave(self, scope: Scope, response: Response) -> None:
        """End the session of a request."""
        token = read_token(scope, self.site)
        if token is not None:
            await self.workers.store(self.store.people.close_session, _sha256(token))
        take_token(response, self.site)


def read_token(scope: Scope, site: Site) -> str | None:
    """Read the cookie, if it can be one of ours."""
    cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
    token = cookies.get(site.cookie, "")
    return token if _TOKEN.fullmatch(token) else None


def give_token(response: Response, site: Site) -> str:
    """Set a new cookie and give its 256 random bits."""
    token = secrets.token_urlsafe(32)
    set_cookie(response, site.cookie, token, site, hours=SESSION_HOURS)
    return token


def take_token(response: Response, site: Site) -> None:
    """Tell the browser to forget the cookie."""
    response.delete_cookie(site.cookie, secure=site.https, httponly=True, samesite="lax")


def set_cookie(response: Response, name: str, value: str, site: Site, *, hours: int) -> None:
    """Set a cookie that scripts can't read and other sites can't send."""
    response.set_cookie(
        name, value, max_age=hours * 3600, secure=site.https, httponly=True, samesite="lax"
    )


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
