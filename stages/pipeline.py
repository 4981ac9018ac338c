"""All stages on your own model and files, from one YAML file with a section for each.

    python stages/pipeline.py --config stages/configs/pipeline.yaml --sft.train_file demos.jsonl

SFT -> candidates into the ranking store -> (people rank them) -> reward model -> PPO -> evaluation.
A stage whose run folder holds a finished run is skipped, so the same command goes on where it
stopped: after an interruption, or when there were no rankings yet. Without the ``sample`` section
the rankings come from the file that ``reward.rankings`` names.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf.cli import COMMANDS, execute, guard
from rlhf.config import (
    EvaluationConfig,
    PPOConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
    as_tuple,
    split_name,
)
from rlhf.data.rankings import is_store
from rlhf.errors import CheckpointError, ConfigError
from rlhf.options import parse
from rlhf.progress import is_first_process
from rlhf.runs import read_run


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """All stages, one after another."""

    sft: SFTConfig
    """Instruction tuning."""
    sample: SampleConfig | None = None
    """Candidates for people to rank; leave it out when the rankings are there already."""
    reward: RewardConfig
    """Reward model."""
    ppo: PPOConfig
    """PPO against the reward model."""
    evaluation: EvaluationConfig
    """Base, SFT and PPO side by side."""

    def __post_init__(self) -> None:
        runs = {"reward.model_name_or_path": self.reward, "ppo.model_name_or_path": self.ppo}
        for name, stage in runs.items():
            _same(name, stage.model_name_or_path, "sft.output_dir", self.sft.output_dir)
        _same(
            "evaluation.sft_model", self.evaluation.sft_model, "sft.output_dir", self.sft.output_dir
        )
        _same(
            "evaluation.ppo_model", self.evaluation.ppo_model, "ppo.output_dir", self.ppo.output_dir
        )
        rewards = [split_name(text)[1] for text in as_tuple(self.ppo.reward_model)]
        if rewards and self.reward.output_dir not in rewards:
            _same("ppo.reward_model", rewards[0], "reward.output_dir", self.reward.output_dir)
        if self.sample is not None:
            _same("reward.rankings", self.reward.rankings, "sample.store", self.sample.store)


def run_pipeline(config: PipelineConfig) -> int:
    """Run every stage that is not finished; give the exit status."""
    # Decided before anything runs, so that all processes of a launcher decide alike.
    steps = plan(config)
    for name, settings in steps:
        _tell(f"\n== {name}: {getattr(settings, 'output_dir', config.reward.rankings)}")
        execute(COMMANDS[name], settings)
    if not _has_rankings(config.reward.rankings):
        _tell(
            f"\n{config.reward.rankings} holds no rankings yet. Let people rank:\n"
            f"  rlhf label --store {config.reward.rankings}\nand give this command again."
        )
    elif not steps:
        _tell(f"every stage is finished; the report is in {config.evaluation.output_dir}")
    return 0


def plan(config: PipelineConfig) -> list[tuple[str, Any]]:
    """List the stages to run now, with their configs, up to where people must rank."""
    steps: list[tuple[str, Any]] = [("sft", config.sft)]
    if config.sample is not None and not _count(config.sample.store, "tasks"):
        steps.append(("sample", config.sample))
    if _has_rankings(config.reward.rankings):
        steps += [("reward", config.reward), ("ppo", config.ppo), ("evaluate", config.evaluation)]
    return [step for step in steps if not _is_done(getattr(step[1], "output_dir", None))]


def _is_done(folder: str | None) -> bool:
    try:
        return folder is not None and read_run(folder)["status"] == "done"
    except CheckpointError:
        return False


def _has_rankings(source: str) -> bool:
    return not is_store(source) or _count(source, "rankings") > 0


def _count(source: str, what: Literal["tasks", "rankings"]) -> int:
    """Count the tasks or rankings of a store; 0 when there is no store."""
    from rlhf.store import RankingStore

    if "://" not in source and not Path(source).exists():
        return 0
    with RankingStore.open(source, create=False) as store:
        progress = store.progress()
        return progress.tasks if what == "tasks" else progress.rankings


def _tell(text: str) -> None:
    if is_first_process():
        print(text, flush=True)


def _same(name: str, value: str, other: str, expected: str) -> None:
    if Path(value) != Path(expected):
        raise ConfigError(f"{name}: {value!r} is not allowed; {other} is {expected!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the sections and run them."""
    arguments = sys.argv[1:] if argv is None else argv
    return guard(lambda: run_pipeline(parse(PipelineConfig, arguments, prog="stages/pipeline.py")))


if __name__ == "__main__":
    sys.exit(main())
