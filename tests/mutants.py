"""Known PPO bugs, put into a copy of the package one at a time: some test must fail for each.

Run by ``make mutants``. A mutant is an exact text of one file and what stands there instead; it is
applied to a temporary copy, and the tests that ought to notice run against that copy. First the
same tests must pass on an unchanged copy. Exits with 1 if a mutant survives or no longer applies.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rlhf", "tests", "pyproject.toml")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?: - .*)?$", re.MULTILINE)
TIME_LIMIT_S = 600

LOGPROBS = "tests/ops/test_kl_and_logprobs.py"
LOSSES = "tests/ops/test_losses.py"
MASKING = "tests/ops/test_masking.py"
RETURNS = "tests/ops/test_returns.py"
ADVANTAGES = "tests/ppo/test_advantages.py"
ALARMS = "tests/ppo/test_alarm_states.py"
BEHAVIOUR = "tests/ppo/test_ppo_behaviour.py"
FORWARD = "tests/model/test_forward.py"
GENERATION = "tests/model/test_generation.py"
OPTIMIZATION = "tests/test_optimization.py"
OPTIONS = "tests/ppo/test_ppo_options.py"
PPO = "tests/ppo/test_stage.py"
REWARD = "tests/test_reward.py"
ROLES = "tests/model/test_roles.py"
ROLLOUT = "tests/ppo/test_rollout.py"


@dataclass(frozen=True)
class Mutant:
    """One bug."""

    bug: str
    file: str
    """Under rlhf/."""
    old: str
    """Stands in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """Files or tests that ought to fail."""


MUTANTS = [
    # -- where things stand in a sequence
    Mutant(
        "logits shifted by one",
        "ops/logprobs.py",
        "return logits[:, -completion_length - 1 : -1]",
        "return logits[:, -completion_length:]",
        (LOGPROBS,),
    ),
    Mutant(
        "logits shifted by one, Llama pass",
        "model/llama.py",
        "return _lay_out(batch, (total - 1) * (sizes > 0), sizes)",
        "return _lay_out(batch, total * (sizes > 0), sizes)",
        (ROLES,),
    ),
    Mutant(
        "value after the token",
        "model/forward.py",
        "return completion_window(hidden, batch.completion_mask.shape[1])[batch.completion_mask]",
        "return hidden[:, -batch.completion_mask.shape[1] :][batch.completion_mask]",
        (FORWARD,),
    ),
    Mutant(
        "value after the token, Llama pass",
        "model/llama.py",
        "return self._trunk(_before_completion(batch))",
        "return self._trunk(_lay_out(batch, batch.attention_mask.sum(-1).cpu(), "
        "batch.completion_mask.sum(-1).cpu()))",
        (f"{ROLES}::test_values_are_those_of_the_state_before_each_token",),
    ),
    Mutant(
        "score read at the padded last position",
        "model/forward.py",
        "last = batch.completion_mask.sum(dim=-1) - 1",
        "last = 0 * batch.completion_mask.sum(dim=-1) + batch.completion_mask.shape[1] - 1",
        (FORWARD,),
    ),
    Mutant(
        "score is a mean over tokens",
        "model/llama.py",
        "return self._trunk(tokens, branches)",
        "every = _Tokens(tokens.ids, tokens.positions, tokens.lengths, None)\n"
        "        states = torch.split(self._trunk(every, branches), tokens.lengths)\n"
        "        return torch.stack([row.mean(0) for row in states])",
        (f"{ROLES}::test_scores_are_read_at_the_end_token_in_any_batch",),
    ),
    Mutant(
        "score one after the last token",
        "ops/returns.py",
        "last = mask.sum(dim=-1) - 1",
        "last = mask.sum(dim=-1).clamp(max=mask.shape[1] - 1)",
        (RETURNS,),
    ),
    Mutant(
        "position ids under left padding",
        "data/collation.py",
        "return (self.attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)",
        "return torch.arange(self.input_ids.shape[1]).expand(self.input_ids.shape)",
        (f"{ROLES}::test_left_padding_does_not_shift_learned_positions",),
    ),
    Mutant(
        "position ids while decoding under left padding",
        "model/llama_decoder.py",
        "[:, None] + mask.sum(dim=-1)",
        "[:, None] + mask.shape[1] + 0 * mask.sum(dim=-1)",
        (GENERATION,),
    ),
    Mutant(
        "padding attended to while decoding",
        "model/llama_decoder.py",
        "        if not mask.all():\n",
        "        if mask is None:\n",
        (GENERATION,),
    ),
    Mutant(
        "positions of finished rows kept while decoding",
        "model/llama_decoder.py",
        "self.cos, self.sin = self.cos[..., rows], self.sin[..., rows]",
        "self.cos, self.sin = self.cos[..., : len(rows)], self.sin[..., : len(rows)]",
        (GENERATION, FORWARD),
    ),
    # -- end tokens
    Mutant(
        "end token masked where it is the pad token",
        "data/collation.py",
        "completion_mask = length_mask(completion_lengths, c)",
        "completion_mask = length_mask(completion_lengths, c) & (input_ids[:, p:] != pad_id)",
        (f"{BEHAVIOUR}::test_the_end_token_follows_a_reward_for_length",),
    ),
    Mutant(
        "end token not appended for scoring",
        "reward/model.py",
        "[*(ids[:-1] if chat.has_ended(ids) else ids), chat.end_id] for ids in completion_ids",
        "list(ids) for ids in completion_ids",
        (f"{REWARD}::test_any_stop_token_is_scored_as_the_end_token",),
    ),
    Mutant(
        "penalty for a stop token other than EOS",
        "ppo/rollout.py",
        "[self.chat.has_ended(i) for i in completion_ids]",
        "[i[-1] == self.chat.tokenizer.eos_token_id for i in completion_ids]",
        (f"{BEHAVIOUR}::test_any_stop_token_ends_a_completion",),
    ),
    Mutant(
        "double BOS from template and tokenizer",
        "data/chat.py",
        "return list(self.tokenizer.encode(rendered, add_special_tokens=False))",
        "return list(self.tokenizer.encode(rendered, add_special_tokens=True))",
        (f"{BEHAVIOUR}::test_a_template_with_bos_gets_no_second_one",),
    ),
    # -- sampled and scored distribution
    Mutant(
        "top-k in the sampler",
        "model/generation.py",
        "scaled = logits.float()\n",
        "scaled = logits.float()\n"
        "    scaled = scaled.masked_fill(scaled < scaled.topk(5).values[:, -1:], -torch.inf)\n",
        (f"{GENERATION}::test_samples_follow_the_full_distribution",),
    ),
    Mutant(
        "sampler without the adapter",
        "model/llama_decoder.py",
        "if self.up is None:\n            return output\n",
        "if True:\n            return output\n",
        (f"{BEHAVIOUR}::test_a_moved_policy_is_sampled_as_it_is_scored",),
    ),
    Mutant(
        "temperature missing in the sampler",
        "model/generation.py",
        "(scaled if temperature == 1.0 else scaled / temperature)",
        "scaled",
        (f"{BEHAVIOUR}::test_what_is_sampled_is_what_is_scored",),
    ),
    Mutant(
        "temperature missing in training",
        "ops/logprobs.py",
        "scaled = scaled / temperature",
        "scaled = scaled * 1.0",
        (LOGPROBS,),
    ),
    Mutant(
        "temperature missing in training, Llama pass",
        "model/kernels.py",
        "wide.div_(temperature)\n",
        "wide.div_(1.0)\n",
        (f"{BEHAVIOUR}::test_what_is_sampled_is_what_is_scored",),
    ),
    Mutant(
        "log-softmax in bfloat16",
        "ops/logprobs.py",
        "return logits if logits.dtype == torch.float64 else logits.float()",
        "return logits",
        (LOGPROBS,),
    ),
    Mutant(
        "log-softmax in bfloat16, Llama pass",
        "model/kernels.py",
        "wide = logits.to(_wide(logits))",
        "wide = logits.clone()",
        ("tests/model/test_half_logprobs.py",),
    ),
    Mutant(
        "dropout active",
        "model/roles.py",
        "self._peft.eval()",
        "self._peft.train()",
        (ROLES,),
    ),
    Mutant(
        "same noise for every row",
        "ppo/rollout.py",
        "_ROLLOUT_NOISE, update, row) for row in chunk]",
        "_ROLLOUT_NOISE, update, 0) for row in chunk]",
        (f"{BEHAVIOUR}::test_rows_updates_and_seeds_are_sampled_apart",),
    ),
    Mutant(
        "same noise in every update",
        "ppo/rollout.py",
        "_ROLLOUT_NOISE, update, row) for row in chunk]",
        "_ROLLOUT_NOISE, 0, row) for row in chunk]",
        (f"{BEHAVIOUR}::test_rows_updates_and_seeds_are_sampled_apart",),
    ),
    Mutant(
        "same noise for every seed",
        "ppo/rollout.py",
        "(self.config.seed, _ROLLOUT_NOISE,",
        "(0, _ROLLOUT_NOISE,",
        (f"{BEHAVIOUR}::test_rows_updates_and_seeds_are_sampled_apart",),
    ),
    Mutant(
        "noise by place in the process instead of the rollout",
        "ppo/rollout.py",
        "_ROLLOUT_NOISE, update, row) for row in chunk]",
        "_ROLLOUT_NOISE, update, row - rows[0]) for row in chunk]",
        (f"{BEHAVIOUR}::test_a_share_of_the_rows_is_sampled_as_in_the_whole",),
    ),
    Mutant(
        "noise by place in the generation batch",
        "ppo/rollout.py",
        "_ROLLOUT_NOISE, update, row) for row in chunk]",
        "_ROLLOUT_NOISE, update, row - chunk[0]) for row in chunk]",
        (f"{OPTIONS}::test_the_generation_batch_changes_no_sample",),
    ),
    Mutant(
        "same order of prompts in every pass",
        "ppo/rollout.py",
        'random.Random(f"{self._key}/{number}")',
        "random.Random(self._key)",
        (ROLLOUT,),
    ),
    # -- masks and statistics
    Mutant(
        "means over padding",
        "ops/masking.py",
        "return total / mask.sum().clamp(min=1)",
        "return total / mask.numel()",
        (MASKING,),
    ),
    Mutant(
        "entropy averaged over padding",
        "ppo/trainer.py",
        "float(-masked_mean(rollout.logprobs, mask))",
        "float(-rollout.logprobs.mean())",
        (f"{BEHAVIOUR}::test_figures_of_a_rollout_are_means_over_its_tokens",),
    ),
    Mutant(
        "whitening over padding",
        "ppo/advantages.py",
        "advantages=whiten(advantages, mask)",
        "advantages=whiten(advantages, mask | ~mask)",
        (ADVANTAGES,),
    ),
    Mutant(
        "whitening by the unbiased variance",
        "ops/masking.py",
        "return masked_mean((values - masked_mean(values, mask)) ** 2, mask)",
        "count = mask.sum()\n"
        "    squares = masked_mean((values - masked_mean(values, mask)) ** 2, mask)\n"
        "    return squares * count / (count - 1)",
        (MASKING,),
    ),
    Mutant(
        "returns from whitened advantages",
        "ppo/advantages.py",
        "returns=returns,",
        "returns=whiten(advantages, mask) + rollout.values,",
        (ADVANTAGES,),
    ),
    Mutant(
        "loss divided by the tokens of the micro-batch",
        "ppo/update.py",
        "part = _Part(rollout, targets, batch, rows, tokens, scale)",
        "part = _Part(rollout, targets, batch, rows, batch.completion_mask.sum(), scale)",
        (f"{PPO}::test_micro_batch_size_changes_nothing",),
    ),
    # -- KL
    Mutant(
        "k3 in the reward",
        "ops/returns.py",
        "rewards = -kl_coef * log_ratio_ref.masked_fill(~mask, 0.0)",
        "log_ratio_ref = log_ratio_ref.masked_fill(~mask, 0.0)\n"
        "    rewards = -kl_coef * (torch.expm1(-log_ratio_ref) + log_ratio_ref)",
        (RETURNS,),
    ),
    Mutant(
        "KL paid instead of charged",
        "ops/returns.py",
        "rewards = -kl_coef * log_ratio_ref",
        "rewards = kl_coef * log_ratio_ref",
        (RETURNS,),
    ),
    Mutant(
        "log ratio upside down",
        "ppo/rollout.py",
        "return self.logprobs - self.ref_logprobs",
        "return self.ref_logprobs - self.logprobs",
        (ADVANTAGES,),
    ),
    Mutant(
        "KL charged in the loss and in the reward",
        "ppo/advantages.py",
        'charged = kl_coef if config.kl_in == "reward" else 0.0',
        "charged = kl_coef",
        (ADVANTAGES,),
    ),
    Mutant(
        "KL charged in the reward and in the loss",
        "ppo/update.py",
        'if config.kl_in == "loss":',
        'if config.kl_in in ("loss", "reward"):',
        (f"{BEHAVIOUR}::test_the_policy_loss_alone_moves_the_policy",),
    ),
    Mutant(
        "reference is the policy",
        "ppo/rollout.py",
        "with self.roles.use(None):",
        'with self.roles.use("policy"):',
        (f"{PPO}::test_first_minibatch_ratio_is_exactly_one_and_kl_exactly_zero",),
    ),
    Mutant(
        "controller fed the KL per token",
        "ppo/trainer.py",
        'metrics["kl/reference"],\n                target',
        'metrics["kl/reference"] / metrics["completion/length"],\n                target',
        (f"{OPTIONS}::test_the_kl_weight_follows_the_rule_of_ziegler",),
    ),
    Mutant(
        "controller turns the wrong way",
        "ops/kl.py",
        "return kl_coef * (1.0 + error * episodes / horizon)",
        "return kl_coef * (1.0 - error * episodes / horizon)",
        (LOGPROBS,),
    ),
    Mutant(
        "the KL's weight follows the KL to the base",
        "ppo/trainer.py",
        'self.kl_coef,\n                metrics["kl/reference"],',
        'self.kl_coef,\n                metrics["kl/base"],',
        (f"{OPTIONS}::test_the_kl_weight_follows_the_kl_to_the_reference",),
    ),
    Mutant(
        "reference without temperature",
        "ppo/rollout.py",
        "ref_logprobs = completion_logprobs(self.roles, batch, temperature=temperature)",
        "ref_logprobs = completion_logprobs(self.roles, batch, temperature=1.0)",
        (f"{OPTIONS}::test_the_reference_has_the_temperature_of_the_policy",),
    ),
    # -- advantages
    Mutant(
        "GAE bootstraps after the end",
        "ops/returns.py",
        "next_value = torch.zeros_like(running)",
        "next_value = values[:, -1]",
        (RETURNS,),
    ),
    Mutant(
        "GAE ignores the mask",
        "ops/returns.py",
        "    values = values.masked_fill(~mask, 0.0)\n"
        "    rewards = rewards.masked_fill(~mask, 0.0)\n",
        "",
        (RETURNS,),
    ),
    Mutant(
        "RLOO baseline includes the completion itself",
        "ops/returns.py",
        "others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)",
        "others = groups.mean(dim=1, keepdim=True)",
        (RETURNS,),
    ),
    # -- losses
    Mutant(
        "policy loss optimistic instead of pessimistic",
        "ops/losses.py",
        "loss = torch.maximum(-advantages * ratio, -advantages * clipped)",
        "loss = torch.minimum(-advantages * ratio, -advantages * clipped)",
        (LOSSES,),
    ),
    Mutant(
        "clip ranges swapped",
        "ops/losses.py",
        "ratio.clamp(1.0 - cliprange, 1.0 + high)",
        "ratio.clamp(1.0 - high, 1.0 + cliprange)",
        (LOSSES,),
    ),
    Mutant(
        "dual clip on positive advantages",
        "ops/losses.py",
        "torch.where(advantages < 0,",
        "torch.where(advantages > 0,",
        (LOSSES,),
    ),
    Mutant(
        "value clipped around the new value",
        "ops/losses.py",
        "clipped = old_values + (values - old_values)",
        "clipped = values + (values - old_values)",
        (LOSSES,),
    ),
    Mutant(
        "value loss optimistic instead of pessimistic",
        "ops/losses.py",
        "return 0.5 * torch.maximum((values - returns)",
        "return 0.5 * torch.minimum((values - returns)",
        (LOSSES,),
    ),
    Mutant(
        "importance weights carry a gradient",
        "ops/losses.py",
        "return (old_logprobs - sampler_logprobs).detach().exp()",
        "return (old_logprobs - sampler_logprobs).exp()",
        (LOSSES,),
    ),
    Mutant(
        "old log-probabilities not detached",
        "ppo/update.py",
        "old_logprobs = part.of(part.rollout.logprobs)",
        "old_logprobs = logprobs",
        (f"{PPO}::test_number_of_optimiser_steps",),
    ),
    Mutant(
        "old log-probabilities computed anew in every minibatch",
        "ppo/update.py",
        "old_logprobs = part.of(part.rollout.logprobs)",
        "old_logprobs = logprobs.detach()",
        (f"{BEHAVIOUR}::test_later_minibatches_see_how_far_the_policy_moved",),
    ),
    Mutant(
        "demonstrations made less likely",
        "ppo/ptx.py",
        "loss = -completion_logprobs(",
        "loss = completion_logprobs(",
        (f"{OPTIONS}::test_demonstrations_add_their_weighed_likelihood_to_the_gradient",),
    ),
    # -- optimiser steps
    Mutant(
        "gradients not zeroed after a step",
        "optimization.py",
        "self._adam.step()\n        self._adam.zero_grad(set_to_none=True)\n",
        "self._adam.step()\n",
        (OPTIMIZATION,),
    ),
    Mutant(
        "gradients of a minibatch that is left out are kept",
        "optimization.py",
        'without a step."""\n        self._adam.zero_grad(set_to_none=True)\n',
        'without a step."""\n',
        (f"{BEHAVIOUR}::test_a_minibatch_that_is_left_out_leaves_no_gradient",),
    ),
    Mutant(
        "gradients not clipped",
        "optimization.py",
        "clip_grad_norm_(self.parameters.values(), self.max_grad_norm)",
        "clip_grad_norm_(self.parameters.values(), math.inf)",
        (OPTIMIZATION,),
    ),
    Mutant(
        "num_mini_batches has no effect",
        "ppo/rollout.py",
        "size = len(order) // config.num_mini_batches",
        "size = len(order)",
        (f"{PPO}::test_number_of_optimiser_steps",),
    ),
    Mutant(
        "num_ppo_epochs has no effect",
        "ppo/update.py",
        "for epoch in range(config.num_ppo_epochs):",
        "for epoch in range(1):",
        (f"{PPO}::test_number_of_optimiser_steps",),
    ),
    Mutant(
        "the policy's rate counted from the value's first update",
        "ppo/update.py",
        "factor = self.lr_factor(update, delay=self.config.value_warmup_steps)",
        "factor = self.lr_factor(update)",
        (f"{OPTIONS}::test_the_policy_warms_up_from_its_own_first_update",),
    ),
    # -- adapters
    Mutant(
        "switching roles rewrites requires_grad",
        "model/roles.py",
        "layer._active_adapter = [name] if name is not None else layer._active_adapter",
        "layer.set_adapter([name] if name is not None else layer._active_adapter)",
        (f"{ROLES}::test_only_the_asked_roles_train",),
    ),
    Mutant(
        "policy adapter frozen",
        "ppo/trainer.py",
        'self.roles.add("policy", config.adapter, trainable=True,',
        'self.roles.add("policy", config.adapter, trainable=False,',
        (f"{PPO}::test_number_of_optimiser_steps",),
    ),
    Mutant(
        "value adapter frozen",
        "ppo/value.py",
        "roles.add(VALUE_ROLE, config.adapter, trainable=True,",
        "roles.add(VALUE_ROLE, config.adapter, trainable=False,",
        (f"{PPO}::test_number_of_optimiser_steps",),
    ),
    Mutant(
        "value adapter left out of its optimiser",
        "ppo/value.py",
        'own = self.roles.parameters(VALUE_ROLE) if self.kind == "adapter" else {}',
        "own = {}",
        (f"{PPO}::test_value_warm_up_leaves_the_policy_alone",),
    ),
    Mutant(
        "adapter of another base accepted",
        "model/base.py",
        'if link["base_fingerprint"] != base.fingerprint:',
        "if False:",
        (f"{ROLES}::test_adapter_of_another_base_is_refused_by_name",),
    ),
    Mutant(
        "checkpoint of another base accepted",
        "ppo/trainer.py",
        'if identity["base_fingerprint"] != self.roles.base.fingerprint:',
        "if False:",
        (f"{ALARMS}::test_a_base_that_changed_under_its_checkpoint",),
    ),
    # -- the score head
    Mutant(
        "score head not loaded",
        "reward/model.py",
        "        head.load(adapter / HEAD_FILE)\n",
        "",
        (f"{REWARD}::test_it_learns_a_planted_preference",),
    ),
    Mutant(
        "missing head goes unnoticed",
        "model/heads.py",
        "        if not path.is_file():\n",
        "        if not path.is_file():\n            return\n        if path is None:\n",
        (ALARMS,),
    ),
    Mutant(
        "scores not normalised",
        "model/heads.py",
        "return (raw - self.mean) / self.std",
        "return raw",
        (f"{ROLES}::test_head_normalisation_survives_saving_and_copying",),
    ),
    Mutant(
        "values start from scores that are not normalised",
        "ppo/value.py",
        "self.head.copy_normalized(model.head, weight)",
        "self.head.load_state_dict({**self.head.state_dict(), "
        "'weight': model.head.weight, 'bias': model.head.bias})",
        (f"{BEHAVIOUR}::test_first_values_are_the_scores_of_the_reward_model",),
    ),
]


def apply(mutant: Mutant, root: Path) -> str | None:
    """Patch a copy; say what is wrong where the patch does not fit."""
    path = root / "rlhf" / mutant.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(mutant.old) != 1:
        return f"its text stands there {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return None


def run_tests(root: Path, tests: list[str]) -> tuple[int, str]:
    """Exit code and output of the first failing test of a copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {TIME_LIMIT_S} s"
    return done.returncode, done.stdout + done.stderr


def copy(folder: Path) -> None:
    """Copy what the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)


def try_out(mutant: Mutant) -> tuple[bool, str]:
    """Whether the mutant is killed, and by which test, or what is wrong."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy(Path(name))
        misfit = apply(mutant, Path(name))
        if misfit is not None:
            return False, f"DOES NOT APPLY: {misfit}"
        code, output = run_tests(Path(name), list(mutant.tests))
    if code == 0:
        return False, "SURVIVED"
    found = FAILED.search(output)
    if code != 1 or found is None:
        return False, f"DID NOT RUN: {output.strip().splitlines()[-1]}"
    return True, found[1]


def passes_unchanged(mutants: list[Mutant]) -> bool:
    """Whether all tests pass on a copy that nothing was done to."""
    tests = {test for mutant in mutants for test in mutant.tests}
    whole = {test for test in tests if "::" not in test}
    wanted = sorted(whole | {test for test in tests if test.partition("::")[0] not in whole})
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy(Path(name))
        code, output = run_tests(Path(name), wanted)
    if code != 0:
        report(output)
    return code == 0


def report(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Try all mutants out and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name or file holds this")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.bug or options.only in m.file]
    started = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        unchanged = pool.submit(passes_unchanged, chosen)
        outcomes = pool.map(try_out, chosen)
        alive = 0
        for mutant, (killed, what) in zip(chosen, outcomes, strict=True):
            alive += not killed
            report(f"{mutant.bug:<54} {mutant.file:<22} {what}")
        sound = unchanged.result()
    report(f"{len(chosen) - alive} of {len(chosen)} killed in {time.monotonic() - started:.0f} s")
    if not sound:
        report("the same tests fail without any mutant: the table means nothing")
    return int(alive > 0 or not sound)


if __name__ == "__main__":
    sys.exit(main())
