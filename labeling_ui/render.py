"""A model's text as HTML that is safe to put into a page: Markdown, code and LaTeX.

Nothing that a text holds becomes markup of its own: raw HTML is shown as text, images are left
out, links lead to web and mail addresses alone, and no element has an id. Every tag, attribute
and class is written here, in ``mathml`` or in ``characters``. Time is bounded: a text that is too
long or too dense is shown without formatting.

Classes for the style sheet: md-heading with md-h1 to md-h6 (a heading, as a paragraph), md-code
(a box) with md-language (a label), md-plain (unformatted text, a pre), md-scroll (around a table),
md-left, md-center and md-right (cells), md-math (a formula that stands alone), md-image,
md-hidden (the name of a character that can't be seen) and md-note (our own words).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from labeling_ui.characters import direction, show, strong_direction
from labeling_ui.mathml import MAX_FORMULAS, math_plugin, source, to_mathml

__all__ = ["direction", "render"]

MAX_FORMATTED = 100_000
"""Longest text that is formatted, in characters; longer ones are shown as they are."""
MAX_DEPTH = 20
"""Deepest nesting of quotes, lists and emphasis."""

_URL = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x1f]+", re.IGNORECASE)
_LANGUAGE = re.compile(r"[\w#+.-]{1,20}")
_CLASSES = {
    "text-align:left": "md-left",
    "text-align:center": "md-center",
    "text-align:right": "md-right",
}
_TAGS = re.compile("blockquote|br|em|hr|li|ol|p|s|strong|table|tbody|td|th|thead|tr|ul")
_BLOCKS = re.compile(
    "(?:blockquote|bullet_list|heading|list_item|ordered_list|paragraph|table|td|th)_(open|close)"
)
"""Blocks that have a direction of their own."""


class _TooMuch(Exception):  # noqa: N818 - not an error
    """A text that takes too many steps to format."""


def render(text: str) -> str:
    """Give a text as HTML; the same text gives the same HTML."""
    if not text.strip():
        return '<p class="md-note">(empty)</p>'
    size = len(text)
    if size > MAX_FORMATTED or text.count("\n") + text.count("|") > 500 + size // 20:
        return _unformatted(text)
    try:
        return str(_parser().render(text, {"steps": 2_500 + size // 10, "math": MAX_FORMULAS}))
    except (_TooMuch, RecursionError):
        return _unformatted(text)


def _unformatted(text: str) -> str:
    note = '<p class="md-note">Too long or too dense to format; shown as it was written.</p>'
    return f'{note}<pre class="md-plain" dir="auto">{show(text)}</pre>'


# -- parsing --------------------------------------------------------------------------------------


class _Parser(MarkdownIt):
    """The parser; links are judged when everything is parsed, so none fails half-way."""

    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library's name
        """Take every address for the time being."""
        return True


@cache
def _parser() -> _Parser:
    options = {"html": False, "breaks": True, "maxNesting": MAX_DEPTH}
    md = _Parser("commonmark", options, renderer_cls=_Html)
    md.enable(["table", "strikethrough"])
    # Definitions of links would vanish from the text.
    md.disable(["html_block", "html_inline", "reference"])
    md.use(math_plugin)
    md.block.ruler.before("table", "steps", _count_step)
    md.inline.ruler.before("text", "steps", _count_step)
    md.core.ruler.push("arrange", _arrange)
    return md


def _count_step(state: Any, *_: object) -> bool:
    """Be a rule that never applies, and end the parsing of a text that goes on for too long."""
    state.env["steps"] -= 1
    if state.env["steps"] < 0:
        raise _TooMuch
    return False


def _arrange(state: StateCore) -> None:
    """Give blocks their directions and turn links that lead elsewhere into text."""
    around: list[Token] = []
    for token in state.tokens:
        block = _BLOCKS.fullmatch(token.type)
        if block and block[1] == "open":
            token.attrSet("dir", "auto")
            around.append(token)
        elif block:
            token.tag = around.pop().tag
        elif token.type == "inline":
            undecided = [outer for outer in around if outer.attrGet("dir") == "auto"]
            found = strong_direction(token.content) if undecided else None
            for outer in undecided if found else ():
                outer.attrSet("dir", str(found))
            if not token.content and around[-1].tag == "th":
                around[-1].tag = "td"  # an empty heading would be announced as one
            _judge_links(state.md, token.children or ())


def _judge_links(md: MarkdownIt, tokens: Sequence[Token]) -> None:
    """Turn links to anything but web and mail addresses into the text that they were."""
    opened: list[tuple[Token, str]] = []
    for token in tokens:
        if token.type == "link_open":
            opened.append((token, str(token.attrGet("href") or "")))
        elif token.type == "link_close":
            start, url = opened.pop()
            if not _URL.fullmatch(url):
                brackets = (
                    ("<", ">")
                    if start.markup == "autolink"
                    else ("[", f"]({md.normalizeLinkText(url)})")
                )
                for changed, content in zip((start, token), brackets, strict=True):
                    changed.type, changed.nesting, changed.content = "text", 0, content


# -- writing --------------------------------------------------------------------------------------


class _Html(RendererHTML):
    """Writes tokens; a public method writes those of the type that is its name."""

    def renderToken(self, tokens: Sequence[Token], idx: int, *_: object) -> str:  # noqa: N802
        """Write a tag that needs nothing special."""
        token = tokens[idx]
        if token.hidden:
            return ""
        if not _TAGS.fullmatch(token.tag):
            return show(token.content)
        return f"</{token.tag}>" if token.nesting < 0 else f"<{token.tag}{_attributes(token)}>"

    def text(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write text."""
        return show(tokens[idx].content)

    def softbreak(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Break lines where the text does."""
        return "<br>"

    def hardbreak(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Break a line."""
        return "<br>"

    def heading_open(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write a heading as a paragraph: the page's own headings keep their order."""
        token = tokens[idx]
        return f'<p class="md-heading md-{token.tag}" dir="{token.attrGet("dir")}">'

    def heading_close(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """End a heading."""
        return "</p>"

    def link_open(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write a link that tells the other side nothing; its title says where it leads."""
        url = escape(str(tokens[idx].attrGet("href") or ""))
        return f'<a href="{url}" title="{url}" rel="noopener noreferrer nofollow" target="_blank">'

    def link_close(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """End a link."""
        return "</a>"

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Write what an image is said to show; the browser fetches nothing."""
        words = self.renderInlineAsText(tokens[idx].children or (), options, env).strip()
        described = f"{show(words)} " if words else ""
        return f'<span class="md-image">{described}[image left out]</span>'

    def code_inline(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write code within a line; it keeps its direction to itself."""
        return f'<code dir="auto">{show(tokens[idx].content)}</code>'

    def code_block(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write indented code."""
        return _code(tokens[idx].content, "")

    def fence(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write fenced code with the name of its language."""
        return _code(tokens[idx].content, tokens[idx].info)

    def table_open(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """Write a table in a box of its own, which can be scrolled by keyboard."""
        box = '<div class="md-scroll" role="group" aria-label="Table" tabindex="0">'
        return f"{box}<table{_attributes(tokens[idx])}>"

    def table_close(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        """End a table."""
        return "</table></div>"

    def math_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """Write a formula, or its source where it can't be converted."""
        token = tokens[idx]
        env["math"] -= len(token.content)
        formula = None
        if env["math"] >= 0:
            formula = to_mathml(token.content, block=token.markup != r"\(")
        return formula or f"<code>{show(source(token.content, token.markup))}</code>"

    def math_block(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """Write a formula that stands alone; a long one can be scrolled by keyboard."""
        box = '<div class="md-math" role="group" aria-label="Formula" tabindex="0">'
        return f"{box}{self.math_inline(tokens, idx, options, env)}</div>"


def _attributes(token: Token) -> str:
    """Give the attributes of a tag; whatever else a token holds is not written."""
    attributes = {
        "class": _CLASSES.get(str(token.attrGet("style"))),
        "dir": token.attrGet("dir"),
        "start": token.attrGet("start"),
    }
    return "".join(f' {name}="{value}"' for name, value in attributes.items() if value is not None)


def _code(content: str, info: str) -> str:
    language = (info.split() or [""])[0]
    named = language if _LANGUAGE.fullmatch(language) else ""
    label = f'<span class="md-language">{named}</span>' if named else ""
    start = '<pre dir="ltr" role="group" aria-label="Code" tabindex="0">'
    return f'<div class="md-code">{label}{start}<code>{show(content)}</code></pre></div>'
