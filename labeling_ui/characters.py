"""Characters as HTML: escaped, directions isolated, and what no eye could see made visible."""

from __future__ import annotations

import re
import unicodedata
from html import escape
from typing import Literal

Direction = Literal["ltr", "rtl"]

_BIDI = "\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069"
"""Marks, embeddings and isolates, which right-to-left texts do need."""
_HIDDEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters
    "\u202d\u202e"  # overrides: they show letters in another order than they are stored in
    "\u2061-\u2064\u206a-\u206f\ufff9-\ufffb"  # invisible operators, obsolete formats
    "\ud800-\udfff\U000e0000-\U000e007f"  # lone surrogates; tags, which can spell whole sentences
)
_FLAG = "(?:\U0001f3f4[\U000e0020-\U000e007e]{1,16}\U000e007f)"
"""The one good use of tags: flags of regions such as Wales."""
_ISOLATED = re.compile(f"[{_BIDI}]")
_SPECIAL = re.compile(f"[{_BIDI}{_HIDDEN}]")
_HIDDEN_RUN = re.compile(f"{_FLAG}|[{_HIDDEN}]+")
_LOOK_AHEAD = 2_000
_MAX_NAMED = 200


def show(text: str) -> str:
    """Give text as HTML.

    Characters that nothing shows are named. Where others change the direction, the text is
    isolated, so that they act on nothing around it.
    """
    if _SPECIAL.search(text) is None:
        return escape(text, quote=False)
    parts: list[str] = []
    place = 0
    for run in _HIDDEN_RUN.finditer(text):
        name = _name(run[0]) if len(parts) < 2 * _MAX_NAMED else "\ufffd"
        parts += (escape(text[place : run.start()], quote=False), name)
        place = run.end()
    html = "".join((*parts, escape(text[place:], quote=False)))
    return f"<bdi>{html}</bdi>" if _ISOLATED.search(text) else html


def direction(text: str) -> Direction:
    """Give the direction of a text: that of its first letter that has one."""
    return strong_direction(text) or "ltr"


def strong_direction(text: str) -> Direction | None:
    """Give the direction of a text, None where no letter near its beginning has one."""
    for letter in text[:_LOOK_AHEAD]:
        kind = unicodedata.bidirectional(letter)
        if kind == "L":
            return "ltr"
        if kind in ("R", "AL"):
            return "rtl"
    return None


def _name(run: str) -> str:
    """Name a run of hidden characters; a flag is left as it is."""
    if run[0] == "\U0001f3f4":
        return run
    first = f"U+{ord(run[0]):04X}"
    label = first if len(run) == 1 else f"{len(run)} hidden characters from {first}"
    return f'<span class="md-hidden">{label}</span>'
