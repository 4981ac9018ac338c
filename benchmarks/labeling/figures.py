"""Figures with bounds: how scripts take options, print what they measured, and end."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts run from anywhere

from driver import Load, command_line, machine, note, table

REPOSITORY = Path(__file__).resolve().parents[2]
SKIPPED = 0
"""Exit status of a script that can't run here: it says why, and nothing was missed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and what it must keep."""

    name: str
    measured: float
    unit: str = ""
    most: float | None = None
    """Upper bound, kept when the value is equal."""
    least: float | None = None
    """Lower bound."""

    @property
    def ok(self) -> bool:
        """Whether the bounds are kept; a value that is not a number keeps none."""
        above = self.most is None or self.measured <= self.most
        return above and (self.least is None or self.measured >= self.least)

    @property
    def bound(self) -> str:
        """The bound as people read it; empty where there is none."""
        if self.most is not None:
            return f"<= {self.most:,g}" if self.most else "0"
        return "" if self.least is None else f">= {self.least:,g}"

    def row(self) -> list[str]:
        """Give the cells of its line."""
        value = f"{self.measured:,.0f}" if self.measured == int(self.measured) else ""
        verdict = ("yes" if self.ok else "NO") if self.bound else ""
        return [self.name, value or f"{self.measured:,.1f}", self.unit, self.bound, verdict]


def parser(about: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every script has."""
    build = argparse.ArgumentParser(description=(about or "").split("\n")[0], allow_abbrev=False)
    build.add_argument("--seed", type=int, default=0, help="of everything left to chance")
    build.add_argument("--quick", action="store_true", help="small sizes: a check of the script")
    build.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON too")
    build.add_argument(
        "--folder", type=Path, help="work here and keep the store (default: a temporary folder)"
    )
    return build


def read_options(build: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Read the command line; ``quick`` holds what --quick puts in place of the defaults."""
    given = build.parse_args()
    if given.quick:
        build.set_defaults(**quick)
        given = build.parse_args()
    return given


@contextmanager
def workplace(given: argparse.Namespace) -> Iterator[Path]:
    """Give a folder for the store and the server's log."""
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        yield given.folder
        return
    with tempfile.TemporaryDirectory(prefix="labeling-") as folder:
        yield Path(folder)


def use_cores(count: int) -> int:
    """Keep this process and its children on so many cores, where the system can; give their number.

    Clients and server share them, as they would on one small machine.
    """
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    chosen = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, chosen)
    return len(chosen)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which ``share`` of the values lie; nan when there are none."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(figures: Sequence[Figure], given: argparse.Namespace, **facts: Any) -> int:
    """Print the figures; give exit status 1 when a bound is missed."""
    about = machine()
    print(f"command: {command_line()}")
    print("machine: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    for name, fact in facts.items():
        print(f"{name.replace('_', ' ')}: {fact}")
    rows = [["figure", "measured", "unit", "bound", "kept"], *(one.row() for one in figures)]
    print(table(rows), flush=True)
    if given.output is not None:
        kept = {"command": command_line(), "machine": about, **facts}
        kept["figures"] = [{**asdict(one), "ok": one.ok} for one in figures]
        given.output.write_text(json.dumps(kept, indent=1, default=str) + "\n")
    return 0 if all(one.ok for one in figures) else 1


def skip(why: str) -> int:
    """Say why nothing was measured."""
    print(f"skipped: {why}", flush=True)
    return SKIPPED


__all__ = ["Figure", "Load", "note", "parser", "percentile", "read_options", "report", "workplace"]
