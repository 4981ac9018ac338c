"""Import: each format as its tool writes it, the same file twice, and one line for the rest."""

import json
import subprocess
import sys

import pytest

from rlhf.cli import main
from rlhf.config import RankingsImportConfig
from rlhf.errors import DataError
from rlhf.rankings.importing import import_rankings
from rlhf.records import Message
from rlhf.store import RankingStore

USER = {"role": "user", "content": "Hi"}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: See you",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: No",
}
TRL_ROWS = [
    {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
    {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": "fine"}],
        "rejected": [{"role": "assistant", "content": "poor"}],
        "score_chosen": 8.5,
    },
    {
        "chosen": [USER, {"role": "assistant", "content": "great"}],
        "rejected": [USER, {"role": "assistant", "content": "awful"}],
    },
]


def message(text, role="assistant", replies=(), **rest):
    return {"message_id": f"id of {text}", "text": text, "role": role, "replies": [*replies]} | rest


TREE = {
    "message_tree_id": "t",
    "tree_state": "ready_for_export",
    "prompt": message(
        "Hi",
        "prompter",
        [
            message("second", rank=1),
            message(
                "first",
                rank=0,
                replies=[
                    message(
                        "And now?",
                        "prompter",
                        [message("x", rank=2), message("y", rank=0), message("z", rank=None)],
                    )
                ],
            ),
            message("gone", rank=2, deleted=True),
        ],
    ),
}


def ranks_of(first, second):
    """A ranking as Argilla stores it: in the order of the question, whatever the ranks."""
    return [{"value": "response-1", "rank": first}, {"value": "response-2", "rank": second}]


def response(person, ranks, status="submitted", **rest):
    values = {"ranking": {"value": ranks}} | {
        name: {"value": value} for name, value in rest.items()
    }
    return {"user_id": person, "status": status, "values": values}


ARGILLA = {
    "id": "1",
    "status": "completed",
    "fields": {"instruction": "Hi", "response-1": "one", "response-2": "two"},
    "metadata": None,
    "responses": [
        response("user-a", ranks_of(2, 1), comment="well", good=["response-1", "response-2"]),
        response("user-b", ranks_of(1, 1)),
        response("user-c", ranks_of(1, 2), "draft"),
        response("user-d", [{"value": "response-1"}], "discarded"),
        {"user_id": "user-e", "status": "discarded", "values": None},
    ],
}
SDK = ARGILLA | {
    "responses": {
        "ranking": [{"value": ["response-1", "response-2"], "user_id": "user-a"}],
        "comment": [{"value": "well", "user_id": "user-a"}],
    }
}
LABEL_STUDIO = {
    "id": 1,
    "data": {
        "prompt": "Hi",
        "items": [{"id": "m", "title": "1", "body": "one"}, {"id": "n", "body": "two"}],
    },
    "annotations": [
        {
            "completed_by": 7,
            "was_cancelled": False,
            "result": [
                {
                    "from_name": "rank",
                    "to_name": "items",
                    "type": "ranker",
                    "value": {"ranker": {"rank": ["n", "m"]}},
                }
            ],
        },
        {"completed_by": 8, "was_cancelled": True, "result": []},
    ],
}


def ranker(**changes):
    """Our task of Label Studio with a ranker that differs."""
    [ranked, cancelled] = LABEL_STUDIO["annotations"]
    ranked = ranked | {"result": [ranked["result"][0] | changes]}
    return LABEL_STUDIO | {"annotations": [ranked, cancelled]}


def load(path, store, **rest):
    figures = import_rankings(RankingsImportConfig(input=path, store=str(store), **rest))
    with RankingStore.open(store, create=False) as opened:
        return figures, list(opened.rankings())


def said(ranking):
    """What a ranking says: its prompt, and its completions with their ranks."""
    answers = dict(zip(ranking.completions, ranking.ranks, strict=True))
    return ranking.prompt.to_json(), answers


def test_hh_transcripts_become_turns_and_two_answers(write, store_path):
    figures, [ranking] = load(write("hh.jsonl", HH), store_path)
    assert (figures["format"], figures["added"]) == ("hh", 1)
    assert ranking.prompt.messages == (
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
    )
    assert said(ranking)[1] == {"See you": 1, "No": 2}
    assert ranking.annotator == "unknown-1"
    assert ranking.meta["task_meta"] == {"source": "hh"}
    assert len(ranking.id) == 64


UNFINISHED = HH | {"rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye"}
EMPTY_TURN = {side: text.replace("Hello", "") for side, text in HH.items()}
ANSWERED_TWICE = {side: text.replace("Human: Bye", "Assistant: Bye") for side, text in HH.items()}


def test_hh_rows_that_nobody_can_rank_are_left_out_and_counted(write, store_path):
    rows = [
        UNFINISHED,
        {side: f"{text}\n\nHuman:" for side, text in HH.items()},
        {"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Hi"},
        EMPTY_TURN,
        EMPTY_TURN | {"rejected": HH["rejected"]},
        {side: text.replace("Hi", " ") for side, text in HH.items()},
        ANSWERED_TWICE,
        HH,
    ]
    figures, [ranking] = load(write("hh.jsonl", *rows), store_path)
    assert {name: count for name, count in figures.items() if "left" in name} == {
        "left out (no last answer)": 3,
        "left out (empty turn)": 3,
        "left out (answered twice)": 1,
    }
    assert said(ranking)[1] == {"See you": 1, "No": 2}


def test_trl_rows_of_text_messages_and_implicit_prompts(write, store_path):
    figures, rankings = load(write("trl.jsonl", *TRL_ROWS), store_path)
    assert figures["format"] == "trl"
    assert [said(ranking) for ranking in rankings] == [
        ("Hi", {"good": 1, "bad": 2}),
        ("Hi", {"fine": 1, "poor": 2}),
        ("Hi", {"great": 1, "awful": 2}),
    ]


def test_an_implicit_prompt_of_text_is_split_as_trl_does(write, store_path):
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    _, [ranking] = load(write("trl.jsonl", row), store_path)
    assert said(ranking) == ("The sky is", {" blue.": 1, " green.": 2})


def test_every_ranked_group_of_a_tree_is_a_ranking(write, store_path):
    figures, rankings = load(write("a.trees.jsonl", TREE), store_path)
    assert figures["format"] == "oasst"
    assert [said(ranking) for ranking in rankings] == [
        ("Hi", {"first": 1, "second": 2}),
        (
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "first"},
                {"role": "user", "content": "And now?"},
            ],
            {"y": 1, "x": 2},
        ),
    ]


def test_argilla_records_hold_ranks_of_those_who_submitted(tmp_path, store_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([ARGILLA]))
    figures, rankings = load(str(path), store_path)
    assert figures["format"] == "argilla"
    assert {ranking.annotator: said(ranking) for ranking in rankings} == {
        "user-a": ("Hi", {"one": 2, "two": 1}),
        "user-b": ("Hi", {"one": 1, "two": 1}),
    }


def test_argilla_responses_by_question_without_a_status_are_submitted(write, store_path):
    """As in the SDK's export, which drops ranks, and somebody has put them back."""
    given = {"ranking": [{"value": ranks_of(2, 1), "user_id": "user-a"}]}
    _, [ranking] = load(write("rows.jsonl", SDK | {"responses": given}), store_path)
    assert (ranking.annotator, said(ranking)) == ("user-a", ("Hi", {"one": 2, "two": 1}))


def test_label_studio_tasks_name_who_ranked(tmp_path, store_path):
    path = tmp_path / "export.json"
    path.write_text(json.dumps([LABEL_STUDIO], indent=2))
    figures, [ranking] = load(str(path), store_path)
    assert figures["format"] == "label-studio"
    assert ranking.annotator == "label-studio-7"
    assert said(ranking) == ("Hi", {"one": 2, "two": 1})


def test_our_own_rankings_keep_what_they_say(write, store_path, people_store, tmp_path):
    out = tmp_path / "out.jsonl"
    with RankingStore.open(people_store) as store:
        store.export_jsonl(out)
        before = store.fingerprint()
    figures, _ = load(str(out), tmp_path / "other.sqlite")
    assert (figures["format"], figures["added"]) == ("rlhf", 7)
    with RankingStore.open(tmp_path / "other.sqlite") as other:
        assert other.fingerprint() == before


@pytest.mark.parametrize("rows", [[HH], TRL_ROWS, [TREE], [ARGILLA], [LABEL_STUDIO]])
def test_the_same_file_twice_adds_nothing(rows, write, store_path):
    path = write("rows.jsonl", *rows)
    first, before = load(path, store_path)
    second, after = load(path, store_path)
    assert first["added"] == second["known already"] > 0
    assert second["added"] == 0
    assert before == after


def test_nameless_rankings_of_a_task_never_replace_each_other(write, store_path):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    turned = {"prompt": "Hi", "chosen": "b", "rejected": "a"}
    load(write("one.jsonl", row, row), store_path)
    figures, rankings = load(write("two.jsonl", turned, row), store_path)
    assert (figures["added"], figures["known already"]) == (1, 1)
    assert sorted(ranking.annotator for ranking in rankings) == [
        "unknown-1",
        "unknown-2",
        "unknown-3",
    ]
    assert {ranking.meta["revision"] for ranking in rankings} == {1}


def test_a_persons_later_ranking_corrects_the_earlier(write, store_path):
    rows = [
        {"prompt": "Hi", "chosen": one, "rejected": other, "annotator": "ann"}
        for one, other in ("ab", "ba")
    ]
    _, [ranking] = load(write("trl.jsonl", *rows), store_path)
    assert said(ranking) == ("Hi", {"b": 1, "a": 2})


def test_equal_answers_are_left_out_and_counted(write, store_path):
    rows = [TRL_ROWS[0], {"prompt": "Hi", "chosen": "same", "rejected": "same"}]
    figures, rankings = load(write("trl.jsonl", *rows), store_path)
    assert figures["left out (equal answers)"] == 1
    assert len(rankings) == 1


def test_a_tree_whose_prompt_is_deleted_is_left_out_and_counted(write, store_path):
    gone = TREE | {"prompt": TREE["prompt"] | {"text": "Gone", "deleted": True}}
    figures, rankings = load(write("a.trees.jsonl", gone, TREE), store_path)
    assert figures["left out (deleted)"] == 1
    assert figures["added"] == len(rankings) == 2
    assert all(ranking.prompt.messages[0].content == "Hi" for ranking in rankings)


MISTAKES = [
    ([{"text": "x"}], "rows.jsonl:1: rows with 'text' are of no known format; give --format"),
    ([HH, HH | {"rejected": "No"}], "rows.jsonl:2: 'rejected' must begin with a blank line"),
    ([UNFINISHED, EMPTY_TURN], "rows.jsonl: holds no rankings"),
    ([UNFINISHED, HH | {"prompt": "Hi"}], "rows.jsonl:2: unknown field 'prompt'"),
    (
        [HH, HH | {"rejected": HH["rejected"].replace("Hello", "Hey")}],
        "rows.jsonl:2: 'chosen' and 'rejected' differ before their last answer",
    ),
    ([TRL_ROWS[0], {"prompt": "Hi", "chosen": "a"}], "rows.jsonl:2: 'rejected' is missing"),
    ([TRL_ROWS[0] | {"images": ["x"]}], "rows.jsonl:1: 'images' can't be ranked here"),
    ([{"chosen": "a", "rejected": "ab"}], "rows.jsonl:1: one of 'chosen' and 'rejected' begins"),
    ([TRL_ROWS[0] | {"annotator": "x" * 65}], "rows.jsonl:1: annotator name"),
    ([TREE | {"prompt": "Hi"}], "rows.jsonl:1: 'prompt' holds no message tree"),
    (
        [TREE | {"prompt": message("Hi", "prompter", [message("a"), message("b", "robot")])}],
        "rows.jsonl:1: role 'robot' is not one of prompter, assistant",
    ),
    (
        [TREE | {"prompt": message("Hi", ["prompter"])}],
        "rows.jsonl:1: 'role' must be text, not list",
    ),
    (
        [TREE | {"prompt": message("Hi", {})}],
        "rows.jsonl:1: 'role' must be text, not dict",
    ),
    ([TREE | {"prompt": TREE["prompt"] | {"deleted": True}}], "rows.jsonl: holds no rankings"),
    ([SDK], "rows.jsonl:1: 'response-1' has no rank; Argilla's SDK 2 lists names"),
    (
        [ARGILLA | {"responses": [response("user-a", [{"value": "response-1"}] * 2)]}],
        "rows.jsonl:1: 'response-1' has no rank; Argilla's SDK 2 lists names",
    ),
    (
        [ARGILLA | {"responses": [response("user-a", ranks_of(1, None))]}],
        "rows.jsonl:1: 'response-2' has no rank; Argilla's SDK 2 lists names",
    ),
    ([ARGILLA | {"responses": None}], "rows.jsonl:1: 'responses' must be a list, not null"),
    ([ARGILLA | {"fields": []}], "rows.jsonl:1: 'fields' must be an object, not list"),
    (
        [ARGILLA | {"responses": [response("user-a", ranks_of(1, 2), ["draft"])]}],
        "rows.jsonl:1: 'status' must be text, not list",
    ),
    (
        [ARGILLA | {"responses": [response("user-a", []) | {"values": ["x"]}]}],
        "rows.jsonl:1: 'values' must be an object, not list",
    ),
    ([ARGILLA | {"responses": []}], "rows.jsonl: holds no rankings"),
    (
        [ARGILLA | {"fields": ARGILLA["fields"] | {"hint": "h"}}],
        "rows.jsonl:1: 2 fields are not ranked (instruction, hint)",
    ),
    ([ARGILLA | {"responses": {}}], "rows.jsonl: holds no rankings"),
    (
        [ARGILLA | {"responses": {"q": [{"value": [{"value": "x", "rank": n} for n in (1, 2)]}]}}],
        "rows.jsonl:1: 'x' is ranked, but is no field",
    ),
    (
        [LABEL_STUDIO | {"data": {"prompt": "Hi", "items": [{"id": "m", "title": "1"}]}}],
        "rows.jsonl:1: 'body' is missing",
    ),
    ([ranker(from_name=["rank"])], "rows.jsonl:1: 'from_name' must be text, not list"),
    ([ranker(from_name={})], "rows.jsonl:1: 'from_name' must be text, not dict"),
    ([ranker(from_name="other")], "rows.jsonl:1: ranker 'other' does not hold one list"),
]


@pytest.mark.parametrize(("rows", "told"), MISTAKES, ids=[told for _, told in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_no_store(rows, told, write, store_path, capsys):
    path = write("rows.jsonl", *rows)
    assert main(["rankings", "import", "--input", path, "--store", str(store_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert told in shown
    assert list(store_path.parent.iterdir()) == [store_path.parent / "rows.jsonl"]


def test_a_tree_deeper_than_python_can_walk_is_refused(tmp_path, store_path):
    replies = '{"role": "assistant", "text": "x", "replies": [' * 800 + "]}" * 800
    text = f'{{"role": "prompter", "text": "x", "replies": [{replies}]}}'
    path = tmp_path / "deep.jsonl"
    path.write_text(f'{{"message_tree_id": "t", "prompt": {text}}}')
    with pytest.raises(DataError, match=r"deep\.jsonl:1: .*too deeply"):
        load(str(path), store_path)


def test_our_own_broken_file_leaves_no_store(write, store_path):
    row = {"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 2]}
    path = write("rows.jsonl", row, row | {"ranks": [1]})
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 'ranks' has 1 entries"):
        load(path, store_path)
    assert not store_path.exists()


def test_a_json_list_is_read_with_the_line_of_each_object(tmp_path, store_path):
    path = tmp_path / "rows.json"
    path.write_text('[\n  {"prompt": "p", "chosen": "a", "rejected": "b"},\n\n  {"x": 1}\n]\n')
    with pytest.raises(DataError, match=r"rows\.json:4: 'chosen' is missing"):
        load(str(path), store_path)
    path.write_text('[{"prompt": "p", "chosen": "a", "rejected": "b"},\n {"x": 1]')
    with pytest.raises(DataError, match=r"rows\.json:2: not valid JSON"):
        load(str(path), store_path)


def test_the_commands_are_listed_and_explained(capsys):
    assert main(["rankings"]) == 0
    shown = capsys.readouterr().out
    for name in ("import", "export", "report", "verify", "backup"):
        assert f"rlhf rankings {name} " in shown
        assert main(["rankings", name, "--help"]) == 0
        assert "--store" in capsys.readouterr().out
    assert main(["rankings", "reprot"]) == 2
    assert "did you mean 'rlhf rankings report'?" in capsys.readouterr().err


def test_no_command_loads_torch(people_store, tmp_path, write):
    path = write("trl.jsonl", *TRL_ROWS)
    program = f"""
import sys
from rlhf.cli import main
store = ["--store", {str(people_store)!r}]
for arguments in (
    ["import", "--input", {path!r}],
    ["export", "--output", {str(tmp_path / "out.jsonl")!r}],
    ["report"],
    ["verify"],
    ["backup", "--output", {str(tmp_path / "copy.sqlite")!r}],
):
    assert main(["rankings", *arguments, *store]) == 0, arguments
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
