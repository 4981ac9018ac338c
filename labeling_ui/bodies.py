"""Bodies of requests: read whole before anything is done, small, and not for ever."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

MAX_BODY = 64 * 1024
BODY_SECONDS = 30.0


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that gets this status and this line instead of what it asked for."""

    def __init__(self, status: int, line: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.headers = headers or {}


async def read_body(scope: Scope, receive: Receive, seconds: float) -> bytes:
    """Read a body.

    Raises:
        Refused: If it is larger than ``MAX_BODY`` or takes longer than ``seconds``.
    """
    told = Headers(scope=scope).get("content-length", "0")
    if not told.isdigit() or int(told[:20]) > MAX_BODY:
        raise _too_large()
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive)
    except TimeoutError:
        raise Refused(408, f"the request took longer than {seconds:g} seconds") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Give a channel that yields a body read before, and then what else comes."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)  # the client has gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> Refused:
    return Refused(413, f"the request is larger than {MAX_BODY // 1024} kB")
