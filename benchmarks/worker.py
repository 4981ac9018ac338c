"""The worker's end of a benchmark: a line on stdin asks for a step, a line of JSON answers.

Imported inside every implementation's own environment, so the standard library must do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl", "llamafactory")


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of one update."""

    rollout: float
    scoring: float
    total: float

    def answer(self, *, tokens: int) -> dict[str, float]:
        """What the driver is told; optimisation is all that is left of the update."""
        return {
            "rollout": self.rollout,
            "scoring": self.scoring,
            "optimisation": self.total - self.rollout - self.scoring,
            "total": self.total,
            "tokens": tokens,
        }


class Stopped(Exception):  # noqa: N818 no error, the driver is done
    """The driver closed the pipe."""


class Channel:
    """Talks to the driver."""

    def __init__(self, answers: int) -> None:
        self._out = os.fdopen(answers, "w", encoding="utf-8")

    def ready(self, **facts: Any) -> None:
        """Tell that everything is loaded."""
        self._send({"versions": versions(), **facts, **peaks()})

    def wait(self) -> None:
        """Wait for the next command.

        Raises:
            Stopped: If there is none.
        """
        if not sys.stdin.readline():
            raise Stopped

    def done(self, answer: dict[str, Any]) -> None:
        """Report an update."""
        self._send({**answer, **peaks()})

    def _send(self, row: dict[str, Any]) -> None:
        self._out.write(json.dumps(row) + "\n")
        self._out.flush()


def serve(run: Callable[[argparse.Namespace], None]) -> None:
    """Run a worker's main function until the driver closes the pipe."""
    with suppress(Stopped):
        run(arguments())


def now() -> float:
    """Read the clock once the GPU, if one is used, has done all it was asked to."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peaks() -> dict[str, float | None]:
    """Largest resident memory of this process and largest allocation on its GPU, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))
    torch = sys.modules["torch"]
    cuda = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {"peak_mb": peak, "peak_cuda_mb": cuda}


def versions() -> dict[str, str]:
    """Versions of the packages that matter and are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read what the driver gives every worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, required=True, help="descriptor to write to")
    parser.add_argument("--folder", type=Path, required=True, help="from make_job.py")
    parser.add_argument("--updates", type=int, required=True, help="at most so many")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--mode", default="", help="of our own worker: dtype-value")
    return parser.parse_args(argv)
