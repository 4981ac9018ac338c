"""PPO on a language model small enough to enumerate must reach what exact gradients reach.

Six words and two tokens make 36 completions, so the objective J = E[score] - beta * KL(policy ||
base) is a sum of 36 terms: PPO, which sees samples alone, is held against Adam on J itself with
the same LoRA. The end token has an id that the head has no row for, so it is never sampled: every
completion is two words, and padding, which is this id too, would raise if it were ever embedded.
"""

import dataclasses
import itertools

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.config import AdapterConfig, PPOConfig
from rlhf.model.base import load_base, resolve_model
from rlhf.model.roles import Roles
from rlhf.ops.kl import kl_k3
from rlhf.ops.returns import shape_rewards as charge
from rlhf.ppo import advantages
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ranks import Ranks
from rlhf.records import Prompt

WORDS = ["a", "b", "c", "d", "e", "f"]
PROMPT = 0
SEQUENCES = torch.tensor(list(itertools.product(range(6), repeat=2)))
BETA = 0.5


def make_base(folder, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=len(WORDS),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate([*WORDS, "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)


@dataclasses.dataclass
class Toy:
    """One random model with one random score per completion."""

    config: PPOConfig
    scores: Tensor

    @classmethod
    def make(cls, folder, seed, updates):
        make_base(folder, seed)
        config = PPOConfig(
            model_name_or_path=str(folder),
            output_dir=str(folder / "run"),
            train_file="not read here",
            reward_function="not imported here",
            seed=seed,
            adapter=AdapterConfig(r=8, lora_alpha=16),
            learning_rate=5e-3,
            value_learning_rate=5e-3,
            lr_scheduler_type="linear",
            warmup_steps=0,
            max_steps=updates,
            rollout_batch_size=512,
            per_device_generation_batch_size=512,
            num_ppo_epochs=2,
            num_mini_batches=2,
            per_device_train_batch_size=256,
            max_new_tokens=2,
            missing_eos_penalty=0.0,
            kl_coef=BETA,
        )
        scores = torch.randn(len(SEQUENCES), generator=torch.Generator().manual_seed(100 + seed))
        return cls(config, scores)

    def reward(self, prompts, completions):
        ids = [[WORDS.index(word) for word in text.split()] for text in completions]
        return [float(self.scores[6 * first + second]) for first, second in ids]

    def exact_optimum(self, steps=400):
        """J that Adam reaches on J itself."""
        base = load_base(
            resolve_model(self.config.model_name_or_path),
            dtype="float32",
            device=torch.device("cpu"),
        )
        roles = Roles(base, forward="transformers")
        roles.add("policy", self.config.adapter, trainable=True, seed=self.config.seed)
        adam = torch.optim.Adam(roles.parameters("policy").values(), lr=5e-3)
        for step in range(steps):
            adam.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
            loss = -self.objective(roles)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return float(self.objective(roles).detach())

    def trained(self, **changes):
        """J that PPO reaches; the base must stay as it is, bit by bit."""
        config = dataclasses.replace(self.config, **changes)
        source = resolve_model(config.model_name_or_path)
        trainer = PPOTrainer(config, source, Ranks(), [self.reward])
        frozen = LlamaForCausalLM.from_pretrained(source.base).state_dict()
        prompt = Prompt.parse(WORDS[PROMPT])
        ids = trainer.chat.encode_prompt(prompt)
        assert ids == [PROMPT]
        size = config.rollout_batch_size
        for update in range(config.max_steps):
            trainer.step([prompt] * size, [ids] * size, update)
        now = {
            name.replace(".base_layer", ""): tensor
            for name, tensor in trainer.roles.causal_lm.state_dict().items()
            if "lora_" not in name
        }
        assert now.keys() == frozen.keys()
        assert all(torch.equal(now[name], frozen[name]) for name in frozen)
        with torch.no_grad():
            return float(self.objective(trainer.roles))

    def objective(self, roles):
        """J of the policy, with transformers' own forward pass over all completions."""
        with roles.use(None), torch.no_grad():
            reference = sequence_logprobs(roles.causal_lm)
        with roles.use("policy"):
            policy = sequence_logprobs(roles.causal_lm)
        return (policy.exp() * (self.scores - BETA * (policy - reference))).sum()


def sequence_logprobs(model):
    """Log-probability of each of the 36 completions; they add up to probability 1."""
    prompt = torch.full((len(SEQUENCES), 1), PROMPT)
    logprobs = model(torch.cat([prompt, SEQUENCES], dim=1)).logits[:, :-1].log_softmax(-1)
    return logprobs.gather(-1, SEQUENCES[..., None]).squeeze(-1).sum(-1)


def charge_k3(scores, log_ratio_ref, mask, *, kl_coef):
    return charge(scores, kl_k3(log_ratio_ref), mask, kl_coef=kl_coef)


def charge_the_wrong_sign(scores, log_ratio_ref, mask, *, kl_coef):
    return charge(scores, -log_ratio_ref, mask, kl_coef=kl_coef)


def test_ppo_comes_close_in_few_updates(tmp_path):
    toy = Toy.make(tmp_path, seed=0, updates=50)
    optimum = toy.exact_optimum(steps=300)
    assert optimum - toy.trained(max_steps=1) > 0.1, "the base is as good: nothing is shown"
    assert abs(optimum - toy.trained()) < 5e-3


@pytest.mark.slow
def test_ppo_reaches_the_exact_optimum(tmp_path, monkeypatch):
    toy = Toy.make(tmp_path, seed=0, updates=150)
    optimum = toy.exact_optimum()
    assert abs(optimum - toy.trained()) < 1e-3
    rloo = toy.trained(advantage="rloo", num_generations=4, value_learning_rate=5e-5)
    assert abs(optimum - rloo) < 3e-3
    assert abs(optimum - toy.trained(value="shared")) < 3e-3
    # k2 as a loss has the right gradient for the policy that sampled, not for the one that
    # later minibatches move: it ends near the optimum, but not on it.
    assert 1e-3 < optimum - toy.trained(kl_in="loss") < 0.1
    # A yardstick must tell a wrong penalty from the right one, even a subtly wrong one.
    for wrong, at_least in ((charge_k3, 0.02), (charge_the_wrong_sign, 0.5)):
        monkeypatch.setattr(advantages, "shape_rewards", wrong)
        assert optimum - toy.trained(max_steps=75) > at_least


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ppo_reaches_the_exact_optimum_of_other_models(tmp_path, seed):
    toy = Toy.make(tmp_path, seed, updates=150)
    assert abs(toy.exact_optimum() - toy.trained()) < 1e-3
