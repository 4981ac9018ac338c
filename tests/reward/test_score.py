"""Scores of a file: the reward model's own, in order, with every row as it was."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import torch

from rlhf.cli import main
from rlhf.config import ScoreConfig
from rlhf.errors import ConfigError, DataError
from rlhf.records import Prompt
from rlhf.reward import score
from rlhf.reward.score import score_file, score_rows

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TURNS += [{"role": "user", "content": "c"}]
ROWS = [
    {"prompt": "a b c", "completion": "good", "task": "t", "meta": {"n": 1}},
    {"prompt": "d", "completions": ["bad", "good good", ""], "ranks": [2, 1, None]},
    {"prompt": TURNS, "completion": "world"},
    {"messages": [*TURNS, {"role": "assistant", "content": "hello"}]},
    {"prompt": "e", "chosen": "good", "rejected": [{"role": "assistant", "content": "bad"}]},
    {"prompt": "a b c", "completion": ""},
]
TEXTS = [
    [("a b c", "good")],
    [("d", "bad"), ("d", "good good"), ("d", "")],
    [(TURNS, "world")],
    [(TURNS, "hello")],
    [("e", "good"), ("e", "bad")],
    [("a b c", "")],
]
WRITTEN = [
    ROWS[0],
    ROWS[1],
    ROWS[2],
    {"prompt": TURNS, "completion": "hello"},
    {"prompt": "e", "completions": ["good", "bad"], "ranks": [1, 2]},
    ROWS[5],
]


@pytest.fixture
def base(make_base):
    return make_base()


def settings(runs, path, **more):
    paths = tuple(str(run) for run in runs)
    return ScoreConfig(reward_model=paths, input=str(path), dtype="float32", **more)


def expected_of(model):
    """Normalised scores, row by row."""
    return [
        [float(model.score_texts([(Prompt.parse(prompt), text)])) for prompt, text in row]
        for row in TEXTS
    ]


def numbers(row, name):
    return row[f"{name}s"] if "completions" in row else [row[name]]


@pytest.mark.parametrize("piece", [1, 4, 256])
def test_rows_come_out_in_order_as_they_were_with_the_models_scores(
    piece, base, make_run, load_models, write_rows, monkeypatch
):
    monkeypatch.setattr(score, "_PIECE", piece)
    run = make_run(base)
    found = list(score_rows(settings([run], write_rows("rows.jsonl", ROWS))))
    (model,) = load_models(base, run)
    for row, written, expected in zip(found, WRITTEN, expected_of(model), strict=True):
        assert {name: row[name] for name in written} == written
        own = ("scores", "raw_scores") if "completions" in row else ("score", "raw_score")
        assert set(row) == {*written, *own}
        assert numbers(row, "score") == pytest.approx(expected, abs=1e-5)
        # raw = score * std + mean, with the run's 1.9 and 0.7
        raw = [value * 1.9 + 0.7 for value in expected]
        assert numbers(row, "raw_score") == pytest.approx(raw, abs=1e-4)


def test_several_models_give_their_mean_and_how_far_they_disagree(
    base, make_run, load_models, write_rows
):
    runs = [make_run(base, f"run{i}", seed=i, mean=float(i), std=1.0 + i) for i in range(3)]
    found = list(score_rows(settings(runs, write_rows("rows.jsonl", ROWS))))
    models = load_models(base, *runs)
    members = [expected_of(model) for model in models]
    for number, row in enumerate(found):
        own = torch.tensor([member[number] for member in members], dtype=torch.float64)
        mean = own.mean(dim=0)
        spread = ((own - mean) ** 2).mean(dim=0).sqrt()
        constants = torch.tensor([0.0, 1.0, 2.0])[:, None]
        raw = (own * (1 + constants) + constants).mean(dim=0)
        assert numbers(row, "score") == pytest.approx(mean.tolist(), abs=1e-5)
        assert numbers(row, "disagreement") == pytest.approx(spread.tolist(), abs=1e-5)
        assert numbers(row, "raw_score") == pytest.approx(raw.tolist(), abs=1e-4)
        assert min(numbers(row, "disagreement")) > 1e-3


def test_a_run_of_several_models_stands_for_them(base, make_run, write_rows, tmp_path):
    members = [make_run(base, f"members/member_{i}", seed=i, mean=float(i)) for i in (1, 2)]
    folder = members[0].parent
    path = write_rows("rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"reward_model: .*members: not a run folder"):
        next(score_rows(settings([folder], path)))
    for name in ("run.json", "config.yaml"):
        (folder / name).write_bytes((members[0] / name).read_bytes())
    found = list(score_rows(settings([folder], path)))
    assert found == list(score_rows(settings(members, path)))
    assert "disagreement" in found[0]


def test_csv_and_parquet_are_read_alike(base, make_run, write_rows, tmp_path):
    run = make_run(base)
    rows = [{"prompt": "a", "completion": "good"}, {"prompt": "b", "completion": ""}]
    wanted = list(score_rows(settings([run], write_rows("rows.jsonl", rows))))
    (tmp_path / "rows.csv").write_text("prompt,completion\na,good\nb,\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        assert list(score_rows(settings([run], tmp_path / name))) == wanted


def test_an_output_file_gets_the_rows_and_the_terminal_the_figures(
    base, make_run, write_rows, tmp_path, capsys
):
    run, path = make_run(base), write_rows("rows.jsonl", ROWS)
    given = ["score", "--reward_model", str(run), "--input", path, "--dtype", "float32"]
    assert main(given) == 0
    streamed = capsys.readouterr().out
    wanted = list(score_rows(settings([run], path)))
    assert [json.loads(line) for line in streamed.splitlines()] == wanted
    output = tmp_path / "deep" / "scored.jsonl"
    assert main([*given, "--output", str(output)]) == 0
    assert output.read_text() == streamed
    assert [item.name for item in output.parent.iterdir()] == ["scored.jsonl"]
    shown = capsys.readouterr().out
    scores = torch.tensor([value for row in wanted for value in numbers(row, "score")])
    assert f"mean score          {float(scores.mean()):.4g}" in shown
    assert f"standard deviation  {float(scores.std(correction=0)):.4g}" in shown
    assert "completions         9" in shown
    assert main([*given, "--output", str(output)]) == 2
    assert "scored.jsonl exists already; remove it" in capsys.readouterr().err
    assert output.read_text() == streamed


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "a"}, "'completion' is missing"),
        ({"completion": "a"}, "'prompt' is missing"),
        ({"prompt": "a", "completion": None}, "'completion' must be text, not NoneType"),
        ({"prompt": "a", "completions": []}, "'completions' must be a list of one text or more"),
        ({"prompt": "a", "completions": ["b", 3]}, r"'completions\[1\]' must be text, not int"),
        ({"prompt": "a", "completion": "b", "completions": ["b"]}, "has prompt and completion and"),
        ({"prompt": "", "completion": "b"}, "'prompt' is empty"),
        ({"messages": TURNS}, "end with the assistant's answer"),
        ({"prompt": "a", "completion": "b", "score": 1.0}, "has a field 'score' already; rename"),
        ({"prompt": "a", "completion": "\ud800"}, "'completion' holds a lone surrogate"),
        ({"prompt": "a", "completion": "b", "task": "\ud800"}, "holds a value that JSON can't"),
        ({"prompt": "a", "completion": "b </s>"}, "text holds the control token '</s>'"),
        (
            {"prompt": "a " * 200, "completion": "b"},
            "have 205 tokens, the model reads 128; shorten",
        ),
        (
            {"prompt": [{"role": "user", "content": "a", "name": "x"}], "completion": "b"},
            "must have 'role' and 'content' and nothing else",
        ),
    ],
)
def test_a_bad_row_is_named_and_leaves_no_file(row, told, base, make_run, write_rows, tmp_path):
    path = write_rows("rows.jsonl", [ROWS[0], row])
    config = settings([make_run(base)], path, output=str(tmp_path / "scored.jsonl"))
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{told}"):
        score_file(config)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["base", "reward", "rows.jsonl"]


def test_a_bad_row_at_the_end_is_found_before_anything_is_given(
    base, make_run, write_rows, monkeypatch
):
    monkeypatch.setattr(score, "_PIECE", 1)
    rows = score_rows(settings([make_run(base)], write_rows("rows.jsonl", [ROWS[0], {"a": 1}])))
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 'prompt' is missing"):
        next(rows)


def test_what_is_no_reward_run_or_no_row_file_is_refused(base, make_run, write_rows, tmp_path):
    run, path = make_run(base), write_rows("rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"reward_model: .*base: not a run folder"):
        next(score_rows(settings([base], path)))
    with pytest.raises(ConfigError, match=r"reward_model: .*base: not a run folder"):
        next(score_rows(settings([run, base], path)))
    (tmp_path / "rows.txt").touch()
    with pytest.raises(DataError, match=r"rows\.txt: can't read files named '\.txt'"):
        next(score_rows(settings([run], tmp_path / "rows.txt")))
    (run / "run.json").write_text((run / "run.json").read_text().replace('"reward"', '"sft"', 1))
    with pytest.raises(ConfigError, match="holds the sft stage; give a run folder of reward"):
        next(score_rows(settings([run], path)))


def test_members_on_different_bases_are_refused(base, make_base, make_run, write_rows):
    runs = [make_run(base, "one"), make_run(make_base(name="other", seed=1), "two")]
    with pytest.raises(ConfigError, match=r"one and .*two were trained on different bases"):
        next(score_rows(settings(runs, write_rows("rows.jsonl", ROWS))))


def test_an_output_that_cannot_be_written_is_one_line(base, make_run, write_rows, tmp_path):
    path = write_rows("rows.jsonl", ROWS)
    config = settings([make_run(base)], path, output=f"{path}/scored.jsonl")
    with pytest.raises(ConfigError, match=r"output: .*scored\.jsonl: not written: "):
        score_file(config)
