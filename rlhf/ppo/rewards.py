"""Where PPO's scores come from: named sources, weighed and added up.

A source is a reward adapter on the shared base (token ids go in as sampled), a transformers
sequence classifier (the text is encoded anew, by its own tokenizer and chat template), or a Python
function of texts. Reward adapters can also act as one source, an ensemble. Clipping and penalties
are not applied here (``rlhf.ops.scores``). Axes: B completions, M members of an ensemble.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from rlhf.config import PPOConfig, as_tuple, split_name
from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError, ConfigError, TrainingError
from rlhf.model.roles import Roles
from rlhf.ops.scores import EnsembleRule, ensemble_disagreement, ensemble_score
from rlhf.ppo.classifier import (
    NO_CARD,
    SHOWN,
    ClassifierReward,
    finite_scores,
    read_classifier_config,
)
from rlhf.records import Prompt
from rlhf.reward import RewardModel
from rlhf.reward.card_files import read_card
from rlhf.reward.ensemble import member_folders
from rlhf.reward.gate import Finding, find_faults
from rlhf.runs import require_run

ENSEMBLE = "ensemble"
"""Name of the source that ``reward_ensemble`` makes."""

_MODULE_NAME = "rlhf_reward_function"

RewardFunction = Callable[[list[Any], list[str]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a batch of completions is worth; every tensor is float32 (B,) on the CPU."""

    total: Tensor
    """Weighted sum of the sources."""
    by_source: dict[str, Tensor]
    """What each source gave, before its weight."""
    disagreement: Tensor | None = None
    """Standard deviation between the members of an ensemble; None without one."""

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """Put the rows of several batches of one reward behind one another."""
        spreads = [part.disagreement for part in parts if part.disagreement is not None]
        return cls(
            total=torch.cat([part.total for part in parts]),
            by_source={
                name: torch.cat([part.by_source[name] for part in parts])
                for name in parts[0].by_source
            },
            disagreement=torch.cat(spreads) if spreads else None,
        )


class RewardSource(Protocol):
    """Gives one score per completion."""

    @property
    def name(self) -> str:
        """What its figures are called."""

    @property
    def note(self) -> str | None:
        """What a reader of the run should know of its scores, if anything."""

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Score completions, float32 (B,) on the CPU, all of them finite."""


class Reward:
    """The weighted sum of all sources.

    Args:
        sources: Under different names.
        weights: One for each source.
        first_model: The first of the reward adapters, which a value model can start from.
        first_weight: What its score counts in the sum; in an ensemble, what the ensemble's does.
    """

    def __init__(
        self,
        sources: Sequence[RewardSource | EnsembleReward],
        weights: Sequence[float],
        first_model: RewardModel | None = None,
        first_weight: float = 1.0,
    ) -> None:
        self.sources = tuple(sources)
        self.weights = tuple(weights)
        self.first_model = first_model
        self.first_weight = first_weight

    @property
    def notes(self) -> dict[str, str]:
        """What to know of the sources, by name; those without a note are left out."""
        return {source.name: source.note for source in self.sources if source.note is not None}

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Scores:
        """Score completions.

        Args:
            prompts: One per completion.
            prompt_ids: Their token ids.
            completion_ids: As sampled, with the end token where there is one.

        Raises:
            TrainingError: Where a source gives a score that is not finite, or too few.
        """
        total = torch.zeros(len(prompts))
        by_source: dict[str, Tensor] = {}
        disagreement = None
        for source, weight in zip(self.sources, self.weights, strict=True):
            if isinstance(source, EnsembleReward):
                members = source.score_members(prompts, prompt_ids, completion_ids)
                scores = source.combine(members)
                disagreement = ensemble_disagreement(members)
            else:
                scores = source.score(prompts, prompt_ids, completion_ids)
            by_source[source.name] = scores
            total += weight * scores
        return Scores(total, by_source, disagreement)


# -- sources --------------------------------------------------------------------------------------


class ModelReward:
    """A reward adapter on the policy's own base: token ids go in as sampled."""

    note: str | None = None
    """None: its head is normalised as its reward card says."""

    def __init__(self, model: RewardModel, name: str = "reward") -> None:
        self.model = model
        self.name = name

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Read the normalised score at the end token, whatever a completion ended with."""
        scores = self.model.score_ids(prompt_ids, completion_ids)
        return finite_scores(scores, f"reward {self.name}", self.model.chat, completion_ids)


class EnsembleReward:
    """Several reward adapters as one source."""

    name = ENSEMBLE
    note: str | None = None

    def __init__(self, members: Sequence[ModelReward], how: EnsembleRule, coef: float) -> None:
        self.members = tuple(members)
        self.how = how
        self.coef = coef

    def score_members(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Scores of every member, float32 (M, B)."""
        return torch.stack([m.score(prompts, prompt_ids, completion_ids) for m in self.members])

    def combine(self, member_scores: Tensor) -> Tensor:
        """One score of the members' (M, B), float32 (B,)."""
        return ensemble_score(member_scores, self.how, self.coef)


class FunctionReward:
    """A Python function of texts: ``f(prompts, completions) -> scores``."""

    note: str | None = NO_CARD

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
        given = self.function([prompt.to_json() for prompt in prompts], texts)
        try:
            scores = [float(score) for score in given]
        except OverflowError as error:
            raise TrainingError(
                f"reward_function {self.name} gave a whole number too large for a score"
            ) from error
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"reward_function {self.name} gave {str(given)[:SHOWN]!r}, not one number per "
                "completion"
            ) from error
        if len(scores) != len(texts):
            raise TrainingError(
                f"reward_function {self.name} gave {len(scores)} scores for "
                f"{len(texts)} completions"
            )
        source = f"reward_function {self.name}"
        return finite_scores(torch.tensor(scores), source, self.chat, completion_ids)


# -- from the config ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One source as the config names it."""

    name: str
    kind: Literal["adapter", "classifier", "function"]
    path: str
    """Run folder, model or function."""
    weight: float


def reward_specs(config: PPOConfig) -> list[RewardSpec]:
    """List the sources that a config names: models first, in the order given.

    Raises:
        ConfigError: If a name is given twice, or an ensemble has fewer than two members.
    """
    given = [("reward_model", text) for text in as_tuple(config.reward_model)]
    given += [("reward_function", text) for text in as_tuple(config.reward_function)]
    weights = as_tuple(config.reward_weights) or (1.0,) * len(given)
    named = zip(given, _named(given, config.reward_ensemble != "none"), weights, strict=True)
    specs = [
        part
        for (field, _), (name, path), weight in named
        for part in _members(RewardSpec(name, _kind(field, path), path, weight), config)
    ]
    adapters = [spec for spec in specs if spec.kind == "adapter"]
    if config.reward_ensemble != "none" and len(adapters) < 2:
        raise ConfigError(
            f"reward_ensemble: needs two run folders of the reward stage or more, not "
            f"{len(adapters)}; give them, or one trained with ensemble_size, as reward_model"
        )
    return specs


def _members(spec: RewardSpec, config: PPOConfig) -> list[RewardSpec]:
    """The members of a run that trained an ensemble, or the source as it is."""
    if spec.kind != "adapter" or member_folders(spec.path) == [Path(spec.path)]:
        return [spec]
    if config.reward_ensemble == "none":
        raise ConfigError(
            f"reward_ensemble: {spec.path} holds several reward models; set mean, min or "
            "mean_minus_std"
        )
    return [
        replace(spec, name=f"{spec.name}_{number}", path=str(folder))
        for number, folder in enumerate(member_folders(spec.path), start=1)
    ]


def check_rewards(
    config: PPOConfig, functions: Sequence[RewardFunction] | None = None
) -> list[RewardFunction]:
    """Refuse rewards that can't be used, before any weights are loaded.

    Args:
        config: Names, weights and ensemble.
        functions: Where they are at hand; ``config.reward_function`` then only names them.

    Returns:
        The functions, in the order of ``config.reward_function``, for ``build_reward``.

    Raises:
        ConfigError: Saying which reward can't be used and what to give.
    """
    specs = reward_specs(config)
    for path, finding in card_findings(config):
        if finding.level == "fail" and not config.accept_reward_model:
            raise ConfigError(
                f"reward_model: {path}: {finding.text}; {finding.remedy}, or take it as it is "
                "with --accept_reward_model"
            )
    for spec in specs:
        if spec.kind == "adapter":
            _check_run(spec.path)
        elif spec.kind == "classifier":
            read_classifier_config(spec.path)
    return _functions(specs, functions)


def build_reward(
    config: PPOConfig,
    roles: Roles,
    chat: ChatFormat,
    functions: Sequence[RewardFunction] | None = None,
    device: torch.device | None = None,
) -> Reward:
    """Load all that a config names as reward.

    Args:
        config: Names, weights and ensemble.
        roles: The base; each reward adapter becomes a frozen role ("reward", "reward_2", ...).
        chat: How the policy's tokenizer writes prompts and completions.
        functions: As for ``check_rewards``; imported when not given.
        device: Where sequence classifiers go (default: where the base lies).

    Raises:
        ConfigError: As ``check_rewards``.
        CheckpointError: If a reward adapter is broken or belongs to another base.
    """
    specs = reward_specs(config)
    ready = iter(_functions(specs, functions))
    sources: list[RewardSource | EnsembleReward] = []
    members: list[ModelReward] = []
    for spec in specs:
        if spec.kind == "adapter":
            _check_run(spec.path)
            role = f"reward_{len(members) + 1}" if members else "reward"
            model = RewardModel.load(Path(spec.path), roles, chat, role=role)
            members.append(ModelReward(model, spec.name))
            sources.append(members[-1])
        elif spec.kind == "classifier":
            place = device or roles.base.device
            sources.append(ClassifierReward.load(spec.path, spec.name, chat, place))
        else:
            sources.append(FunctionReward(next(ready), spec.name, chat))
    weights = [spec.weight for spec in specs]
    first_weight = next((spec.weight for spec in specs if spec.kind == "adapter"), 1.0)
    if config.reward_ensemble != "none":
        ensemble = EnsembleReward(members, config.reward_ensemble, config.reward_ensemble_coef)
        others = [source for source in sources if not isinstance(source, ModelReward)]
        sources, weights = [ensemble, *others], [1.0] * (1 + len(others))
    return Reward(sources, weights, members[0].model if members else None, first_weight)


def card_findings(config: PPOConfig) -> Iterator[tuple[str, Finding]]:
    """Yield what the cards of the reward runs say against them, with each run's path."""
    for text in as_tuple(config.reward_model):
        path = split_name(text)[1]
        if _kind("reward_model", path) != "adapter":
            continue
        _check_run(path)
        try:
            card = read_card(path)
        except CheckpointError as error:
            yield path, Finding("fail", "card", *str(error).split("; ", maxsplit=1))
        else:
            yield from ((path, finding) for finding in find_faults(card))


def _kind(field: str, path: str) -> Literal["adapter", "classifier", "function"]:
    if field == "reward_function":
        return "function"
    return "adapter" if (Path(path) / "run.json").is_file() else "classifier"


def _named(given: Sequence[tuple[str, str]], has_ensemble: bool) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of every reward: names as given, others from the path, all different."""
    split = [(field, *split_name(text)) for field, text in given]
    taken = {ENSEMBLE} if has_ensemble else set()
    for field, name, _ in split:
        if name in taken:
            raise ConfigError(f"{field}: the name {name!r} is taken; give another")
        taken |= {name} if name is not None else set()
    for field, name, path in split:
        if name is not None:
            yield name, path
            continue
        own = path.rpartition(":")[2] if field == "reward_function" else Path(path).resolve().name
        free, number = own, 1
        while free in taken:
            number += 1
            free = f"{own}_{number}"
        taken.add(free)
        yield free, path


def _functions(
    specs: Sequence[RewardSpec], functions: Sequence[RewardFunction] | None
) -> list[RewardFunction]:
    """Give those at hand if their number is right; import them otherwise."""
    named = [spec for spec in specs if spec.kind == "function"]
    if functions is None:
        return [load_reward_function(spec.path) for spec in named]
    if len(functions) != len(named):
        raise ConfigError(
            f"reward_function: names {len(named)} functions for {len(functions)}; give each a name"
        )
    return list(functions)


def _check_run(path: str) -> None:
    try:
        require_run(path, "reward")
    except CheckpointError as error:
        raise ConfigError(f"reward_model: {error}") from error


def load_reward_function(spec: str) -> RewardFunction:
    """Import ``file.py:name`` or ``package.module:name``.

    Raises:
        ConfigError: If it can't be found or is no function.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name or (where.startswith(".") and not where.endswith(".py")):
        raise ConfigError(f"reward_function: {spec!r} is not file.py:name or package.module:name")
    module = _load_file(where) if where.endswith(".py") else _load_module(where)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"reward_function: {where} has no function {name!r}")
    return function  # type: ignore[no-any-return]  # the user's promise; scores are checked


def _load_file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise ConfigError(f"reward_function: no file {path}")
    digest = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()
    name = f"{_MODULE_NAME}_{digest[:12]}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        found.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ConfigError(f"reward_function: {path} can't be loaded: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"reward_function: no module {name} ({error})") from error
    except (SyntaxError, ImportError) as error:
        raise ConfigError(f"reward_function: {name} can't be loaded: {error}") from error
