"""What PPO does to a policy: it goes where the reward points and stays where nothing does."""

import dataclasses
import itertools
import json

import pytest
import torch
from tiny_model import TEMPLATE, make_model, make_tokenizer
from tokenizers.processors import TemplateProcessing

from rlhf.config import AdapterConfig, PPOConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.model.base import resolve_model
from rlhf.ppo import PPOStage
from rlhf.ppo.advantages import estimate
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.reward import RewardStage

TEXTS = ["a b c", "d", "e f g h i", "hello"]
END, GOOD, BAD = 2, 26, 27


@pytest.fixture
def config(tiny, tmp_path, write_rows):
    return PPOConfig(
        model_name_or_path=str(tiny),
        output_dir=str(tmp_path / "run"),
        train_file=write_rows("prompts.jsonl", [{"prompt": text} for text in TEXTS]),
        reward_function="given as a callable",
        adapter=AdapterConfig(r=4, lora_alpha=8),
        learning_rate=3e-2,
        value_learning_rate=3e-2,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_steps=100,
        rollout_batch_size=32,
        num_mini_batches=2,
        num_ppo_epochs=2,
        per_device_train_batch_size=16,
        max_new_tokens=1,
        missing_eos_penalty=0.0,
        kl_coef=0.0,
    )


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """Make a folder of the tiny model with other end tokens or settings."""

    def make(*, pad_is_end=False, stop_ids=END, **settings):
        folder = tmp_path_factory.mktemp("model")
        model, tokenizer = make_model(**settings), make_tokenizer()
        model.generation_config.eos_token_id = stop_ids
        if pad_is_end:
            tokenizer.pad_token = tokenizer.eos_token
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def good(prompts, completions):
    return [float(text.split().count("good")) for text in completions]


def longer(prompts, completions):
    return [float(len(text.split())) for text in completions]


def shorter(prompts, completions):
    return [-score for score in longer(prompts, completions)]


def constant(prompts, completions):
    return [1.0] * len(completions)


def trainer_of(config, reward=good):
    return PPOTrainer(config, resolve_model(config.model_name_or_path), Ranks(), [reward])


def batch_of(trainer):
    prompts = [Prompt.parse(text) for text in TEXTS * (trainer.config.rollout_batch_size // 4)]
    return prompts, [trainer.chat.encode_prompt(prompt) for prompt in prompts]


def step(trainer, update):
    return trainer.step(*batch_of(trainer), update)


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.roles.parameters("policy").items()}


def train(trainer, updates):
    """Update so many times; give the metrics of each."""
    return [step(trainer, update)[0] for update in range(updates)]


@torch.no_grad()
def first_token(trainer, role):
    """Log-probabilities of the first token of a completion after each prompt, by transformers."""
    found = []
    for text in TEXTS:
        ids = torch.tensor([trainer.chat.encode_prompt(Prompt.parse(text))])
        with trainer.roles.use(role):
            found.append(trainer.roles.causal_lm(input_ids=ids).logits[0, -1].float())
    return torch.stack(found).log_softmax(-1)


def first_token_kl(trainer):
    policy, base = first_token(trainer, "policy"), first_token(trainer, None)
    return float((policy.exp() * (policy - base)).sum(-1).mean())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rewarded_token_becomes_certain(config, model_folder, dtype):
    # The head is frozen and the state before it has a fixed norm: with the usual small weights no
    # policy at all reaches 0.95.
    folder = model_folder(initializer_range=0.3)
    trainer = trainer_of(
        dataclasses.replace(config, model_name_or_path=folder, dtype=dtype, learning_rate=1e-2)
    )
    assert float(first_token(trainer, "policy")[:, GOOD].exp().mean()) < 0.2
    metrics = train(trainer, 16)
    assert [metrics[0][name] for name in ("policy/ratio_error", "kl/reference")] == [0, 0]
    assert all(row["policy/ratio_error"] == 0 for row in metrics)
    assert float(first_token(trainer, "policy")[:, GOOD].exp().min()) > 0.95


def test_a_large_kl_weight_holds_every_token(config):
    trainer = trainer_of(dataclasses.replace(config, kl_coef=100.0, learning_rate=3e-3))
    train(trainer, 20)
    assert first_token_kl(trainer) < 0.01


@pytest.mark.parametrize("pad_is_end", [False, True])
@pytest.mark.parametrize("reward", [longer, shorter])
def test_the_end_token_follows_a_reward_for_length(config, model_folder, reward, pad_is_end):
    folder = model_folder(pad_is_end=pad_is_end)
    trainer = trainer_of(
        dataclasses.replace(config, model_name_or_path=folder, max_new_tokens=6), reward
    )
    assert (trainer.chat.pad_id == trainer.chat.end_id) is pad_is_end
    before = float(first_token(trainer, "policy")[:, END].exp().mean())
    lengths = [row["completion/length"] for row in train(trainer, 10)]
    after = float(first_token(trainer, "policy")[:, END].exp().mean())
    if reward is longer:
        assert after < 0.2 * before
        assert lengths[-1] > lengths[0] + 0.5
    else:
        assert after > 5 * before
        assert lengths[-1] < lengths[0] - 1


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_a_constant_reward_moves_nothing(config, advantage):
    still = dataclasses.replace(
        config,
        advantage=advantage,
        value_learning_rate=3e-2 if advantage == "gae" else 5e-5,
        num_generations=4,
        kl_coef=0.05,
        learning_rate=1e-3,
        num_ppo_epochs=1,
        rollout_batch_size=16,
        per_device_train_batch_size=8,
    )
    trainer = trainer_of(still, constant)
    train(trainer, 50)
    assert first_token_kl(trainer) < 0.01


def test_any_stop_token_ends_a_completion(config, model_folder):
    several = dataclasses.replace(
        config,
        model_name_or_path=model_folder(stop_ids=[END, BAD]),
        max_new_tokens=8,
        missing_eos_penalty=3.0,
    )
    trainer = trainer_of(several)
    assert trainer.chat.stop_ids == {END, BAD}
    metrics, rollout, _ = step(trainer, 0)
    lasts = [ids[-1] for ids in rollout.completion_ids]
    assert {END, BAD} < set(lasts), "not every way to end is in the rollout: nothing is shown"
    assert all(not {END, BAD} & set(ids[:-1]) for ids in rollout.completion_ids)
    assert rollout.ended.tolist() == [last in (END, BAD) for last in lasts]
    unfinished = sum(last not in (END, BAD) for last in lasts) / len(lasts)
    paid = metrics["score/mean"] - metrics["score/shaped"]
    assert paid == pytest.approx(3.0 * unfinished, abs=1e-5)


def test_the_score_lands_on_the_last_real_token(config):
    """Ended at once, ended later, truncated; what lies behind the last token is never read."""
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    policy = torch.full((3, 4), -1.0).masked_fill(~mask, -50.0)
    reference = torch.full((3, 4), -1.5).masked_fill(~mask, 70.0)
    values = torch.zeros(3, 4).masked_fill(~mask, 9.0)
    scores = torch.tensor([1.0, 2.0, -4.0])
    rollout = Rollout(
        prompts=[Prompt.parse("a")] * 3,
        prompt_ids=[[1]] * 3,
        completion_ids=[[END], [5, 6, END], [5, 6, 7, 8]],
        ended=torch.tensor([True, True, False]),
        mask=mask,
        sampler_logprobs=policy,
        logprobs=policy,
        ref_logprobs=reference,
        base_logprobs=reference,
        values=values,
        scores=scores,
        scores_by_source={"it": scores},
        disagreement=None,
        sampling_s=0.0,
        scoring_s=0.0,
    )
    halving = dataclasses.replace(config, gamma=0.5, lam=1.0)
    free = estimate(rollout, scores, halving, kl_coef=0.0)
    # The score, halved for each token that lies before the last one.
    expected = torch.tensor([[1.0, 0, 0, 0], [0.5, 1.0, 2.0, 0], [-0.5, -1.0, -2.0, -4.0]])
    assert torch.equal(free.returns, expected)
    raw = expected[mask]
    spread = raw.std(correction=0)
    torch.testing.assert_close(free.spread, spread)
    torch.testing.assert_close(free.advantages[mask], (raw - raw.mean()) / spread)
    assert torch.equal(free.advantages[~mask], torch.zeros(4))
    # A log ratio of 0.5 costs every real token half the weight.
    charged = estimate(rollout, scores, dataclasses.replace(halving, gamma=0.0), kl_coef=0.2)
    expected = torch.tensor([[0.9, 0, 0, 0], [-0.1, -0.1, 1.9, 0], [-0.1, -0.1, -0.1, -4.1]])
    torch.testing.assert_close(charged.returns, expected)


def test_conversations_of_several_turns_are_answered(config, write_rows):
    talk = [
        {"role": "system", "content": "good"},
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    rows = [{"prompt": talk}, {"prompt": talk[:2]}, {"prompt": talk[1:2]}]
    seen = []

    def reward(prompts, completions):
        seen.extend(prompts)
        return good(prompts, completions)

    talking = dataclasses.replace(
        config,
        train_file=write_rows("talks.jsonl", rows),
        max_steps=2,
        rollout_batch_size=6,
        max_new_tokens=4,
    )
    result = PPOStage(talking, reward_functions=[reward]).run()
    assert result.updates == 2
    for expected in (talk, talk[:2], "a b"):
        assert seen.count(expected) == 4  # twice in each pass over three prompts
    trainer = trainer_of(talking)
    ids = trainer.chat.encode_prompt(Prompt.parse(talk))
    text = trainer.chat.tokenizer.decode(ids).replace(" ", "")
    assert text == "<s><user>good<user>ab<asst>c</s><user>d<asst>"


def test_a_seed_gives_one_run_and_another_seed_another(config, tmp_path):
    def run(name, seed):
        again = dataclasses.replace(
            config,
            seed=seed,
            output_dir=str(tmp_path / name),
            max_steps=3,
            rollout_batch_size=8,
            per_device_train_batch_size=4,
            max_new_tokens=6,
        )
        PPOStage(again, reward_functions=[good]).run()
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        metrics = [{k: v for k, v in json.loads(r).items() if "time" not in k} for r in rows]
        return metrics, (tmp_path / name / "samples.jsonl").read_text()

    first = run("first", 0)
    assert run("second", 0) == first
    other = run("third", 1)
    assert other[1] != first[1]
    assert other[0] != first[0]


def test_rows_updates_and_seeds_are_sampled_apart(config):
    """By noise alone: an untrained policy is the base, whatever its seed."""
    found = []
    for seed, update in ((0, 0), (0, 1), (1, 0)):
        trainer = trainer_of(dataclasses.replace(config, seed=seed, max_new_tokens=8))
        rollout = trainer.collector.collect(*batch_of(trainer), update=update)
        assert len({tuple(ids) for ids in rollout.completion_ids[::4]}) > 4  # of 8 of one prompt
        found.append(rollout.completion_ids)
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_a_share_of_the_rows_is_sampled_as_in_the_whole(config):
    """Each process samples its share: the noise is that of the row in the rollout."""
    trainer = trainer_of(dataclasses.replace(config, max_new_tokens=8))
    _, ids = batch_of(trainer)
    whole, share = (
        [tokens for tokens, _ in trainer.collector._sample(list(range(start, 8)), ids, 0)]
        for start in (0, 4)
    )
    assert share == whole[4:]
    assert whole[:4] != whole[4:]  # of the same prompts


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_is_sampled_is_what_is_scored(config, temperature):
    trainer = trainer_of(dataclasses.replace(config, max_new_tokens=6, temperature=temperature))
    prompts, ids = batch_of(trainer)
    rollout = trainer.collector.collect(prompts, ids, update=0)
    torch.testing.assert_close(rollout.logprobs, rollout.sampler_logprobs, rtol=0, atol=1e-4)
    drawn = torch.tensor([row[0] for row in rollout.completion_ids])
    with trainer.roles.use("policy"), torch.no_grad():
        logits = torch.stack(
            [trainer.roles.causal_lm(input_ids=torch.tensor([row])).logits[0, -1] for row in ids]
        )
    expected = (logits / temperature).log_softmax(-1).gather(1, drawn[:, None])[:, 0]
    torch.testing.assert_close(rollout.logprobs[:, 0], expected, rtol=0, atol=1e-4)


def test_a_moved_policy_is_sampled_as_it_is_scored(config):
    trainer = trainer_of(dataclasses.replace(config, max_new_tokens=6))
    step(trainer, 0)
    rollout = trainer.collector.collect(*batch_of(trainer), update=1)
    torch.testing.assert_close(rollout.logprobs, rollout.sampler_logprobs, rtol=0, atol=1e-4)
    assert (rollout.logprobs - rollout.base_logprobs).abs().max() > 0.1


def test_figures_of_a_rollout_are_means_over_its_tokens(config):
    trainer = trainer_of(dataclasses.replace(config, max_new_tokens=8))
    step(trainer, 0)
    metrics, rollout, _ = step(trainer, 1)
    assert not rollout.mask.all(), "nothing is padded: the test shows nothing"
    policy, base = rollout.logprobs[rollout.mask], rollout.base_logprobs[rollout.mask]
    ratio = policy - base
    expected = {
        "policy/entropy": -policy.mean(),
        "kl/reference": ratio.sum() / len(rollout.mask),
        "kl/base": ratio.sum() / len(rollout.mask),
        "kl/reference_k3": ((-ratio).exp() - 1 + ratio).mean(),
        "policy/sampler_error": 1.0,
        "completion/length": sum(map(len, rollout.completion_ids)) / len(rollout.mask),
        "score/mean": rollout.scores.mean(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4), name
    assert metrics["kl/reference_k3"] > 1e-3


def test_later_minibatches_see_how_far_the_policy_moved(config):
    metrics = step(trainer_of(config), 0)[0]
    assert metrics["policy/ratio_error"] == 0  # of the first one
    assert metrics["kl/old_k3"] > 1e-3
    assert metrics["policy/clip_fraction"] > 0


def test_a_minibatch_that_is_left_out_leaves_no_gradient(config):
    trainer = trainer_of(dataclasses.replace(config, target_kl=1e-9))
    assert step(trainer, 0)[0]["optimizer/steps"] == 1
    assert all(p.grad is None for p in trainer.roles.peft_model.parameters())
    assert all(p.grad is None for p in trainer.value.head.parameters())


def test_the_policy_loss_alone_moves_the_policy(config):
    """With the KL in the reward, its weight has nothing to say once the targets are made."""
    found = []
    for kl_coef in (0.0, 10.0):
        trainer = trainer_of(config)
        step(trainer, 0)
        rollout = trainer.collector.collect(*batch_of(trainer), update=1)
        assert rollout.log_ratio_ref.abs().max() > 0.01
        targets = estimate(rollout, rollout.scores, config, kl_coef=0.1)
        trainer.learner.learn(rollout, targets, update=1, kl_coef=kl_coef)
        found.append(weights(trainer))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_a_template_with_bos_gets_no_second_one(template):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.chat_template = template
    chat = ChatFormat.of(tokenizer, make_model())
    ids = chat.encode_prompt(Prompt.parse("a b"))
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.bos_token_id not in chat.encode_completion("c")


@pytest.fixture
def judged(config, tmp_path, write_rows):
    """The config with a trained reward model in place of the function."""
    rows = [{"prompt": text, "completions": ["good", "bad"], "ranks": [1, 2]} for text in TEXTS]
    judge = RewardConfig(
        model_name_or_path=config.model_name_or_path,
        rankings=write_rows("rankings.jsonl", rows),
        output_dir=str(tmp_path / "judge"),
        adapter=config.adapter,
        learning_rate=1e-2,
        eval_fraction=0.0,
    )
    RewardStage(judge).run()
    return dataclasses.replace(
        config,
        reward_function=None,
        reward_model=judge.output_dir,
        accept_reward_model=True,
    )


def test_first_values_are_the_scores_of_the_reward_model(judged):
    trainer = PPOTrainer(judged, resolve_model(judged.model_name_or_path), Ranks())
    head = trainer.reward.first_model.head
    assert abs(float(head.std) - 1) > 0.01, "nothing is normalised: the test shows nothing"
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trainer.value.head(hidden), head(hidden))
    reward, value = (trainer.roles.parameters(role) for role in ("reward", "value"))
    assert len(reward) == len(value)
    assert all(torch.equal(value[k.replace(".reward.", ".value.")], p) for k, p in reward.items())


def test_first_values_have_the_weight_of_the_reward_model(judged):
    """The function comes behind the model and has no part in the first values."""
    config = dataclasses.replace(judged, reward_function="given", reward_weights=(-0.1, 3.0))
    trainer = PPOTrainer(config, resolve_model(config.model_name_or_path), Ranks(), [good])
    head = trainer.reward.first_model.head
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert head(hidden).abs().min() > 1e-2
    torch.testing.assert_close(trainer.value.head(hidden), -0.1 * head(hidden))


def test_a_value_that_cannot_start_as_the_reward_model_is_logged(judged, caplog):
    for adapter, logged in ((judged.adapter, False), (AdapterConfig(r=2, lora_alpha=8), True)):
        config = dataclasses.replace(judged, adapter=adapter)
        trainer = PPOTrainer(config, resolve_model(config.model_name_or_path), Ranks())
        assert bool((trainer.value.head.weight == 0).all()) is logged
        assert ("the value starts at 0" in caplog.text) is logged
