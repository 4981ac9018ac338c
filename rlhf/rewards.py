"""Where PPO's scores come from: the reward role on the shared base, or a Python function."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf.data.chat import ChatFormat
from rlhf.errors import ConfigError, TrainingError
from rlhf.records import Prompt
from rlhf.reward import RewardModel

_MODULE_NAME = "rlhf_reward_function"

RewardFunction = Callable[[list[Any], list[str]], Sequence[float]]


class RewardSource(Protocol):
    """Gives one score per completion."""

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Score completions, float32 (B,) on the CPU."""


class ModelReward:
    """The reward adapter on the policy's own base: token ids go in as sampled."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Read the normalised score at the end token, whatever a completion ended with."""
        return self.model.score_ids(prompt_ids, completion_ids)


class FunctionReward:
    """A Python function of texts: ``f(prompts, completions) -> scores``."""

    def __init__(self, function: RewardFunction, name: str, chat: ChatFormat) -> None:
        self.function = function
        self.name = name
        self.chat = chat

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Call the function on decoded completions and check what it returns."""
        texts = [self.chat.decode_completion(ids) for ids in completion_ids]
        scores = [float(x) for x in self.function([p.to_json() for p in prompts], texts)]
        if len(scores) != len(texts):
            raise TrainingError(
                f"reward_function {self.name} gave {len(scores)} scores for "
                f"{len(texts)} completions"
            )
        for score, text in zip(scores, texts, strict=True):
            if not math.isfinite(score):
                raise TrainingError(f"reward_function {self.name} gave {score} for {text[:60]!r}")
        return torch.tensor(scores)


def load_reward_function(spec: str) -> RewardFunction:
    """Import ``file.py:name`` or ``package.module:name``.

    Raises:
        ConfigError: If it can't be found or is no function.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise ConfigError(f"reward_function: {spec!r} is not file.py:name or package.module:name")
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise ConfigError(f"reward_function: no file {where}")
        found = importlib.util.spec_from_file_location(_MODULE_NAME, where)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[_MODULE_NAME] = module  # dataclasses look their module up there
        try:
            found.loader.exec_module(module)
        except (SyntaxError, ImportError) as error:
            raise ConfigError(f"reward_function: {where} can't be loaded: {error}") from error
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ConfigError(f"reward_function: no module {where} ({error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"reward_function: {where} has no function {name!r}")
    return function  # type: ignore[no-any-return]  # the user's promise; scores are checked
