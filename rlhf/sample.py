"""Sample K candidates per prompt from a policy into a ranking store, for people to rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.config import SampleConfig
from rlhf.data.readers import read_prompts
from rlhf.errors import DataError
from rlhf.inference import Policy
from rlhf.records import Candidate, Prompt
from rlhf.runs import Listener
from rlhf.store import NewTask, RankingStore

_CANDIDATE_NOISE = 2
"""Purpose number in the noise keys; see ``rlhf.model.generation``."""


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What sampling put into the store."""

    store: str
    added: int
    """Tasks that are new in the store."""
    known: int
    """Tasks that were there already, same prompt and candidates."""
    skipped: int
    """Prompts whose candidates were all identical: nothing to rank."""

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return {
            "new tasks": self.added,
            "known tasks": self.known,
            "prompts with identical candidates, skipped": self.skipped,
            "store": self.store,
        }


def sample_candidates(
    config: SampleConfig,
    *,
    listener: Listener | None = None,
    meta: Mapping[str, Mapping[str, Any]] | None = None,
) -> SampleResult:
    """Fill the store: ``num_candidates`` samples per prompt, identical ones merged.

    Args:
        config: Policy, prompts, store and sampling.
        listener: Told of the progress in prompts.
        meta: Notes to keep with a task, by the prompt's sha256.

    Raises:
        RlhfError: For whatever the user can mend.
    """
    prompts = list({p.sha256: p for p in read_prompts(config.prompts)}.values())
    prompts = prompts[: config.max_prompts]
    policy = Policy.load(config.model_name_or_path, dtype=config.dtype)
    label = f"{config.model_name_or_path} @ {policy.version}"
    added = known = skipped = 0
    per_chunk = max(1, config.batch_size // config.num_candidates)
    with RankingStore.open(config.store) as store:
        for start in range(0, len(prompts), per_chunk):
            chunk = prompts[start : start + per_chunk]
            texts = _sample_chunk(policy, chunk, start, config)
            outcome = store.add_tasks(
                NewTask(
                    prompt,
                    tuple(Candidate(text, label) for text in own if text),
                    overlap=config.overlap,
                    meta=dict((meta or {}).get(prompt.sha256, {})),
                )
                for prompt, own in zip(chunk, texts, strict=True)
            )
            added, known = added + outcome.added, known + outcome.known
            skipped += outcome.skipped
            if listener is not None:
                done = start + len(chunk)
                listener("sample", done, len(prompts), {"store/tasks": added + known})
    if added + known == 0:
        raise DataError(
            f"{config.prompts}: every prompt's {config.num_candidates} candidates were identical; "
            f"raise temperature (now {config.temperature:g})"
        )
    return SampleResult(config.store, added, known, skipped)


def _sample_chunk(
    policy: Policy, prompts: list[Prompt], start: int, config: SampleConfig
) -> list[list[str]]:
    """K texts for each prompt; a prompt's noise depends on its place in the file alone."""
    k = config.num_candidates
    repeated = [prompt for prompt in prompts for _ in range(k)]
    keys = [
        (config.seed, _CANDIDATE_NOISE, start + row, draw)
        for row in range(len(prompts))
        for draw in range(k)
    ]
    texts = list(
        policy.complete(
            repeated,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            keys=keys,
            batch_size=config.batch_size,
        )
    )
    return [texts[row * k : (row + 1) * k] for row in range(len(prompts))]
