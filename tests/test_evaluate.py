"""The chain of stages on the tiny model, and the report at its end."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf.config import AdapterConfig, EvaluationConfig, PPOConfig, RewardConfig, SFTConfig
from rlhf.errors import CheckpointError, ConfigError, DataError, TrainingError
from rlhf.evaluate import EvaluationStage
from rlhf.export import export_to_original, take_probes
from rlhf.figures import Judgement
from rlhf.inference import Policy
from rlhf.ppo import PPOStage
from rlhf.reward import RewardStage
from rlhf.sft import SFTStage

ADAPTER = AdapterConfig(r=4, lora_alpha=8)


@pytest.fixture(scope="module")
def chain(tiny, tmp_path_factory):
    """Runs of all stages: more 'good' is better."""
    folder = tmp_path_factory.mktemp("chain")

    def write(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(folder / name)

    prompts = [f"{x} {y}" for x in "abcdefgh" for y in "ijkl"]
    demos = write(
        "demos.jsonl", [{"prompt": p, "completion": "good bad", "task": p[0]} for p in prompts]
    )
    rankings = write(
        "rankings.jsonl",
        [{"prompt": p, "completions": ["bad", "good"], "ranks": [2, 1]} for p in prompts],
    )
    common = {"adapter": ADAPTER, "learning_rate": 5e-3}
    sft, reward, ppo = (str(folder / name) for name in ("sft", "reward", "ppo"))
    SFTStage(
        SFTConfig(model_name_or_path=str(tiny), train_file=demos, output_dir=sft, **common)
    ).run()
    RewardStage(
        RewardConfig(model_name_or_path=sft, rankings=rankings, output_dir=reward, **common)
    ).run()
    result = PPOStage(
        PPOConfig(
            model_name_or_path=sft,
            reward_model=reward,
            accept_reward_model=True,
            train_file=demos,
            output_dir=ppo,
            max_steps=3,
            rollout_batch_size=16,
            max_new_tokens=6,
            warmup_steps=0,
            **common,
        )
    ).run()
    config = EvaluationConfig(
        sft_model=sft,
        ppo_model=ppo,
        reward_model=reward,
        eval_file=demos,
        output_dir=str(folder / "evaluation"),
        num_samples=2,
        max_new_tokens=6,
        max_prompts=10,
    )
    return folder, config, result


class CountsGood:
    name = "counts good"
    margin = 0.0

    def __call__(self, prompt, completion):
        good = completion.split().count("good")
        return Judgement(float(good), good > 0, {"good": float(good)})


def test_the_report_compares_base_sft_and_ppo(chain):
    _, config, _ = chain
    result = EvaluationStage(config, judge=CountsGood()).run()
    report = json.loads(result.report_json.read_text())
    assert set(report["models"]) == {"base", "sft", "ppo"}
    sampled = report["models"]["ppo"]["sampled"]
    assert sampled["utility"] == sampled["good"]
    assert 0 < report["ppo"]["true_win_rate"] < 1
    assert report["ppo"]["kl"] > 0
    assert report["ppo"]["kl_to_pretrained"] > 0
    assert report["reward_model"]["pair_accuracy_rankings"] > 0.9
    assert set(report["stages"]) == {"sft", "reward", "ppo"}
    assert result.report_html.read_text().lower().startswith("<!doctype html>")


def test_a_single_prompt_gives_a_report_with_gaps(chain, tmp_path):
    _, config, _ = chain
    single = dataclasses.replace(
        config, max_prompts=1, num_samples=1, output_dir=str(tmp_path / "single")
    )
    report = json.loads(EvaluationStage(single, judge=CountsGood()).run().report_json.read_text())
    assert report["prompts"] == 1
    assert report["ppo"]["kl_interval"] == [None, None]
    assert (
        report["reward_model"]["pair_accuracy"] == report["reward_model"]["pair_accuracy_rankings"]
    )


def test_a_broken_row_is_told_not_skipped(chain, tmp_path):
    _, config, _ = chain
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n')
    broken = dataclasses.replace(config, eval_file=str(rows), output_dir=str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        EvaluationStage(broken).run()


def test_a_policy_is_refused_where_a_base_is_needed(chain, tmp_path):
    folder, config, _ = chain
    for stage in (
        EvaluationStage(dataclasses.replace(config, sft_model=str(folder / "ppo"))),
        SFTStage(
            SFTConfig(
                model_name_or_path=str(folder / "ppo"),
                train_file=config.eval_file,
                output_dir=str(tmp_path / "x"),
            )
        ),
    ):
        with pytest.raises(ConfigError, match="is a policy adapter on the base"):
            stage.run()


def test_the_export_is_the_policy(chain):
    _, _, result = chain
    assert result.export_max_logprob_difference <= 1e-4
    assert result.export_same_greedy_text is True
    policy = load_file(result.adapter / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in policy.items() if "lora_B" in name)


def test_a_wrong_export_is_deleted(chain, tmp_path):
    """The adapter on disk is not the one that was probed."""
    import shutil

    folder, _, _ = chain
    run = shutil.copytree(folder / "ppo", tmp_path / "ppo")
    policy = Policy.load(str(run), dtype="float32")
    with policy.roles.use("policy"):
        probes = take_probes(policy.roles, policy.chat, [[1, 3, 6, 14, 4]], max_new_tokens=4)
    file = run / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 0.05 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(TrainingError, match="was deleted"):
        export_to_original(run, probes, dtype="float32", device=torch.device("cpu"))
    assert not (run / "export").exists()


def test_a_policys_version_is_that_of_base_and_adapter(chain, tmp_path):
    import shutil

    folder, _, _ = chain
    moved = shutil.copytree(folder / "ppo", tmp_path / "moved")
    changed = shutil.copytree(folder / "ppo", tmp_path / "changed")
    file = changed / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 0.05 for name, tensor in load_file(file).items()}, file)
    runs = (folder / "ppo", moved, changed, folder / "sft")
    versions = [Policy.load(str(run), dtype="float32").version for run in runs]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_a_changed_original_is_missed_before_training(chain, tiny, tmp_path):
    """The folded base names its original by fingerprint."""
    import shutil

    folder, config, _ = chain
    sft = shutil.copytree(folder / "sft", tmp_path / "sft")
    link = json.loads((sft / "model" / "folded.json").read_text())
    link["original_fingerprint"] = "0" * 64
    (sft / "model" / "folded.json").write_text(json.dumps(link))
    ppo = PPOConfig(
        model_name_or_path=str(sft),
        reward_model=str(folder / "reward"),
        accept_reward_model=True,
        train_file=config.eval_file,
        output_dir=str(tmp_path / "ppo"),
    )
    with pytest.raises(CheckpointError, match="its weights changed"):
        PPOStage(ppo).run()
    assert not (tmp_path / "ppo").exists()
