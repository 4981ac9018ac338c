"""How often somebody may try to log in: ten quick tries, then ever longer waits.

Failures are counted in the store, so a restart forgives nothing. Tries under way count as
failures until they are decided: a hundred guesses at once are no more than one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from labeling_ui.workers import Workers
from rlhf.store import People

QUICK_TRIES = 10
WINDOW_MS = 3_600_000
FIRST_WAIT_MS = 15_000
LONGEST_WAIT_MS = 900_000


def wait_after(failures: int) -> int:
    """Give the milliseconds without a failure that a try needs after so many in an hour."""
    if failures < QUICK_TRIES:
        return 0
    return int(min(FIRST_WAIT_MS * 2 ** (failures - QUICK_TRIES), LONGEST_WAIT_MS))


class Throttle:
    """Admits tries; belongs to one event loop."""

    def __init__(self, people: People, workers: Workers) -> None:
        self._people = people
        self._workers = workers
        self._under_way: Counter[str] = Counter()

    async def wait_for(self, subjects: Sequence[str], now_ms: int) -> int:
        """Admit a try and give 0; or give how many milliseconds to wait.

        Who is admitted must call ``decide``.
        """
        ahead = max(self._under_way[name] for name in subjects)
        self._under_way.update(subjects)  # before anything is awaited: the next one sees it
        wait = LONGEST_WAIT_MS
        try:
            wait = await self._workers.store(self._wait, subjects, ahead, now_ms)
        finally:
            if wait:
                self._leave(subjects)
        return wait

    async def decide(self, subjects: Sequence[str], *, failed: bool) -> None:
        """Count a failure, or forgive those of the first subject, who has got in."""
        try:
            if failed:
                await self._workers.store(self._people.note_failure, subjects)
            else:
                await self._workers.store(self._people.forget_failures, subjects[0])
        finally:
            self._leave(subjects)

    def _wait(self, subjects: Sequence[str], ahead: int, now_ms: int) -> int:
        longest = 0
        for name in subjects:
            failures = self._people.recent_failures(name, now_ms - WINDOW_MS) + ahead
            wait = wait_after(failures)
            if wait and (ahead or self._people.recent_failures(name, now_ms - wait)):
                longest = max(longest, wait)
        return longest

    def _leave(self, subjects: Sequence[str]) -> None:
        self._under_way.subtract(subjects)
        for name in subjects:
            if self._under_way[name] <= 0:
                del self._under_way[name]
