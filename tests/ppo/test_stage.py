"""The PPO stage on the tiny model: exactness of the loop, and that it learns."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config import AdapterConfig, PPOConfig
from rlhf.errors import CheckpointError, ConfigError, TrainingError
from rlhf.model.base import resolve_model
from rlhf.ppo import PPOStage
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ranks import Ranks
from rlhf.records import Prompt

PROMPTS = ["a b c", "d", "e f g h i", "hello", "world a", "b c", "j k", "l m n o"]
FUNCTION = """
def count_good(prompts, completions):
    return [float(text.split().count("good")) for text in completions]


def constant(prompts, completions):
    return [1.0] * len(completions)


def short(prompts, completions):
    return [1.0]


def nan(prompts, completions):
    return [float("nan")] * len(completions)
"""


@pytest.fixture
def config(tiny, tmp_path, write_rows):
    (tmp_path / "rewards.py").write_text(FUNCTION)
    return PPOConfig(
        model_name_or_path=str(tiny),
        output_dir=str(tmp_path / "run"),
        train_file=write_rows("prompts.jsonl", [{"prompt": text} for text in PROMPTS]),
        reward_function=f"{tmp_path / 'rewards.py'}:count_good",
        adapter=AdapterConfig(r=4, lora_alpha=8),
        learning_rate=1e-3,
        value_learning_rate=1e-3,
        warmup_steps=0,
        lr_scheduler_type="constant",
        max_steps=2,
        rollout_batch_size=8,
        num_mini_batches=2,
        num_ppo_epochs=2,
        per_device_train_batch_size=2,
        max_new_tokens=8,
        kl_coef=0.05,
    )


def trainer_of(config):
    return PPOTrainer(config, resolve_model(config.model_name_or_path), Ranks())


def step(trainer, update=0):
    prompts = [Prompt.parse(text) for text in PROMPTS]
    ids = [trainer.chat.encode_prompt(prompt) for prompt in prompts]
    metrics, rollout, _ = trainer.step(prompts, ids, update)
    return metrics, rollout


def weights(trainer, role="policy"):
    return {name: p.detach().clone() for name, p in trainer.roles.parameters(role).items()}


def test_first_minibatch_ratio_is_exactly_one_and_kl_exactly_zero(config):
    for temperature in (1.0, 0.7):
        trainer = trainer_of(dataclasses.replace(config, temperature=temperature))
        for update in range(2):
            metrics, rollout = step(trainer, update)
            assert metrics["policy/ratio_error"] == 0
            assert (metrics["kl/reference"] == 0) is (update == 0)
        assert torch.equal(rollout.logprobs[~rollout.mask], torch.zeros(int((~rollout.mask).sum())))


def test_micro_batch_size_changes_nothing(config):
    found = []
    for size in (1, 2, 8):
        trainer = trainer_of(dataclasses.replace(config, per_device_train_batch_size=size))
        step(trainer)
        found.append(weights(trainer) | weights(trainer, "value"))
    for other in found[1:]:
        for name, expected in found[0].items():
            torch.testing.assert_close(other[name], expected, rtol=1e-4, atol=2e-5)


def test_the_policy_warms_up_after_the_value(config):
    trainer = trainer_of(
        dataclasses.replace(
            config, value_warmup_steps=2, warmup_steps=2, max_steps=8, lr_scheduler_type="linear"
        )
    )
    policy = [trainer.learner.lr_factor(update, delay=2) for update in range(2, 8)]
    # Two updates of warm-up, then from 1 to 0 over the remaining four.
    assert policy == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_number_of_optimiser_steps(config):
    trainer = trainer_of(config)
    step(trainer)
    steps = {
        float(value)
        for optimizer in (trainer.policy_optimizer, trainer.value_optimizer)
        for name, value in optimizer.state().items()
        if name.endswith("|step")
    }
    assert steps == {4.0}  # 2 passes of 2 minibatches


def test_without_advantage_the_policy_stays(config):
    """Constant reward, values equal to it, no KL: nothing to learn."""
    constant = config.reward_function.replace("count_good", "constant")
    trainer = trainer_of(
        dataclasses.replace(config, reward_function=constant, kl_coef=0.0, missing_eos_penalty=0.0)
    )
    with torch.no_grad():
        trainer.value.head.bias.fill_(1.0)
    before = weights(trainer)
    metrics, _ = step(trainer)
    assert abs(metrics["policy/loss"]) < 1e-6
    assert all(torch.equal(before[name], now) for name, now in weights(trainer).items())


def test_value_warm_up_leaves_the_policy_alone(config):
    trainer = trainer_of(dataclasses.replace(config, value_warmup_steps=1))
    policy, value = weights(trainer), weights(trainer, "value")
    step(trainer, 0)
    assert all(torch.equal(policy[name], now) for name, now in weights(trainer).items())
    assert any(not torch.equal(value[name], now) for name, now in weights(trainer, "value").items())
    step(trainer, 1)
    assert any(not torch.equal(policy[name], now) for name, now in weights(trainer).items())


def test_a_truncated_completion_pays_and_an_ended_one_does_not(config):
    """Both kinds are in the rollout, and the mean shaped score is the mean score less the share."""
    metrics, rollout = step(trainer_of(dataclasses.replace(config, missing_eos_penalty=2.0)))
    assert 0 < metrics["completion/truncated"] < 1
    assert metrics["completion/truncated"] == float((~rollout.ended).float().mean())
    paid = metrics["score/mean"] - metrics["score/shaped"]
    assert paid == pytest.approx(2.0 * metrics["completion/truncated"], abs=1e-5)


def test_the_base_is_untouched_and_only_the_policy_is_saved(config):
    before = trainer_of(config).roles.base_digest()
    result = PPOStage(config).run()
    assert trainer_of(config).roles.base_digest() == before
    saved = load_file(result.adapter / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    assert result.export is None  # the base was never folded
    assert result.updates == 2
    run = json.loads((result.output_dir / "run.json").read_text())
    assert run["status"] == "done"
    assert run["base_fingerprint"] == result.base_fingerprint
    rows = (result.output_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize("killed_at", [1, 3])
def test_resuming_equals_a_straight_run(config, tmp_path, killed_at):
    straight = dataclasses.replace(config, max_steps=4, output_dir=str(tmp_path / "straight"))
    PPOStage(straight).run()
    broken = dataclasses.replace(
        config, max_steps=4, save_steps=2, output_dir=str(tmp_path / "broken")
    )

    class KilledError(Exception):
        pass

    def kill(stage, at, total, metrics):
        if at == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        PPOStage(broken, listener=kill).run()
    PPOStage(dataclasses.replace(broken, resume=True)).run()
    last = "checkpoints/step-4"
    for name in ("policy", "value", "policy_optimizer", "value_optimizer", "value_head"):
        a, b = (
            load_file(tmp_path / run / last / f"{name}.safetensors")
            for run in ("straight", "broken")
        )
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    logged = [
        [
            {k: v for k, v in json.loads(row).items() if "time" not in k}
            for row in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in ("straight", "broken")
    ]
    assert logged[0] == logged[1]


@pytest.mark.parametrize("name", ["prompts.jsonl", "demos.jsonl"])
def test_a_run_is_not_resumed_with_other_data(config, write_rows, name):
    demonstrations = write_rows("demos.jsonl", [{"prompt": "a", "completion": "good"}])
    broken = dataclasses.replace(config, save_steps=1, ptx_file=demonstrations, ptx_coef=0.1)

    class KilledError(Exception):
        pass

    def kill(stage, at, total, metrics):
        raise KilledError

    with pytest.raises(KilledError):
        PPOStage(broken, listener=kill).run()
    write_rows(name, [{"prompt": "b", "completion": "bad"}])
    with pytest.raises(
        ConfigError, match=rf"_file: .*{name} changed since .*; put it back or give"
    ):
        PPOStage(dataclasses.replace(broken, resume=True)).run()


def test_it_learns_a_reward_at_bounded_kl(config):
    learning = dataclasses.replace(
        config,
        max_steps=18,
        rollout_batch_size=32,
        learning_rate=5e-3,
        value_learning_rate=5e-3,
        num_mini_batches=2,
        per_device_train_batch_size=16,
        kl_coef=0.1,
        missing_eos_penalty=0.0,
    )
    result = PPOStage(learning).run()
    assert result.score_start < 1.0
    assert result.score > 3.0
    assert 0 < result.kl < 25


def test_a_strong_kl_penalty_holds_the_policy(config):
    held = dataclasses.replace(
        config,
        max_steps=10,
        rollout_batch_size=32,
        learning_rate=5e-3,
        value_learning_rate=5e-3,
        per_device_train_batch_size=16,
        kl_coef=20.0,
    )
    assert PPOStage(held).run().kl < 0.3


def test_the_run_stops_at_the_kl_budget(config):
    result = PPOStage(
        dataclasses.replace(config, learning_rate=1e-2, max_steps=30, kl_budget=0.2)
    ).run()
    assert result.stopped_by == "kl_budget"
    assert result.updates < 30
    assert result.checkpoint.is_dir()


def test_the_update_that_ends_the_run_is_logged(config):
    result = PPOStage(
        dataclasses.replace(
            config, learning_rate=1e-2, max_steps=30, kl_budget=0.2, logging_steps=20
        )
    ).run()
    assert result.stopped_by == "kl_budget"
    assert result.updates < 20
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = (result.output_dir / name).read_text().splitlines()
        assert {json.loads(row)["step"] for row in rows} == {result.updates}


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("short", TrainingError, "gave 1 scores for 8 completions"),
        ("nan", TrainingError, "gave nan for"),
        ("missing", ConfigError, "has no function 'missing'"),
    ],
)
def test_bad_reward_functions_are_named(config, name, error, text):
    changed = config.reward_function.replace("count_good", name)
    with pytest.raises(error, match=text):
        PPOStage(dataclasses.replace(config, reward_function=changed)).run()


def test_prompts_without_room_for_a_completion_are_refused_at_once(config):
    with pytest.raises(ConfigError, match="don't fit the model's 128 positions"):
        PPOStage(dataclasses.replace(config, max_new_tokens=125)).run()


def test_a_second_run_in_the_folder_is_refused(config):
    PPOStage(config).run()
    with pytest.raises(CheckpointError, match="holds a finished ppo run"):
        PPOStage(config).run()
