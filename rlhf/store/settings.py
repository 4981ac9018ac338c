"""The settings of a store: rows of a key and a value; what is not stored has its default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.store.checks import MAX_OVERLAP, MAX_TEXT, is_label, is_text
from rlhf.store.contracts import Settings
from rlhf.store.schema import settings

_CHANGEABLE = tuple(item.name for item in fields(Settings) if item.name != "guidelines_version")
_STORED = sa.select(settings.c.key, settings.c.value)


def read_settings(conn: sa.Connection) -> Settings:
    """Give the settings; keys of a newer version are left alone."""
    stored = {row.key: row.value for row in conn.execute(_STORED)}
    known = {item.name: stored[item.name] for item in fields(Settings) if item.name in stored}
    if "flags" in known:
        known["flags"] = tuple(known["flags"])
    return Settings(**known)


def change_settings(conn: sa.Connection, values: Mapping[str, Any], now_ms: int) -> Settings:
    """Store new values; a change of the guidelines raises their version.

    Raises:
        StoreError: If a setting is unknown or its value can't be.
    """
    before = read_settings(conn)
    changed = {}
    for name, value in values.items():
        if name not in _CHANGEABLE:
            raise StoreError(f"setting {name!r} is not one of {', '.join(_CHANGEABLE)}")
        if not _RULES[name][0](value):
            raise StoreError(f"setting {name} = {str(value)[:80]!r} must be {_RULES[name][1]}")
        if _plain(getattr(before, name)) != _plain(value):
            changed[name] = _plain(value)
    if "guidelines" in changed:
        changed["guidelines_version"] = before.guidelines_version + 1
    for name, value in changed.items():
        conn.execute(settings.delete().where(settings.c.key == name))
        conn.execute(settings.insert().values(key=name, value=value, changed_ms=now_ms))
    return read_settings(conn)


def changes(before: Settings, after: Settings) -> dict[str, Any]:
    """Give what the audit log says of a change: new values, of the guidelines the version."""
    new = asdict(after)
    differing = {name: new[name] for name, old in asdict(before).items() if old != new[name]}
    differing.pop("guidelines", None)
    return differing


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1  # type: ignore[arg-type, operator]


def _is_whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_labels(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) > 16:
        return False
    return all(is_label(flag) for flag in value) and len(set(value)) == len(value)


_share = (_is_share, "a share from 0 to 1")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "random_share": _share,
    "max_overlap": (_is_whole(0, MAX_OVERLAP), f"a whole number from 0 to {MAX_OVERLAP}"),
    "gold_every": (_is_whole(0, 10_000), "a whole number from 0 (none) to 10000"),
    "training_pass": _share,
    "lease_seconds": (_is_whole(10, 7 * 24 * 3600), "whole seconds from 10 to a week"),
    "flags": (_is_labels, "at most 16 different short labels such as 'off_topic'"),
    "strengths": (lambda value: type(value) is bool, "true or false"),
    "guidelines": (
        lambda value: is_text(value) and len(value) <= MAX_TEXT,
        f"text of at most {MAX_TEXT} characters",
    ),
}
