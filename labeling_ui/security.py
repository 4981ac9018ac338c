"""What stands between the network and every route, Gradio's own included.

One ASGI layer that denies by default. A stranger reaches the login page with its style and the
link of a local start, nothing else. For people logged in, a path exists only if a role is named
for it. Every answer carries headers that keep scripts and data on this server, and none tells
more of a fault than a reference that the log repeats.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_ui.answers import refuse, wants_page
from labeling_ui.bodies import BODY_SECONDS, Refused, read_body, replay
from labeling_ui.sessions import VISITOR, Sessions
from labeling_ui.site import Site
from rlhf.errors import StoreError

PAGE = "/rank"
LOGIN = "/login"
PUBLIC = {LOGIN: ("GET", "HEAD", "POST"), "/login.css": ("GET", "HEAD"), "/enter": ("GET",)}
"""All that a stranger reaches, and how."""
METHODS = ("GET", "HEAD", "POST")
GRADIO_PATHS = (f"{PAGE}/", f"{PAGE}/theme.css")
GRADIO_FOLDERS = (f"{PAGE}/assets/", f"{PAGE}/static/")
"""Gradio's other routes (events, uploads, files, its API) are not used, so they don't answer."""

_OWN_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
# Gradio evaluates its templates and configures its page inline; nothing leaves this server.
_GRADIO_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then send our own forms with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """Who reaches what, how and from where."""

    site: Site
    sessions: Sessions
    roles: Mapping[str, str]
    """The least role of each path of our own."""
    folders: Mapping[str, str]
    """The least role of everything below a folder."""
    body_seconds: float = BODY_SECONDS

    def role_of(self, path: str) -> str | None:
        """Give the least role that reaches a path, None for one that does not exist."""
        if ".." in path or "\\" in path or "\0" in path or "//" in path:
            return None
        if path in GRADIO_PATHS:
            return "annotator"
        below = (role for folder, role in self.folders.items() if path.startswith(folder))
        return self.roles.get(path) or next(below, None)


class Guard:
    """Lets a request through to the application only if the rules say so."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self._serve(self.rules.site.admit(scope), receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._add_headers(MutableHeaders(scope=message), message["status"], scope["path"])
            await send(message)

        try:
            answer = await self._judge(scope)
            if answer is not None:
                await answer(scope, receive, guarded)
                return
            if scope["method"] == "POST":
                body = await read_body(scope, receive, self.rules.body_seconds)
                receive = replay(body, receive)
            await self.app(scope, receive, guarded)
        except Refused as refused:
            await refuse(scope, refused)(scope, receive, guarded)
        except Exception as error:
            fault = _fault(error)
            if begun:
                raise
            await refuse(scope, fault)(scope, receive, guarded)

    async def _judge(self, scope: Scope) -> Response | None:
        """Let a request through by None; or give what to answer in its stead.

        Raises:
            Refused: If it must not be served.
        """
        site, path, method = self.rules.site, scope["path"], scope["method"]
        if not site.knows_host(scope):
            raise Refused(400, "this server is not known under that name")
        if method not in METHODS:
            raise Refused(405, "this method is not used here", headers={"Allow": "GET, HEAD, POST"})
        if method == "POST" and not site.is_own_page(scope):
            raise Refused(403, "this request does not come from our page")
        if path in PUBLIC:
            if method not in PUBLIC[path]:
                raise Refused(405, "this method is not used here")
            return None
        visitor = await self.rules.sessions.visitor(scope)
        if visitor is None:
            return self._to_login(scope)
        role = self.rules.role_of(path)
        if role is None:
            raise Refused(404, "there is nothing under this address")
        if not visitor.may(role):
            raise Refused(403, f"this needs the role {role!r}")
        scope[VISITOR] = visitor
        return None

    def _to_login(self, scope: Scope) -> Response:
        """Answer a stranger: the same whatever was asked for."""
        if self.rules.sessions.local:
            raise Refused(401, "this page opens with the link that its start printed")
        if scope["method"] == "GET" and wants_page(scope):
            return RedirectResponse(LOGIN, 303)
        raise Refused(401, "not logged in")

    def _add_headers(self, headers: MutableHeaders, status: int, path: str) -> None:
        headers.update(HEADERS)
        by_gradio = path == PAGE or path.startswith(f"{PAGE}/")
        headers["Content-Security-Policy"] = _GRADIO_POLICY if by_gradio else _OWN_POLICY
        if self.rules.site.https:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        found = status in (200, 304)
        if found and path.startswith(f"{PAGE}/assets/"):  # their names change with their content
            headers["Cache-Control"] = "private, max-age=31536000, immutable"
        else:
            headers.setdefault("Cache-Control", "no-store")


def _fault(error: Exception) -> Refused:
    """Log a fault of ours and give what may be said of it."""
    reference = secrets.token_hex(4)
    if isinstance(error, StoreError):
        _log.error("reference %s: %s", reference, error)
        return Refused(503, f"the store failed; nothing was stored (reference {reference})")
    _log.error("reference %s", reference, exc_info=error)
    return Refused(500, f"this failed on our side (reference {reference})")
