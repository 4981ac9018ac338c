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
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch
from huggingface_hub import snapshot_download
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config import PPOConfig, as_tuple, split_name
from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError, ConfigError, DataError, TrainingError
from rlhf.model.roles import Roles
from rlhf.ops.masking import length_mask
from rlhf.ops.scores import EnsembleRule, ensemble_disagreement, ensemble_score
from rlhf.records import Prompt
from rlhf.reward import RewardModel
from rlhf.runs import require_run

ENSEMBLE = "ensemble"
"""Name of the source that ``reward_ensemble`` makes."""

_NO_CARD = "scores are used as they are: no reward card gives their mean and spread"
_WANTED = (
    "give a finished run folder of the reward stage or a sequence-classification model of "
    "transformers"
)
_MODULE_NAME = "rlhf_reward_function"
_CLASSIFIER_BATCH = 16
_SHOWN = 60

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
    """

    def __init__(
        self,
        sources: Sequence[RewardSource],
        weights: Sequence[float],
        first_model: RewardModel | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.weights = tuple(weights)
        self.first_model = first_model

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
        return _finite(scores, f"reward {self.name}", self.model.chat, completion_ids)


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

    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Score with every member and combine."""
        return self.combine(self.score_members(prompts, prompt_ids, completion_ids))


class FunctionReward:
    """A Python function of texts: ``f(prompts, completions) -> scores``."""

    note: str | None = _NO_CARD

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
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"reward_function {self.name} gave {str(given)[:_SHOWN]!r}, not one number per "
                "completion"
            ) from error
        if len(scores) != len(texts):
            raise TrainingError(
                f"reward_function {self.name} gave {len(scores)} scores for "
                f"{len(texts)} completions"
            )
        source = f"reward_function {self.name}"
        return _finite(torch.tensor(scores), source, self.chat, completion_ids)


class ClassifierReward:
    """A transformers sequence classifier, which reads the text with a tokenizer of its own.

    With one label the score is its logit; with two it is logit[1] - logit[0], the log-odds of the
    second. A completion scores as it would alone: rows are padded on the right with the id that
    the model's config names, which transformers' decoders skip to find the last token (so they do
    where it is the end token), and one by one where it names none.
    """

    note: str | None = _NO_CARD

    def __init__(self, model: Any, tokenizer: Any, name: str, chat: ChatFormat) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.chat = chat
        self._positions = _positions(model)
        pad = model.config.get_text_config().pad_token_id
        size = model.get_input_embeddings().num_embeddings
        self._pad_id: int | None = pad if pad is not None and 0 <= pad < size else None

    @classmethod
    def load(cls, path: str, name: str, chat: ChatFormat, device: torch.device) -> ClassifierReward:
        """Load a folder or hub model, in the dtype that its config names (else float32)."""
        config = _classifier_config(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=config.dtype or torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"reward_model: {path} can't be loaded: {_line(error)}") from error
        missing = sorted(loading["missing_keys"])
        if missing:
            raise ConfigError(
                f"reward_model: {path} has no weights for {missing[0]}, so its scores would be "
                f"random; {_WANTED}"
            )
        return cls(model.to(device).eval().requires_grad_(False), tokenizer, name, chat)

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[list[int]],
        completion_ids: Sequence[list[int]],
    ) -> Tensor:
        """Score decoded completions in batches of similar length."""
        rows = [
            self.encode(prompt, self.chat.decode_completion(ids))
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]
        size = 1 if self._pad_id is None else _CLASSIFIER_BATCH
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        scores = torch.zeros(len(rows))
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            scores[torch.tensor(chunk)] = self._forward([rows[row] for row in chunk])
        return _finite(scores, f"reward {self.name}", self.chat, completion_ids)

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Token ids of a prompt with its completion.

        Text from a chat template gets no further special tokens: the template writes those that
        the model wants. Without a template, the completion stands in a new line under the prompt.

        Raises:
            DataError: If the template refuses the prompt.
            TrainingError: If the text is longer than the model can read; it is never cut.
        """
        if self.tokenizer.chat_template is None:
            ids = self.tokenizer(f"{prompt.text}\n{completion}")["input_ids"]
        else:
            ids = self.tokenizer(self._render(prompt, completion), add_special_tokens=False)[
                "input_ids"
            ]
        if self._positions is not None and len(ids) > self._positions:
            raise TrainingError(
                f"reward {self.name}: prompt {prompt.text[:_SHOWN]!r} with its completion has "
                f"{len(ids)} tokens, the model reads {self._positions}; lower max_new_tokens or "
                "drop long prompts"
            )
        return list(ids)

    def _render(self, prompt: Prompt, completion: str) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        messages.append({"role": "assistant", "content": completion})
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except TemplateError as error:
            raise DataError(
                f"the chat template of reward {self.name} refuses the prompt "
                f"{prompt.text[:_SHOWN]!r}: {_line(error)}"
            ) from error

    def _forward(self, rows: list[list[int]]) -> Tensor:
        """Scores of one batch of token ids, float32 (B,) on the CPU."""
        lengths = torch.tensor([len(ids) for ids in rows])
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows],
            batch_first=True,
            padding_value=float(self._pad_id or 0),
        )
        device = self.model.device
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=length_mask(lengths, ids.shape[1]).long().to(device),
        )
        logits: Tensor = output.logits.float().cpu()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _finite(
    scores: Tensor, source: str, chat: ChatFormat, completion_ids: Sequence[list[int]]
) -> Tensor:
    """Refuse scores that no loss can use, naming the first."""
    for row in (~torch.isfinite(scores)).nonzero().flatten().tolist():
        text = chat.decode_completion(completion_ids[row])
        raise TrainingError(f"{source} gave {float(scores[row])} for {text[:_SHOWN]!r}")
    return scores


def _positions(model: Any) -> int | None:
    """Longest text that a model can read, in tokens; None where nothing limits it."""
    size = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if size is None or size <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from the one after the padding position.
            return int(size if module.padding_idx is None else size - module.padding_idx - 1)
    return int(size)


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
    specs = [
        RewardSpec(name, _kind(field, path), path, weight)
        for (field, _), (name, path), weight in zip(
            given, _named(given, config.reward_ensemble != "none"), weights, strict=True
        )
    ]
    adapters = [spec for spec in specs if spec.kind == "adapter"]
    if config.reward_ensemble != "none" and len(adapters) < 2:
        raise ConfigError(
            f"reward_ensemble: needs two run folders of the reward stage or more, not "
            f"{len(adapters)}; give them as reward_model"
        )
    return specs


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
    for spec in specs:
        if spec.kind == "adapter":
            _check_run(spec.path)
        elif spec.kind == "classifier":
            _classifier_config(spec.path)
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
    sources: list[RewardSource] = []
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
    if config.reward_ensemble != "none":
        ensemble = EnsembleReward(members, config.reward_ensemble, config.reward_ensemble_coef)
        others = [source for source in sources if not isinstance(source, ModelReward)]
        sources, weights = [ensemble, *others], [1.0] * (1 + len(others))
    return Reward(sources, weights, members[0].model if members else None)


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


def _classifier_config(path: str) -> Any:
    """Read a sequence classifier's config, refusing what gives no single score."""
    folder = Path(path) if Path(path).exists() else _hub_config(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"reward_model: {path} holds neither a run (run.json) nor a model (config.json); "
            f"{_WANTED}"
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"reward_model: {path} can't be read: {_line(error)}") from error
    kinds = [str(kind) for kind in config.architectures or ()]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ConfigError(
            f"reward_model: {path} is {' or '.join(kinds) or 'of no known kind'}, which gives no "
            f"score; {_WANTED}"
        )
    if config.num_labels not in (1, 2):
        raise ConfigError(
            f"reward_model: {path} has {config.num_labels} labels; give a model with one (its "
            "score) or two (the second is the good one)"
        )
    return config


def _hub_config(name: str) -> Path:
    """Fetch a hub model's config, or find it in the local cache; give its folder."""
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json"]))
    except Exception as error:
        raise ConfigError(
            f"reward_model: {name!r} is no folder here and no model that the hub gives "
            f"({type(error).__name__}); check the path"
        ) from error


def load_reward_function(spec: str) -> RewardFunction:
    """Import ``file.py:name`` or ``package.module:name``.

    Raises:
        ConfigError: If it can't be found or is no function.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
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


def _line(error: BaseException) -> str:
    """The first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
