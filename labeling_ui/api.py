"""What the page asks of the store: JSON in, JSON out, no Gradio.

``POST /api/next`` gives the annotator's task; ``POST /api/submit`` stores a ranking and gives
the next one. Answers hold texts in shown order and counts, never where a text came from or who
else is working. Every refusal is ``{"error": line}`` with a 4xx status; 503 means that the
store failed and nothing was stored.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rlhf.errors import StoreError
from rlhf.store import Assignment, RankingStore, RevisionError, Submission, SubmissionError
from rlhf.store.checks import annotator_key

Json = dict[str, Any]
Handler = Callable[[RankingStore, Mapping[str, Any]], Json]

_SUBMIT_KEYS = {
    "annotator": str,
    "assignment": int,
    "request_id": str,
    "action": str,
    "ranks": list,
    "others_worse": bool,
    "reason": str,
    "comment": str,
    "active_ms": int,
}
_log = logging.getLogger(__name__)


class BadRequest(Exception):  # noqa: N818 - the name of HTTP status 400
    """A request that the page would never send."""


@dataclass(frozen=True, slots=True)
class Api:
    """The routes over one store; ``annotator`` fixes whose rankings they are."""

    store: RankingStore
    annotator: str | None = None

    def routes(self) -> list[Route]:
        """Give the routes to add to the application."""
        return [
            Route("/api/next", self._endpoint(next_task), methods=["POST"]),
            Route("/api/submit", self._endpoint(submit), methods=["POST"]),
        ]

    def _endpoint(self, handler: Handler) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            content_type = request.headers.get("content-type", "")
            status, answer = await to_thread.run_sync(self._answer, handler, content_type, raw)
            # Plain ASCII: an answer about a lone surrogate must not fail on it.
            return Response(
                json.dumps(answer),
                status,
                {"Cache-Control": "no-store"},
                media_type="application/json",
            )

        return endpoint

    def _answer(self, handler: Handler, content_type: str, raw: bytes) -> tuple[int, Json]:
        try:
            body = parse_body(content_type, raw)
            if self.annotator is not None:
                body["annotator"] = self.annotator
            return HTTPStatus.OK, handler(self.store, body)
        except BadRequest as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except RevisionError as error:
            return HTTPStatus.CONFLICT, {"error": str(error)}
        except SubmissionError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
        except StoreError as error:
            _log.error("%s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the store failed; nothing was stored"}


def parse_body(content_type: str, raw: bytes) -> Json:
    """Read a JSON object.

    Raises:
        BadRequest: If the body is anything else.
    """
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise BadRequest("the body must be application/json")
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def next_task(store: RankingStore, body: Mapping[str, Any]) -> Json:
    """Give the annotator's task; without a name, ask for one.

    The status is ``name``, ``task``, ``done`` (nothing left for this person) or ``empty``.
    """
    if body.get("annotator") is None:
        return {"status": "name"}
    name = _name(body)
    assignment = store.claim(name)
    standing = store.standing(name)
    counts = {"tasks": standing.tasks, "open": standing.open, "mine": standing.mine}
    answer: Json = {"annotator": name, "counts": counts}
    if assignment is not None:
        return {"status": "task", "task": _shown(assignment), **answer}
    return {"status": "done" if standing.tasks else "empty", **answer}


def submit(store: RankingStore, body: Mapping[str, Any]) -> Json:
    """Store a ranking and give the next task."""
    _check_keys(body)
    name = _name(body)
    result = store.submit(
        body["assignment"],
        name,
        Submission(
            request_id=body["request_id"],
            action=body["action"],
            ranks=tuple(body.get("ranks", ())),
            others_worse=body.get("others_worse", False),
            reason=body.get("reason", ""),
            comment=body.get("comment", ""),
            active_ms=body.get("active_ms"),
        ),
    )
    stored = {"request_id": result.request_id, "revision": result.revision, "late": result.late}
    try:
        following = next_task(store, {"annotator": name})
    except StoreError as error:  # the ranking is stored: say so, and let the page ask again
        _log.error("%s", error)
        following = None
    return {"stored": stored, "next": following}


def _shown(assignment: Assignment) -> Json:
    messages = [{"role": m.role, "content": m.content} for m in assignment.prompt.messages]
    return {
        "assignment": assignment.id,
        "prompt": messages,
        "completions": list(assignment.completions),
    }


def _check_keys(body: Mapping[str, Any]) -> None:
    unknown = [key for key in body if key not in _SUBMIT_KEYS]
    if unknown:
        raise BadRequest(f"unknown key {unknown[0][:80]!r}")
    for key in ("annotator", "assignment", "request_id", "action"):
        if key not in body:
            raise BadRequest(f"{key!r} is missing")
    for key, value in body.items():
        if type(value) is not _SUBMIT_KEYS[key]:
            raise BadRequest(f"{key!r} must be {_SUBMIT_KEYS[key].__name__}")


def _name(body: Mapping[str, Any]) -> str:
    name = body.get("annotator")
    if not isinstance(name, str):
        raise BadRequest("'annotator' must be a name")
    try:
        annotator_key(name)
    except StoreError as error:
        raise BadRequest(str(error)) from None
    return name.strip()


def _refuse_constant(constant: str) -> float:
    raise ValueError(constant)
