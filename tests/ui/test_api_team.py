"""What the pages of reviewers and admins ask."""

import hashlib
import json

import pytest

from rlhf.config import RankingsExportConfig
from rlhf.rankings.exporting import export_rankings
from rlhf.store import Submission


@pytest.fixture
def rev(as_person):
    return as_person("rev")


@pytest.fixture
def adm(as_person):
    return as_person("adm")


@pytest.fixture
def ranked(people, new_task):
    """Two tasks of four answers, each ranked by two people: opposed on the first, alike on the
    second. Gives, per task, its candidate texts."""
    people.change_settings(random_share=0.0, max_overlap=0)
    added = people.add_tasks([new_task(1, overlap=2), new_task(2, overlap=2)])
    given = {1: {"ann": [1, 2, 3, 4], "bob": [4, 3, 2, 1]}, 2: {"ann": [1, 1, 2, 3]}}
    for name in ("ann", "bob"):
        while (task := people.claim(name)) is not None:
            ranks = given[task.task_id].get(name, [1, 1, 2, 3])
            places = [int(text[-1]) for text in task.completions]
            shown = tuple(ranks[place] for place in places)
            flags = tuple(("wrong",) if place == 3 else () for place in places)
            people.submit(
                task.id,
                name,
                Submission(
                    f"{name}-{task.task_id}-request", shown, comment=f"by {name[0]}", flags=flags
                ),
            )
    return added.ids


def test_reviewers_get_what_people_disagree_on_first(rev, ranked):
    tasks = rev.get("/api/review/tasks").json()["tasks"]
    assert [task["task"] for task in tasks] == list(ranked)
    assert tasks[0] == {
        "task": ranked[0],
        "prompt_excerpt": "prompt 1",
        "people": 2,
        "agreement": -1.0,
        "reviewed": False,
    }
    assert tasks[1]["agreement"] == pytest.approx(1.0)


def test_a_task_under_review_names_nobody(rev, ranked, people):
    reply = rev.post("/api/review/open", json={"task": ranked[0]})
    item = reply.json()
    assert [ranking["who"] for ranking in item["rankings"]] == ["Person 1", "Person 2"]
    texts = [answer["text"] for answer in item["completions"]]
    assert sorted(texts) == [f"answer 1.{place}" for place in range(4)]
    by_comment = {ranking["decision"]["comment"]: ranking for ranking in item["rankings"]}
    for name, best in (("ann", "answer 1.0"), ("bob", "answer 1.3")):
        ranks = by_comment[f"by {name[0]}"]["decision"]["ranks"]
        assert texts[ranks.index(1)] == best
        flags = by_comment[f"by {name[0]}"]["decision"]["flags"]
        assert texts[flags.index(["wrong"])] == "answer 1.3"
        assert people.pseudonym(name) not in reply.text
    assert "secret-model" not in reply.text


def test_the_order_of_the_answers_is_the_reviewers_own(as_person, ranked, people):
    people.people.set_role("bob", "reviewer")
    orders = [
        [
            answer["text"]
            for answer in as_person(name)
            .post("/api/review/open", json={"task": task})
            .json()["completions"]
        ]
        for name in ("rev", "rev", "bob", "adm")
        for task in ranked[:1]
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


def test_a_reviewers_own_order_is_stored_as_meant(rev, ranked, people):
    item = rev.post("/api/review/open", json={"task": ranked[0]}).json()
    texts = [answer["text"] for answer in item["completions"]]
    wanted = {"answer 1.2": 1, "answer 1.0": 2, "answer 1.1": 3, "answer 1.3": 3}
    body = {
        "task": ranked[0],
        "request_id": "review-request-1",
        "verdict": "override",
        "ranks": [wanted[text] for text in texts],
        "note": "2 is the only right one",
    }
    for _ in range(2):
        assert rev.post("/api/review/decide", json=body).json() == {"stored": True}
    (review,) = people.reviews.of_task(ranked[0])
    completions = people.reviews.open_task(ranked[0]).completions
    assert dict(zip(completions, review.ranks, strict=True)) == wanted
    again = rev.post("/api/review/open", json={"task": ranked[0]}).json()
    assert [(one["verdict"], one["note"]) for one in again["reviews"]] == [
        ("override", "2 is the only right one")
    ]
    tasks = {task["task"]: task for task in rev.get("/api/review/tasks").json()["tasks"]}
    assert tasks[ranked[0]]["reviewed"]


def test_two_reviewers_dont_overwrite_each_other(rev, as_person, ranked, people):
    people.people.set_role("bob", "reviewer")
    bob = as_person("bob")
    body = {"task": ranked[0], "verdict": "send_back", "seen": None}
    for person in (rev, bob):
        item = person.post("/api/review/open", json={"task": ranked[0]}).json()
        assert item["reviews"] == []
    first, second = ({**body, "request_id": f"review-request-{number}"} for number in (1, 2))
    assert rev.post("/api/review/decide", json=first).json() == {"stored": True}
    reply = bob.post("/api/review/decide", json=second)
    assert reply.status_code == 409
    assert reply.json() == {"error": "somebody has reviewed this task meanwhile; load it anew"}
    assert rev.post("/api/review/decide", json=first).json() == {"stored": True}
    (review,) = people.reviews.of_task(ranked[0])
    item = bob.post("/api/review/open", json={"task": ranked[0]}).json()
    assert [one["review"] for one in item["reviews"]] == [review.id]
    second["seen"] = review.id
    assert bob.post("/api/review/decide", json=second).json() == {"stored": True}
    assert len(people.reviews.of_task(ranked[0])) == 2


def test_a_page_that_doesnt_say_what_it_saw_has_seen_nothing(rev, ranked, people):
    body = {"task": ranked[0], "verdict": "send_back"}
    statuses = [
        rev.post("/api/review/decide", json={**body, "request_id": f"review-{n}-request"})
        for n in (1, 2)
    ]
    assert [reply.status_code for reply in statuses] == [200, 409]
    assert len(people.reviews.of_task(ranked[0])) == 1


def test_a_note_reaches_the_person_it_is_about(rev, as_person, ranked):
    item = rev.post("/api/review/open", json={"task": ranked[0]}).json()
    chosen = next(one for one in item["rankings"] if one["decision"]["comment"] == "by a")
    body = {
        "task": ranked[0],
        "request_id": "review-request-1",
        "verdict": "accept",
        "ranking": chosen["ranking"],
        "note": "well seen",
    }
    assert rev.post("/api/review/decide", json=body).status_code == 200
    notes = [row["notes"] for row in as_person("ann").get("/api/mine").json()["rankings"]]
    assert sorted(notes) == [[], ["well seen"]]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"verdict": "love"}, 422),
        ({"verdict": "override", "ranks": None}, 422),
        ({"verdict": "override", "ranks": [1, 2, 3]}, 400),
        ({"verdict": "override", "ranks": [0, 1, 2, 3]}, 422),
        ({"verdict": "override", "ranks": [1, 2, 3, "x"]}, 422),
        ({"verdict": "accept"}, 422),
        ({"verdict": "accept", "ranking": 10_000}, 422),
        ({"verdict": "send_back", "note": "x" * 10_000}, 422),
        ({"task": 10_000}, 422),
        ({"task": 2**31}, 400),
        ({"request_id": "x"}, 422),
        ({"seen": 0}, 400),
        ({"seen": "1"}, 400),
        ({"seen": 10_000}, 409),
        ({"reviewer": "ann"}, 400),
    ],
)
def test_reviews_that_cant_be_are_refused(rev, ranked, people, change, status):
    body = {"task": ranked[0], "request_id": "review-request-1", "verdict": "send_back"}
    reply = rev.post("/api/review/decide", json={**body, **change})
    assert (reply.status_code, set(reply.json())) == (status, {"error"})
    assert people.reviews.of_task(ranked[0]) == ()


# -- admins ----------------------------------------------------------------------------------------


def test_admins_see_figures_with_names(adm, ranked, people):
    figures = adm.get("/api/admin/figures").json()
    assert (figures["tasks"], figures["done"], figures["open"]) == (2, 2, 0)
    names = {person["pseudonym"]: person for person in figures["people"]}
    ann = names[people.pseudonym("ann")]
    assert (ann["name"], ann["state"], ann["rankings"]) == ("ann", "active", 2)
    assert "NaN" not in adm.get("/api/admin/figures").text


def test_a_paused_task_is_given_to_nobody(adm, as_person, people, new_task):
    (number,) = people.add_tasks([new_task(1)]).ids
    body = {"task": number, "paused": True}
    assert adm.post("/api/admin/pause-task", json=body).json() == body
    ann = as_person("ann")
    assert ann.post("/api/next", json={}).json()["status"] == "done"
    (paused,) = adm.get("/api/admin/tasks?state=paused").json()["tasks"]
    assert paused == {
        "task": number,
        "prompt_excerpt": "prompt 1",
        "completions": 4,
        "pool": paused["pool"],
        "priority": 0.0,
        "overlap": 1,
        "done": 0,
        "paused": True,
    }
    adm.post("/api/admin/pause-task", json=body | {"paused": False})
    assert ann.post("/api/next", json={}).json()["status"] == "task"
    assert adm.post("/api/admin/pause-task", json=body | {"task": 999}).status_code == 422


def test_tasks_are_listed_by_state_in_pages(adm, people, new_task, ranked):
    people.add_tasks([new_task(number) for number in range(10, 70)])
    page = adm.get("/api/admin/tasks").json()
    assert (len(page["tasks"]), page["more"]) == (50, True)
    numbers = [task["task"] for task in page["tasks"]]
    assert numbers == sorted(numbers, reverse=True)
    rest = adm.get(f"/api/admin/tasks?state=open&before={numbers[-1]}").json()
    assert (len(rest["tasks"]), rest["more"]) == (10, False)
    done = adm.get("/api/admin/tasks?state=done").json()["tasks"]
    assert [task["task"] for task in done] == [ranked[1], ranked[0]]


def test_a_paused_person_gets_no_task_until_they_go_on(adm, as_person, people, new_task):
    people.add_tasks([new_task(1)])
    ann, pseudonym = as_person("ann"), people.people.account("ann").pseudonym
    body = {"pseudonym": pseudonym, "paused": True}
    assert adm.post("/api/admin/pause-person", json=body).json() == body
    assert ann.post("/api/next", json={}).json()["status"] == "paused"
    adm.post("/api/admin/pause-person", json=body | {"paused": False})
    assert ann.post("/api/next", json={}).json()["status"] == "task"
    people.people.set_state("bob", "disabled")
    disabled = {"pseudonym": people.people.account("bob").pseudonym, "paused": False}
    for wrong in (disabled, body | {"pseudonym": "ann"}, body | {"pseudonym": "x"}):
        assert adm.post("/api/admin/pause-person", json=wrong).status_code == 422
    assert people.people.account("bob").state == "disabled"


@pytest.mark.parametrize("format_", ["rankings", "trl"])
@pytest.mark.parametrize("aggregate", ["none", "majority"])
@pytest.mark.parametrize("split", ["all", "train"])
def test_an_export_is_that_of_the_command_line(
    adm, ranked, people, tmp_path, format_, aggregate, split
):
    spec = {"format": format_, "aggregate": aggregate, "split": split}
    output = tmp_path / "out.jsonl"
    export_rankings(RankingsExportConfig(store=people.place, output=str(output), **spec))
    reply = adm.get("/api/admin/export", params=spec)
    assert reply.content == output.read_bytes()
    name = f'attachment; filename="{format_}-{aggregate}-{split}.jsonl"'
    assert reply.headers["content-disposition"] == name
    preview = adm.post("/api/admin/export-preview", json=spec).json()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert preview["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert (preview["rows"], preview["sample"]) == (len(rows), rows[:5])


def test_a_preview_counts_pairs_and_ties(adm, ranked):
    preview = adm.post("/api/admin/export-preview", json={}).json()
    assert preview["rows"] == 4
    assert preview["pairs"] == 6 + 6 + 5 + 5
    assert preview["ties"] == 0 + 0 + 1 + 1


def test_an_export_of_nothing_is_refused(adm, ranked):
    for reply in (
        adm.post("/api/admin/export-preview", json={"pool": "gold"}),
        adm.get("/api/admin/export?pool=gold"),
    ):
        assert (reply.status_code, "nothing to export" in reply.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    "query",
    [
        "format=xml",
        "aggregate=all",
        "split=half",
        "format=trl&format=trl",
        "output=/etc/passwd",
        "store=/etc/passwd",
        "eval_fraction=2",
    ],
)
def test_exports_that_cant_be_are_refused(adm, ranked, query):
    assert adm.get(f"/api/admin/export?{query}").status_code == 400


def test_the_audit_log_tells_who_did_what(adm, ranked, people, as_person):
    adm.get("/api/admin/export?format=trl")
    pseudonym = people.people.account("ann").pseudonym
    adm.post("/api/admin/pause-person", json={"pseudonym": pseudonym, "paused": True})
    adm.post("/api/admin/pause-task", json={"task": ranked[0], "paused": True})
    people.people.set_role("bob", "reviewer")
    people.people.erase("bob")
    answer = adm.get("/api/admin/audit").json()
    told = [(entry["kind"], entry["actor"]) for entry in answer["entries"]]
    assert told[:5] == [
        ("erased", None),
        ("role_changed", None),
        ("task_paused", "adm"),
        ("state_changed", "adm"),
        ("export", "adm"),
    ]
    export = answer["entries"][4]["data"]
    assert (export["format"], export["rows"]) == ("trl", 22)
    stored = json.dumps([dict(entry.data) for entry in people.people.audit(500)])
    for name in ("ann", "bob", "adm"):
        assert f'"{name}"' not in stored


def test_the_audit_log_is_read_in_pages(adm, people):
    for number in range(60):
        people.people.note("tried", number=number)
    page = adm.get("/api/admin/audit").json()
    assert (len(page["entries"]), page["more"]) == (50, True)
    rest = adm.get(f"/api/admin/audit?before={page['entries'][-1]['id']}").json()
    assert rest["more"] is False
    numbers = [entry["data"].get("number") for entry in page["entries"] + rest["entries"]]
    assert numbers[:60] == list(range(59, -1, -1))


@pytest.mark.parametrize("query", ["before=x", "before=-1", "before=0", "before=9999999999", "x=1"])
def test_pages_that_cant_be_are_refused(adm, query):
    for path in ("/api/admin/audit", "/api/admin/tasks", "/api/mine"):
        assert adm.get(f"{path}?{query}").status_code == 400
