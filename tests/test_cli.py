"""The ``rlhf`` command: its help, its mistakes, its exit statuses.

``MISTAKES`` is the table to extend: what a user typed, and what the one line on standard error
must hold (the place and the remedy). The files they name are made by ``user_files``.
"""

import io
import json
import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from transformers.utils import logging

from rlhf import cli
from rlhf.cli import COMMANDS, main
from rlhf.config import DemoConfig, GenerateConfig
from rlhf.errors import TrainingError
from rlhf.options import parse
from rlhf.progress import Progress, key_figures
from rlhf.runs import RunFolder
from rlhf.store import RankingStore

ROOT = Path(__file__).parent.parent
BASE = str(ROOT / "rlhf" / "demo" / "base")

DEMOS = ["--train_file", "demos.jsonl"]
SFT = ["sft", "--model_name_or_path", BASE, "--output_dir", "runs/new"]
REWARD = ["reward", "--model_name_or_path", BASE, "--output_dir", "runs/new"]
PPO = ["ppo", "--model_name_or_path", BASE, "--output_dir", "runs/new"]
JUDGE = ["--reward_model", "runs/a"]
SAMPLE = ["sample", "--model_name_or_path", BASE, "--store", "new.sqlite"]
GENERATE = ["generate", "--model_name_or_path", BASE]
EVALUATE = ["evaluate", "--eval_file", "demos.jsonl", "--output_dir", "runs/new"]

MISTAKES: list[tuple[list[str], list[str]]] = [
    # commands and flags
    (["pppo"], ["unknown command 'pppo'", "did you mean 'rlhf ppo'?"]),
    (["frobnicate"], ["unknown command 'frobnicate'", "'rlhf' alone lists them"]),
    (["sft"], ["missing: --model_name_or_path, --output_dir, --train_file", "rlhf sft --help"]),
    ([*PPO, "--kl_ceof", "1"], ["--kl_ceof: unknown option", "did you mean --kl_coef?"]),
    ([*PPO, "--kl_hor"], ["--kl_hor: unknown option", "did you mean --kl_horizon?"]),
    ([*SFT, "--train_file"], ["--train_file: expected one argument"]),
    ([*SFT, "demos.jsonl"], ["unrecognized arguments: demos.jsonl"]),
    ([*SFT, *DEMOS, "--seed", "x"], ["--seed: 'x' is not a whole number"]),
    (
        [*SFT, *DEMOS, "--adapter.method", "lroa"],
        ["--adapter.method: 'lroa' is not one of lora", "did you mean 'lora'?"],
    ),
    (
        [*REWARD, "--rankings", "rankings.jsonl", "--adapter.lora_dropout", "0.1"],
        ["--adapter.lora_dropout: 0.1 is not allowed", "must be 0 here"],
    ),
    ([*PPO, *DEMOS], ["give reward_model or reward_function, or both"]),
    (
        [*PPO, *DEMOS, "--reward_model", "runs/a", "runs/b", "--reward_weights", "1"],
        ["--reward_weights: 1.0 is not allowed", "give 2, one for each reward"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "runs/a", "runs/b", "--reward_weights", "1", "half"],
        ["--reward_weights: 'half' is not a number"],
    ),
    (
        [*PPO, *DEMOS, *JUDGE, "--target_kl", "0.05", "--num_mini_batches", "1"],
        ["--target_kl: 0.05 is not allowed", "raise num_mini_batches or num_ppo_epochs"],
    ),
    (
        [*PPO, *DEMOS, *JUDGE, "--kl_target", "6", "--kl_horizon", "10"],
        ["--kl_horizon: 10 is not allowed", "give rollout_batch_size (64) or more"],
    ),
    (
        [*PPO, *DEMOS, *JUDGE, "--value_warmup_steps", "10", "--max_steps", "10"],
        ["--value_warmup_steps: 10 is not allowed", "give less than max_steps (10)"],
    ),
    (
        [*PPO, *DEMOS, *JUDGE, "--advantage", "rloo", "--num_generations", "2", "--lam", "1"],
        ["--lam: 1.0 is not allowed", "advantage rloo has no value model"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "runs/a", "--reward_ensemble", "min"],
        ["reward_ensemble: needs two run folders of the reward stage or more, not 0"],
    ),
    ([*SAMPLE, "--prompts", "p", "--num_candidates", "1"], ["--num_candidates: 1", "2 to 9"]),
    ([*GENERATE, "--prompt", "a", "--prompts", "b"], ["give either prompt or prompts, not both"]),
    # config files
    (["sft", "--config", "nowhere.yaml"], ["--config: nowhere.yaml: No such file"]),
    (["sft", "--config", "typo.yaml"], ["typo.yaml:2: unknown key 'sed'", "did you mean 'seed'?"]),
    (["sft", "--config", "twice.yaml"], ["twice.yaml:2: seed: is given twice", "keep one"]),
    (["sft", "--config", "type.yaml"], ["type.yaml:1: seed: 1.5 is not a whole number"]),
    (
        ["ppo", "--config", "list.yaml"],
        ["list.yaml:1: reward_model: {'a': 'b'} is not text, a list of text or null"],
    ),
    (
        [*SFT, *DEMOS, "--report_to", "tensorbord"],
        ["report_to: 'tensorbord' is not a tracker", "did you mean 'tensorboard'?", "known: aim"],
    ),
    # data
    ([*SFT, "--train_file", "none.jsonl"], ["none.jsonl: no such file"]),
    ([*SFT, "--train_file", "demos.txt"], ["demos.txt: can't read files named '.txt'", ".jsonl"]),
    ([*SFT, "--train_file", "empty.jsonl"], ["empty.jsonl: has no rows"]),
    ([*SFT, "--train_file", "broken.jsonl"], ["broken.jsonl:2: 'completion' is empty"]),
    ([*SFT, "--train_file", "rankings.jsonl"], ["rankings.jsonl:1: this is a ranking", "reward"]),
    ([*REWARD, "--rankings", "demos.jsonl"], ["demos.jsonl:1: this is a demonstration", "sft"]),
    ([*REWARD, "--rankings", "none.jsonl"], ["none.jsonl: no such file"]),
    ([*REWARD, "--rankings", "none.sqlite"], ["none.sqlite: no such store", "rlhf sample"]),
    ([*REWARD, "--rankings", "empty.sqlite"], ["empty.sqlite"]),
    (
        [*PPO, "--train_file", "rankings.jsonl", "--reward_model", "runs/done"],
        ["rankings.jsonl:1: this is a ranking, but prompts are wanted"],
    ),
    ([*SAMPLE, "--prompts", "none.jsonl"], ["none.jsonl: no such file"]),
    # models and run folders
    (
        ["sft", "--model_name_or_path", "runs/none", "--output_dir", "runs/new", *DEMOS],
        ["runs/none"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "runs/none"],
        ["reward_model: 'runs/none' is no folder here", "check the path"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "runs/done"],
        ["reward_model: runs/done: holds the demo stage", "give a run folder of reward"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "runs"],
        ["reward_model: runs holds neither a run", "a finished run folder of the reward stage"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", BASE],
        ["is LlamaForCausalLM, which gives no score", "a finished run folder of the reward stage"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "a=runs/done", "a=runs/none"],
        ["reward_model: the name 'a' is taken", "give another"],
    ),
    (
        [*PPO, *DEMOS, "--reward_model", "runs/none", "hub/none", "--reward_ensemble", "mean"],
        ["reward_ensemble: needs two run folders of the reward stage or more, not 0"],
    ),
    (
        [*PPO, *DEMOS, "--reward_function", "none.py:f"],
        ["reward_function: no file none.py"],
    ),
    (
        [*PPO, *DEMOS, "--reward_function", "none.py"],
        ["reward_function: 'none.py' is not file.py:name or package.module:name"],
    ),
    (
        [*PPO, *DEMOS, "--reward_function", ".none:f"],
        ["reward_function: '.none:f' is not file.py:name or package.module:name"],
    ),
    ([*SFT[:-1], "runs/done", *DEMOS], ["runs/done: holds a run of the"]),
    ([*SFT[:-1], ".", *DEMOS], ["but no run", "new or empty output_dir"]),
    (
        [*EVALUATE, "--sft_model", "runs/none", "--ppo_model", "runs/none"],
        ["runs/none"],
    ),
    (["generate", "--model_name_or_path", "runs/none", "--prompt", "Hi"], ["runs/none"]),
    # the labeling app
    (["label", "--store", "none.sqlite"], ["none.sqlite: no such store", "rlhf sample"]),
]


@pytest.fixture(scope="module")
def user_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The command does this by environment, which is too late where a test has imported it before.
    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("work")
    demo = {"prompt": "Say hi.", "completion": "Hi."}
    files = {
        "demos.jsonl": [demo],
        "broken.jsonl": [demo, demo | {"completion": ""}],
        "rankings.jsonl": [{"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2]}],
        "empty.jsonl": [],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "demos.txt").touch()
    (folder / "typo.yaml").write_text("# a comment\nsed: 1\n")
    (folder / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (folder / "type.yaml").write_text("seed: 1.5\n")
    (folder / "list.yaml").write_text("reward_model: {a: b}\n")
    RankingStore.open(str(folder / "empty.sqlite")).close()
    with RunFolder(folder / "runs" / "done", "demo", DemoConfig()):
        pass
    return folder


@pytest.mark.parametrize(
    ("argv", "told"), MISTAKES, ids=[" ".join(argv[:1] + argv[5:]) for argv, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_status_2(
    argv: list[str], told: list[str], user_files: Path, monkeypatch, capsys
):
    monkeypatch.chdir(user_files)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(user_files / "runs" / "new", ignore_errors=True)
    status = main(argv)
    shown = capsys.readouterr()
    assert status == 2, shown
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1, shown.err
    for text in told:
        assert text in shown.err
    assert shown.out == ""
    assert not (user_files / "new.sqlite").exists()


def test_nothing_prints_the_path_through_the_commands(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in (*COMMANDS, "label", "generate"):
        assert f"rlhf {command} " in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("command", [*COMMANDS, "generate", "label"])
def test_every_command_has_help(command: str, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr()
    assert "--help" in shown.out
    assert shown.err == ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rlhf 0.")


@pytest.mark.parametrize(
    "arguments",
    [["-m", "rlhf"], ["-m", "rlhf", "ppo", "--help"], ["-m", "labeling_ui", "--help"]]
    + [[str(ROOT / "stages" / f"{name}.py"), "--help"] for name in ("sft", "evaluation")]
    + [[str(ROOT / "stages" / "pipeline.py"), "--help"]],
    ids=lambda arguments: " ".join(Path(word).name for word in arguments),
)
def test_modules_and_scripts_start(arguments: list[str]):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


class Result:
    def summary(self) -> Mapping[str, float | str]:
        return {"score": 1.23456, "steps": 7, "adapter": "runs/x/adapter"}


def test_a_command_ends_with_figures_paths_and_the_next_step(monkeypatch, capsys):
    def run(config: DemoConfig, listener) -> Result:
        listener("ppo", 1, 1, {"kl/reference": 0.5})
        return Result()

    command = cli.Command(DemoConfig, run, lambda config: [f"look at {config.output_dir}"])
    monkeypatch.setitem(COMMANDS, "demo", command)
    assert main(["demo", "--output_dir", "here"]) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "\nscore    1.235\nsteps    7\nadapter  runs/x/adapter\n\nnext:\n  look at here\n"
    )
    assert "ppo       1/1" in shown.err
    assert "kl 0.5" in shown.err


def test_other_processes_of_a_launcher_stay_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    command = cli.Command(DemoConfig, lambda config, listener: Result(), lambda config: [])
    monkeypatch.setitem(COMMANDS, "demo", command)
    assert main(["demo"]) == 0
    assert capsys.readouterr().out == ""


def failing(error: BaseException):
    def run(config: DemoConfig, listener) -> Result:
        raise error

    return cli.Command(DemoConfig, run, lambda config: [])


def test_a_users_error_keeps_one_line_an_interrupt_is_130(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "demo", failing(TrainingError("the loss\nbecame NaN")))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "error: the loss became NaN\n"
    monkeypatch.setitem(COMMANDS, "demo", failing(KeyboardInterrupt()))
    assert main(["demo"]) == 130


def test_a_fault_of_ours_shows_its_traceback(monkeypatch):
    monkeypatch.setitem(COMMANDS, "demo", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_the_next_commands_can_be_given_as_they_stand(capsys):
    configs = {
        "sft": {"train_file": "d.jsonl", "model_name_or_path": "m", "output_dir": "my run"},
        "sample": {"model_name_or_path": "m", "prompts": "p", "store": "s.sqlite"},
        "reward": {"model_name_or_path": "m", "output_dir": "r", "rankings": "s.sqlite"},
        "ppo": {
            "model_name_or_path": "m",
            "output_dir": "o",
            "train_file": "p",
            "reward_model": "r",
        },
        "evaluate": {"sft_model": "s", "ppo_model": "p", "eval_file": "h", "output_dir": "e"},
        "demo": {},
    }
    for name, fields in configs.items():
        for step in COMMANDS[name].next_steps(COMMANDS[name].config(**fields)):
            rlhf_word, command, *flags = shlex.split(step)
            assert rlhf_word == "rlhf"
            if command == "label":
                assert flags == ["--store", "s.sqlite"]
                continue
            wanted = GenerateConfig if command == "generate" else COMMANDS[command].config
            parse(wanted, flags, prog="rlhf")


def test_typed_prompts_end_with_the_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n\n  Bye  \n"))
    assert [prompt.text for prompt in cli._typed_prompts()] == ["Hi", "Bye"]


def test_progress_in_a_file_is_few_plain_lines():
    out = io.StringIO()
    with Progress(Console(file=out)) as progress:
        for step in range(1, 101):
            progress("ppo", step, 100, {"time/rollout_s": 1.0, "score/mean": step / 7})
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["ppo", "1/100"], ["ppo", "100/100"]]
    assert lines[-1].endswith("score 14")


def test_progress_in_a_terminal_is_one_live_line_a_stage():
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=100)) as progress:
        progress("sft", 3, 3, {"loss/train": 2.0})
        progress("reward", 1, 4, {"reward/pair_accuracy_train": 0.5})
    assert "3/3" in out.getvalue()
    assert "pair accuracy train 0.5" in out.getvalue()


def test_key_figures_are_the_known_ones_or_the_first():
    assert key_figures({"a/b": 1.0, "kl/reference": 2.0, "score/mean": 3.0}) == ["score 3", "kl 2"]
    assert key_figures({"tasks": 4.0}) == ["tasks 4"]


PPO_ROW = {
    "time/update_s": 2.13,
    "value/explained_variance": 0.553,
    "policy/clip_fraction": 0.0412,
    "policy/entropy": 0.904,
    "kl/reference": 1.823,
    "completion/length": 123.4,
    "kl/coef": 0.05,
    "score/mean": -0.4118,
}


@pytest.mark.parametrize(
    ("width", "last"), [(125, "2.1 s"), (105, "2.1 s"), (80, "entropy 0.9"), (60, "length 123")]
)
def test_a_ppo_line_shows_whole_figures_and_the_most_important_first(width: int, last: str):
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=width)) as progress:
        progress("ppo", 120, 200, PPO_ROW)
    plain = Text.from_ansi(out.getvalue()).plain
    line = next(row for row in plain.splitlines() if "120/200" in row)
    whole = "score -0.41  kl 1.8  length 123  entropy 0.9  clip 0.041  ev 0.55  2.1 s"
    assert line.rstrip().endswith(whole[: whole.index(last) + len(last)])
    assert len(line.rstrip()) <= width


def test_key_figures_that_are_large_or_not_finite_are_told():
    row = {"score/mean": 123456.0, "kl/reference": math.nan, "completion/length": 0.001}
    assert key_figures(row) == ["score 123456", "kl nan", "length 0.001"]
