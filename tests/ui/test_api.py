"""The JSON routes: what a page may ask, and 4xx for everything else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from labeling_ui.api import Api
from rlhf.errors import StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask

HOSTILE = [
    "<script>fire()</script>",
    "<img src=x onerror=fire()>",
    "${fire()} `${fire()}`",
    "{{fire}} {{{fire}}}",
    "javascript:fire()",
    "</textarea></div><iframe src=//evil.example>",
    "\u202etxt.exe \x00 \u2028",
]


def client_of(store, annotator=None):
    return TestClient(Starlette(routes=Api(store, annotator).routes()))


@pytest.fixture
def client(store):
    return client_of(store)


def claim(client, name="ann"):
    return client.post("/api/next", json={"annotator": name}).json()


def submit(client, task, number=1, name="ann", **rest):
    body = {
        "annotator": name,
        "assignment": task["task"]["assignment"],
        "request_id": f"request-{number}",
        "action": "rank",
        "ranks": list(range(1, len(task["task"]["completions"]) + 1)),
    }
    return client.post("/api/submit", json={**body, **rest})


def test_a_page_without_a_name_is_asked_for_one(client):
    assert client.post("/api/next", json={}).json() == {"status": "name"}
    assert client.post("/api/next", json={"annotator": None}).json() == {"status": "name"}


def test_an_empty_store_says_so(client):
    answer = claim(client)
    assert answer["status"] == "empty"
    assert answer["counts"] == {"tasks": 0, "open": 0, "mine": 0}


def test_ranking_everything_from_first_to_last(client, store, new_task):
    store.add_tasks([new_task(1), new_task(2, k=2)])
    first = claim(client)
    assert first["status"] == "task"
    assert first["task"]["prompt"] == [{"role": "user", "content": "prompt 1"}]
    assert sorted(first["task"]["completions"]) == [f"answer 1.{n}" for n in range(4)]
    answer = submit(client, first, ranks=[2, 1, 2, 3], comment="c", active_ms=5).json()
    assert answer["stored"] == {"request_id": "request-1", "revision": 1, "late": False}
    assert answer["next"]["counts"] == {"tasks": 2, "open": 1, "mine": 1}
    answer = submit(client, answer["next"], 2, ranks=[1, None], others_worse=True).json()
    assert answer["next"]["status"] == "done"
    assert answer["next"]["counts"] == {"tasks": 2, "open": 0, "mine": 2}
    one, _ = store.rankings()
    assert not one.simulated
    given = dict(zip(first["task"]["completions"], [2, 1, 2, 3], strict=True))
    assert dict(zip(one.completions, one.ranks, strict=True)) == given


def test_sending_twice_stores_once(client, store, new_task):
    store.add_tasks([new_task(1), new_task(2)])
    task = claim(client)
    one, two = submit(client, task).json(), submit(client, task).json()
    assert one == two
    assert store.progress().rankings == 1


def test_a_second_window_is_told_and_changes_nothing(client, store, new_task):
    store.add_tasks([new_task(1)])
    task = claim(client)
    submit(client, task, 1)
    reply = submit(client, task, 2, ranks=[4, 3, 2, 1])
    assert reply.status_code == 409
    assert [ranking.id for ranking in store.rankings()] == ["request-1"]


def test_a_fixed_annotator_overrides_what_the_page_says(store, new_task):
    store.add_tasks([new_task(1)])
    client = client_of(store, annotator="Boss")
    task = client.post("/api/next", json={}).json()
    assert task["annotator"] == "Boss"
    assert submit(client, task, name="somebody else").status_code == 200
    assert store.standing("boss").mine == 1


def test_somebody_elses_task_is_refused(client, store, new_task):
    store.add_tasks([new_task(1)])
    task = claim(client, "ann")
    reply = submit(client, task, name="bob")
    assert (reply.status_code, store.progress().rankings) == (422, 0)


def test_texts_travel_as_json_and_models_not_at_all(client, store, new_task):
    candidates = tuple(Candidate(text, "secret-model") for text in HOSTILE)
    store.add_tasks([NewTask(Prompt.parse(HOSTILE[0]), candidates, meta={"m": "secret-model"})])
    store.add_tasks([new_task(1)])
    reply = client.post("/api/next", json={"annotator": "ann"})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert sorted(reply.json()["task"]["completions"]) == sorted(HOSTILE)
    seen = reply.text + submit(client, reply.json()).text + submit(client, reply.json(), 2).text
    assert "secret-model" not in seen
    assert store.pseudonym("ann") not in seen


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"ranks": [1, 2, 3]}, 422),
        ({"ranks": [1, 2, 3, 5]}, 422),
        ({"ranks": [1, 2, 3, "4"]}, 422),
        ({"ranks": [1, 2, 3, [4]]}, 422),
        ({"ranks": [1, 2, 3, 10**300]}, 422),
        ({"ranks": []}, 422),
        ({"ranks": None}, 400),
        ({"ranks": "1234"}, 400),
        ({"action": "love"}, 422),
        ({"action": 1}, 400),
        ({"assignment": 10**30}, 422),
        ({"assignment": True}, 400),
        ({"assignment": "1"}, 400),
        ({"request_id": ""}, 422),
        ({"request_id": "\ud800" * 8}, 422),
        ({"comment": "\ud800"}, 422),
        ({"comment": "x" * 4001}, 422),
        ({"reason": "Because I say so"}, 422),
        ({"active_ms": -1}, 422),
        ({"others_worse": "yes"}, 400),
        ({"simulated": True}, 400),
        ({"replaces": 1}, 400),
        ({"annotator": ""}, 400),
        ({"annotator": "x" * 65}, 400),
        ({"annotator": "\ud800"}, 400),
        ({"annotator": 5}, 400),
    ],
)
def test_bad_fields_are_refused(client, store, new_task, change, status):
    store.add_tasks([new_task(1)])
    reply = submit(client, claim(client)) if not change else None
    task = claim(client, "bob") if reply is not None and not change else claim(client)
    raw = {
        "annotator": "ann",
        "assignment": task["task"]["assignment"],
        "request_id": "request-1",
        "action": "rank",
        "ranks": [1, 2, 3, 4],
        **change,
    }
    reply = client.post(
        "/api/submit", content=json.dumps(raw), headers={"content-type": "application/json"}
    )
    assert (reply.status_code, set(reply.json())) == (status, {"error"})
    assert store.progress().rankings == 0


@pytest.mark.parametrize("missing", ["annotator", "assignment", "request_id", "action"])
def test_missing_fields_are_refused(client, missing):
    body = {"annotator": "ann", "assignment": 1, "request_id": "request-1", "action": "rank"}
    body.pop(missing)
    reply = client.post("/api/submit", json=body)
    assert reply.status_code == 400
    assert missing in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"null", "application/json"),
        (b"[]", "application/json"),
        (b'{"annotator": NaN}', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 30_000, "application/json"),
        (b'{"a":' + b"9" * 20_000 + b"}", "application/json"),
        (b'{"annotator": "ann"}', "text/plain"),
        (b'{"annotator": "ann"}', ""),
    ],
)
def test_bodies_that_are_not_json_objects_are_refused(client, content, content_type):
    for route in ("/api/next", "/api/submit"):
        reply = client.post(route, content=content, headers={"content-type": content_type})
        assert (reply.status_code, set(reply.json())) == (400, {"error"})


def test_reading_by_get_is_not_possible(client):
    assert client.get("/api/next").status_code == 405


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ["annotator", "assignment", "request_id", "action", "ranks", "others_worse", "reason"]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    route=st.sampled_from(["/api/next", "/api/submit"]),
    body=st.one_of(
        ANYTHING.map(json.dumps).map(str.encode),
        st.dictionaries(st.sampled_from(FIELDS), ANYTHING).map(json.dumps).map(str.encode),
        st.fixed_dictionaries(
            {
                "annotator": st.sampled_from(["ann", "bob"]) | st.text(max_size=70),
                "assignment": st.integers(-1, 3) | st.integers(),
                "request_id": st.text(min_size=8, max_size=8) | st.just("request-1"),
                "action": st.sampled_from(["rank", "skip", "all_bad", "cannot_judge"]),
            },
            optional={"ranks": st.lists(st.none() | st.integers(-1, 5)), "comment": ANYTHING},
        )
        .map(json.dumps)
        .map(str.encode),
        st.binary(max_size=50),
    ),
)
def test_no_body_makes_the_server_fail(client, store, new_task, route, body):
    store.add_tasks([new_task(1)])
    reply = client.post(route, content=body, headers={"content-type": "application/json"})
    assert reply.status_code < 500
    assert isinstance(reply.json(), dict)


def test_a_failing_store_is_told_without_its_secrets(client, store, monkeypatch, new_task):
    store.add_tasks([new_task(1), new_task(2)])
    task = claim(client)

    def fail(*_args, **_rest):
        raise StoreError("/srv/secret/place.sqlite: disk full")

    monkeypatch.setattr(store, "claim", fail)
    stored = submit(client, task)
    assert (stored.status_code, stored.json()["next"]) == (200, None)
    monkeypatch.setattr(store, "submit", fail)
    reply = submit(client, task, 2)
    assert reply.status_code == 503
    assert "secret" not in reply.text
