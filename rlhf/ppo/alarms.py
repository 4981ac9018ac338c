"""Alarms: what a run's figures say has gone wrong, its likely cause and the option to turn.

``find_alarms`` reads the key figures of every update so far; what it finds are warnings. A state
that leaves nothing to go on with ends the run (``raise_fatal``). Faults that show while things are
loaded or stepped are errors with the alarm's name in brackets: ``head_missing``, ``double_bos``,
``wrong_base`` and ``gradient_not_finite``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.config import PPOConfig, as_tuple
from rlhf.errors import DataError, TrainingError

KEY_FIGURES = (
    "score/mean",
    "score/std",
    "score/clipped_std",
    "score/clip_fraction",
    "score/length_correlation",
    "score/disagreement",
    "kl/reference",
    "kl/old_k3",
    "policy/ratio_error",
    "policy/clip_fraction",
    "policy/entropy",
    "policy/sampler_error",
    "completion/length",
    "completion/truncated",
    "completion/distinct_2",
    "value/explained_variance",
)
"""What ``find_alarms`` reads of each update, beside the mean of each reward source."""

SOURCE_PREFIX = "score/source/"
"""Metrics of single rewards, where there are several."""

MAX_RATIO_ERROR = 1e-3
"""A model whose probabilities change by more than this when nothing did is random."""

_START = 3
"""Updates that stand for the start of a run."""
_WINDOW = 5
"""Updates that a sustained state is judged over."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that looks wrong."""

    name: str
    message: str
    """What was measured, the likely cause, what to do."""


def raise_fatal(alarm: Alarm | None) -> None:
    """End the run on an alarm that leaves nothing to learn.

    Raises:
        TrainingError: If there is an alarm.
    """
    if alarm is not None:
        raise TrainingError(f"{alarm.message} [{alarm.name}]")


def start_alarm(kl_to_base: float) -> Alarm | None:
    """Check that the policy starts as the base.

    Args:
        kl_to_base: KL of the first rollout to the frozen base, nats per completion.
    """
    if abs(kl_to_base) <= 1e-4:
        return None
    return Alarm(
        "wrong_reference",
        f"the KL to the base is {kl_to_base:.4g} before the first update, not 0: the policy did "
        "not start as the base; name the model it starts from in model_name_or_path",
    )


def adapter_alarm(before: tuple[float, float], after: tuple[float, float]) -> Alarm | None:
    """Check that an update moved the policy adapter.

    Args:
        before: Checksums of its weights before the update.
        after: And after it.
    """
    if before != after:
        return None
    return Alarm(
        "adapter_not_training",
        "an update left the policy adapter as it was: nothing trains; raise learning_rate, or "
        "check what froze the adapter",
    )


def trainable_alarm(before: frozenset[str], now: frozenset[str]) -> Alarm | None:
    """Check that what trains is what trained at the start.

    Args:
        before: Names of the parameters that required a gradient then.
        now: And now.
    """
    if before == now:
        return None
    name = min(before ^ now)
    change = "no longer requires a gradient" if name in before else "has come to require a gradient"
    return Alarm(
        "adapter_not_training",
        f"{name} {change}: something changed what trains during the run; leave requires_grad and "
        "the adapters as they are, in reward functions and listeners too",
    )


def refuse_double_bos(prompt_ids: Sequence[int], bos_id: int | None, *, source: str) -> None:
    """Refuse prompts that begin with two BOS tokens, one from a template, one from a tokenizer.

    Raises:
        DataError: If ``prompt_ids`` does.
    """
    if bos_id is not None and list(prompt_ids[:2]) == [bos_id, bos_id]:
        raise DataError(
            f"{source}: prompts begin with two BOS tokens, so the model would read text it was "
            "never trained on; take BOS out of the chat template or the text [double_bos]"
        )


def find_alarms(rows: Sequence[Mapping[str, float]], config: PPOConfig) -> list[Alarm]:
    """Judge the newest update in the light of those before it.

    Args:
        rows: Key figures of every update so far, the newest last.
        config: The run's settings.

    Returns:
        Alarms of the newest update, in a fixed order.
    """
    figures = _Figures(rows)
    found = [check(figures, config) for check in _CHECKS]
    return [alarm for alarm in found if alarm is not None]


class _Figures:
    """Means over the start and the end of a run."""

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        self.rows = rows

    @property
    def updates(self) -> int:
        return len(self.rows)

    def now(self, name: str) -> float | None:
        return self.rows[-1].get(name)

    def start(self, name: str) -> float:
        return self._mean(name, self.rows[:_START])

    def recent(self, name: str, window: int = _WINDOW) -> float:
        return self._mean(name, self.rows[-window:])

    @staticmethod
    def _mean(name: str, rows: Sequence[Mapping[str, float]]) -> float:
        values = [row[name] for row in rows if name in row]
        return sum(values) / len(values) if values else 0.0


def _ratio(figures: _Figures, config: PPOConfig) -> Alarm | None:
    error = figures.now("policy/ratio_error")
    if error is None or error <= MAX_RATIO_ERROR:
        return None
    return Alarm(
        "dropout_on",
        f"the policy changed by {error:.2g} between rollout and first minibatch, where it must be "
        "the same to the last bit: something random runs in the model; set its dropout to 0",
    )


def _sampler(figures: _Figures, config: PPOConfig) -> Alarm | None:
    error = figures.now("policy/sampler_error")
    cap = config.importance_sampling_cap
    if error is None or error <= max(1.05, cap or 0.0):
        return None
    remedy = (
        ", or set importance_sampling_cap 2"
        if cap is None
        else f", since importance_sampling_cap ({cap:g}) cannot make up for so much"
    )
    return Alarm(
        "sampler_mismatch",
        f"sampled tokens have other probabilities than the policy gives them (factor {error:.3f}, "
        "healthy 1.00 to 1.05): the sampler is not the scored distribution; sample from the full "
        f"distribution at the same temperature{remedy}",
    )


def _negative_kl(figures: _Figures, config: PPOConfig) -> Alarm | None:
    kl = figures.recent("kl/reference")
    if figures.updates < _WINDOW or kl >= -0.5:
        return None
    return Alarm(
        "negative_kl",
        f"the KL to the reference is {kl:.2f} over {_WINDOW} updates; a true KL is never negative: "
        "what is sampled is not what is scored; sample from the full distribution at the same "
        "temperature",
    )


def _step_size(figures: _Figures, config: PPOConfig) -> Alarm | None:
    clipped, moved = figures.now("policy/clip_fraction"), figures.now("kl/old_k3")
    if (clipped is None or clipped <= 0.3) and (moved is None or moved <= 0.1):
        return None
    several = config.num_ppo_epochs * config.num_mini_batches > 1
    return Alarm(
        "step_too_large",
        f"one update moves the policy too far (clip fraction {clipped or 0:.2f}, healthy under "
        f"0.3; KL between old and new {moved or 0:.3g} nats per token, healthy under 0.1): lower "
        f"learning_rate (now {config.learning_rate:g})"
        + (" or num_ppo_epochs, or set target_kl 0.05" if several else ""),
    )


def _constant_reward(figures: _Figures, config: PPOConfig) -> Alarm | None:
    spread, count = figures.now("score/clipped_std"), config.rollout_batch_size
    mean = abs(figures.now("score/mean") or 0.0)
    if spread is None or spread > _rounding(min(mean, config.score_clip)) or count < 2:
        return None
    at_bound = (figures.now("score/clip_fraction") or 0.0) > 0.5
    if at_bound and (figures.now("score/std") or 0.0) > _rounding(mean):
        what = (
            f"score_clip ({config.score_clip:g}) makes the scores of all {count} completions equal"
        )
        turn = "raise score_clip, or make the scores smaller"
    else:
        what = f"all {count} completions have the score {figures.now('score/mean'):.3g}"
        turn = "look at the samples and at "
        turn += "reward_function" if as_tuple(config.reward_function) else "reward_model"
    some_truncated = 0 < (figures.now("completion/truncated") or 0.0) < 1
    penalties = ["length_penalty"] if config.length_penalty else []
    penalties += ["missing_eos_penalty"] if config.missing_eos_penalty and some_truncated else []
    left = f" but {' and '.join(penalties)}" if penalties else ""
    return Alarm("constant_reward", f"{what}: there is nothing to learn from{left}; {turn}")


def _rounding(size: float) -> float:
    """Spread that numbers of a size may have though they are the same."""
    return 1e-6 * max(1.0, size)


def _truncated(figures: _Figures, config: PPOConfig) -> Alarm | None:
    share = figures.recent("completion/truncated", _START)
    if share <= 0.3 or (figures.updates < _START and share <= 0.9):
        return None
    return Alarm(
        "truncated",
        f"{share:.0%} of the completions reach max_new_tokens ({config.max_new_tokens}) without an "
        "end token: raise max_new_tokens or missing_eos_penalty, or train the SFT model longer",
    )


def _values(figures: _Figures, config: PPOConfig) -> Alarm | None:
    warm = config.value_warmup_steps + config.warmup_steps + _WINDOW
    explained = figures.recent("value/explained_variance")
    if figures.updates <= max(10, warm) or explained >= 0:
        return None
    return Alarm(
        "value_not_learning",
        f"the value model explains {explained:.0%} of the returns over {_WINDOW} updates, worse "
        "than a constant: raise value_learning_rate or value_warmup_steps",
    )


def _length(figures: _Figures, config: PPOConfig) -> Alarm | None:
    start, now = figures.start("completion/length"), figures.recent("completion/length")
    if figures.updates < _START + _WINDOW or now <= 2 * start:
        return None
    return Alarm(
        "length_doubled",
        f"completions grew from {start:.0f} to {now:.0f} tokens: the reward may pay for length "
        "(see score/length_correlation); set length_penalty or raise kl_coef",
    )


def _length_correlation(figures: _Figures, config: PPOConfig) -> Alarm | None:
    start = figures.start("score/length_correlation")
    now = figures.recent("score/length_correlation")
    if figures.updates < _START + _WINDOW or now < 0.6 or now < start + 0.3:
        return None
    return Alarm(
        "length_pays",
        f"the correlation of score and length rose from {start:.2f} to {now:.2f}: the policy "
        "learns to write long; set length_penalty or train the reward model on more rankings",
    )


def _entropy(figures: _Figures, config: PPOConfig) -> Alarm | None:
    start, now = figures.start("policy/entropy"), figures.recent("policy/entropy")
    if figures.updates < _START + _WINDOW or now >= 0.2 * start:
        return None
    return Alarm(
        "entropy_collapse",
        f"the entropy fell from {start:.2f} to {now:.2f} nats per token: the policy says the same "
        "thing every time; raise kl_coef or cliprange_high, or stop earlier",
    )


def _repetition(figures: _Figures, config: PPOConfig) -> Alarm | None:
    start, now = figures.start("completion/distinct_2"), figures.recent("completion/distinct_2")
    if figures.updates < _START + _WINDOW or now >= 0.4 * start:
        return None
    return Alarm(
        "repetition",
        f"the share of distinct token pairs fell from {start:.2f} to {now:.2f}: completions repeat "
        "each other or themselves; raise kl_coef",
    )


def _disagreement(figures: _Figures, config: PPOConfig) -> Alarm | None:
    start, now = figures.start("score/disagreement"), figures.recent("score/disagreement")
    if figures.updates < _START + _WINDOW or now <= 2 * start or start == 0:
        return None
    return Alarm(
        "reward_disagreement",
        f"the members of the reward ensemble disagree {now / start:.1f} times as much as at the "
        "start: the policy leaves what they were trained on; raise kl_coef, or use reward_ensemble "
        "min or mean_minus_std",
    )


def _sources(figures: _Figures, config: PPOConfig) -> Alarm | None:
    keys = [key for key in figures.rows[-1] if key.startswith(SOURCE_PREFIX)]
    if figures.updates < _START + _WINDOW or not keys:
        return None
    unit = figures.start("score/std")
    gain = figures.recent("score/mean") - figures.start("score/mean")
    weights = as_tuple(config.reward_weights) or (1.0,) * len(keys)
    for key, weight in zip(keys, weights, strict=True):  # both in the order of the config
        loss = weight * (figures.start(key) - figures.recent(key))
        if gain > 0.5 * unit and loss > 0.5 * unit:
            name = key.removeprefix(SOURCE_PREFIX)
            return Alarm(
                "rewards_part",
                f"the score rises by {gain:.2f} while reward {name}, times its weight {weight:g}, "
                f"falls by {loss:.2f}: one is bought with the other; give it more weight in "
                "reward_weights, or raise kl_coef",
            )
    return None


_CHECKS = (
    _ratio,
    _sampler,
    _negative_kl,
    _step_size,
    _constant_reward,
    _truncated,
    _values,
    _length,
    _length_correlation,
    _entropy,
    _repetition,
    _disagreement,
    _sources,
)
