"""Bodies that no page of ours would send: 4xx, never 5xx, and nothing is stored."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from visitors import PEOPLE, ask, cookie_of

from labeling_ui.api import ENDPOINTS
from labeling_ui.api.wire import MAX_DEPTH

JSON = {"content-type": "application/json"}
ROUTES = sorted(end.path for end in ENDPOINTS if end.method == "POST")
READS = sorted(end.path for end in ENDPOINTS if end.method == "GET")
FIELDS = sorted({name for end in ENDPOINTS for name in {**end.required, **end.optional}})


@pytest.fixture
def admin(as_person):
    return cookie_of(as_person("adm"))


def good_body(people, new_task):
    people.add_tasks([new_task(1)])
    task = people.claim("adm")
    return {
        "assignment": task.id,
        "request_id": "request-1",
        "action": "rank",
        "ranks": [1, 2, 3, 4],
    }


def post(app, path, body, headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    (reply,) = ask(app, [("POST", path, {**JSON, **headers}, raw)])
    return reply


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"ranks": [1, 2, 3]}, 422),
        ({"ranks": [1, 2, 3, 5]}, 422),
        ({"ranks": [1, 2, 3, "4"]}, 422),
        ({"ranks": [1, 2, 3, True]}, 422),
        ({"ranks": [1, 2, 3, 4.0]}, 422),
        ({"ranks": [1, 2, 3, [4]]}, 422),
        ({"ranks": [1, 2, 3, {}]}, 422),
        ({"ranks": [1, 2, 3, 10**300]}, 400),
        ({"ranks": []}, 422),
        ({"ranks": None}, 422),
        ({"ranks": "1234"}, 400),
        ({"action": "love"}, 422),
        ({"action": 1}, 400),
        ({"action": None}, 400),
        ({"assignment": 10**30}, 400),
        ({"assignment": 2**31}, 422),
        ({"assignment": 0}, 422),
        ({"assignment": -1}, 422),
        ({"assignment": True}, 400),
        ({"assignment": 1.0}, 400),
        ({"assignment": "1"}, 400),
        ({"request_id": ""}, 422),
        ({"request_id": "x" * 65}, 422),
        ({"request_id": "\ud800" * 8}, 400),
        ({"comment": "\ud800"}, 400),
        ({"comment": "a\0b"}, 400),
        ({"comment": "x" * 4001}, 422),
        ({"reason": "Because I say so"}, 422),
        ({"active_ms": -1}, 422),
        ({"active_ms": 2**60}, 400),
        ({"active_ms": 1.5}, 400),
        ({"others_worse": "yes"}, 400),
        ({"others_worse": 1}, 400),
        ({"simulated": True}, 400),
        ({"annotator": "ann"}, 400),
        ({"replaces": 1}, 409),
        ({"replaces": -1}, 422),
        ({"flags": {}}, 400),
        ({"flags": ["x"]}, 400),
        ({"flags": [[], [], []]}, 422),
        ({"flags": [[1], [], [], []]}, 422),
        ({"flags": [["not a label"], [], [], []]}, 422),
        ({"flags": [["x"] * 100, [], [], []]}, 422),
        ({"strengths": [1]}, 422),
        ({"strengths": [1, 2, 4]}, 422),
        ({"strengths": [[], {}, None]}, 422),
    ],
    ids=str,
)
def test_bad_fields_are_refused(app, admin, people, new_task, change, status):
    reply = post(app, "/api/submit", good_body(people, new_task) | change, admin)
    assert (reply.status, "error" in reply.json()) == (status, True)
    assert people.progress().rankings == 0


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.required], ids=lambda e: e.path)
def test_missing_fields_are_named(app, admin, endpoint):
    samples = {int: 1, str: "x", bool: True, list: [], dict: {}}
    samples |= {kind: 1 for kind in endpoint.required.values() if kind not in samples}
    whole = {name: samples[kind] for name, kind in endpoint.required.items()}
    for missing in whole:
        body = {name: value for name, value in whole.items() if name != missing}
        reply = post(app, endpoint.path, body, admin)
        assert (reply.status, reply.json()) == (400, {"error": f"{missing!r} is missing"})


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"null", "application/json"),
        (b"[]", "application/json"),
        (b'"{}"', "application/json"),
        (b'{"x": NaN}', "application/json"),
        (b'{"x": -Infinity}', "application/json"),
        (b'{"x": 1e999}', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"\xef\xbb\xbf{}", "application/json"),
        (b"[" * 30_000, "application/json"),
        (b'{"x":' * 900 + b"1" + b"}" * 900, "application/json"),
        (b'{"body":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "application/json"),
        (b'{"x":' + b"9" * 20_000 + b"}", "application/json"),
        (b"{}", "text/plain"),
        (b"{}", "application/x-www-form-urlencoded"),
        (b"{}", ""),
    ],
)
def test_bodies_that_are_not_json_objects_are_refused(app, admin, content, content_type):
    headers = {**admin, "content-type": content_type}
    replies = ask(app, [("POST", path, headers, content) for path in ROUTES])
    assert {(reply.status, *reply.json()) for reply in replies} == {(400, "error")}


def random_value(rng, depth=0):
    kinds = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice([0, 1, -1, 2, 3, 2**31, 2**53, 2**63, -(2**70), 10**40]),
        lambda: rng.choice([0.5, -0.0, 1e308, 1e-320]),
        lambda: rng.choice(["", "x", "rank", "skip", "request-1", "\ud800", "\0", "\u202e", "1"]),
        lambda: "".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(12))),
    ]
    if depth < 3:
        kinds += [
            lambda: [random_value(rng, depth + 1) for _ in range(rng.randrange(5))],
            lambda: {
                rng.choice([*FIELDS, "x", ""]): random_value(rng, depth + 1)
                for _ in range(rng.randrange(4))
            },
        ]
    return rng.choice(kinds)()


def random_body(rng, good):
    """Something between noise and a good body with one thing changed."""
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
    if kind == 1:
        return json.dumps(random_value(rng)).encode()
    body = dict(good) if kind == 2 else {}
    for _ in range(rng.randrange(1, 6)):
        body[rng.choice(FIELDS)] = random_value(rng)
    raw = bytearray(json.dumps(body).encode())
    if rng.random() < 0.1:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def test_five_hundred_malformed_bodies_make_no_fault(app, as_person, people, new_task):
    rng = random.Random(7)
    sessions = [cookie_of(as_person(name)) for name in PEOPLE]
    good = good_body(people, new_task)
    asked = [
        ("POST", rng.choice(ROUTES), {**JSON, **rng.choice(sessions)}, random_body(rng, good))
        for _ in range(400)
    ]
    for _ in range(100):
        names = [rng.choice([*FIELDS, "state"]) for _ in range(rng.randrange(4))]
        values = ["", "1", "-1", "%00", "%ff", "open", "x"]
        query = "&".join(f"{name}={rng.choice(values)}" for name in names)
        asked.append(("GET", f"{rng.choice(READS)}?{query}", rng.choice(sessions), b""))
    for request, reply in zip(asked, ask(app, asked), strict=True):
        assert reply.status < 500, request
        if reply.status >= 400:
            assert set(reply.json()) <= {"error", "task"}, request
    assert people.pseudonym("adm") is not None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    route=st.sampled_from(ROUTES),
    body=st.one_of(
        ANYTHING,
        st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
        st.fixed_dictionaries(
            {
                "assignment": st.integers(-1, 3) | st.integers(),
                "request_id": st.text(min_size=8, max_size=8) | st.just("request-1"),
                "action": st.sampled_from(["rank", "skip", "all_bad", "cannot_judge"]),
            },
            optional={
                "ranks": st.lists(st.none() | st.integers(-1, 5)),
                "flags": st.lists(st.lists(st.text(max_size=3))),
                "comment": ANYTHING,
            },
        ),
    ),
)
def test_no_body_makes_the_server_fail(app, admin, people, new_task, route, body):
    people.add_tasks([new_task(1)])
    reply = post(app, route, body, admin)
    assert reply.status < 500
    assert isinstance(reply.json(), dict)
