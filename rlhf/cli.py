"""The ``rlhf`` command: one subcommand per step of the path from demonstrations to a policy.

Stages are imported when their command runs, so help and mistakes cost no torch. A user's mistake
is one line on standard error and exit status 2; an interrupt is 130; anything else is our own
fault and shows its traceback. Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Protocol

import rlhf
from rlhf import config as configs
from rlhf.errors import ConfigError, RlhfError
from rlhf.options import parse
from rlhf.progress import Progress, is_first_process
from rlhf.records import Prompt
from rlhf.runs import Listener

OVERVIEW = """\
rlhf {version}: human rankings in, an aligned LoRA adapter out.

  rlhf demo        the whole path on an embedded tiny model: offline, simulated annotators

The path on your own model and files:

     command        reads                                   leaves
  1  rlhf sft       demonstrations.jsonl, a model           runs/sft: adapter, folded base
  2  rlhf sample    prompts.jsonl, runs/sft                 store.sqlite: K candidates a prompt
  3  rlhf label     store.sqlite                            store.sqlite: people's rankings
  4  rlhf reward    store.sqlite or rankings.jsonl          runs/reward: reward model, its card
  5  rlhf ppo       prompts.jsonl, runs/sft, runs/reward    runs/ppo: adapter, its export
  6  rlhf evaluate  held-out rows, runs/sft, runs/ppo       report.html and its figures
     rlhf generate  runs/sft or runs/ppo, your prompts      completions on standard output
     rlhf score     runs/reward, prompts and completions    their scores, on standard output
     rlhf reward-card  runs/reward, other rankings          its card on them
     rlhf export-reward  runs/reward                        a sequence classifier
     rlhf rankings  store.sqlite                            its import, export, report, backup

rlhf COMMAND --help explains every option. rlhf COMMAND --print_config > my.yaml writes them all
into a file for --config. On several GPUs: accelerate launch -m rlhf COMMAND ...
"""

RANKINGS_OVERVIEW = """\
rlhf rankings: what goes into a ranking store, what comes out, and whether it is whole.

  rlhf rankings import   rankings, HH-RLHF, OASST, TRL, Argilla or Label Studio into a store
  rlhf rankings export   rankings, or TRL preference rows, out of a store
  rlhf rankings gold     tasks with a known answer, to train people or to measure them
  rlhf rankings prioritise  what a reward model is least sure of comes first
  rlhf rankings report   what each person has ranked, what is open, how far people agree
  rlhf rankings verify   whether a store is whole; exit status 2 and a line for each fault
  rlhf rankings backup   a verified copy of a store, also while people rank
  rlhf rankings restore  a new store from a backup, verified
  rlhf rankings erase    a person's name and account, for good; what they ranked stays

rlhf rankings COMMAND --help explains every option.
"""


class Summary(Protocol):
    """A stage's result, as far as the command line needs it."""

    def summary(self) -> dict[str, float | str]:
        """Give figures and paths for the terminal."""


@dataclass(frozen=True, slots=True)
class Command:
    """How one subcommand turns its config into a result, and what to do after it."""

    config: type[Any]
    run: Callable[[Any, Listener], Summary]
    next_steps: Callable[[Any], Sequence[str]]
    """Commands to run next, given the config."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``rlhf`` command; give the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: _dispatch(arguments))


def run_stage(name: str, argv: Sequence[str], *, prog: str | None = None) -> int:
    """Run one subcommand with its arguments; give the exit status."""
    return guard(lambda: _run(name, argv, prog or f"rlhf {name}"))


def guard(action: Callable[[], int]) -> int:
    """Run ``action`` and turn a user's mistake into one line and its exit status."""
    try:
        return action()
    except RlhfError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `rlhf ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as leave:  # --help and --print_config
        return leave.code if isinstance(leave.code, int) else 0


def execute(command: Command, config: Any) -> Summary:
    """Run a stage with live progress, then print its figures and the next commands."""
    quiet_libraries()
    with Progress() as progress:
        result = command.run(config, progress)
    if is_first_process():
        sys.stdout.write(_results(result.summary(), command.next_steps(config)))
    return result


def quiet_libraries() -> None:
    """Let the libraries below show no bars and no notes to programmers; call before their import.

    The notes are FutureWarnings that one library raises about another's calls (peft 0.21 asks
    transformers 5 by an old name): nothing that a user could mend.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|peft|trl)")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(OVERVIEW.format(version=rlhf.__version__))
        return 0
    name, *rest = arguments
    if name == "--version":
        sys.stdout.write(f"rlhf {rlhf.__version__}\n")
        return 0
    if name not in (*COMMANDS, *_OTHERS):
        close = get_close_matches(name, (*COMMANDS, *_OTHERS), n=1)
        remedy = f"did you mean 'rlhf {close[0]}'?" if close else "'rlhf' alone lists them"
        raise ConfigError(f"unknown command {name!r}; {remedy}")
    return _run(name, rest, f"rlhf {name}")


def _run(name: str, argv: Sequence[str], prog: str) -> int:
    if name == "label":
        status: int = import_module("labeling_ui.cli").main(list(argv))
        return status
    if name == "rankings":
        return _rankings(argv)
    if name == "generate":
        return _generate(parse(configs.GenerateConfig, argv, prog=prog))
    command = COMMANDS[name]
    config = parse(command.config, argv, prog=prog)
    if isinstance(config, configs.ScoreConfig) and config.output is None:
        return _print_scores(config)
    execute(command, config)
    return 0


def _rankings(argv: Sequence[str]) -> int:
    """Run one of the commands over a ranking store; none of them needs torch."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(RANKINGS_OVERVIEW)
        return 0
    name, *rest = argv
    if name not in RANKINGS:
        close = get_close_matches(name, RANKINGS, n=1)
        remedy = f"did you mean 'rlhf rankings {close[0]}'?" if close else "see 'rlhf rankings'"
        raise ConfigError(f"unknown command 'rankings {name}'; {remedy}")
    config_class, module, function = RANKINGS[name]
    config = parse(config_class, rest, prog=f"rlhf rankings {name}")
    result = getattr(import_module(f"rlhf.rankings.{module}"), function)(config)
    faults: Sequence[str] = getattr(result, "faults", ())
    sys.stderr.write("".join(f"error: {' '.join(fault.split())}\n" for fault in faults))
    if not faults:
        figures = getattr(result, "figures", result)
        sys.stdout.write(figures if isinstance(figures, str) else _results(figures, ()))
    return 2 if faults else 0


def _generate(config: configs.GenerateConfig) -> int:
    """Write completions: rows of JSON for a prompts file, plain text otherwise."""
    quiet_libraries()
    from rlhf.generate import generate

    for prompt, completion in generate(config, _typed_prompts()):
        row = json.dumps({"prompt": prompt.to_json(), "completion": completion}, ensure_ascii=False)
        sys.stdout.write((row if config.prompts else completion) + "\n")
        sys.stdout.flush()
    return 0


def _print_scores(config: configs.ScoreConfig) -> int:
    """Write rows of JSON with their scores."""
    quiet_libraries()
    from rlhf.reward.score import score_rows

    for row in score_rows(config):
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 0


def _typed_prompts() -> Iterator[Prompt]:
    """Yield prompts typed or piped in, one a line, until the end of the input."""
    ask = sys.stdin.isatty()
    while True:
        if ask:
            sys.stderr.write("prompt> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield Prompt.parse(line.strip())


def _results(figures: dict[str, float | str], next_steps: Sequence[str]) -> str:
    width = max(map(len, figures), default=0)
    lines = ["", *(f"{name:<{width}}  {_figure(value)}" for name, value in figures.items())]
    if next_steps:
        lines += ["", "next:", *(f"  {step}" for step in next_steps)]
    return "\n".join(lines) + "\n"


def _figure(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- the commands ---------------------------------------------------------------------------------


def _stage(module: str, name: str) -> Callable[[Any, Listener], Summary]:
    """Give a runner that imports the stage class on its first use."""

    def run(config: Any, listener: Listener) -> Summary:
        stage = getattr(import_module(module), name)
        result: Summary = stage(config, listener=listener).run()
        return result

    return run


def _function(module: str, name: str) -> Callable[[Any, Listener], Summary]:
    """Give a runner that imports the function on its first use."""

    def run(config: Any, listener: Listener) -> Summary:
        result: Summary = getattr(import_module(module), name)(config, listener=listener)
        return result

    return run


def _after_sft(config: configs.SFTConfig) -> Sequence[str]:
    return (
        _command("sample", model_name_or_path=config.output_dir)
        + " --prompts PROMPTS.jsonl --store store.sqlite",
        _command("generate", model_name_or_path=config.output_dir),
    )


def _after_sample(config: configs.SampleConfig) -> Sequence[str]:
    return (
        _command("label", store=config.store),
        _command("reward", rankings=config.store, model_name_or_path=config.model_name_or_path)
        + " --output_dir runs/reward",
    )


def _after_reward(config: configs.RewardConfig) -> Sequence[str]:
    return (
        _command(
            "ppo", model_name_or_path=config.model_name_or_path, reward_model=config.output_dir
        )
        + " --train_file PROMPTS.jsonl --output_dir runs/ppo",
    )


def _after_ppo(config: configs.PPOConfig) -> Sequence[str]:
    models = {"sft_model": config.model_name_or_path, "ppo_model": config.output_dir}
    for text in configs.as_tuple(config.reward_model)[:1]:
        models["reward_model"] = configs.split_name(text)[1]
    return (
        _command("evaluate", **models) + " --eval_file HELD_OUT.jsonl --output_dir runs/evaluation",
        _command("generate", model_name_or_path=config.output_dir),
    )


def _after_evaluation(config: configs.EvaluationConfig) -> Sequence[str]:
    return (_command("generate", model_name_or_path=config.ppo_model),)


def _after_demo(config: configs.DemoConfig) -> Sequence[str]:
    return (_command("generate", model_name_or_path=f"{config.output_dir}/ppo"),)


def _command(name: str, **flags: str) -> str:
    words = ["rlhf", name, *(word for flag in flags.items() for word in (f"--{flag[0]}", flag[1]))]
    return shlex.join(words)


_OTHERS = ("generate", "label", "rankings")
"""Commands that are no stage."""

RANKINGS: dict[str, tuple[type[Any], str, str]] = {
    "import": (configs.RankingsImportConfig, "importing", "import_rankings"),
    "export": (configs.RankingsExportConfig, "exporting", "export_rankings"),
    "gold": (configs.RankingsGoldConfig, "gold", "add_gold"),
    "prioritise": (configs.RankingsPrioritiseConfig, "priorities", "prioritise"),
    "report": (configs.RankingsReportConfig, "report", "report"),
    "verify": (configs.RankingsVerifyConfig, "upkeep", "verify"),
    "backup": (configs.RankingsBackupConfig, "upkeep", "backup"),
    "restore": (configs.RankingsRestoreConfig, "upkeep", "restore"),
    "erase": (configs.RankingsEraseConfig, "upkeep", "erase"),
}
"""Of each subcommand of ``rlhf rankings`` its config, and the module and function that run it."""

COMMANDS = {
    "sft": Command(configs.SFTConfig, _stage("rlhf.sft", "SFTStage"), _after_sft),
    "sample": Command(
        configs.SampleConfig, _function("rlhf.sample", "sample_candidates"), _after_sample
    ),
    "reward": Command(configs.RewardConfig, _stage("rlhf.reward", "RewardStage"), _after_reward),
    "ppo": Command(configs.PPOConfig, _stage("rlhf.ppo", "PPOStage"), _after_ppo),
    "score": Command(
        configs.ScoreConfig, _function("rlhf.reward.score", "score_file"), lambda config: ()
    ),
    "reward-card": Command(
        configs.RewardCardConfig,
        _function("rlhf.reward.recard", "rebuild_card"),
        lambda config: (),
    ),
    "export-reward": Command(
        configs.RewardExportConfig,
        _function("rlhf.reward.export", "export_reward"),
        lambda config: (),
    ),
    "evaluate": Command(
        configs.EvaluationConfig, _stage("rlhf.evaluate", "EvaluationStage"), _after_evaluation
    ),
    "demo": Command(configs.DemoConfig, _function("rlhf.demo.run", "run_demo"), _after_demo),
}
