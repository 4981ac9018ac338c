"""How the pages and the server talk: JSON objects whose fields are checked against a table.

A body is a JSON object of known keys; anything else is a 400. What the store then refuses is a
422, a ranking or review that has a newer one by now a 409. Answers are JSON as well.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from labeling_ui.answers import as_json
from labeling_ui.sessions import VISITOR, Sessions, Visitor
from labeling_ui.workers import Workers
from rlhf.errors import DataError
from rlhf.store import RankingStore, RevisionError, SubmissionError

Json = dict[str, Any]
MAX_DEPTH = 32
MAX_WHOLE = 2**53
"""Beyond it, a browser's numbers are no longer exact."""
MAX_ID = 2**31


class Id(int):
    """In a table of fields: the number of a task or of a row."""


_NAMES = {
    int: "a whole number",
    Id: "the number of something stored",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class BadRequest(Exception):  # noqa: N818 - the name of HTTP status 400
    """A request that our pages would never send."""


class Conflict(Exception):  # noqa: N818 - the name of HTTP status 409
    """A request about a state that has passed; ``answer`` says what is so now."""

    def __init__(self, answer: Json) -> None:
        super().__init__(answer["error"])
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Server:
    """What the handlers work with; one for the whole application."""

    store: RankingStore
    workers: Workers
    sessions: Sessions
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks for what."""

    server: Server
    visitor: Visitor
    fields: Mapping[str, Any]

    @property
    def store(self) -> RankingStore:
        """The store."""
        return self.server.store

    @property
    def name(self) -> str:
        """Name of the person who asks."""
        return self.visitor.name

    def get(self, key: str, default: Any = None) -> Any:
        """Give an optional field; null counts as left out."""
        value = self.fields.get(key)
        return default if value is None else value


Handler = Callable[[Call], Json | Response]
Fields = Mapping[str, type]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route: who may use it, which fields it takes, what it does."""

    path: str
    role: str
    handler: Handler
    method: str = "POST"
    required: Fields = field(default_factory=dict)
    optional: Fields = field(default_factory=dict)
    slow: bool = False
    """Whether it reads much; such requests wait for one another and for nobody else."""

    def route(self, server: Server) -> Route:
        """Give the route to add to the application."""

        async def endpoint(request: Request) -> Response:
            try:
                fields = await self._read(request)
            except BadRequest as error:
                return as_json({"error": str(error)}, 400)
            call = Call(server, request.scope[VISITOR], fields)
            run: Callable[..., Awaitable[Response]]
            run = server.workers.figures if self.slow else server.workers.store
            return await run(self._answer, call)

        return Route(self.path, endpoint, methods=[self.method])

    async def _read(self, request: Request) -> Json:
        if self.method == "POST":
            fields = parse_body(request.headers.get("content-type", ""), await request.body())
        else:
            fields = self._parse_query(request)
        check_fields(fields, self.required, self.optional)
        return fields

    def _parse_query(self, request: Request) -> Json:
        taken = {**self.required, **self.optional}
        fields: Json = {}
        for key, value in request.query_params.multi_items():
            if key in fields:
                raise BadRequest(f"{key[:80]!r} is given twice")
            fields[key] = parse_whole(key, value) if taken.get(key) is Id else value
        return fields

    def _answer(self, call: Call) -> Response:
        try:
            answer = self.handler(call)
        except BadRequest as error:
            return as_json({"error": str(error)}, 400)
        except Conflict as conflict:
            return as_json(conflict.answer, 409)
        except RevisionError as error:
            return as_json({"error": str(error)}, 409)
        except (SubmissionError, DataError) as error:
            return as_json({"error": str(error)}, 422)
        return answer if isinstance(answer, Response) else as_json(answer)


def parse_body(content_type: str, raw: bytes) -> Json:
    """Read a JSON object.

    Raises:
        BadRequest: If the body is anything else, or holds what can't be stored.
    """
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise BadRequest("the body must be application/json")
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    check_storable(body)
    return body


def check_fields(fields: Mapping[str, Any], required: Fields, optional: Fields) -> None:
    """Refuse unknown keys, missing ones and values of another type; optional ones may be null.

    Raises:
        BadRequest: With the key.
    """
    for key, value in fields.items():
        wanted = required.get(key) or optional.get(key)
        if wanted is None:
            raise BadRequest(f"unknown key {key[:80]!r}")
        if not _is_a(wanted, value) and not (value is None and key in optional):
            raise BadRequest(f"{key!r} must be {_NAMES[wanted]}")
    for key in required:
        if key not in fields:
            raise BadRequest(f"{key!r} is missing")


def check_storable(value: Any) -> None:
    """Refuse what not every database can hold: half characters, NUL, huge numbers, deep nesting.

    Raises:
        BadRequest: With what it is.
    """
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for pair in item.items() for inner in pair]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str):
            _check_text(item)
        elif isinstance(item, int | float) and not -MAX_WHOLE < item < MAX_WHOLE:
            raise BadRequest("a number is too large")


def parse_whole(key: str, text: str) -> int:
    """Read a whole number from an address.

    Raises:
        BadRequest: If it is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequest(f"{key!r} must be a whole number")
    return int(text)


def choose(call: Call, key: str, choices: tuple[str, ...]) -> str:
    """Give a field that must be one of a few words; the first is the default.

    Raises:
        BadRequest: If it is another.
    """
    value = call.get(key, choices[0])
    if value not in choices:
        raise BadRequest(f"{key!r} must be one of {', '.join(choices)}")
    return str(value)


def _is_a(wanted: type, value: object) -> bool:
    if wanted is Id:
        return type(value) is int and 0 < value < MAX_ID
    return type(value) is wanted


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadRequest("a text holds a NUL character")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadRequest("a text holds half of a character")


def _refuse_constant(constant: str) -> float:
    raise ValueError(constant)
