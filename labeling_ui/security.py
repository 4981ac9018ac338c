"""What stands between the network and every route, Gradio's own included.

One ASGI layer: only the paths that the page needs exist; a request that changes something must
come from our own page and be small; every answer carries headers that keep scripts and data on
this server.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
SAFE_METHODS = ("GET", "HEAD")

PAGE = "/rank"
OPEN_PATHS = ("/", "/favicon.ico", "/manifest.json", "/api/next", "/api/submit", PAGE, f"{PAGE}/")
OPEN_PREFIXES = (f"{PAGE}/assets/", f"{PAGE}/static/", f"{PAGE}/theme.css")
"""Gradio's other routes (events, uploads, files, its API) are not used, so they don't answer."""

HEADERS = {
    # Gradio evaluates its templates and configures its page inline; nothing leaves this server.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; "
        "form-action 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Refuses unknown paths, foreign origins and large bodies; sets the headers of all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with a line of JSON."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if not _is_open(scope["path"]):
            await _refuse(send_guarded, 404, "no such page")
            return
        if scope["method"] in SAFE_METHODS:
            await self.app(scope, receive, send_guarded)
            return
        if not _is_own_page(Headers(scope=scope)):
            await _refuse(send_guarded, 403, "this request comes from another page")
            return
        body = await _read_body(receive)
        if body is None:
            await _refuse(send_guarded, 413, f"the request is larger than {MAX_BODY} bytes")
            return
        await self.app(scope, _replay(body, receive), send_guarded)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def _is_own_page(headers: Headers) -> bool:
    """Say whether a browser sent this from our page; programs send neither header."""
    origin = headers.get("origin")
    if origin is not None:
        return bool(_netloc(origin)) and _netloc(origin) == headers.get("host", "")
    return headers.get("sec-fetch-site", "same-origin") == "same-origin"


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


async def _read_body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)  # the client has gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


async def _refuse(send: Send, status: int, error: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
