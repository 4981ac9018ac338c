"""Requests that begin right and are damaged by chance."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from labeling_ui.api.wire import Endpoint

JSON_TYPE = "application/json"
TYPES = (
    *("", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonl"),
    *("multipart/form-data; boundary=x", "multipart/form-data", f"{JSON_TYPE}; charset=utf-16"),
    *(f"{JSON_TYPE}, {JSON_TYPE}", f"{JSON_TYPE.upper()} ;x", "*/*", "application/octet-stream"),
)
NUMBERS = (0, -1, 1, 2, 9, 10, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, -(2**63), 10**40)
FLOATS = (0.0, -0.0, 1.0, 1.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "\U0010ffff",
        "\u202e",
        "'; DROP TABLE tasks",
    ),
    *("a" * 41, "a" * 65, "a" * 4001, "\n", "true", "1", "NaN", "rank", "skip", "override", "{}"),
    *("%s%n", "../../etc/passwd", "e\u0301" * 30, "\x1f\x7f\x80", "None", "accept", "send_back"),
)
KEYS = ("__proto__", "", "assignment", "ranks", "a" * 3000, "\ud800", "\0", "task", "note", "id")


@dataclass
class Facts:
    """Numbers that stand for something in the store."""

    assignment: int = 1
    task: int = 1
    ranking: int = 1
    pseudonym: str = ""
    k: int = 4


def right_value(name: str, kind: type, facts: Facts, rng: random.Random) -> Any:
    """Give a value that a field may have."""
    by_name: dict[str, Callable[[], Any]] = {
        "assignment": lambda: facts.assignment,
        "task": lambda: facts.task,
        "ranking": lambda: facts.ranking,
        "pseudonym": lambda: facts.pseudonym,
        "request_id": lambda: f"{rng.getrandbits(96):024x}",
        "action": lambda: rng.choice(("rank", "all_bad", "cannot_judge", "skip")),
        "verdict": lambda: rng.choice(("accept", "override", "send_back")),
        "ranks": lambda: [rng.choice((1, 2, 3, 4, None)) for _ in range(facts.k)],
        "flags": lambda: [["wrong"], [], [], []],
        "replaces": lambda: rng.choice((0, 0, 1)),
        "format": lambda: rng.choice(("rankings", "trl")),
        "aggregate": lambda: rng.choice(("none", "majority")),
        "split": lambda: rng.choice(("all", "train", "held_out")),
        "state": lambda: rng.choice(("open", "done", "paused")),
        "reason": lambda: rng.choice(("", "too_long")),
        "active_ms": lambda: rng.randint(0, 10**6),
    }
    by_kind = {bool: rng.random() < 0.5, str: "normal", list: [1, 2, 1], dict: {"a": [1, {"b": 2}]}}
    return by_name[name]() if name in by_name else by_kind.get(kind, rng.randint(0, 5))


def right_body(endpoint: Endpoint, facts: Facts, rng: random.Random) -> dict[str, Any]:
    """Give a body that the server would take, or nearly so."""
    fields = dict(endpoint.required)
    fields |= {name: kind for name, kind in endpoint.optional.items() if rng.random() < 0.7}
    return {name: right_value(name, kind, facts, rng) for name, kind in fields.items()}


def odd_value(rng: random.Random, old: Any) -> Any:
    """Give a value to put in the place of another, mostly of the same type: it gets further."""
    if rng.random() < 0.7:
        for kind, values in ((bool, (True, False)), (int, NUMBERS), (str, TEXTS)):
            if type(old) is kind:
                return rng.choice(values)
        if isinstance(old, list):
            return [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 3, 5, 10, 500)))]
    nested: Any = rng.choice(([], {}, 1))
    for _ in range(rng.choice((1, 5, 31, 33, 150))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    odd: tuple[Any, ...] = (
        None,
        True,
        False,
        [],
        {},
        [[]],
        [{}],
        {"a": 1},
        nested,
        "x" * rng.choice((1, 70_000)),
    )
    return rng.choice((*odd, *NUMBERS, *FLOATS, *TEXTS))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a body."""
    pairs: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


def damage(body: dict[str, Any], rng: random.Random) -> Any:
    """Change a body in one to three places."""
    damaged: Any = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        found = list(places(damaged))
        what = rng.random()
        if what < 0.05 or not found:
            damaged[rng.choice(KEYS)] = odd_value(rng, None)
            continue
        *way, last = rng.choice(found)
        holder = damaged
        for key in way:
            holder = holder[key]
        if what < 0.12:
            del holder[last]
        else:
            holder[last] = odd_value(rng, holder[last])
    if rng.random() < 0.05:
        return rng.choice(([damaged], None, "text", 7, [], [[damaged]]))
    return damaged


def spoiled(text: str, rng: random.Random) -> bytes:
    """Turn JSON into bytes, some of them wrong."""
    raw = text.encode("utf-8", "surrogatepass")
    what = rng.random()
    if what < 0.85:
        return raw
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: raw[: rng.randrange(len(raw) + 1)],
        lambda: bytes(byte ^ (rng.random() < 0.02) * rng.randrange(256) for byte in raw),
        lambda: text.encode("utf-16", "surrogatepass"),
        lambda: b"\xef\xbb\xbf" + raw,
        lambda: raw + raw,
        lambda: raw + b" " * 70_000,
        lambda: b"[" * rng.choice((100, 5_000, 60_000)),
        lambda: b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        lambda: b'{"assignment":' + b"9" * rng.choice((30, 4_400, 60_000)) + b"}",
        lambda: b'{"assignment":1e' + b"9" * 300 + b"}",
        lambda: raw.replace(b'":', b'":1,"x":', 1),
        lambda: raw.replace(b"{", b'{"task":1,"task":2,', 1),
        lambda: b"",
        lambda: bytes(rng.randrange(256) for _ in range(rng.randrange(200))),
    )
    return rng.choice(ways)()


def some_request(
    endpoints: Sequence[Endpoint], facts: Facts, rng: random.Random
) -> tuple[str, str, bytes, dict[str, str]]:
    """Make a damaged request: method, path, body and headers."""
    weights = [1 + len(one.required) + len(one.optional) for one in endpoints]
    endpoint = rng.choices(endpoints, weights)[0]
    body = damage(right_body(endpoint, facts, rng), rng)
    if endpoint.method == "GET":
        fields = body.items() if isinstance(body, dict) else [("before", body)]
        pairs = (f"{quoted(key)}={quoted(value)}" for key, value in fields)
        return "GET", f"{endpoint.path}?{'&'.join(pairs)}"[:8000], b"", {}
    kind = rng.choice(TYPES) if rng.random() < 0.1 else JSON_TYPE
    raw = spoiled(json.dumps(body, ensure_ascii=rng.random() < 0.5), rng)
    return "POST", endpoint.path, raw, {"content-type": kind} if kind else {}


def quoted(value: Any) -> str:
    """Spell anything in an address; half characters too."""
    return quote(str(value)[:500].encode("utf-8", "surrogatepass"))
