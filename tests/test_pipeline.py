"""stages/pipeline.py: which stages run, in which order, and where people must step in."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import COMMANDS, Command
from rlhf.config import DemoConfig
from rlhf.options import parse
from rlhf.records import Candidate, Prompt
from rlhf.runs import RunFolder
from rlhf.store import NewTask, RankingStore, Submission
from stages.pipeline import PipelineConfig, main, plan

CONFIG = Path(__file__).parent.parent / "stages" / "configs"
FILES = {
    "sft.model_name_or_path": "m",
    "sft.train_file": "d",
    "sample.prompts": "p",
    "ppo.train_file": "p",
    "evaluation.eval_file": "h",
}
FLAGS = [f"--{name}={value}" for name, value in FILES.items()]


class Result:
    def summary(self) -> dict[str, float | str]:
        return {}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch) -> list[str]:
    """The commands that ran, each replaced by one that leaves what the real one would."""
    names: list[str] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()

    def scripted(name: str) -> Command:
        def run(config: Any, listener: Any) -> Result:
            names.append(name)
            if name == "sample":
                fill(config.store)
            else:
                with RunFolder(config.output_dir, name, DemoConfig()):
                    pass
            return Result()

        return Command(COMMANDS[name].config, run, lambda config: [])

    for name in ("sft", "sample", "reward", "ppo", "evaluate"):
        monkeypatch.setitem(COMMANDS, name, scripted(name))
    return names


def fill(path: str) -> None:
    with RankingStore.open(path) as store:
        store.add_tasks([NewTask(Prompt.parse("Hi"), (Candidate("a"), Candidate("b")))])


def rank(path: str) -> None:
    with RankingStore.open(path) as store:
        assignment = store.claim("ann")
        assert assignment is not None
        store.submit(assignment.id, "ann", Submission("request-1", ranks=(1, 2)))


def pipeline(*flags: str) -> int:
    return main(["--config", str(CONFIG / "pipeline.yaml"), *FLAGS, *flags])


def test_it_stops_for_people_and_goes_on_after_them(ran: list[str], capsys):
    assert pipeline() == 0
    assert ran == ["sft", "sample"]
    assert "rlhf label --store runs/store.sqlite" in capsys.readouterr().out
    assert pipeline() == 0
    assert ran == ["sft", "sample"]
    rank("runs/store.sqlite")
    assert pipeline() == 0
    assert ran == ["sft", "sample", "reward", "ppo", "evaluate"]
    capsys.readouterr()
    assert pipeline() == 0
    assert len(ran) == 5
    assert capsys.readouterr().out == "every stage is finished; the report is in runs/evaluation\n"


def test_rankings_in_a_file_need_no_people(ran: list[str], tmp_path: Path):
    text = (CONFIG / "pipeline.yaml").read_text()
    before, rest = text.split("sample:\n", 1)
    (tmp_path / "my.yaml").write_text(before + "reward:\n" + rest.split("reward:\n", 1)[1])
    flags = [flag for flag in FLAGS if "sample" not in flag]
    argv = ["--config", "my.yaml", *flags, "--reward.rankings", "rankings.jsonl"]
    assert main(argv) == 0
    assert ran == ["sft", "reward", "ppo", "evaluate"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--ppo.model_name_or_path", "x"], "--ppo.model_name_or_path: 'x' is not allowed"),
        (["--reward.rankings", "x"], "--reward.rankings: 'x' is not allowed; sample.store is"),
        (["--ppo.reward_model", "x"], "reward.output_dir is 'runs/reward'"),
        (["--sft.adapter.r", "0"], "--sft.adapter.r: 0 is not allowed"),
        (["--stf.seed", "1"], "did you mean --sft.seed?"),
    ],
)
def test_sections_that_do_not_fit_are_refused(ran: list[str], flags: list[str], told: str, capsys):
    assert pipeline(*flags) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert ran == []


@pytest.mark.parametrize("name", ["sft", "reward", "ppo", "evaluation"])
def test_the_configs_in_stages_are_valid(name: str):
    missing = {
        "sft": ["--model_name_or_path", "m", "--train_file", "d"],
        "reward": ["--rankings", "r"],
        "ppo": ["--train_file", "p"],
        "evaluation": ["--eval_file", "h"],
    }
    command = COMMANDS["evaluate" if name == "evaluation" else name]
    file = CONFIG / f"{name}.yaml"
    parse(command.config, ["--config", str(file), *missing[name]], prog=name)
    first = file.read_text().splitlines()[:3]
    assert any("not yet measured" in line or "Measured" in line for line in first)


def test_a_plan_names_stages_with_their_configs(ran: list[str]):
    config = parse(
        PipelineConfig, ["--config", str(CONFIG / "pipeline.yaml"), *FLAGS], prog="pipeline"
    )
    assert plan(config) == [("sft", config.sft), ("sample", config.sample)]
