r"""LaTeX between ``\(..\)``, ``\[..\]`` and ``$$..$$`` as MathML, within limits.

Never between single dollars, which are money more often than mathematics. What can't be
converted, or would take long, is shown as it was written.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from labeling_ui.characters import show

MAX_FORMULA = 1_000
"""Longest formula that is converted, in characters."""
MAX_SOURCE = 5_000
"""Longest formula that is found and so shown as it was written, in characters."""
MAX_FORMULAS = 4_000
"""Most characters of all formulas of one text."""
MAX_DEPTH = 40
"""Deepest nesting of a formula's MathML."""

_CLOSERS = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}
_MACROS = re.compile(r"\\(?:newcommand|def|DeclareMathOperator)")
"""Commands that define others: a short text could expand without end."""
_REFERENCE = re.compile(r"&#x([0-9A-Fa-f]{1,6});")
_TAGS = re.compile(
    "menclose|mfrac|mi|mn|mo|mover|mpadded|mphantom|mroot|mrow|mspace|msqrt|mstyle|msub|msubsup"
    "|msup|mtable|mtd|mtext|mtr|munder|munderover"
)
_LENGTH = r"(?:[0-9]{1,2})?(?:\.[0-9]{1,4})?(?:em|ex|px|pt)?"
_ATTRIBUTES = (
    (
        re.compile(
            "accent|columnalign|columnlines|displaystyle|fence|form|mathvariant|movablelimits"
            "|notation|rowlines|separator|stretchy"
        ),
        re.compile(r"[a-z][a-z -]{0,60}"),
    ),
    (re.compile("linethickness|scriptlevel"), re.compile(r"[0-9]{1,3}")),
    (
        re.compile(
            "columnspacing|depth|height|lspace|mathsize|maxsize|minsize|rowspacing|rspace|width"
        ),
        re.compile(rf"{_LENGTH}(?: {_LENGTH}){{0,3}}"),
    ),
)
"""Attributes and what they may say. Nothing links or colours, and nothing moves a formula over its
surroundings: lengths are never negative."""


def to_mathml(latex: str, *, block: bool) -> str | None:
    """Convert a formula; None where it can't be done within the limits."""
    if len(latex) > MAX_FORMULA or not latex.strip() or _MACROS.search(latex):
        return None
    display = "block" if block else "inline"
    try:
        tree = Converter(display=display).convert_to_element(latex)
        row = "".join(_markup(child, 1) for child in tree)
    except Exception:  # the converter raises whatever it stumbles over
        return None
    return f'<math display="{display}" dir="ltr">{row}</math>'


def math_plugin(md: MarkdownIt) -> None:
    """Let a parser find formulas: tokens ``math_inline`` and ``math_block``.

    Their ``content`` is the LaTeX and their ``markup`` what stood before it.
    """
    md.inline.ruler.before("escape", "math_inline", _find_inline)
    md.block.ruler.before(
        "fence", "math_block", _find_block, {"alt": ["paragraph", "blockquote", "list"]}
    )


def source(latex: str, opener: str) -> str:
    """Give a formula as it was written."""
    return f"{opener}{latex}{_CLOSERS[opener]}"


# -- finding formulas -----------------------------------------------------------------------------


def _find_inline(state: StateInline, silent: bool) -> bool:
    opener = state.src[state.pos : state.pos + 2]
    if opener not in _CLOSERS:
        return False
    start = state.pos + 2
    end = _find_closer(state.src, opener, start, state.posMax)
    if end is None or not state.src[start:end].strip():
        return False
    if not silent:
        token = state.push("math_inline", "math", 0)
        token.content, token.markup = state.src[start:end], opener
    state.pos = end + 2
    return True


def _find_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    start = state.bMarks[first] + state.tShift[first]
    opener = state.src[start : start + 2]
    if opener not in (r"\[", "$$") or state.is_code_block(first):
        return False
    end = _find_closer(state.src, opener, start + 2, state.eMarks[last - 1])
    if end is None:
        return False
    line = first
    while state.eMarks[line] < end:
        line += 1
        if line >= last or state.sCount[line] < state.blkIndent:
            return False
    # Text after the formula makes it part of a paragraph, and so do marks of a quote or a list
    # before its lines.
    lines = state.getLines(first, line + 1, state.blkIndent, False).strip()
    content = lines.removeprefix(opener).removesuffix(_CLOSERS[opener])
    if state.src[end + 2 : state.eMarks[line]].strip() or not content.strip():
        return False
    if not silent:
        state.line = line + 1
        token = state.push("math_block", "math", 0)
        token.content, token.markup, token.map = content, opener, [first, line + 1]
    return True


def _find_closer(text: str, opener: str, start: int, stop: int) -> int | None:
    """Find where a formula ends, if that is near."""
    end = text.find(_CLOSERS[opener], start, min(stop, start + MAX_SOURCE))
    return None if end < 0 else end


# -- writing MathML -------------------------------------------------------------------------------


def _markup(element: Element, depth: int) -> str:
    """Write an element.

    Raises:
        ValueError: If it is not known to be harmless, or nested too deeply.
    """
    if not _TAGS.fullmatch(element.tag) or depth > MAX_DEPTH:
        raise ValueError(element.tag)
    attributes = "".join(
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if any(names.fullmatch(name) and values.fullmatch(value) for names, values in _ATTRIBUTES)
    )
    text = show(_REFERENCE.sub(_character, element.text or ""))
    inner = "".join(_markup(child, depth + 1) for child in element)
    return f"<{element.tag}{attributes}>{text}{inner}</{element.tag}>"


def _character(reference: re.Match[str]) -> str:
    code = int(reference[1], 16)
    return chr(code) if code < 0x110000 else "\ufffd"
