"""Runs with one fault planted each: the alarm that is raised has the fault's name."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_model import TEMPLATE, make_model, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf.config import AdapterConfig, PPOConfig, RewardConfig
from rlhf.errors import RlhfError
from rlhf.model import generation
from rlhf.model.base import resolve_model
from rlhf.model.roles import Roles
from rlhf.ppo import PPOStage, rollout, trainer
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.reward import RewardStage

PROMPTS = ["a b c", "d", "e f g h i", "hello", "world a", "b c", "j k", "l m n o"]


def brief(prompts, completions):
    """A score for ending soon and for the word good; it differs between completions."""
    return [0.5 * ("good" in text) - 0.1 * len(text.split()) for text in completions]


def constant(prompts, completions):
    return [1.0] * len(completions)


@pytest.fixture(scope="module")
def terse(tmp_path_factory):
    """Folder of a tiny base whose completions mostly end by themselves."""
    folder = tmp_path_factory.mktemp("terse")
    model = make_model(initializer_range=0.1, tie_word_embeddings=False)
    with torch.no_grad():  # one direction that all hidden states share speaks for the end token
        model.model.embed_tokens.weight[:, 0] += 1.0
        model.lm_head.weight[2, 0] += 1.0
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def config(terse, tmp_path, write_rows):
    return PPOConfig(
        model_name_or_path=str(terse),
        output_dir=str(tmp_path / "run"),
        train_file=write_rows("prompts.jsonl", [{"prompt": text} for text in PROMPTS]),
        reward_function="given",
        adapter=AdapterConfig(r=4, lora_alpha=8),
        learning_rate=5e-4,
        value_learning_rate=2e-3,
        warmup_steps=0,
        max_steps=2,
        rollout_batch_size=32,
        num_mini_batches=2,
        per_device_train_batch_size=16,
        max_new_tokens=16,
    )


def run(config, function=brief, **changes):
    """Alarms of a run; they are those of its result and of alarms.jsonl."""
    config = dataclasses.replace(config, **changes)
    result = PPOStage(config, reward_functions=[function]).run()
    file = result.output_dir / "alarms.jsonl"
    rows = [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []
    assert {row["name"] for row in rows} == set(result.alarms)
    assert all(1 <= row["step"] <= config.max_steps and row["message"] for row in rows)
    return result.alarms


def test_a_healthy_run_raises_no_alarm(config):
    assert run(config, max_steps=12) == ()
    rows = [json.loads(row) for row in (Path(config.output_dir) / "metrics.jsonl").open()]
    assert rows[-1]["score/mean"] > rows[0]["score/mean"]
    assert rows[-1]["kl/reference"] > 0.05


def test_a_policy_that_does_not_start_as_the_base(config, monkeypatch):
    class Odd(Roles):
        def add(self, name, *args, **kwargs):
            super().add(name, *args, **kwargs)
            for key, parameter in self.parameters(name).items():
                if "lora_B" in key and name == "policy":
                    torch.nn.init.constant_(parameter, 0.02)

    monkeypatch.setattr(trainer, "Roles", Odd)
    with pytest.raises(RlhfError, match=r"not 0: the policy did .* \[wrong_reference\]$"):
        run(config)


def noisy(load):
    """Load a base whose embedding has dropout that is never switched off."""

    def load_noisy(*args, **kwargs):
        base = load(*args, **kwargs)
        base.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: torch.nn.functional.dropout(output, 0.1)
        )
        return base

    return load_noisy


@pytest.mark.parametrize("changes", [{}, {"value_warmup_steps": 1}], ids=["", "value warm-up"])
def test_dropout_in_the_model(config, monkeypatch, changes):
    """It also gives the first rollout a KL, which must not be taken for another fault."""
    monkeypatch.setattr(trainer, "load_base", noisy(trainer.load_base))
    assert "dropout_on" in run(config, **changes)


def test_dropout_of_a_model_in_training_mode(config, tmp_path, monkeypatch):
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 32}
    GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)

    class Training(Roles):
        def add(self, *args, **kwargs):
            super().add(*args, **kwargs)
            self.causal_lm.train()

    monkeypatch.setattr(trainer, "Roles", Training)
    assert "dropout_on" in run(config, model_name_or_path=str(folder), learning_rate=1e-5)


def test_a_sampler_at_another_temperature(config, monkeypatch):
    sample = rollout.sample_completions

    def cool(*args, temperature, **kwargs):
        return sample(*args, temperature=0.6, **kwargs)

    monkeypatch.setattr(rollout, "sample_completions", cool)
    assert "sampler_mismatch" in run(config, max_steps=1)


def test_a_sampler_that_draws_from_the_likeliest_tokens_only(config, monkeypatch):
    pick = generation.pick_tokens

    def pick_from_top(logits, uniform, *, temperature):
        least = logits.topk(8).values[:, -1:]
        return pick(
            logits.masked_fill(logits < least, -torch.inf), uniform, temperature=temperature
        )

    monkeypatch.setattr(generation, "pick_tokens", pick_from_top)
    assert "sampler_mismatch" in run(config, max_steps=1)


def test_a_sampler_whose_probabilities_are_nonsense(config, monkeypatch):
    """However far off, the figure stays finite, so that the checkpoint can be written."""
    sample = rollout.sample_completions

    def shifted(*args, **kwargs):
        found = sample(*args, **kwargs)
        logprobs = [[logprob - 200.0 for logprob in row] for row in found.logprobs]
        return dataclasses.replace(found, logprobs=logprobs)

    monkeypatch.setattr(rollout, "sample_completions", shifted)
    assert "sampler_mismatch" in run(config, max_steps=1)


def test_a_step_that_is_far_too_large(config):
    assert "step_too_large" in run(config, learning_rate=1000 * config.learning_rate)


def test_a_single_step_that_is_far_too_large(config):
    """Nothing is left to measure it before a later step, nor to end the update early."""
    large = {"num_mini_batches": 1, "learning_rate": 1000 * config.learning_rate}
    assert "step_too_large" in run(config, **large)
    rows = [json.loads(row) for row in (Path(config.output_dir) / "alarms.jsonl").open()]
    assert not any("target_kl" in row["message"] for row in rows)


def test_a_reward_that_sees_no_difference(config):
    assert run(config, constant) == ("constant_reward",)


def test_scores_that_all_lie_beyond_the_clip(config):
    def far(prompts, completions):
        return [150.0 + 10.0 * len(text.split()) for text in completions]

    assert "constant_reward" in run(config, far)
    (row, *_) = [json.loads(row) for row in (Path(config.output_dir) / "alarms.jsonl").open()]
    assert "raise score_clip" in row["message"]
    (row, *_) = [json.loads(row) for row in (Path(config.output_dir) / "metrics.jsonl").open()]
    assert (row["score/clip_fraction"], row["score/clipped_std"]) == (1, 0)
    assert row["score/std"] > 1


def test_a_constant_that_rounds(config):
    def large(prompts, completions):
        return [1000.1] * len(completions)

    assert "constant_reward" in run(config, large, score_clip=1e4, rollout_batch_size=64)


def test_completions_that_are_cut_off(config):
    assert "truncated" in run(config, max_new_tokens=1, max_steps=3)


def test_a_learning_rate_of_nothing(config, monkeypatch):
    step = trainer.RoleOptimizer.step
    monkeypatch.setattr(trainer.RoleOptimizer, "step", lambda self, factor: step(self, 0.0))
    with pytest.raises(RlhfError, match=r"nothing trains; .* \[adapter_not_training\]$"):
        run(config)


def test_a_frozen_adapter(config, monkeypatch):
    class Frozen(Roles):
        def add(self, name, settings, *, trainable, seed=0):
            super().add(name, settings, trainable=trainable and name != "policy", seed=seed)

    monkeypatch.setattr(trainer, "Roles", Frozen)
    with pytest.raises(RlhfError, match=r"nothing to train: .* \[adapter_not_training\]$"):
        run(config)


def pick(trainer, kind):
    """A parameter of the policy, of the value model, or of the base."""
    if kind == "base":
        return trainer.roles.causal_lm.lm_head.weight
    owners = trainer.value.parameters if kind == "head" else trainer.roles.parameters(kind)
    return list(owners.values())[-1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("policy", r"lora_B\.policy\.weight no longer requires a gradient"),
        ("value", r"lora_B\.value\.weight no longer requires a gradient"),
        ("head", r"value_head\.\w+ no longer requires a gradient"),
        ("base", r"lm_head\.weight has come to require a gradient"),
    ],
)
def test_what_trains_changes_during_a_run(config, kind, message):
    """One parameter of many: the others still move the adapter."""
    made = trainer.PPOTrainer(config, resolve_model(config.model_name_or_path), Ranks(), [brief])
    prompts = [Prompt.parse(text) for text in PROMPTS * 4]
    prompt_ids = [made.chat.encode_prompt(prompt) for prompt in prompts]
    made.step(prompts, prompt_ids, 0)
    parameter = pick(made, kind)
    parameter.requires_grad_(not parameter.requires_grad)
    with pytest.raises(RlhfError, match=rf"{message}: .* \[adapter_not_training\]$") as caught:
        made.step(prompts, prompt_ids, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("has_template", [True, False], ids=["template", "plain"])
def test_two_bos_tokens(config, tmp_path, has_template):
    """From a template that writes the one that stands there already, or from the text."""
    folder = tmp_path / "bos"
    shutil.copytree(config.model_name_or_path, folder)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("'<s>'", "'<s><s>'") if has_template else None
    if not has_template:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> <s> $A", special_tokens=[("<s>", 1)]
        )
    for file in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(RlhfError, match=r"prompts\.jsonl: .* two BOS tokens.* \[double_bos\]$"):
        run(config, model_name_or_path=str(folder))


# -- what is loaded --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(terse, tmp_path_factory):
    """A finished reward run on the terse base."""
    folder = tmp_path_factory.mktemp("judge")
    rows = [{"prompt": word, "completions": ["good", "bad"], "ranks": [1, 2]} for word in "abcd"]
    (folder / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RewardConfig(
        model_name_or_path=str(terse),
        rankings=str(folder / "rankings.jsonl"),
        output_dir=str(folder / "run"),
        adapter=AdapterConfig(r=2, lora_alpha=4),
        learning_rate=1e-2,
        eval_fraction=0.0,
    )
    return RewardStage(config).run().output_dir


def judged(config, judge, **changes):
    return dataclasses.replace(
        config, reward_function=None, reward_model=str(judge), accept_reward_model=True, **changes
    )


def refused(config, functions=()):
    with pytest.raises(RlhfError) as caught:
        PPOStage(config, reward_functions=functions).run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_reward_model_without_its_head(config, judge, tmp_path):
    copy = shutil.copytree(judge, tmp_path / "judge")
    (copy / "adapter" / "score_head.safetensors").unlink()
    text = refused(judged(config, copy))
    assert "judge/adapter/score_head.safetensors: the head is missing" in text
    assert text.endswith("[head_missing]")


@pytest.fixture
def broken_off(config, terse, tmp_path):
    """Config to resume a run that was killed in its second update, and its checkpoint."""
    base = shutil.copytree(terse, tmp_path / "base")
    config = dataclasses.replace(config, model_name_or_path=str(base), save_steps=1, max_steps=3)

    class KilledError(Exception):
        pass

    def kill(stage, at, total, metrics):
        if at == 2:
            raise KilledError

    with pytest.raises(KilledError):
        PPOStage(config, listener=kill, reward_functions=[brief]).run()
    (checkpoint,) = (Path(config.output_dir) / "checkpoints").iterdir()
    return dataclasses.replace(config, resume=True), checkpoint


def test_a_checkpoint_without_its_value_head(broken_off):
    """The manifest notices first; its message names the file."""
    config, checkpoint = broken_off
    (checkpoint / "value_head.safetensors").unlink()
    text = refused(config, [brief])
    assert "checkpoints/step-1/value_head.safetensors: missing" in text
    assert text.endswith("restore one or start anew")


def test_a_reward_model_of_another_base(config, judge, tiny):
    assert refused(judged(config, judge, model_name_or_path=str(tiny))).endswith("[wrong_base]")


def test_a_reference_of_another_base(config, tiny):
    other = dataclasses.replace(config, max_steps=1, output_dir=f"{config.output_dir}-other")
    run(other)
    changed = dataclasses.replace(config, model_name_or_path=str(tiny), reference=other.output_dir)
    assert refused(changed, [brief]).endswith("[wrong_base]")


def test_a_base_that_changed_under_its_checkpoint(broken_off, tiny):
    config, checkpoint = broken_off
    shutil.copy(tiny / "model.safetensors", config.model_name_or_path)
    text = refused(config, [brief])
    assert text.endswith("[wrong_base]")
    assert str(checkpoint) in text
