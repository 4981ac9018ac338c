"""Trackers: TensorBoard, or another that accelerate knows, gets the rows of a run's metrics.jsonl.

accelerate's tracker classes are used without an Accelerator. TensorBoard's files lie in
``<output_dir>/trackers/<stage>``; a resumed run marks the steps it writes again, so that its
curves go on without a fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from rlhf.errors import ConfigError

FOLDER = "trackers"
"""Folder in the run folder for trackers that write files."""

_TENSORBOARD = "tensorboard"
_REQUIREMENTS = {"aim": "'aim<4'"}
"""What pip must be told where the name alone is not enough for accelerate."""


class Trackers:
    """The trackers of one run: started once, told of every row, closed once.

    One that fails while the run goes on gets no more rows, which a warning says: it doesn't end
    the run.

    Args:
        names: Names of accelerate's trackers, or ``all`` for those installed.

    Raises:
        ConfigError: If a name is unknown or its package is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = _resolve(names)
        self._folder = Path()
        self._stage = ""
        self._open: dict[str, Any] = {}

    def start(self, run_folder: Path, stage: str, config: Mapping[str, Any]) -> None:
        """Start every tracker and store the run's config in it.

        Raises:
            ConfigError: If one doesn't start; those that did are closed.
        """
        self._folder, self._stage = run_folder / FOLDER, stage
        known = (self._folder / stage).exists()  # of a resumed run: its config is there
        for name in self.names:
            try:
                self._open[name] = self._start(name)
                if name != _TENSORBOARD or not known:
                    self._open[name].store_init_configuration(dict(_flat(config)))
            except Exception as error:
                self.close()
                raise ConfigError(
                    f"report_to: {name!r} can't be started ({_told(error)}); mend it or leave "
                    "it out"
                ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand on one row; NaN and infinity as they are."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(dict(metrics), step=step)
            except Exception as error:
                _warn(f"{name!r} failed at step {step} and gets no more rows", error)
                self._finish(name)

    def rewind(self, step: int) -> None:
        """Take back the rows after ``step`` where the tracker goes on with earlier files."""
        if _TENSORBOARD not in self._open:
            return
        self._finish(_TENSORBOARD)
        try:
            self._open[_TENSORBOARD] = self._start(_TENSORBOARD, purge_step=step + 1)
        except Exception as error:
            _warn(f"{_TENSORBOARD!r} can't go on after step {step} and gets no more rows", error)

    def close(self) -> None:
        """Finish every tracker; a second call does nothing."""
        for name in list(self._open):
            self._finish(name)

    def _start(self, name: str, **settings: Any) -> Any:
        make = LOGGER_TYPE_TO_CLASS[name]
        place = (str(self._folder),) if make.requires_logging_directory else ()
        if place:
            self._folder.mkdir(exist_ok=True)
        tracker = make(self._stage, *place, **settings)
        tracker.start()
        return tracker

    def _finish(self, name: str) -> None:
        try:
            self._open.pop(name).finish()
        except Exception as error:
            _warn(f"{name!r} could not be closed", error)


def _resolve(names: Sequence[str]) -> tuple[str, ...]:
    """Give the trackers meant, each once, refusing what can't be used."""
    installed = sorted(map(str, get_available_trackers()))
    known = f"known: {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, all, none"
    for name in names:
        if name == "none":
            raise ConfigError("report_to: 'none' stands beside a tracker; give one or the other")
        if name == "all" and not installed:
            raise ConfigError(
                f"report_to: 'all' finds no tracker; pip install {_TENSORBOARD}, or give none"
            )
        if name != "all" and name not in LOGGER_TYPE_TO_CLASS:
            close = get_close_matches(name, [*LOGGER_TYPE_TO_CLASS, "all", "none"], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise ConfigError(f"report_to: {name!r} is not a tracker{hint} {known}")
        if name != "all" and name not in installed and _is_accelerates(name):
            there = f"installed: {', '.join(installed) or 'none of them'}"
            raise ConfigError(
                f"report_to: {name!r} is not installed; pip install "
                f"{_REQUIREMENTS.get(name, name)} ({there}; {known})"
            )
    meant = (item for name in names for item in (installed if name == "all" else (name,)))
    return tuple(dict.fromkeys(meant))


def _is_accelerates(name: str) -> bool:
    """Tell accelerate's own trackers from those that a program registered with it."""
    return str(LOGGER_TYPE_TO_CLASS[name].__module__).startswith("accelerate.")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Yield a config's values by dotted name; several are one text, and None is "none"."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield prefix + name, ", ".join(map(str, value))
        elif value is None:
            yield prefix + name, "none"
        else:
            yield prefix + name, value if isinstance(value, (int, float)) else str(value)


def _told(error: Exception) -> str:
    """Give an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _warn(text: str, error: Exception) -> None:
    warnings.warn(f"report_to: {text} ({_told(error)})", RuntimeWarning, stacklevel=3)
