"""Run folders: one execution of a stage, with everything needed to know later what it was.

A folder holds ``config.yaml`` (resolved), ``run.json`` (stage, status, versions, seed,
fingerprints, time, memory), ``metrics.jsonl``, ``samples.jsonl``, ``result.json`` and, where
something looked wrong, ``alarms.jsonl``, beside whatever the stage saves. It is locked while its
process lives. Only the main process writes; on the other ranks every method does nothing. Nothing
here prints; torch and accelerate are imported only for a run with trackers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import math
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import yaml

import rlhf
from rlhf.checkpoints import sweep, write_json, write_text
from rlhf.config import as_tuple
from rlhf.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rlhf.trackers import Trackers

Listener = Callable[[str, int, int, Mapping[str, float]], None]
"""Told (stage, step, total, metrics) for every logged row."""

MAY_CHANGE = frozenset(
    {"resume", "max_steps", "save_steps", "logging_steps", "report_to", "output_dir"}
)
"""Config fields that may differ when a run is resumed."""

_ALARMS_FILE = "alarms.jsonl"
_LOGGER = logging.getLogger(__name__)
_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


class RunFolder:
    """One run on disk, open and locked from construction to the end of its ``with`` block.

    An exception that leaves the block is written down as ``status: failed`` and goes on.

    Args:
        path: Folder of the run; made when missing.
        stage: ``sft``, ``reward``, ``ppo``, ...
        config: The stage's frozen config dataclass; its ``report_to`` names the trackers that get
            every logged row.
        listener: Told of every logged row.
        is_main: False on all ranks but the first: then nothing is written, locked or told.
        resume: Go on with the run in the folder instead of beginning one.

    Raises:
        CheckpointError: If another process has the folder, it holds another stage's run, a
            finished one, an unfinished one with checkpoints (unless resuming) or foreign files.
        ConfigError: If a resumed run's config differs in a field outside ``MAY_CHANGE``, or a
            tracker is unknown, not installed or doesn't start.
    """

    def __init__(
        self,
        path: str | Path,
        stage: str,
        config: Any,
        *,
        listener: Listener | None = None,
        is_main: bool = True,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self.stage = stage
        self.is_main = is_main
        self._config = config
        self._listener = listener
        self._files: dict[str, IO[str]] = {}
        self._alarms: list[str] = []
        self._lock: IO[str] | None = None
        self._start = time.monotonic()
        self._info: dict[str, Any] = {}
        self._trackers: Trackers | None = None
        if not is_main:
            return
        trackers = _choose_trackers(config)  # before anything is written
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: can't be made ({error.strerror})") from error
        self._lock = _lock(self.path)
        try:
            earlier = _check(self.path, stage, resume=resume)
            if earlier and resume:
                _check_same_config(self.path, config)
            self._begin(config, earlier if resume else None)
            if trackers is not None:
                self._start_trackers(trackers, config)
        except BaseException:
            self._close()
            raise

    def _begin(self, config: Any, earlier: Mapping[str, Any] | None) -> None:
        sweep(self.path)
        reset_peak_memory()
        self._info = {
            "stage": self.stage,
            "status": "running",
            "seed": getattr(config, "seed", None),
            "versions": _versions(),
            "git_revision": _git_revision(),
            "data": {},
            "base_fingerprint": None,
            "started": _now(),
            "finished": None,
            "seconds": 0.0,
        }
        if earlier:
            kept = ("data", "base_fingerprint", "started", "seconds")
            self._info |= {key: earlier[key] for key in kept if key in earlier}
            self._info["resumed"] = [*earlier.get("resumed", []), _now()]
        self._seconds_before = float(self._info["seconds"])
        self._save()
        self.write_text(
            "config.yaml",
            yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True),
        )
        names = ["metrics.jsonl", "samples.jsonl"]
        if (self.path / _ALARMS_FILE).exists():
            names.append(_ALARMS_FILE)  # others are made with the first alarm
        for name in names:
            self._files[name] = (self.path / name).open("a" if earlier else "w", encoding="utf-8")
        if not earlier:
            (self.path / "result.json").unlink(missing_ok=True)
            shutil.rmtree(self.path / "trackers", ignore_errors=True)

    def _start_trackers(self, trackers: Trackers, config: Any) -> None:
        self._trackers = trackers
        try:
            trackers.start(self.path, self.stage, dataclasses.asdict(config))
        except ConfigError as error:
            self._record_failure(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.is_main:
            return
        try:
            if error is None:
                self.record(status="done", finished=_now(), **self._cost())
            else:
                self._record_failure(error)
        finally:
            self._close()

    def _record_failure(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self.record(status="failed", error=text, finished=_now(), **self._cost())

    def _close(self) -> None:
        try:
            if self._trackers is not None:
                self._trackers.close()
        finally:
            for file in self._files.values():
                file.close()
            if self._lock is not None:
                self._lock.close()

    def record(self, **facts: Any) -> None:
        """Add facts to run.json, such as ``base_fingerprint`` or ``data={field: fingerprint}``.

        Raises:
            ConfigError: If the data of a resumed run is not what the run began with.
        """
        if self.is_main:
            self._check_same_data(facts.get("data", {}))
            self._info |= facts
            self._save()

    def log(self, step: int, metrics: Mapping[str, float], *, total: int) -> None:
        """Append one row to metrics.jsonl and tell the trackers and the listener.

        Args:
            step: Number of the step, from 1 (0: before the first one).
            metrics: Name to number; NaN and infinity are written as null, and go to the trackers
                as they are.
            total: Steps of the whole run, for progress.
        """
        if not self.is_main:
            return
        numbers = {name: _number(value) for name, value in metrics.items()}
        self._append("metrics.jsonl", {"step": step} | numbers)
        if self._trackers is not None:
            self._trackers.log(step, {name: float(value) for name, value in metrics.items()})
        if self._listener is not None:
            self._listener(self.stage, step, total, metrics)

    def sample(self, row: Mapping[str, Any]) -> None:
        """Append one row to samples.jsonl: what the model wrote, for people to read."""
        if self.is_main:
            self._append("samples.jsonl", _jsonable(row))

    def alarm(self, step: int, name: str, message: str) -> None:
        """Append one row to alarms.jsonl; the first of each name also goes to the log."""
        if not self.is_main:
            return
        if name not in self.alarms:
            _LOGGER.warning("%s update %d: %s [%s]", self.stage, step, message, name)
        self._alarms.append(name)
        self._append(_ALARMS_FILE, {"step": step, "name": name, "message": message})

    @property
    def alarms(self) -> tuple[str, ...]:
        """Names of the alarms so far, each once, in order of their first."""
        return tuple(dict.fromkeys(self._alarms))

    def rewind(self, step: int) -> None:
        """Drop logged rows after ``step``: a resumed run writes them again."""
        if not self.is_main:
            return
        for name, file in self._files.items():
            file.close()
            path = self.path / name
            rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(row for row in rows if _step(row) <= step))
            self._files[name] = path.open("a", encoding="utf-8")
        self._alarms = _names_of_alarms(self.path / _ALARMS_FILE)
        if self._trackers is not None:
            self._trackers.rewind(step)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json: the figures and paths that the stage hands to its caller."""
        if self.is_main:
            write_json(
                self.path / "result.json",
                {name: _jsonable(value) for name, value in result.items()},
            )

    def write_text(self, name: str, text: str) -> None:
        """Write one small file into the folder, whole or not at all."""
        if self.is_main:
            write_text(self.path / name, text)

    def _check_same_data(self, data: Mapping[str, str]) -> None:
        for field, found in data.items():
            before = self._info["data"].get(field, found)
            if before != found:
                raise ConfigError(
                    f"{field}: {getattr(self._config, field, field)} changed since {self.path} "
                    f"began (sha256 {found[:12]}, was {before[:12]}); put it back or give another "
                    "output_dir"
                )

    def _cost(self) -> dict[str, Any]:
        return {
            "seconds": round(self._seconds_before + time.monotonic() - self._start, 3),
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "peak_cuda_memory_mb": peak_cuda_memory_mb(),
        }

    def _save(self) -> None:
        write_json(self.path / "run.json", self._info)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._files:
            self._files[name] = (self.path / name).open("a", encoding="utf-8")
        file = self._files[name]
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()


def read_run(path: str | Path) -> dict[str, Any]:
    """Read a run folder's run.json.

    Raises:
        CheckpointError: If the folder holds no run.
    """
    file = Path(path) / "run.json"
    try:
        run = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: not a run folder (run.json is missing)") from None
    except (OSError, ValueError):
        raise CheckpointError(f"{file}: not readable JSON; the run folder is damaged") from None
    if not isinstance(run, dict) or "stage" not in run or "status" not in run:
        raise CheckpointError(f"{file}: not written by a stage; the run folder is damaged")
    return run


def require_run(path: str | Path, *stages: str) -> dict[str, Any]:
    """Read the run.json of a finished run of one of ``stages``.

    Raises:
        CheckpointError: If it is no run folder, of another stage, or not finished.
    """
    run = read_run(path)
    if run["stage"] not in stages:
        raise CheckpointError(
            f"{path}: holds the {run['stage']} stage; give a run folder of {' or '.join(stages)}"
        )
    if run["status"] != "done":
        raise CheckpointError(
            f"{path}: the {run['stage']} run is {run['status']}, not done; finish it first"
        )
    return run


def reset_peak_memory() -> None:
    """Let the peaks start from here, where the system allows (Linux, CUDA)."""
    with contextlib.suppress(OSError):  # else the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    cuda = _cuda_in_use()
    if cuda is not None:
        cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Give the largest resident memory of this process since ``reset_peak_memory``, in MB."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def peak_cuda_memory_mb() -> float | None:
    """Give the most memory that tensors took on this process's GPU, in MB; None without one."""
    cuda = _cuda_in_use()
    return None if cuda is None else round(cuda.max_memory_allocated() / 1e6, 1)


def _cuda_in_use() -> Any | None:
    """Give torch.cuda when someone else has loaded and started it; never load it here."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _lock(path: Path) -> IO[str]:
    """Take the folder's lock; it dies with the process, however that ends."""
    lock = (path / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        if isinstance(error, BlockingIOError):
            raise CheckpointError(
                f"{path}: in use by {owner}; wait for it or give another output_dir"
            ) from None
        raise CheckpointError(f"{path}: can't be locked ({error.strerror})") from error
    lock.truncate(0)
    lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock


def _check(path: Path, stage: str, *, resume: bool) -> dict[str, Any] | None:
    """Refuse a folder that this run must not write into; give the run that is there."""
    if not (path / "run.json").exists():
        foreign = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
        if foreign:
            raise CheckpointError(
                f"{path}: holds {foreign[0]!r} but no run; give a new or empty output_dir"
            )
        return None
    run = read_run(path)
    if run["stage"] != stage:
        raise CheckpointError(
            f"{path}: holds a run of the {run['stage']} stage; give {stage} another output_dir"
        )
    if resume:
        return run
    if run["status"] == "done":
        raise CheckpointError(
            f"{path}: holds a finished {stage} run; give another output_dir or delete the folder"
        )
    if any(path.glob("**/step-*")):
        raise CheckpointError(
            f"{path}: holds an unfinished {stage} run with checkpoints; go on with --resume, give "
            "another output_dir or delete the folder"
        )
    return run


def _check_same_config(path: Path, config: Any) -> None:
    old = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    changed = list(_differences(old, _jsonable(dataclasses.asdict(config))))
    if changed:
        raise ConfigError(
            f"{path}: can't be resumed with another config: {', '.join(changed)}; put it back or "
            "give another output_dir"
        )


def _differences(old: Any, new: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in new.items():
        before = old.get(name) if isinstance(old, Mapping) else None
        if isinstance(value, Mapping):
            yield from _differences(before, value, f"{prefix}{name}.")
        elif before != value and name not in MAY_CHANGE:
            yield f"{prefix}{name} was {before!r}, is {value!r}"


def _choose_trackers(config: Any) -> Trackers | None:
    """Check the trackers that a config names; without any, nothing is imported."""
    names = as_tuple(getattr(config, "report_to", None))
    if set(names) <= {"none"}:
        return None
    from rlhf.trackers import Trackers

    return Trackers(names)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "rlhf": rlhf.__version__,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_revision() -> str | None:
    """Give the commit of a clone, with ``+`` when files differ from it; None when installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{revision}+" if dirty else revision


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _number(value: Any) -> float | int | None:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _names_of_alarms(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [json.loads(row)["name"] for row in path.read_text(encoding="utf-8").splitlines()]


def _step(row: str) -> int:
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a row cut off by a kill


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
