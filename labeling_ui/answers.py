"""Answers that say no: a line of JSON to a program, a short page to a person."""

from __future__ import annotations

import html
import json
from functools import cache
from http import HTTPStatus
from importlib import resources
from string import Template

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from labeling_ui.bodies import Refused

_TITLES = {
    400: "This request can\u2019t be read",
    401: "Open the link from the terminal",
    403: "This is not for your role",
    404: "There is no such page",
    500: "Something went wrong here",
    503: "The store can\u2019t be reached",
}


def wants_page(scope: Scope) -> bool:
    """Say whether a person looks at the answer."""
    return "text/html" in Headers(scope=scope).get("accept", "")


def refuse(scope: Scope, refused: Refused) -> Response:
    """Make the answer that a refused request gets."""
    if wants_page(scope) and not scope["path"].startswith("/api/"):
        title = _TITLES.get(refused.status) or HTTPStatus(refused.status).phrase
        line = str(refused)
        return page("message.html", refused.status, refused.headers, title=title, line=line)
    return as_json({"error": str(refused)}, refused.status, refused.headers)


def page(
    template: str, /, status: int = 200, headers: dict[str, str] | None = None, **texts: str
) -> Response:
    """Fill a page of ours; the texts are escaped."""
    filled = _template(template).substitute({key: html.escape(text) for key, text in texts.items()})
    return HTMLResponse(filled, status, headers)


def as_json(answer: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make a JSON answer, in ASCII: one about a lone surrogate must not fail on it."""
    return Response(json.dumps(answer), status, headers, media_type="application/json")


def static(name: str) -> str:
    """Read a file that comes with the package."""
    return (resources.files("labeling_ui") / "static" / name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    return Template(static(name))
