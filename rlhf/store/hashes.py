"""Hashes that stores are full of: their formulas never change.

Chance in the store is a hash too, so that the same tasks and people give the same assignments.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

CHAINED = (
    "request_id",
    "assignment_id",
    "task_id",
    "annotator_id",
    "revision",
    "action",
    "ranks",
    "others_worse",
    "flags",
    "strengths",
    "reason",
    "comment",
    "active_ms",
    "late",
    "simulated",
    "submitted_ms",
)
"""Columns of a ranking that its link in the chain covers."""

_BOOLEANS = ("others_worse", "late", "simulated")
_JSON = ("ranks", "flags", "strengths")


def chain_link(previous: str, row: Mapping[str, Any]) -> str:
    """Hash a ranking together with the link before it.

    Whoever changes, removes or moves a stored ranking breaks every link from there on.

    Args:
        previous: ``chain`` of the ranking before, by id; empty for the first one.
        row: The columns of ``CHAINED``, as the database or SQLAlchemy gives them.
    """
    content: dict[str, Any] = {name: row[name] for name in CHAINED}
    for name in _BOOLEANS:
        content[name] = bool(content[name])
    for name in _JSON:
        if isinstance(content[name], str):
            content[name] = json.loads(content[name])
    return _digest(previous, json.dumps(content, sort_keys=True))


def lottery_of(task_sha256: str) -> int:
    """Give a task its place in the order of the random pool: 31 bits, the same everywhere."""
    return int(_digest("lottery", task_sha256)[:8], 16) >> 1


def draw(*parts: str) -> float:
    """Give a number in [0, 1) that depends on the parts alone."""
    return int(_digest(*parts)[:13], 16) / 2**52


def failure_subject(kind: str, value: str) -> str:
    """Hash what a failed login is counted against: ``("account", name)``, ``("address", ip)``.

    All spellings of a person's name give one subject, so that erasing the person finds it.
    """
    if kind == "account":
        value = folded(value)
    return _digest("login", kind, value)


def folded(name: str) -> str:
    """Spell a name in the one way that stands for all of its spellings."""
    shown = unicodedata.normalize("NFC", name).strip()
    return unicodedata.normalize("NFC", shown.casefold())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
