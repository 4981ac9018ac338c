"""How the report writes figures, with their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rlhf.report.reading import Figures, number, part


class Cell(NamedTuple):
    """A figure and its interval, both written out."""

    text: str = ""
    span: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """How a figure is written."""

    digits: int
    suffix: str = ""
    factor: float = 1.0
    signed: bool = False

    def show(self, value: object) -> str:
        """Write a number with its unit; empty for what is not a finite number."""
        found = number(value)
        return "" if found is None else self._plain(found) + self.suffix

    def span(self, low: object, high: object) -> str:
        """Write an interval, or the one end that there is."""
        ends = [number(low), number(high)]
        written = [self._plain(end) for end in ends if end is not None]
        if len(written) == 2:
            return f"{written[0]} to {written[1]}{self.suffix}"
        return f"lower end {written[0]}{self.suffix}" if ends[0] is not None else ""

    def cell(self, figures: Figures, name: str) -> Cell:
        """Write a figure whose interval lies within it or as ``name_low`` and ``name_high``."""
        if own := part(figures, name):
            return Cell(self.show(own.get("value")), self.span(own.get("low"), own.get("high")))
        span = self.span(figures.get(f"{name}_low"), figures.get(f"{name}_high"))
        return Cell(self.show(figures.get(name)), span)

    def _plain(self, value: float) -> str:
        # Adding 0.0 turns -0.0 into 0.0.
        rounded = round(value * self.factor, self.digits) + 0.0
        sign = "+" if self.signed and rounded > 0 else ""
        return sign + f"{rounded:,.{self.digits}f}".replace("-", "−")


PERCENT = Unit(1, "\u00a0%", 100.0)
POINTS = Unit(1, "\u00a0points", 100.0, signed=True)
GAP = Unit(1, "\u00a0points", 100.0)
PLAIN = Unit(2)
CHANGE = Unit(2, signed=True)
COUNT = Unit(0)
NATS = Unit(2, "\u00a0nats")


def duration(value: object) -> str:
    """Write seconds; empty for what is not a finite number."""
    seconds = number(value)
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def memory(value: object) -> str:
    """Write megabytes; empty for what is not a finite number."""
    megabytes = number(value)
    if megabytes is None:
        return ""
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
