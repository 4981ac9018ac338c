"""What each option of PPO does, on the tiny model."""

import dataclasses
import json
import math

import pytest
import torch
from peft import PeftModel
from tiny_model import WORDS, make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from rlhf.config import AdapterConfig, PPOConfig, SFTConfig
from rlhf.errors import ConfigError, DataError
from rlhf.model.base import resolve_base
from rlhf.model.scoring import completion_logprobs
from rlhf.ppo import PPOStage
from rlhf.ppo.advantages import Targets, estimate
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.sft import SFTStage

PROMPTS = ["a b c", "d", "e f g h i", "hello", "world a", "b c", "j k", "l m n o"]
DEMONSTRATIONS = [
    {"prompt": f"{x} {y}", "completion": " ".join([y, x, "good"][: 1 + i % 3])}
    for i, (x, y) in enumerate((x, y) for x in "abcd" for y in "efg")
]


def count_good(prompts, completions):
    return [float(text.split().count("good")) for text in completions]


def vary(prompts, completions):
    """A score that differs between almost any two completions."""
    return [float(len(text) + text.count("a") - 2 * text.count("o")) for text in completions]


@pytest.fixture
def config(tiny, tmp_path, write_rows):
    return PPOConfig(
        model_name_or_path=str(tiny),
        output_dir=str(tmp_path / "run"),
        train_file=write_rows("prompts.jsonl", [{"prompt": text} for text in PROMPTS]),
        reward_function="given",
        adapter=AdapterConfig(r=4, lora_alpha=8),
        learning_rate=1e-3,
        value_learning_rate=1e-3,
        warmup_steps=0,
        lr_scheduler_type="constant",
        max_steps=2,
        rollout_batch_size=8,
        num_mini_batches=2,
        num_ppo_epochs=1,
        per_device_train_batch_size=4,
        max_new_tokens=8,
    )


ONE_STEP = {"num_mini_batches": 1}
SHARED = {"value": "shared"}
RLOO = {"advantage": "rloo", "num_generations": 2, "value_learning_rate": 5e-5}
"""The rate is the default: there is no value model."""


def make(config, function=vary, **changes):
    config = dataclasses.replace(config, **changes)
    return PPOTrainer(config, resolve_base(config.model_name_or_path), Ranks(), [function])


def rows(trainer):
    each = trainer.config.num_generations
    texts = [text for text in PROMPTS[: len(PROMPTS) // each] for _ in range(each)]
    prompts = [Prompt.parse(text) for text in texts]
    return prompts, [trainer.chat.encode_prompt(prompt) for prompt in prompts]


def step(trainer, update=0):
    return trainer.step(*rows(trainer), update)


def run(config, function=vary, **changes):
    return PPOStage(dataclasses.replace(config, **changes), reward_functions=[function]).run()


def logged(folder, name="metrics.jsonl"):
    return [json.loads(row) for row in (folder / name).read_text().splitlines()]


def weights(trainer, role="policy"):
    return {name: p.detach().clone() for name, p in trainer.roles.parameters(role).items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], tensor) for name, tensor in second.items())


def batch_of(trainer, rollout):
    rows = list(range(len(rollout.prompts)))
    return trainer.collector.batch(rollout.prompt_ids, rollout.completion_ids, rows)


class Recorder:
    """Takes the place of an optimiser: keeps gradients and never steps."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.found = []

    def step(self, factor):
        self.found.append(torch.cat([p.grad.flatten() for p in self.parameters.values()]))
        self.discard()
        return 0.0

    def discard(self):
        for parameter in self.parameters.values():
            parameter.grad = None


def learn(trainer, rollout, targets, kl_coef=0.0):
    """Gradient of the policy's first minibatch, and the metrics."""
    recorder = Recorder(trainer.roles.parameters("policy"))
    trainer.learner.policy_optimizer = recorder
    if trainer.value_optimizer is not None:
        trainer.learner.value_optimizer = Recorder(trainer.value.parameters)
    metrics = trainer.learner.learn(rollout, targets, update=0, kl_coef=kl_coef)
    return recorder.found[0], metrics


def gradient_of(trainer, loss_of):
    """Gradient of a loss written by hand, in the policy's scope."""
    recorder = Recorder(trainer.roles.parameters("policy"))
    with trainer.roles.use("policy"):
        loss = loss_of()
        loss.backward()
    recorder.step(1.0)
    return recorder.found[0], float(loss.detach())


def moved(trainer):
    """A rollout of a policy that has left the base."""
    step(trainer)
    rollout = trainer.collector.collect(*rows(trainer), update=1)
    assert rollout.log_ratio_ref.abs().max() > 1e-2
    return rollout


def alike(rollout, advantage):
    """Targets that give every token the same advantage."""
    tokens = rollout.mask.float()
    return Targets(tokens * advantage, torch.zeros_like(tokens), torch.tensor(1.0))


# -- value -----------------------------------------------------------------------------------------


def test_with_a_shared_value_the_first_ratio_is_exactly_one(config):
    trainer = make(config, **SHARED)
    assert set(trainer.roles.peft_model.peft_config) == {"policy"}
    for update in range(2):
        metrics, _, _ = step(trainer, update)
        assert metrics["policy/ratio_error"] == 0
        assert metrics["value/loss"] > 0


@pytest.mark.parametrize("changes", [SHARED, RLOO], ids=["shared", "rloo"])
def test_micro_batch_size_changes_nothing(config, changes):
    found = []
    for size in (1, 2, 8):
        trainer = make(config, per_device_train_batch_size=size, **changes)
        step(trainer)
        found.append(weights(trainer) | {"head": trainer.value.head.weight.detach()})
    for other in found[1:]:
        for name, expected in found[0].items():
            torch.testing.assert_close(other[name], expected, rtol=1e-4, atol=2e-5)


def test_warming_up_a_shared_value_moves_its_head_alone(config):
    trainer = make(config, value_warmup_steps=1, **SHARED)
    policy, head = weights(trainer), trainer.value.head.weight.detach().clone()
    step(trainer, 0)
    assert same(weights(trainer), policy)
    assert all(p.grad is None for p in trainer.roles.parameters("policy").values())
    assert not torch.equal(trainer.value.head.weight, head)
    step(trainer, 1)
    assert not same(weights(trainer), policy)


def test_the_loss_of_a_shared_value_moves_the_policy_by_its_weight(config):
    trainer = make(config, **ONE_STEP, **SHARED)
    torch.nn.init.normal_(trainer.value.head.weight, generator=torch.Generator().manual_seed(0))
    rollout = trainer.collector.collect(*rows(trainer), update=0)
    targets = alike(rollout, 0.0)  # no advantage: what is left is the value loss
    found = []
    for vf_coef in (0.1, 0.3):
        trainer.learner.config = dataclasses.replace(trainer.config, vf_coef=vf_coef)
        found.append(learn(trainer, rollout, targets)[0])
    assert found[0].abs().max() > 1e-4
    torch.testing.assert_close(found[1], 3 * found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [SHARED | {"value_learning_rate": 1e-2}, RLOO | {"num_generations": 4}],
    ids=["shared", "rloo"],
)
def test_it_learns_a_reward(config, changes):
    result = run(
        config,
        count_good,
        max_steps=12,
        rollout_batch_size=32,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        missing_eos_penalty=0.0,
        **changes,
    )
    assert result.score_start < 1.0
    assert result.score > 3.0


# -- advantages ------------------------------------------------------------------------------------


def test_without_a_value_model_nothing_of_one_is_made_or_saved(config):
    trainer = make(config, **RLOO)
    assert set(trainer.roles.peft_model.peft_config) == {"policy"}
    result = run(config, **RLOO)
    files = {path.name for path in result.checkpoint.iterdir()}
    assert {"policy.safetensors", "policy_optimizer.safetensors"} <= files
    assert not [name for name in files if "value" in name]
    (first, _) = logged(result.output_dir)
    assert not [name for name in first if name.startswith("value/")]


def test_rloo_compares_the_completions_of_one_prompt(config):
    trainer = make(config, kl_coef=0.0, **RLOO)
    metrics, rollout, targets = step(trainer)
    scores = vary(None, [trainer.chat.decode_completion(ids) for ids in rollout.completion_ids])
    shaped = [
        min(max(score, -10.0), 10.0) - (0.0 if ended else 1.0)
        for score, ended in zip(scores, rollout.ended.tolist(), strict=True)
    ]
    raw = torch.tensor([shaped[row] - shaped[row ^ 1] for row in range(8)])
    raw = raw[:, None].expand_as(rollout.mask)[rollout.mask]
    expected = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(targets.advantages[rollout.mask], expected)
    assert metrics["policy/ratio_error"] == 0


def test_the_completions_of_a_prompt_are_neighbours_and_differ(config, monkeypatch):
    seen = []

    class Watched(PPOTrainer):
        def step(self, prompts, prompt_ids, update):
            found = super().step(prompts, prompt_ids, update)
            seen.append(found[1])
            return found

    monkeypatch.setattr("rlhf.ppo.stage.PPOTrainer", Watched)
    run(config, **RLOO)
    texts = [prompt.text for rollout in seen for prompt in rollout.prompts]
    assert texts[0::2] == texts[1::2]
    assert sorted(texts[0::2]) == sorted(PROMPTS)  # two updates are one pass
    completions = [ids for rollout in seen for ids in rollout.completion_ids]
    assert sum(a != b for a, b in zip(completions[0::2], completions[1::2], strict=True)) >= 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "rloo"}, "num_generations: 1 is not allowed"),
        ({"num_generations": 3}, "num_generations: 3 is not allowed"),
        (RLOO | {"value_warmup_steps": 2}, "value_warmup_steps: 2 is not allowed"),
        ({"value_warmup_steps": 2}, "value_warmup_steps: 2 is not allowed; the policy would never"),
        (ONE_STEP | {"target_kl": 0.05}, "target_kl: 0.05 is not allowed; an update of one step"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 0.9),
        ("lam", 1.0),
        ("lam_value", 0.95),
        ("value", "shared"),
        ("vf_coef", 0.1),
        ("cliprange_value", 0.5),
        ("value_learning_rate", 1e-3),
        ("value_warmup_steps", 1),
    ],
)
def test_rloo_refuses_what_it_would_ignore(config, name, value):
    given = {name: value}
    dataclasses.replace(config, **given)
    with pytest.raises(ConfigError, match=rf"^{name}: .* advantage rloo has no value model"):
        dataclasses.replace(config, **RLOO | given)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_with_lam_value_one_values_learn_rewards_to_go(config, gamma):
    trainer = make(config, gamma=gamma, lam_value=1.0, kl_coef=0.2, **ONE_STEP)
    torch.nn.init.normal_(trainer.value.head.weight, generator=torch.Generator().manual_seed(0))
    step(trainer, 0)
    metrics, rollout, targets = step(trainer, 1)
    scores = rollout.scores.clamp(-10, 10) - (~rollout.ended).float()
    for row, length in enumerate(rollout.lengths.tolist()):
        to_go, expected = float(scores[row]), []
        for token in reversed(range(length)):
            charge = 0.2 * float(rollout.log_ratio_ref[row, token])
            to_go = (to_go if token == length - 1 else gamma * to_go) - charge
            expected.insert(0, to_go)
        torch.testing.assert_close(targets.returns[row, :length], torch.tensor(expected))
    error = (rollout.values - targets.returns)[rollout.mask]
    assert metrics["value/loss"] == pytest.approx(float(0.5 * (error**2).mean()), rel=1e-5)


# -- KL --------------------------------------------------------------------------------------------


def test_the_kl_weight_follows_the_rule_of_ziegler(config):
    target, horizon = 0.3, 16
    result = run(
        config, max_steps=4, learning_rate=1e-2, kl_target=target, kl_horizon=horizon, kl_coef=0.1
    )
    expected, errors = 0.1, []
    for row in logged(result.output_dir):
        assert row["kl/coef"] == pytest.approx(expected, rel=1e-9)
        errors.append(min(max(row["kl/reference"] / target - 1, -0.2), 0.2))
        expected *= 1 + errors[-1] * 8 / horizon
    assert errors[0] == -0.2  # the first KL is 0
    assert max(errors) == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kl_horizon": 7},
            "kl_horizon: 7 is not allowed; with kl_target, give rollout_batch_size",
        ),
        ({"kl_coef": 0.0}, "kl_coef: 0.0 is not allowed; kl_target multiplies it"),
    ],
)
def test_a_kl_weight_that_could_not_adapt_is_refused(config, changes, message):
    dataclasses.replace(config, **changes)  # nothing adapts: both are fine
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, kl_target=6.0, **changes)


def test_the_kl_weight_stays_positive_at_the_smallest_horizon(config):
    """A KL far below its target takes a fifth off in each update."""
    result = run(config, max_steps=4, learning_rate=1e-4, kl_target=50.0, kl_horizon=8, kl_coef=0.1)
    weights = [row["kl/coef"] for row in logged(result.output_dir)]
    assert weights == pytest.approx([0.1, 0.08, 0.064, 0.0512])


def test_target_kl_ends_an_update_after_its_first_step(config):
    changes = {"learning_rate": 1e-2, "num_ppo_epochs": 3}
    trainer = make(config, target_kl=1e-6, **changes)
    taken = []
    for name in ("policy_optimizer", "value_optimizer"):
        optimizer = getattr(trainer, name)

        def watched(factor, name=name, take=optimizer.step):
            norm = take(factor)
            taken.append((name, weights(trainer)))
            return norm

        optimizer.step = watched
    metrics, _, _ = step(trainer)
    assert metrics["optimizer/steps"] == 1  # the first minibatch has no KL to the old policy
    assert sorted(name for name, _ in taken) == ["policy_optimizer", "value_optimizer"]
    assert same(weights(trainer), taken[-1][1])
    trained = trainer.policy_optimizer.parameters | trainer.value_optimizer.parameters
    assert all(parameter.grad is None for parameter in trained.values())
    for generous in (None, 1e6):
        assert step(make(config, target_kl=generous, **changes))[0]["optimizer/steps"] == 6


def test_target_kl_lets_through_what_stays_below(config):
    changes = {"learning_rate": 3e-3, "num_ppo_epochs": 3}
    largest = step(make(config, **changes))[0]["kl/old_k3"] * 1.5
    metrics, _, _ = step(make(config, target_kl=largest, **changes))
    assert 1 < metrics["optimizer/steps"] < 6


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_single_step_is_measured_after_it(config, size):
    """Over the whole rollout, whatever the micro-batches; several steps are measured before."""
    trainer = make(config, learning_rate=1e-2, per_device_train_batch_size=size, **ONE_STEP)
    metrics, rollout, _ = step(trainer)
    with torch.no_grad(), trainer.roles.use("policy"):
        new = completion_logprobs(trainer.roles, batch_of(trainer, rollout), temperature=1.0)
    log_ratio = (new - rollout.logprobs)[rollout.mask]
    ratio = log_ratio.exp()
    assert (ratio - 1).abs().max() > 0.2, "nothing is clipped: the test shows nothing"
    distance = float((ratio - 1 - log_ratio).mean())
    assert metrics["kl/old_k3"] == pytest.approx(distance, rel=1e-3)
    clipped = ((ratio - 1).abs() > 0.2).float().mean()
    assert metrics["policy/clip_fraction"] == pytest.approx(float(clipped), abs=1e-6)
    assert metrics["policy/ratio_error"] == 0
    assert metrics["optimizer/steps"] == 1


def test_a_single_step_of_the_value_alone_goes_nowhere(config):
    metrics = step(make(config, value_warmup_steps=1, **ONE_STEP))[0]
    assert metrics["kl/old_k3"] == metrics["policy/clip_fraction"] == 0


def test_kl_in_the_loss_adds_its_gradient_and_leaves_the_reward_alone(config):
    coef = 0.3
    trainer = make(config, kl_in="loss", kl_coef=coef, learning_rate=1e-2, **ONE_STEP)
    rollout = moved(trainer)
    targets = estimate(rollout, rollout.scores, trainer.config, kl_coef=coef)
    free = dataclasses.replace(trainer.config, kl_in="reward")
    without_kl = estimate(rollout, rollout.scores, free, kl_coef=0.0)
    assert torch.equal(targets.advantages, without_kl.advantages)
    with_kl, metrics = learn(trainer, rollout, targets, kl_coef=coef)
    without, _ = learn(trainer, rollout, targets, kl_coef=0.0)
    batch, ratio, tokens = batch_of(trainer, rollout), rollout.log_ratio_ref, rollout.mask.sum()

    def penalty():
        logprobs = completion_logprobs(trainer.roles, batch, temperature=1.0)
        return coef / targets.spread * (ratio * logprobs).sum() / tokens

    expected, _ = gradient_of(trainer, penalty)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(with_kl - without, expected, rtol=1e-3, atol=1e-5)
    half_squares = 0.5 * (ratio**2).sum() / tokens
    assert metrics["policy/kl_loss"] == pytest.approx(float(half_squares), rel=1e-4)


def test_a_strong_kl_in_the_loss_holds_the_policy(config):
    changes = {
        "max_steps": 5,
        "rollout_batch_size": 16,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "kl_in": "loss",
    }
    held = run(config, count_good, kl_coef=20.0, output_dir=f"{config.output_dir}-held", **changes)
    free = run(config, count_good, kl_coef=0.0, output_dir=f"{config.output_dir}-free", **changes)
    assert held.kl < 0.3
    assert free.kl > 1.0


# -- reference -------------------------------------------------------------------------------------


def logprobs_of(model, rollout, temperature=1.0):
    """What a plain model gives the tokens of a rollout, row by row without padding."""
    found = torch.zeros_like(rollout.logprobs)
    for row, (prompt, completion) in enumerate(
        zip(rollout.prompt_ids, rollout.completion_ids, strict=True)
    ):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        picked = (logits / temperature).log_softmax(-1).gather(1, torch.tensor(completion)[:, None])
        found[row, : len(completion)] = picked[:, 0]
    return found


def close(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_the_reference_can_be_the_adapter_of_another_run(config, tiny):
    other = run(config, learning_rate=1e-2, output_dir=f"{config.output_dir}-other")
    trainer = make(config, reference=str(other.output_dir))
    metrics, rollout, _ = step(trainer, 0)
    assert metrics["kl/base"] == 0
    assert abs(metrics["kl/reference"]) > 1e-2
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    close(rollout.base_logprobs, logprobs_of(plain, rollout))
    adapted = PeftModel.from_pretrained(plain, str(other.adapter)).eval()
    close(rollout.ref_logprobs, logprobs_of(adapted, rollout))
    before = weights(trainer, "reference")
    metrics, _, _ = step(trainer, 1)
    assert metrics["kl/base"] != metrics["kl/reference"]
    assert same(weights(trainer, "reference"), before)


def test_the_reference_has_the_temperature_of_the_policy(config, tiny):
    other = run(config, learning_rate=1e-2, output_dir=f"{config.output_dir}-other")
    trainer = make(config, reference=str(other.output_dir), temperature=0.5)
    rollout = trainer.collector.collect(*rows(trainer), update=0)
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    close(rollout.base_logprobs, logprobs_of(plain, rollout, 0.5))
    adapted = PeftModel.from_pretrained(plain, str(other.adapter)).eval()
    close(rollout.ref_logprobs, logprobs_of(adapted, rollout, 0.5))


def test_the_kl_weight_follows_the_kl_to_the_reference(config):
    """The first KL to the base is 0, below any target; that to the reference lies far above."""
    other = run(config, learning_rate=1e-2, output_dir=f"{config.output_dir}-other")
    trainer = make(
        config, reference=str(other.output_dir), kl_coef=0.1, kl_target=1e-3, kl_horizon=16
    )
    metrics, _, _ = step(trainer, 0)
    assert metrics["kl/base"] == 0
    assert metrics["kl/reference"] > 2e-3
    assert trainer.kl_coef == pytest.approx(0.1 * (1 + 0.2 * 8 / 16))  # 8 completions


def test_the_reference_can_be_the_weights_before_sft(config, tiny, tmp_path, write_rows):
    sft = SFTStage(
        SFTConfig(
            model_name_or_path=str(tiny),
            train_file=write_rows("demos.jsonl", DEMONSTRATIONS),
            output_dir=str(tmp_path / "sft"),
            adapter=AdapterConfig(r=2, lora_alpha=4),
            learning_rate=2e-2,
            max_steps=4,
            eval_fraction=0.0,
        )
    ).run()
    trainer = make(config, model_name_or_path=str(sft.output_dir), reference="pretrained")
    metrics, rollout, _ = step(trainer, 0)
    pretrained = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    close(rollout.ref_logprobs, logprobs_of(pretrained, rollout))
    assert metrics["kl/base"] == 0
    assert metrics["kl/reference"] != 0
    assert (rollout.ref_logprobs - rollout.base_logprobs).abs().max() > 0.1


def test_a_base_that_was_never_folded_has_no_weights_before_sft(config):
    with pytest.raises(ConfigError, match="reference: pretrained needs a base folded") as caught:
        make(config, reference="pretrained")
    assert "\n" not in str(caught.value)


def test_a_whole_model_is_no_reference(config, tiny):
    with pytest.raises(ConfigError, match=r"reference: .* is a whole model"):
        make(config, reference=str(tiny))


# -- demonstrations --------------------------------------------------------------------------------


@pytest.fixture
def mixed(config, write_rows):
    """All demonstrations enter every step."""
    return dataclasses.replace(
        config,
        ptx_file=write_rows("demos.jsonl", DEMONSTRATIONS),
        ptx_coef=0.7,
        ptx_batch_size=len(DEMONSTRATIONS),
    )


def demonstration_loss(trainer):
    """Mean negative log-likelihood of all demonstration tokens, row by row."""
    total, tokens = 0.0, 0
    for row in DEMONSTRATIONS:
        prompt = trainer.chat.encode_prompt(Prompt.parse(row["prompt"]))
        completion = trainer.chat.encode_completion(row["completion"])
        batch = trainer.collector.batch([prompt], [completion], [0])
        total = total - completion_logprobs(trainer.roles, batch, temperature=1.0).sum()
        tokens += len(completion)
    return total / tokens


@pytest.mark.parametrize("size", [1, 5, 16])
def test_demonstrations_add_their_weighed_likelihood_to_the_gradient(mixed, size):
    # The temperature is that of sampling: demonstrations are learnt as they are.
    trainer = make(mixed, per_device_train_batch_size=size, temperature=0.7, **ONE_STEP)
    rollout = moved(trainer)
    targets = estimate(rollout, rollout.scores, trainer.config, kl_coef=0.0)
    with_them, metrics = learn(trainer, rollout, targets)
    trainer.learner.ptx = None
    without, _ = learn(trainer, rollout, targets)
    expected, loss = gradient_of(trainer, lambda: demonstration_loss(trainer))
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(with_them - without, 0.7 * expected, rtol=1e-3, atol=1e-5)
    assert metrics["policy/ptx_loss"] == pytest.approx(loss, rel=1e-5)


def test_demonstrations_grow_likelier_with_the_mix(config, mixed):
    after = []
    for setting in (config, mixed):
        trainer = make(setting, learning_rate=5e-3)
        for update in range(3):
            step(trainer, update)
        with torch.no_grad(), trainer.roles.use("policy"):
            after.append(float(demonstration_loss(trainer)))
    assert after[1] < after[0] - 0.5


def test_each_step_takes_the_next_demonstrations(mixed):
    trainer, taken = make(mixed), []
    take = trainer.learner.ptx.accumulate

    def watched(step):
        taken.append(step)
        return take(step)

    trainer.learner.ptx.accumulate = watched
    for update in range(2):
        step(trainer, update)
    assert taken == [0, 1, 2, 3]


def test_demonstrations_beyond_the_models_positions_are_refused(mixed, write_rows):
    """[BOS] user a assistant, 125 words and the end token: 130 tokens."""
    long = write_rows("long.jsonl", [{"prompt": "a", "completion": " ".join("b" * 125)}])
    message = r"long.jsonl: 1 of 1 demonstrations have more than the model's 128 positions"
    with pytest.raises(DataError, match=message + r" \(the longest 130\).*; drop them$"):
        make(dataclasses.replace(mixed, ptx_file=long))


def test_a_mix_needs_a_file_and_a_weight(config, mixed):
    for setting, changes in ((config, {"ptx_coef": 0.1}), (mixed, {"ptx_coef": 0.0})):
        with pytest.raises(ConfigError, match="ptx_file and a ptx_coef above 0 go together"):
            dataclasses.replace(setting, **changes)


def test_the_policy_warms_up_from_its_own_first_update(config):
    """Of two updates of warm-up, the value has done both when the policy begins."""
    trainer = make(config, value_warmup_steps=2, warmup_steps=2, max_steps=4, **ONE_STEP)
    factors = {"policy": [], "value": []}
    for role, optimizer in trainer._optimizers().items():

        def watched(factor, role=role, take=optimizer.step):
            factors[role].append(factor)
            return take(factor)

        optimizer.step = watched
    for update in range(4):
        step(trainer, update)
    assert factors == {"policy": [0.5, 1.0], "value": [0.5, 1.0, 1.0, 1.0]}


# -- the policy's loss -----------------------------------------------------------------------------


def test_importance_weights_are_one_where_the_sampler_is_the_policy(config):
    found = []
    for cap in (None, 2.0):
        trainer = make(config, importance_sampling_cap=cap)
        step(trainer)
        found.append(torch.cat([p.flatten() for p in weights(trainer).values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("factor", "weight"), [(3.0, 2.0), (1.5, 1.5), (0.5, 0.5)])
def test_importance_weights_are_cut_at_the_cap(config, factor, weight):
    trainer = make(config, importance_sampling_cap=2.0, **ONE_STEP)
    rollout = trainer.collector.collect(*rows(trainer), update=0)
    targets = estimate(rollout, rollout.scores, trainer.config, kl_coef=0.0)
    agreed = dataclasses.replace(rollout, sampler_logprobs=rollout.logprobs)
    # The policy finds each token ``factor`` times as likely as the sampler did.
    shifted = dataclasses.replace(rollout, sampler_logprobs=rollout.logprobs - math.log(factor))
    plain, _ = learn(trainer, agreed, targets)
    found, _ = learn(trainer, shifted, targets)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(found, weight * plain, rtol=1e-4, atol=1e-6)


def clipped(config, ratio, advantage, **changes):
    """Learn from a rollout in which every token has one ratio and one advantage."""
    trainer = make(config, **ONE_STEP, **changes)
    rollout = trainer.collector.collect(*rows(trainer), update=0)
    old = dataclasses.replace(rollout, logprobs=rollout.logprobs - math.log(ratio))
    gradient, metrics = learn(trainer, old, alike(rollout, advantage))
    return float(gradient.abs().max()), metrics


def test_cliprange_high_is_the_range_above_one(config):
    assert clipped(config, 1.25, 1.0)[0] == 0
    gradient, metrics = clipped(config, 1.25, 1.0, cliprange_high=0.3)
    assert gradient > 1e-3
    assert metrics["policy/clip_fraction"] == 0
    assert metrics["policy/loss"] == pytest.approx(-1.25, rel=1e-5)
    gradient, metrics = clipped(config, 0.75, -1.0, cliprange_high=0.3)
    assert gradient == 0
    assert metrics["policy/clip_fraction"] == 1
    assert metrics["policy/loss"] == pytest.approx(0.8, rel=1e-5)


def test_dual_clip_bounds_the_loss_of_bad_tokens(config):
    gradient, metrics = clipped(config, 5.0, -1.0)
    assert gradient > 1e-3
    assert metrics["policy/loss"] == pytest.approx(5.0, rel=1e-5)
    gradient, metrics = clipped(config, 5.0, -1.0, dual_clip=3.0)
    assert gradient == 0
    assert metrics["policy/loss"] == pytest.approx(3.0, rel=1e-5)


def repeated(rollout, times):
    """The same completions over and over: every mean over tokens stays what it was."""
    tensors = ("mask", "sampler_logprobs", "logprobs", "ref_logprobs", "base_logprobs", "values")
    lists = ("prompts", "prompt_ids", "completion_ids")
    return dataclasses.replace(
        rollout,
        **{name: getattr(rollout, name).repeat(times, 1) for name in tensors},
        **{name: getattr(rollout, name) * times for name in lists},
    )


@pytest.mark.parametrize(
    "changes", [{}, SHARED, {"ptx_coef": 0.5}], ids=["adapter", "shared", "ptx"]
)
def test_many_tokens_leave_no_gradient_to_vanish_in_float16(config, tmp_path, write_rows, changes):
    if "ptx_coef" in changes:
        changes = changes | {"ptx_file": write_rows("demos.jsonl", DEMONSTRATIONS)}
    model = make_model()
    with torch.no_grad():  # large states: the norms then hand small gradients down
        model.model.embed_tokens.weight.mul_(1000.0)
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    found = []
    for dtype, times in (("float32", 1), ("float16", 256)):
        trainer = make(
            config,
            model_name_or_path=str(tmp_path / "model"),
            dtype=dtype,
            per_device_train_batch_size=512,
            **ONE_STEP,
            **changes,
        )
        for number, (name, parameter) in enumerate(trainer.roles.parameters("policy").items()):
            if "lora_B" in name:
                generator = torch.Generator().manual_seed(number)
                torch.nn.init.normal_(parameter, std=0.002, generator=generator)
        if not found:
            once = trainer.collector.collect(*rows(trainer), update=0)
            advantages = torch.randn(once.mask.shape, generator=torch.Generator().manual_seed(0))
        rollout = repeated(once, times)
        mask = rollout.mask.float()
        targets = Targets(advantages.repeat(times, 1) * mask, mask, torch.tensor(1.0))
        gradient, metrics = learn(trainer, rollout, targets)
        found.append((gradient.double(), metrics))
    (expected, single), (gradient, many) = found
    sizes = [p.numel() for p in trainer.roles.parameters("policy").values()]
    pairs = zip(gradient.split(sizes), expected.split(sizes), strict=True)
    assert min(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs) > 0.99
    assert gradient.norm() == pytest.approx(float(expected.norm()), rel=0.02)
    assert many["policy/loss"] == pytest.approx(single["policy/loss"], abs=0.02)
    assert many["value/loss"] == pytest.approx(single["value/loss"], rel=0.02)


# -- scores and sampling ---------------------------------------------------------------------------


def test_scores_are_clipped_and_length_is_charged(config):
    metrics, rollout, _ = step(
        make(config, score_clip=1.5, length_penalty=0.25, missing_eos_penalty=0.5)
    )
    assert rollout.scores.max() > 1.5
    expected = [
        min(max(score, -1.5), 1.5) - 0.25 * len(ids) - (0.0 if ended else 0.5)
        for score, ids, ended in zip(
            rollout.scores.tolist(), rollout.completion_ids, rollout.ended.tolist(), strict=True
        )
    ]
    assert metrics["score/shaped"] == pytest.approx(sum(expected) / 8, abs=1e-5)


def test_the_generation_batch_changes_no_sample(config):
    found = []
    for size in (1, 3, 64):
        trainer = make(config, per_device_generation_batch_size=size)
        found.append(trainer.collector.collect(*rows(trainer), update=0))
    for other in found[1:]:
        assert other.completion_ids == found[0].completion_ids
        close(other.sampler_logprobs, found[0].sampler_logprobs)


def test_both_ways_to_run_the_base_agree(config):
    found = [step(make(config, forward=forward)) for forward in ("auto", "transformers")]
    assert found[0][1].completion_ids == found[1][1].completion_ids
    first, second = (
        {name: value for name, value in metrics.items() if not name.startswith("time/")}
        for metrics, _, _ in found
    )
    assert first == pytest.approx(second, rel=1e-3, abs=1e-4)


def test_functions_at_hand_take_the_place_of_named_ones(config):
    """The second of two names has no module behind it, and none is looked for."""
    named = dataclasses.replace(config, reward_function=("good=nowhere:f", "size=nowhere:g"))
    result = PPOStage(named, reward_functions=[count_good, vary]).run()
    row = logged(result.output_dir)[0]
    total = row["score/source/good"] + row["score/source/size"]
    assert row["score/mean"] == pytest.approx(total, abs=1e-5)
    elsewhere = dataclasses.replace(named, output_dir=f"{config.output_dir}-2")
    with pytest.raises(ConfigError, match="reward_function: names 2 functions for 1"):
        PPOStage(elsewhere, reward_functions=[vary]).run()
    with pytest.raises(ConfigError, match="reward_function: no module nowhere"):
        PPOStage(elsewhere).run()


# -- the run folder --------------------------------------------------------------------------------


def test_samples_say_what_each_token_was_worth(config):
    result = run(config, learning_rate=1e-2)
    samples = logged(result.output_dir, "samples.jsonl")
    assert [row["step"] for row in samples] == [1, 1, 2, 2]
    for row in samples:
        assert [text for text in row["tokens"] if text in WORDS] == row["completion"].split()
        for name in ("token_kl", "token_value", "token_advantage"):
            assert len(row[name]) == len(row["tokens"])
        assert sum(row["token_kl"]) == pytest.approx(row["kl"], abs=1e-4)
    assert any(row["kl"] != 0 for row in samples[2:])
    assert any(any(row["token_value"]) for row in samples[2:])


@pytest.mark.parametrize(
    "changes",
    [
        SHARED | {"value_warmup_steps": 1},
        RLOO,
        {"kl_target": 0.3, "kl_horizon": 16},
        {"ptx_coef": 0.5, "ptx_batch_size": 5, "target_kl": 0.01},
    ],
    ids=["shared", "rloo", "kl_target", "ptx and target_kl"],
)
def test_resuming_equals_a_straight_run(config, tmp_path, write_rows, changes):
    if "ptx_coef" in changes:
        changes = changes | {"ptx_file": write_rows("demos.jsonl", DEMONSTRATIONS)}
    config = dataclasses.replace(
        config, max_steps=3, save_steps=1, learning_rate=5e-3, warmup_steps=2, **changes
    )
    straight = run(config, output_dir=str(tmp_path / "straight"))
    broken = dataclasses.replace(config, output_dir=str(tmp_path / "broken"))

    class KilledError(Exception):
        pass

    def kill(stage, at, total, metrics):
        if at == 3:
            raise KilledError

    with pytest.raises(KilledError):
        PPOStage(broken, listener=kill, reward_functions=[vary]).run()
    resumed = run(broken, resume=True)
    names = {path.name for path in straight.checkpoint.iterdir()} - {"manifest.json"}
    assert names == {path.name for path in resumed.checkpoint.iterdir()} - {"manifest.json"}
    for name in names - {"history.json"}:
        first, second = ((r.checkpoint / name).read_bytes() for r in (straight, resumed))
        assert first == second, name
    metrics = [
        [{k: v for k, v in row.items() if "time" not in k} for row in logged(result.output_dir)]
        for result in (straight, resumed)
    ]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == 3
