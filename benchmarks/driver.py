"""The driver's end of a benchmark: worker processes, the load of the machine, its description."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from job import JobFolder

HERE = Path(__file__).resolve().parent
NOISY = 0.25
"""A sample counts as noisy when other processes used more than this share of one core."""
_TICKS = os.sysconf("SC_CLK_TCK")
_CAPABILITIES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class WorkerError(Exception):
    """A worker ended before its time."""


class Worker:
    """One process that takes one step each time it is told to."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # Answers have a pipe of their own: libraries print to stdout whenever they like.
        reading, writing = os.pipe()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, "--answers", str(writing)],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
                pass_fds=[writing],
            )
        os.close(writing)
        self._answers = os.fdopen(reading, encoding="utf-8")
        try:
            self.facts = self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the worker end; it is made to when it does not."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._answers.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def step(self, *, wait: float = 0.0) -> dict[str, Any]:
        """Let the worker take one step; give its answer and the load beside it.

        Args:
            wait: Wait so many seconds at most for the machine to be quiet.
        """
        assert self._process.stdin is not None
        wait_for_quiet(self._process.pid, most=wait)
        load = Load(self._process.pid)
        with suppress(BrokenPipeError):  # reading tells why
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        answer = self._read()
        return {**answer, "others": round(load.others(), 3)}

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise WorkerError(f"{self.name} ended early; the end of {self.log}:\n{tail}")
        return dict(json.loads(line))


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    busy: float
    own: float


class Load:
    """How busy the machine is with anything but this process and one worker, if there is one."""

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._start = self._read()

    def others(self) -> float:
        """Share of one core that others used since the start; nan where Linux doesn't tell."""
        start, end = self._start, self._read()
        others = (end.busy - start.busy) - (end.own - start.own)
        return max(0.0, others) / max(1e-9, end.at - start.at)

    def _read(self) -> _Reading:
        at = time.perf_counter()
        try:
            fields = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
            worker = 0.0 if self._pid is None else _cpu_seconds(self._pid)
        except OSError:
            return _Reading(at, float("nan"), 0.0)
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
        busy = user + nice + system + irq + softirq + steal
        times = os.times()
        return _Reading(at, busy / _TICKS, worker + times.user + times.system)


def _cpu_seconds(pid: int) -> float:
    """Give the time of all threads; the fields follow the command's closing parenthesis."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / _TICKS


def wait_for_quiet(pid: int, *, most: float) -> None:
    """Wait until others leave the machine alone for half a second, ``most`` seconds at most."""
    deadline = time.monotonic() + most
    while time.monotonic() < deadline:
        load = Load(pid)
        time.sleep(0.5)
        if not load.others() > NOISY:
            return


def job_folder(size: str, cache: Path) -> JobFolder:
    """Find what ``make_job.py`` wrote for a size, or let it write that."""
    folder = JobFolder(cache / size)
    if not folder.is_complete:
        note(f"{size}: making the model in {folder.path}")
        make = [sys.executable, str(HERE / "make_job.py"), size, str(folder.path)]
        done = subprocess.run(make, capture_output=True, text=True)
        if done.returncode:
            raise WorkerError("\n".join([f"{size}: no model", *done.stderr.splitlines()[-15:]]))
    return folder


def worker_environment(*, threads: int, device: str) -> dict[str, str]:
    """Variables for every worker alike."""
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "WANDB_DISABLED": "true",
        "DISABLE_VERSION_CHECK": "1",
    }
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def machine() -> dict[str, Any]:
    """What runs this, as far as Linux tells."""
    model, flags = platform.processor(), ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        pairs = [line.partition(":") for line in lines]
        cpu = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
        model, flags = cpu.get("model name", model), cpu.get("flags", "")
        memory = next(
            int(line.split()[1]) * 1024 / 1e9
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemTotal")
        )
    except OSError:
        memory = float("nan")
    known = set(flags.split())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "capabilities": [name for name in _CAPABILITIES if name in known],
        "memory_gb": round(memory, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def command_line() -> str:
    """How this process was called."""
    return " ".join([Path(sys.executable).name, *sys.argv])


def note(text: str) -> None:
    """Tell how far things are, apart from the results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, numbers to the right; the first row is the head."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
