"""Strict readers: what is taken as it stands, and every fault with its file and line."""

import csv
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.data.readers import read_demonstrations, read_prompts, read_rankings
from rlhf.errors import DataError
from rlhf.records import Message

DEMO = {"prompt": "Say hi.", "completion": "Hi."}
RANKING = {"prompt": "Say hi.", "completions": ["Hi.", "Go away."], "ranks": [1, 2]}


def jsonl(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def refused(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


# -- what is read ---------------------------------------------------------------------------------


def test_demonstrations_in_all_forms(tmp_path: Path):
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Farewell."},
    ]
    plain, chat, pair, listed = read_demonstrations(
        jsonl(
            tmp_path,
            DEMO | {"task": "greet"},
            {"messages": turns},
            {"prompt": turns[:2], "completion": "Hello."},
            {"prompt": turns[:2], "completion": turns[2:3]},
        )
    )
    assert (plain.prompt.text, plain.completion, plain.task) == ("Say hi.", "Hi.", "greet")
    assert chat.completion == "Farewell."
    assert chat.prompt.messages[-1] == Message("user", "Bye")
    assert pair == listed
    assert chat.task is None


def test_prompts_come_from_prompt_and_demonstration_rows(tmp_path: Path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    rows = [{"prompt": "Hi"}, {"prompt": turns[:1], "completion": "x"}, {"messages": turns}]
    rows.append({"messages": turns[:1]})
    assert [prompt.text for prompt in read_prompts(jsonl(tmp_path, *rows))] == ["Hi"] * 4


def test_rankings_with_all_they_may_carry(tmp_path: Path):
    row = {
        "prompt": "p",
        "completions": ["a", "b", "c"],
        "ranks": [2, 1, None],
        "annotator": "ann",
        "id": "r1",
        "flags": [[], ["unsafe"], []],
        "strengths": [2],
        "simulated": True,
        "action": "all_bad",
        "others_worse": True,
        "meta": {"seconds": 3.5},
    }
    (ranking,) = read_rankings(jsonl(tmp_path, row))
    assert ranking.completions == ("a", "b", "c")
    assert ranking.ranks == (2, 1, None)
    assert (ranking.annotator, ranking.id, ranking.action) == ("ann", "r1", "all_bad")
    assert ranking.flags == ((), ("unsafe",), ())
    assert (ranking.strengths, ranking.simulated, ranking.others_worse) == ((2,), True, True)
    assert ranking.meta == {"seconds": 3.5}


def test_preference_pairs_are_rankings_of_two(tmp_path: Path):
    question = [{"role": "user", "content": "Hi"}]
    good, bad = [{"role": "assistant", "content": "Yes."}], [{"role": "assistant", "content": "No"}]
    rankings = read_rankings(
        jsonl(
            tmp_path,
            {"prompt": "Hi", "chosen": "Yes.", "rejected": "No"},
            {"prompt": question, "chosen": good, "rejected": bad},
            {"chosen": question + good, "rejected": question + bad},
        )
    )
    assert rankings[0] == rankings[1] == rankings[2]
    assert rankings[0].completions == ("Yes.", "No")
    assert list(rankings[0].strict_pairs()) == [(0, 1)]


TRICKY = [
    "NA",
    "null",
    "001",
    "1e5",
    "NaN",
    "true",
    "2026-01-01",
    "-",
    " x ",
    "1,5",
    'a"b',
    "é漢🙂",
]


@pytest.mark.parametrize("text", TRICKY)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_text_stays_text(tmp_path: Path, suffix: str, text: str):
    path = tmp_path / f"rows.{suffix}"
    row = {"prompt": text, "completion": text}
    if suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(row), list(row.values())])
    elif suffix == "parquet":
        to_parquet(path, [row])
    else:
        path.write_text(json.dumps(row), encoding="utf-8")
    (demonstration,) = read_demonstrations(path)
    assert (demonstration.prompt.text, demonstration.completion) == (text, text)


def to_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_all_formats_give_the_same_rankings(tmp_path: Path):
    rows = [RANKING, RANKING | {"ranks": [1, None], "annotator": "ann", "simulated": True}]
    expected = read_rankings(jsonl(tmp_path, *rows))
    with (tmp_path / "r.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "completions", "ranks", "annotator", "simulated"])
        for row in rows:
            writer.writerow(
                [
                    row["prompt"],
                    json.dumps(row["completions"]),
                    json.dumps(row["ranks"]),
                    row.get("annotator", ""),
                    "True" if row.get("simulated") else "",
                ]
            )
    assert read_rankings(tmp_path / "r.csv") == expected
    to_parquet(tmp_path / "r.parquet", [{"annotator": None, "simulated": None} | r for r in rows])
    assert read_rankings(tmp_path / "r.parquet") == expected


def test_a_saved_dataset_is_read(tmp_path: Path):
    import datasets

    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    dataset = datasets.Dataset.from_list([{"messages": turns, "task": None}])
    dataset.save_to_disk(str(tmp_path / "one"))
    (demonstration,) = read_demonstrations(tmp_path / "one")
    assert (demonstration.prompt.text, demonstration.completion) == ("Hi", "Hello.")
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "splits"))
    assert "several splits; give one of train" in refused(read_prompts, tmp_path / "splits")
    assert len(read_prompts(tmp_path / "splits" / "train")) == 1
    assert "not one of datasets' save_to_disk" in refused(read_prompts, tmp_path)
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"junk")
    assert "not a readable datasets folder" in refused(read_prompts, tmp_path / "one")


def test_byte_order_marks_crlf_and_blank_lines_are_fine(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    row = json.dumps(DEMO).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \r\n" + row)
    assert len(read_demonstrations(path)) == 2


# -- where the fault is ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_the_line_named_is_the_one_an_editor_shows(tmp_path: Path, at: int, mark: str, end: str):
    lines = [json.dumps(DEMO), "", json.dumps(DEMO), "   ", json.dumps(DEMO)]
    lines[at - 1] = '{"prompt": "a\\nb\u2028", "completion": 3}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes((mark + end.join(lines)).encode())
    assert refused(read_demonstrations, path).startswith(f":{at}: 'completion' must be text")


def test_quoted_line_breaks_count_in_csv(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,completion\r\n"a\r\nb",c\r\n\r\n"d\ne\nf",\r\n')
    # line 1 header, 2-3 first row, 4 blank, the row with the empty completion begins in line 5
    assert refused(read_demonstrations, path).startswith(":5: 'completion' is empty")


def test_rows_are_counted_in_parquet(tmp_path: Path):
    to_parquet(tmp_path / "rows.parquet", [DEMO, DEMO | {"completion": " "}])
    assert refused(read_demonstrations, tmp_path / "rows.parquet").startswith(
        ": row 2: 'completion' is empty"
    )


# -- faults of fields -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "'completion' is missing"),
        ({"completion": "c"}, "'prompt' is missing"),
        (DEMO | {"completoin": "x"}, "unknown field 'completoin'; did you mean 'completion'?"),
        (DEMO | {"zzz": 1}, "unknown field 'zzz'; known: prompt, completion, messages, task"),
        (DEMO | {"prompt": None}, "'prompt' must be text or a list of messages, not null"),
        (DEMO | {"prompt": 3}, "'prompt' must be text or a list of messages, not int"),
        (DEMO | {"prompt": []}, "'prompt' has no messages"),
        (DEMO | {"prompt": "\u200b \u2060"}, "'prompt' is empty"),
        (DEMO | {"completion": "\ufeff"}, "'completion' is empty; a demonstration needs"),
        (DEMO | {"completion": "a\0b"}, "'completion' holds a NUL character"),
        (DEMO | {"task": 3}, "'task' must be text, not int"),
        (DEMO | {"messages": []}, "has 'messages' and 'prompt'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "must hold a prompt and end with"),
        ({"messages": "x"}, "'messages' must be a list, not str"),
        (DEMO | {"prompt": [{"role": "user"}]}, "prompt: 'content' is missing"),
        (DEMO | {"prompt": [{"role": "bot", "content": "x"}]}, "role 'bot' is not one of system"),
        (DEMO | {"prompt": [{"role": "user", "contnet": "x"}]}, "did you mean 'content'?"),
        (DEMO | {"prompt": [{"role": "user", "content": 1}]}, "must be text, not int"),
        (DEMO | {"prompt": ["x"]}, "a message must be an object, not str"),
        (
            DEMO | {"prompt": [{"role": "assistant", "content": "x"}]},
            "'prompt' ends with an assistant message",
        ),
        (RANKING, "this is a ranking, but demonstrations are wanted here"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "rankings are for the reward stage"),
        ('{"prompt": "p", "completion": "c", "prompt": "q"}', "'prompt' is given twice"),
        ('{"prompt": "p", "completion": NaN}', "NaN is not a JSON number"),
        ('{"prompt": "p", "completion": "\\ud800"}', "lone surrogate"),
        ('{"prompt": "p", "completion": "c"', "not valid JSON at column 34"),
        ('{"prompt": "p", "completion": "c"} {}', "not valid JSON at column 36"),
        ("[1]", "a JSON list; write one object per line"),
        ('"text"', "str instead of an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"task": ' + "9" * 5000 + "}", "a number too long"),
    ],
)
def test_faulty_demonstrations_are_refused(tmp_path: Path, row: object, message: str):
    text = refused(read_demonstrations, jsonl(tmp_path, DEMO, row))
    assert text.startswith(":2: ")
    assert message in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (DEMO, "this is a demonstration, not a ranking"),
        ({"messages": []}, "demonstrations are for the sft stage"),
        (RANKING | {"ranks": [1]}, "'ranks' has 1 entries for 2 completions"),
        (RANKING | {"ranks": [1, 3]}, "rank 3 is not a whole number from 1 to 2"),
        (RANKING | {"ranks": [1, 1.0]}, "rank 1.0 is not a whole number"),
        (RANKING | {"ranks": [1, True]}, "rank True is not a whole number"),
        (RANKING | {"ranks": "12"}, "'ranks' must be a list, not str"),
        (RANKING | {"completions": ["a"]}, "'completions' has 1 entries; a ranking needs 2 to 9"),
        (RANKING | {"completions": ["a", 1]}, "'completions[1]' must be text, not int"),
        (RANKING | {"rank": [1, 2]}, "unknown field 'rank'; did you mean 'ranks'?"),
        (RANKING | {"flags": [[]]}, "'flags' has 1 entries for 2 completions"),
        (RANKING | {"flags": [[], "x"]}, "'flags' must be a list, not str"),
        (RANKING | {"strengths": [-1]}, "'strengths' holds -1"),
        (RANKING | {"action": "like"}, "'action' is 'like'; known: rank, all_bad"),
        (RANKING | {"simulated": "yes"}, "'simulated' must be true or false, not 'yes'"),
        (RANKING | {"id": 7}, "'id' must be text, not int"),
        (RANKING | {"meta": []}, "'meta' must be an object, not list"),
        ({"prompt": "p", "chosen": "a"}, "'rejected' is missing"),
        ({"chosen": "a", "rejected": "b"}, "'prompt' is missing"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "chossen": 1}, "did you mean 'chosen'?"),
        (
            {
                "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}],
                "rejected": [
                    {"role": "user", "content": "y"},
                    {"role": "assistant", "content": "b"},
                ],
            },
            "answer different prompts",
        ),
        (
            {"prompt": "p", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"},
            "'chosen' must be text or exactly one assistant message",
        ),
    ],
)
def test_faulty_rankings_are_refused(tmp_path: Path, row: object, message: str):
    text = refused(read_rankings, jsonl(tmp_path, RANKING, row))
    assert text.startswith(":2: ")
    assert message in text


def test_a_ranking_file_given_as_prompts_is_named(tmp_path: Path):
    assert "this is a ranking, but prompts are wanted" in refused(
        read_prompts, jsonl(tmp_path, RANKING)
    )


# -- faults of files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": has no rows"),
        (b"\n \r\n", ": has no rows"),
        ('{"prompt": "p"}'.encode("utf-16"), ":1: is UTF-16; save it as UTF-8"),
        ('{"prompt": "p"}'.encode("utf-16-le"), ":1: looks like UTF-16 without a mark"),
        ('{"prompt": "p"}'.encode("utf-32"), ":1: is UTF-32"),
        (b'\n{"prompt": "caf\xe9"}', ":2: byte 0xe9 at position 16 is not UTF-8 (Latin-1"),
        (b'{"prompt": "\xc0\xaf"}', ":1: byte 0xc0"),  # an overlong encoding of "/"
        (b'{"prompt": "a\x00"}', ":1: holds NUL bytes"),
        (b"PAR1....", ": is a Parquet file; name it .parquet"),
        (b"\x1f\x8b\x08\x00", ": is gzip-compressed; unpack it first"),
        (b"SQLite format 3\x00", ": is an SQLite database"),
    ],
)
def test_files_that_are_not_utf8_text_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert refused(read_prompts, path).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,prompt\na,b\n", ":1: two columns are named 'prompt'"),
        ("prompt,\na,b\n", ":1: a column has no name"),
        ("prompt\na,b\n", ":2: 2 cells, but the header names 1 columns"),
        ('prompt\n"a\n', ":2: not valid CSV"),
        ('prompt\n"a"b\n', ":2: not valid CSV"),
        ("prompt\n", ": has no rows"),
        ("", ": has no rows"),
        ("promt\na\n", ":2: unknown field 'promt'; did you mean 'prompt'?"),
        ("messages\nnope\n", ":2: 'messages': not valid JSON"),
    ],
)
def test_faulty_csv_is_refused(tmp_path: Path, content: str, message: str):
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    assert refused(read_prompts, path).startswith(message)


def test_a_csv_cell_may_be_long_and_the_modules_limit_stays(tmp_path: Path):
    limit = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    path.write_text("prompt\n" + "x" * 200_000 + "\n", encoding="utf-8")
    assert len(read_prompts(path)[0].text) == 200_000
    assert csv.field_size_limit() == limit


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "p"}\n')
        file.truncate(2**30)  # a hole of 1 GiB
    assert refused(read_prompts, path).startswith(":2: longer than 16 MiB")


def test_missing_files_and_unknown_suffixes_are_named(tmp_path: Path):
    assert refused(read_prompts, tmp_path / "x.jsonl") == ": no such file"
    (tmp_path / "x.tsv").touch()
    assert "can't read files named '.tsv'; known: .jsonl" in refused(
        read_prompts, tmp_path / "x.tsv"
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"junk" * 10])
def test_broken_parquet_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    assert "not a readable Parquet file" in refused(read_prompts, path)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    to_parquet(path, [DEMO] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable Parquet file" in refused(read_prompts, path)


# -- anything at all ------------------------------------------------------------------------------

TEXT = st.text(max_size=8) | st.sampled_from(["", " ", "user", "assistant", "\ud800", "\0", "x"])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = ["prompt", "completion", "messages", "completions", "ranks", "chosen", "rejected"]
OTHER_NAMES = ["task", "flags", "strengths", "id", "meta", "action", "simulated", "promt"]
FIELD = st.sampled_from([*NAMES, *OTHER_NAMES])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.dictionaries(FIELD, VALUE, max_size=4), max_size=3), raw=st.binary(max_size=9)
)
def test_no_row_makes_anything_but_a_data_error(tmp_path: Path, rows: list[Any], raw: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(json.dumps(row) for row in rows).encode() + b"\n" + raw)
    survive(path)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(alphabet='",\r\n' + string.ascii_lowercase[:4] + "é[]{}1:", max_size=60))
def test_no_csv_makes_anything_but_a_data_error(tmp_path: Path, text: str):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completions,ranks\n" + text, encoding="utf-8", newline="")
    survive(path)


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        assert read(path)
    except DataError as error:
        return str(error)
    return None


def survive(path: Path) -> None:
    for read in (read_demonstrations, read_prompts, read_rankings):
        error = refusal(read, path)
        assert error is None or error.startswith(str(path))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    prompt=st.text(min_size=1),
    texts=st.lists(st.text(), min_size=2, max_size=9),
    data=st.data(),
)
def test_what_is_clean_comes_back_unchanged(
    tmp_path: Path, prompt: str, texts: list[str], data: Any
):
    rank = st.none() | st.integers(1, len(texts))
    ranks = data.draw(st.lists(rank, min_size=len(texts), max_size=len(texts)))
    path = jsonl(tmp_path, {"prompt": prompt, "completions": texts, "ranks": ranks})
    error = refusal(read_rankings, path)
    if error is not None:
        assert "is empty" in error or "NUL" in error
        return
    (ranking,) = read_rankings(path)
    assert ranking.prompt.text == prompt
    assert (list(ranking.completions), list(ranking.ranks)) == (texts, ranks)
