"""Ensembles of reward models: resamples, their run folders, and where they disagree."""

import dataclasses
import json
import statistics
from collections import Counter

import pytest
from model.families import CPU

from rlhf.config import AdapterConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.model.base import load_base, resolve_model
from rlhf.model.roles import Roles
from rlhf.records import Candidate, Prompt, Ranking
from rlhf.reward import RewardModel, RewardStage
from rlhf.reward.card_files import PAGE_FILE, read_card
from rlhf.reward.ensemble import bootstrap, member_folders
from rlhf.runs import read_run, require_run
from rlhf.store import RankingStore

TEXTS = ("good good", "good bad", "bad bad")


def rankings(prompts=24, each=1):
    """More 'good' is better; every prompt differs."""
    return [
        Ranking(
            Prompt.parse(f"{a} {b}"),
            TEXTS[n % 3 :] + TEXTS[: n % 3],
            ranks,
            id=f"ranking-{n}-{turn}",
        )
        for n, (a, b) in enumerate([(a, b) for a in "abcde" for b in "fghij"][:prompts])
        for ranks in [(1, 2, 3)[n % 3 :] + (1, 2, 3)[: n % 3]]
        for turn in range(1 + n % each)
    ]


def rows_of(found):
    return [
        {"prompt": r.prompt.text, "completions": r.completions, "ranks": r.ranks} for r in found
    ]


def config(tiny, source, folder, **settings):
    defaults = {"learning_rate": 5e-3, "per_device_train_batch_size": 4, "eval_fraction": 0.3}
    return RewardConfig(
        model_name_or_path=str(tiny),
        rankings=str(source),
        output_dir=str(folder),
        adapter=AdapterConfig(r=2, lora_alpha=4),
        dtype="float32",
        **defaults | {"ensemble_size": 2} | settings,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of rankings in which the first prompt was skipped and the second ranked twice."""
    rows = rows_of(rankings())
    skipped = {"prompt": "k", "completions": ["a", "b"], "ranks": [None, None], "action": "skip"}
    path = tmp_path_factory.mktemp("ensemble") / "rankings.jsonl"
    rows = [skipped, rows[0], *rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(tiny, source, tmp_path_factory):
    """A finished run of two members."""
    return RewardStage(config(tiny, source, tmp_path_factory.mktemp("straight") / "run")).run()


def load_members(tiny, folder):
    """The members on one base, and their roles."""
    base = load_base(resolve_model(str(tiny)), dtype="float32", device=CPU)
    roles, chat = Roles(base), ChatFormat.of(base.tokenizer, base.model)
    numbered = enumerate(member_folders(folder))
    return [RewardModel.load(own, roles, chat, role=f"reward_{n}") for n, own in numbered], roles


def read_disagreement(folder):
    return [json.loads(row) for row in (folder / "disagreement.jsonl").read_text().splitlines()]


# -- resamples


def test_a_resample_draws_whole_prompts():
    found = rankings(each=3)
    by_prompt = Counter(ranking.prompt for ranking in found)
    drawn = Counter(ranking.id for ranking in bootstrap(found, 0, 1))
    times = {r.prompt: drawn[r.id] for r in found}
    assert all(drawn[ranking.id] == times[ranking.prompt] for ranking in found)
    assert sum(times.values()) == len(by_prompt) == 24
    assert min(times.values()) == 0
    assert max(times.values()) > 1


def test_a_resample_is_fixed_by_seed_and_member():
    def drawn(seed, member):
        return [ranking.id for ranking in bootstrap(rankings(), seed, member)]

    assert drawn(0, 1) == drawn(0, 1)
    assert len({tuple(drawn(*key)) for key in [(0, 1), (0, 2), (1, 1), (1, 2)]}) == 4


# -- runs


def test_every_member_is_a_whole_reward_run(straight):
    folders = member_folders(straight.output_dir)
    assert [folder.name for folder in folders] == ["member_1", "member_2"]
    for folder in [straight.output_dir, *folders]:
        assert require_run(folder, "reward")["base_fingerprint"] == straight.base_fingerprint
        card = read_card(folder)
        assert card["held_out_prompts"] > 3
        assert card.get("members") == (2 if folder == straight.output_dir else None)
        assert "</html>" in (folder / PAGE_FILE).read_text()
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        assert result["pair_accuracy"] == read_card(folder)["pair_accuracy"]["value"]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == straight.steps
    assert straight.adapter == folders[0] / "adapter"


def test_members_differ_and_the_base_is_as_it_was(tiny, straight):
    models, roles = load_members(tiny, straight.output_dir)
    assert roles.base.fingerprint == straight.base_fingerprint
    pairs = [(Prompt.parse("o"), text) for text in TEXTS]
    before = roles.base_digest()
    one, other = (model.score_texts(pairs) for model in models)
    assert (one - other).abs().max() > 1e-3
    assert roles.base_digest() == before


def test_disagreement_has_a_row_for_each_task_in_order(tiny, straight):
    rows = read_disagreement(straight.output_dir)
    # The skipped one comes first; the ranking that is there twice is one task.
    expected = [("k", ["a", "b"]), *((r.prompt.text, list(r.completions)) for r in rankings())]
    assert [(row["prompt"], row["completions"]) for row in rows] == expected
    models, _ = load_members(tiny, straight.output_dir)
    for row in rows:
        prompt = Prompt.parse(row["prompt"])
        assert row["prompt_sha256"] == prompt.sha256
        pairs = [(prompt, text) for text in row["completions"]]
        own = [model.score_texts(pairs).tolist() for model in models]
        means = [statistics.fmean(two) for two in zip(*own, strict=True)]
        spreads = [statistics.pstdev(two) for two in zip(*own, strict=True)]
        assert row["scores"] == pytest.approx(means, abs=1e-3)
        assert row["disagreement"] == pytest.approx(statistics.fmean(spreads), abs=1e-3)
        best = {scores.index(max(scores)) for scores in own}
        assert row["best_votes"] == 1 / len(best)


def test_open_tasks_of_a_store_are_among_them(tiny, tmp_path):
    with RankingStore.open(tmp_path / "store.sqlite") as store:
        store.import_rankings([dataclasses.replace(r, annotator="ann") for r in rankings()])
        store.add_task(Prompt.parse("k l"), [Candidate("good"), Candidate("bad")])
        tasks = [(t.prompt.text, [c.text for c in t.candidates]) for t in store.tasks()]
        assert len(list(store.rankings())) == 24
    run = tmp_path / "run"
    RewardStage(config(tiny, tmp_path / "store.sqlite", run)).run()
    rows = read_disagreement(run)
    assert [(row["prompt"], row["completions"]) for row in rows] == tasks
    assert len(tasks) == 25
    assert tasks[-1][0] == "k l"


# -- unfinished runs


class StoppedError(Exception):
    """The machine went away."""


def interrupt(settings, member):
    """Begin a run that ends in the second step of a member."""
    begun = []

    def stop(_stage, step, _total, _row):
        begun.append(step)
        if begun.count(1) == member and step == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        RewardStage(settings, listener=stop).run()


def test_an_unfinished_ensemble_is_begun_anew(tiny, source, straight, tmp_path):
    settings = config(tiny, source, tmp_path / "run")
    interrupt(settings, member=2)
    assert read_run(tmp_path / "run" / "member_1")["status"] == "done"
    assert read_run(tmp_path / "run" / "member_2")["status"] == "failed"
    RewardStage(settings).run()
    for folder in member_folders(tmp_path / "run"):
        require_run(folder, "reward")
    assert read_disagreement(tmp_path / "run") == read_disagreement(straight.output_dir)


@pytest.mark.parametrize("size", [1, 2])
def test_no_member_of_an_unfinished_larger_ensemble_stays(size, tiny, source, tmp_path):
    run = tmp_path / "run"
    interrupt(config(tiny, source, run, ensemble_size=3), member=3)
    settings = config(tiny, source, run, ensemble_size=size, learning_curve=False)
    RewardStage(settings).run()
    expected = [run] if size == 1 else [run / "member_1", run / "member_2"]
    assert member_folders(run) == expected
    assert not (run / "member_3").exists()
