"""Progress of a running stage: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_SECONDS_BETWEEN_LINES = 5.0
_SHOWN = 3
_FIRST = (
    "score/mean",
    "kl/reference",
    "completion/length",
    "loss/train",
    "loss/held_out",
    "reward/pair_accuracy_train",
)
"""Metrics that people look at first; a row without any shows its first three."""


class Progress:
    """A listener for stages: shows how far each is and its key metrics, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show one logged row of a stage."""
        if self._live:
            self._update_bar(stage, step, total, key_figures(metrics))
            return
        now = time.monotonic()
        new = stage not in self._tasks
        self._tasks.setdefault(stage, TaskID(len(self._tasks)))
        if new or step >= total or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            figures = key_figures(metrics)
            line = f"{stage:<9} {step}/{total}  {now - self._start:.0f} s  {figures}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _update_bar(self, stage: str, step: int, total: int, figures: str) -> None:
        if stage not in self._tasks:
            for earlier in self._tasks.values():
                self._bars.stop_task(earlier)
            self._tasks[stage] = self._bars.add_task(stage, total=total, figures=figures)
        self._bars.update(self._tasks[stage], completed=step, total=total, figures=figures)


def key_figures(metrics: Mapping[str, float]) -> str:
    """Give the few metrics that people look at first, as one short text."""
    names = [name for name in _FIRST if name in metrics]
    names = names or list(metrics)[:_SHOWN]
    return "  ".join(f"{_short(name)} {metrics[name]:.3g}" for name in names)


def is_first_process() -> bool:
    """Tell whether this is the one process that speaks, also under a launcher."""
    return os.environ.get("RANK", "0") == "0"


def _short(name: str) -> str:
    family, _, rest = name.partition("/")
    return family if rest in ("train", "mean", "reference") else rest.replace("_", " ") or name
