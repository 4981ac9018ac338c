"""Threads for what would hold up the event loop: few, so that memory stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

STORE_THREADS = 1
"""Work on the store is mostly Python, which runs one thread at a time: a second one makes 16 people
wait longer (p95 108 instead of 83 ms), four longer still."""
HASH_THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """One small pool of threads for each kind of work, so that none waits behind another."""

    def __init__(self) -> None:
        self._store = ThreadPoolExecutor(STORE_THREADS, "store")
        self._figures = ThreadPoolExecutor(1, "figures")
        self._hashing = ThreadPoolExecutor(HASH_THREADS, "hashing")

    async def store(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Do quick work on the store."""
        return await _run(self._store, work, *args, **named)

    async def figures(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Do slow work for the team: one at a time."""
        return await _run(self._figures, work, *args, **named)

    async def hashing(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Hash or check a password."""
        return await _run(self._hashing, work, *args, **named)

    def close(self) -> None:
        """Let the threads end when their work is done."""
        for pool in (self._store, self._figures, self._hashing):
            pool.shutdown(wait=True)


async def _run(
    pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **named: P.kwargs
) -> T:
    done = pool.submit(work, *args, **named)
    return await asyncio.wrap_future(done)
