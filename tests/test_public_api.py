"""The names and signatures that users may rely on."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf
from rlhf.data import rankings, readers, splits
from rlhf.runs import RunFolder

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_these():
    assert rlhf.__all__ == [
        "EvaluationConfig",
        "EvaluationStage",
        "PPOConfig",
        "PPOStage",
        "RankingStore",
        "RewardConfig",
        "RewardStage",
        "SFTConfig",
        "SFTStage",
    ]
    for name in rlhf.__all__:
        assert inspect.isclass(getattr(rlhf, name))
    assert set(rlhf.__all__) <= set(dir(rlhf))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'PPOTrainer'"):
        _ = rlhf.PPOTrainer


@pytest.mark.parametrize("stage", ["SFTStage", "RewardStage", "PPOStage", "EvaluationStage"])
def test_stages_take_a_config_and_a_listener_and_run(stage: str):
    stage_class = getattr(rlhf, stage)
    config, listener, *more = inspect.signature(stage_class).parameters.values()
    assert (config.name, listener.name) == ("config", "listener")
    assert all(parameter.default is None for parameter in (listener, *more))
    assert list(inspect.signature(stage_class.run).parameters) == ["self"]


@pytest.mark.parametrize("module", ["sft", "reward", "ppo", "evaluation"])
def test_a_clone_gives_the_classes_by_stage(module: str):
    script = __import__(f"stages.{module}", fromlist=["*"])
    for name in script.__all__:
        assert inspect.isclass(getattr(script, name))


def test_readers_and_run_folders_keep_their_signatures():
    for read in (readers.read_demonstrations, readers.read_prompts, readers.read_rankings):
        assert list(inspect.signature(read).parameters) == ["path"]
    assert list(inspect.signature(rankings.load_rankings).parameters) == ["source"]
    assert list(inspect.signature(splits.split_by_prompt).parameters) == [
        "items",
        "fraction",
        "key",
    ]
    assert list(inspect.signature(RunFolder).parameters)[:3] == ["path", "stage", "config"]


@pytest.mark.parametrize("package", ["rlhf", "rlhf.cli", "labeling_ui", "rlhf.store"])
def test_light_imports_load_no_torch(package: str):
    code = f"import sys, {package}; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
