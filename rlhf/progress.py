"""Progress of a running stage: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0
_SEPARATOR = "  "
_SHOWN = 3
_WIDE = 120
"""Columns from which a PPO line has room for all of its figures beside a long bar."""
_FIRST = {
    "score/mean": ("score {}", 2),
    "kl/reference": ("kl {}", 2),
    "completion/length": ("length {}", 2),
    "policy/entropy": ("entropy {}", 2),
    "policy/clip_fraction": ("clip {}", 2),
    "value/explained_variance": ("ev {}", 2),
    "time/update_s": ("{} s", 2),
    "loss/train": ("loss {}", 3),
    "loss/held_out": ("held out {}", 3),
    "reward/pair_accuracy_train": ("pair accuracy train {}", 3),
}
"""Metrics that people look at first, most important first: how a line shows them and with how many
digits. A row without any shows its first three."""


class Progress:
    """A listener for stages: shows how far each is and its key metrics, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24 if self._console.width >= _WIDE else 6),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _FiguresColumn(),
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
            figures = _SEPARATOR.join(key_figures(metrics))
            line = f"{stage:<9} {step}/{total}  {now - self._start:.0f} s  {figures}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _update_bar(self, stage: str, step: int, total: int, figures: Sequence[str]) -> None:
        if stage not in self._tasks:
            for earlier in self._tasks.values():
                self._bars.stop_task(earlier)
            self._tasks[stage] = self._bars.add_task(stage, total=total, figures=figures)
        self._bars.update(self._tasks[stage], completed=step, total=total, figures=figures)


class _FiguresColumn(ProgressColumn):
    """The key figures of a stage's last row."""

    def render(self, task: Task) -> _Figures:
        """Give the figures of one stage."""
        return _Figures(task.fields["figures"])


class _Figures:
    """Whole figures, as many of the first ones as the line has room for."""

    def __init__(self, figures: Sequence[str]) -> None:
        self._figures = figures

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, len(_SEPARATOR.join(self._figures)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(self._figures)
        while len(_SEPARATOR.join(shown)) > options.max_width:
            shown.pop()
        yield Text(_SEPARATOR.join(shown))


def key_figures(metrics: Mapping[str, float]) -> list[str]:
    """Give the few metrics that people look at first, each as a short text."""
    known = [
        shown.format(_number(metrics[name], digits))
        for name, (shown, digits) in _FIRST.items()
        if name in metrics
    ]
    return known or [f"{_short(name)} {metrics[name]:.3g}" for name in list(metrics)[:_SHOWN]]


def is_first_process() -> bool:
    """Tell whether this is the one process that speaks, also under a launcher."""
    return os.environ.get("RANK", "0") == "0"


def _number(value: float, digits: int) -> str:
    """Give so many significant digits, without an exponent for what is large."""
    return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def _short(name: str) -> str:
    """Give the words of a metric's name that tell it apart."""
    family, _, rest = name.partition("/")
    return family if rest in ("train", "mean", "reference") else rest.replace("_", " ") or name
