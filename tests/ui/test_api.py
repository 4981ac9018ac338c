"""What annotators' pages ask: tasks, rankings, drafts, their own work."""

import pytest

from rlhf.errors import StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask
from rlhf.store.contracts import Gold

HOSTILE = [
    "<script>fire()</script>",
    "<img src=x onerror=fire()>",
    "${fire()} `${fire()}`",
    "{{fire}} {{{fire}}}",
    "[x](javascript:fire())",
    "</textarea></div><iframe src=//evil.example>",
    "\u202etxt.exe \u2028",
]


@pytest.fixture
def ann(as_person):
    return as_person("ann")


def claim(client):
    return client.post("/api/next", json={}).json()


def submit(client, task, number=1, **rest):
    body = {
        "assignment": task["assignment"],
        "request_id": f"request-{number}",
        "action": "rank",
        "ranks": list(range(1, len(task["completions"]) + 1)),
    }
    return client.post("/api/submit", json={**body, **rest})


def test_the_page_learns_who_it_is_for(ann, people):
    people.change_settings(flags=("wrong", "rude"), strengths=True, guidelines="# Be *fair*")
    answer = ann.get("/api/me").json()
    assert len(answer.pop("store")) == 16
    assert answer == {
        "name": "ann",
        "role": "annotator",
        "local": False,
        "settings": {"flags": ["wrong", "rude"], "strengths": True, "guidelines_version": 1},
    }
    guidelines = ann.get("/api/guidelines").json()
    assert guidelines["version"] == 1
    assert "<em>fair</em>" in guidelines["html"]


def test_without_guidelines_there_are_none(ann):
    assert ann.get("/api/guidelines").json() == {"version": 0, "html": ""}


def test_an_empty_store_says_so(ann):
    answer = claim(ann)
    assert (answer["status"], answer["task"]) == ("empty", None)
    assert answer["counts"] == {
        "tasks": 0,
        "open": 0,
        "mine": 0,
        "today": 0,
        "last_hour": 0,
        "median_active_ms": None,
    }


def test_ranking_everything_from_first_to_last(ann, people, new_task):
    people.add_tasks([new_task(1), new_task(2, k=2)])
    people.change_settings(random_share=0.0)
    first = claim(ann)["task"]
    assert (first["kind"], first["revision"]) == ("ranking", 0)
    assert (first["current"], first["draft"]) == (None, None)
    texts = [shown["text"] for shown in first["completions"]]
    number = first["prompt"][0]["text"].removeprefix("prompt ")
    assert sorted(texts) == [f"answer {number}.{place}" for place in range(len(texts))]
    ranks = [2, 1, 2, 3][: len(texts)]
    answer = submit(ann, first, ranks=ranks, comment="c", active_ms=5000).json()
    assert answer["feedback"] is None
    assert answer["stored"] == {
        "assignment": first["assignment"],
        "request_id": "request-1",
        "revision": 1,
        "late": False,
    }
    following = answer["next"]
    assert (following["status"], following["counts"]["mine"]) == ("task", 1)
    assert following["counts"]["median_active_ms"] == 5000
    answer = submit(ann, following["task"], 2, others_worse=True).json()
    assert answer["next"]["status"] == "done"
    assert answer["next"]["counts"] | {"median_active_ms": 0} == {
        "tasks": 2,
        "open": 0,
        "mine": 2,
        "today": 2,
        "last_hour": 2,
        "median_active_ms": 0,
    }
    stored = {ranking.id: ranking for ranking in people.rankings()}["request-1"]
    assert not stored.simulated
    assert dict(zip(stored.completions, stored.ranks, strict=True)) == dict(
        zip(texts, ranks, strict=True)
    )


def test_no_count_tells_a_gold_task_from_the_others(ann, people, new_task):
    """The open tasks, without gold ones, fall from 13 to 0; what is told of them does not."""
    people.change_settings(random_share=0.0, gold_every=3)
    gold = [new_task(n, pool="gold", gold=Gold((1, 2, 3, 4))) for n in range(20, 24)]
    people.add_tasks([*(new_task(n) for n in range(13)), *gold])
    told, kinds, answer = [], [], claim(ann)
    while answer["task"] is not None:
        told.append(answer["counts"]["open"])
        kinds.append(int(answer["task"]["prompt"][0]["text"].split()[1]) >= 20)
        answer = submit(ann, answer["task"], len(told)).json()["next"]
    assert (len(told), sum(kinds), answer["counts"]["open"]) == (17, 4, 0)
    assert set(told) == {10, 20}
    falls = [number for number in range(1, 17) if told[number] < told[number - 1]]
    assert len(falls) == 1
    assert not kinds[falls[0] - 1]


def test_everything_that_a_person_says_is_stored(ann, people, new_task):
    people.add_tasks([new_task(1)])
    task = claim(ann)["task"]
    said = {
        "ranks": [1, 2, 2, 3],
        "flags": [["wrong"], [], [], ["harmful", "rude"]],
        "strengths": [3, 1],
        "comment": "\u05e9\u05dc\u05d5\u05dd",
        "active_ms": 1234,
    }
    assert submit(ann, task, **said).status_code == 200
    (stored,) = people.rankings()
    place = {shown["text"]: at for at, shown in enumerate(task["completions"])}
    for text, rank, flags in zip(stored.completions, stored.ranks, stored.flags, strict=True):
        assert rank == said["ranks"][place[text]]
        assert list(flags) == said["flags"][place[text]]
    assert stored.strengths == (3, 1)


def test_null_is_the_same_as_leaving_out(ann, people, new_task):
    people.add_tasks([new_task(1)])
    nothing = dict.fromkeys(["flags", "strengths", "reason", "comment", "active_ms", "replaces"])
    assert submit(ann, claim(ann)["task"], **nothing, others_worse=None).status_code == 200


def test_sending_twice_stores_once(ann, people, new_task):
    people.add_tasks([new_task(1), new_task(2)])
    task = claim(ann)["task"]
    one, two = submit(ann, task).json(), submit(ann, task).json()
    assert one["stored"] == two["stored"]
    assert one["next"]["task"]["assignment"] == two["next"]["task"]["assignment"]
    assert people.progress().rankings == 1


def test_a_second_window_is_shown_what_is_stored(ann, people, new_task):
    people.add_tasks([new_task(1)])
    task = claim(ann)["task"]
    submit(ann, task, 1, comment="first")
    reply = submit(ann, task, 2, ranks=[4, 3, 2, 1])
    assert reply.status_code == 409
    answer = reply.json()
    assert set(answer) == {"error", "task"}
    assert answer["task"]["revision"] == 1
    assert answer["task"]["current"] == {
        "action": "rank",
        "ranks": [1, 2, 3, 4],
        "others_worse": False,
        "flags": None,
        "strengths": None,
        "reason": "",
        "comment": "first",
    }
    assert [ranking.id for ranking in people.rankings()] == ["request-1"]


def test_a_correction_names_what_it_replaces(ann, people, new_task):
    people.add_tasks([new_task(1)])
    task = claim(ann)["task"]
    submit(ann, task, 1)
    again = ann.post("/api/reopen", json={"assignment": task["assignment"]}).json()["task"]
    assert (again["revision"], again["current"]["ranks"]) == (1, [1, 2, 3, 4])
    assert again["completions"] == task["completions"]
    answer = submit(ann, task, 2, ranks=[4, 3, 2, 1], replaces=1).json()
    assert answer["stored"]["revision"] == 2
    (stored,) = people.rankings()
    assert (stored.id, stored.meta["revision"]) == ("request-2", 2)


def test_drafts_come_back_newest_wins(ann, people, new_task, clock):
    people.add_tasks([new_task(1)])
    number = claim(ann)["task"]["assignment"]

    def keep(seq, body):
        return ann.post("/api/draft", json={"assignment": number, "seq": seq, "body": body}).json()

    clock.now += 60
    assert keep(2, {"ranks": [1, None]}) == {"kept": True}
    assert keep(2, {"ranks": []})["kept"] is False
    assert keep(1, {"ranks": []})["kept"] is False
    task = claim(ann)["task"]
    assert task["draft"] == {"seq": 2, "body": {"ranks": [1, None]}}
    submit(ann, task)
    again = ann.post("/api/reopen", json={"assignment": number}).json()["task"]
    assert again["draft"] is None


@pytest.mark.parametrize(("levels", "status"), [(30, 200), (31, 400), (500, 400)])
def test_deep_drafts_are_refused(ann, people, new_task, levels, status):
    people.add_tasks([new_task(1)])
    body = {"assignment": claim(ann)["task"]["assignment"], "seq": 1, "body": {}}
    for _ in range(levels):  # the body itself is one level, its last value another
        body["body"] = {"x": body["body"]}
    assert ann.post("/api/draft", json=body).status_code == status


def test_large_drafts_are_refused(ann, people, new_task):
    people.add_tasks([new_task(1)])
    number = claim(ann)["task"]["assignment"]
    body = {"assignment": number, "seq": 1, "body": {"comment": "x" * 33_000}}
    assert ann.post("/api/draft", json=body).status_code == 422


def test_a_training_task_is_answered_by_the_known_ranking(ann, people):
    candidates = tuple(Candidate(f"text {place}") for place in range(3))
    gold = Gold((1, 2, 3), "Because **so**.")
    task = NewTask(Prompt.parse("learn"), candidates, pool="training", gold=gold)
    people.add_tasks([task])
    shown = claim(ann)["task"]
    assert shown["kind"] == "training"
    assert "Because" not in str(shown)
    right = [int(answer["text"][-1]) + 1 for answer in shown["completions"]]
    feedback = submit(ann, shown, ranks=right).json()["feedback"]
    assert feedback["ranks"] == right
    assert (feedback["share"], feedback["passed"]) == (1.0, True)
    assert "<strong>so</strong>" in feedback["explanation_html"]


def test_gold_looks_like_any_other_task(ann, people):
    candidates = tuple(Candidate(f"text {place}") for place in range(3))
    people.add_tasks(
        [NewTask(Prompt.parse("check"), candidates, pool="gold", gold=Gold((1, 2, 3), "known"))]
    )
    people.change_settings(gold_every=1)
    reply = ann.post("/api/next", json={})
    shown = reply.json()["task"]
    assert shown["kind"] == "ranking"
    after = submit(ann, shown)
    assert after.json()["feedback"] is None
    mine = ann.get("/api/mine")
    for word in ("gold", "known"):
        assert word not in reply.text + after.text + mine.text


def test_texts_travel_as_json_and_html_and_models_not_at_all(ann, people, new_task):
    candidates = tuple(Candidate(text, "secret-model") for text in HOSTILE)
    people.change_settings(random_share=0.0)
    task = NewTask(Prompt.parse(HOSTILE[0]), candidates, pool="secret", meta={"m": "secret-model"})
    people.add_tasks([task])
    reply = ann.post("/api/next", json={})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    shown = reply.json()["task"]
    assert sorted(answer["text"] for answer in shown["completions"]) == sorted(HOSTILE)
    for answer in shown["completions"]:
        assert "<script" not in answer["html"]
        assert "<img" not in answer["html"]
        assert "<iframe" not in answer["html"]
    seen = reply.text + submit(ann, shown).text + ann.get("/api/mine").text
    assert "secret" not in seen
    assert people.pseudonym("ann") not in seen


def test_directions_of_texts_are_told(ann, people):
    candidates = (
        Candidate("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd"),
        Candidate("hello"),
    )
    people.add_tasks([NewTask(Prompt.parse("x"), candidates)])
    shown = {answer["text"]: answer["dir"] for answer in claim(ann)["task"]["completions"]}
    assert shown[candidates[0].text] == "rtl"
    assert shown["hello"] == "ltr"


# -- one's own work --------------------------------------------------------------------------------


def test_own_work_is_listed_newest_first_in_pages(ann, as_person, people, new_task, clock):
    people.change_settings(random_share=0.0, max_overlap=0)
    people.add_tasks([new_task(number, k=3, overlap=2) for number in range(32)])
    given = [[2, 1, 2], [1, None, None], [None, 1, 2]]
    for number in range(32):
        clock.now += 60
        task = claim(ann)["task"]
        submit(ann, task, number, ranks=given[number % 3], others_worse=number % 3 == 1)
    bob = as_person("bob")
    submit(bob, claim(bob)["task"], 99)
    page = ann.get("/api/mine").json()
    assert (len(page["rankings"]), page["more"]) == (30, True)
    newest = page["rankings"][0]
    said = [row["decision"] for row in page["rankings"][:3]]  # of numbers 31, 30 and 29
    assert [decision["ranks"] for decision in said] == [[1, None, None], [2, 1, 2], [None, 1, 2]]
    assert [decision["others_worse"] for decision in said] == [True, False, False]
    assert set(newest) == {
        "ranking",
        "assignment",
        "prompt",
        "action",
        "decision",
        "revision",
        "submitted_ms",
        "late",
        "kind",
        "notes",
    }
    assert newest["prompt"][0].startswith("prompt ")
    rest = ann.get(f"/api/mine?before={page['rankings'][-1]['ranking']}").json()
    assert (len(rest["rankings"]), rest["more"]) == (2, False)
    numbers = [row["ranking"] for row in page["rankings"] + rest["rankings"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(bob.get("/api/mine").json()["rankings"]) == 1


def test_of_other_peoples_tasks_nothing_can_be_told(ann, as_person, people, new_task):
    people.add_tasks([new_task(1), new_task(2, overlap=2)])
    theirs = claim(ann)["task"]
    bob = as_person("bob")
    claim(bob)
    requests = [
        ("/api/submit", {"request_id": "request-1", "action": "skip", "reason": "x"}),
        ("/api/draft", {"seq": 1, "body": {}}),
        ("/api/reopen", {}),
    ]
    for path, body in requests:
        replies = [
            bob.post(path, json={"assignment": number, **body})
            for number in (theirs["assignment"], 10_000, 2**31 - 1)
        ]
        assert [reply.status_code for reply in replies] == [422] * 3, path
        lines = {
            reply.json()["error"].replace(str(number), "N")
            for reply, number in zip(
                replies, (theirs["assignment"], 10_000, 2**31 - 1), strict=True
            )
        }
        assert len(lines) == 1, lines
    assert people.progress().rankings == 0


def test_a_failing_store_is_told_and_what_was_stored_acknowledged(
    ann, people, monkeypatch, new_task
):
    people.add_tasks([new_task(1), new_task(2)])
    task = claim(ann)["task"]

    def fail(*_args, **_rest):
        raise StoreError("/srv/secret/place.sqlite: disk full")

    monkeypatch.setattr(people, "claim", fail)
    stored = submit(ann, task)
    assert (stored.status_code, stored.json()["next"]) == (200, None)
    monkeypatch.setattr(people, "submit", fail)
    reply = submit(ann, task, 2)
    assert (reply.status_code, "nothing was stored" in reply.text) == (503, True)
    assert "secret" not in reply.text
