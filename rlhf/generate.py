"""Talk to the result of any stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlhf.config import GenerateConfig
from rlhf.data.readers import read_prompts
from rlhf.inference import Policy
from rlhf.records import Prompt

_ANSWER_NOISE = 3
"""Purpose number in the noise keys; see ``rlhf.model.generation``."""


def generate(
    config: GenerateConfig, prompts: Iterable[Prompt] | None = None
) -> Iterator[tuple[Prompt, str]]:
    """Yield each prompt with its completion.

    Args:
        config: Model, sampling, and the prompt or the file of prompts.
        prompts: Prompts as they come (a terminal, say), where the config names none.

    Raises:
        RlhfError: For whatever the user can mend.
    """
    if config.prompt is not None:
        prompts = [Prompt.parse(config.prompt)]
    elif config.prompts is not None:
        prompts = read_prompts(config.prompts)
    policy = Policy.load(config.model_name_or_path, dtype=config.dtype)
    for row, prompt in enumerate(prompts or ()):
        keys = None if config.greedy else [(config.seed, _ANSWER_NOISE, row)]
        texts = policy.complete(
            [prompt],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            keys=keys,
        )
        yield prompt, next(texts)
