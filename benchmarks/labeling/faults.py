"""A proxy that spoils answers on their way back, when the server has done what was asked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

FATES = ("pass", "drop", "cut", "delay", "repeat")
_ENDS = (OSError, asyncio.IncompleteReadError)


@dataclass
class Proxy:
    """Stands before a server; of the answers to one path a share is spoiled.

    ``drop`` closes the connection in place of the answer, ``cut`` does so in its middle, ``delay``
    holds it back, ``repeat`` lets the server see the request twice.
    """

    upstream: int
    """Port of the server."""
    path: bytes
    share: float
    rng: random.Random
    fates: Counter[str] = field(default_factory=Counter)
    port: int = 0
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen on a port of its own; give the address."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{self.port}"
        server.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=5)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*_ENDS):
            behind = await asyncio.open_connection("127.0.0.1", self.upstream)
            try:
                while await self._exchange(reader, writer, *behind):
                    pass
            finally:
                behind[1].close()
        writer.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        behind: asyncio.StreamReader,
        to_behind: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one request and its answer; False when the connection is to end."""
        request = await _message(reader)
        fate = self._fate(request)
        for _ in range(2 if fate == "repeat" else 1):
            to_behind.write(request)
            await to_behind.drain()
            answer = await _message(behind)
        if fate == "delay":
            await asyncio.sleep(self.rng.uniform(0.02, 0.3))
        if fate == "drop":
            return False
        writer.write(answer[: len(answer) // 2] if fate == "cut" else answer)
        await writer.drain()
        return fate != "cut"

    def _fate(self, request: bytes) -> str:
        if self.path not in request.split(b"\r\n", 1)[0]:
            return "pass"
        fate = self.rng.choice(FATES[1:]) if self.rng.random() < self.share else "pass"
        self.fates[fate] += 1
        return fate


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read a whole HTTP message; our requests and answers tell their length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)
