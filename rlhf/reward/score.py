"""Scores of completions in a file, by one reward model or an ensemble, row by row.

A row is ``prompt`` and ``completion``, or ``messages`` that end with the assistant's, or ``prompt``
and ``completions`` (rankings among them), or ``prompt``, ``chosen`` and ``rejected``. It comes out
with all other fields as they were, and with its scores.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from rlhf.config import Dtype, ScoreConfig, as_tuple
from rlhf.data.chat import ChatFormat
from rlhf.data.rows import Row, read_rows
from rlhf.errors import CheckpointError, ConfigError, DataError, TrainingError
from rlhf.model.base import ADAPTER_FOLDER, ModelSource, linked_base, load_base, read_link
from rlhf.model.roles import Roles
from rlhf.ops.scores import ensemble_disagreement, ensemble_score
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.reward.ensemble import member_folders
from rlhf.reward.model import RewardModel
from rlhf.runs import Listener, require_run

_PIECE = 256
"""Rows held in memory at a time."""
_TEXT_FIELDS = ("prompt", "completion", "completions", "messages", "chosen", "rejected")
_ADDED = ("score", "scores", "raw_score", "raw_scores", "disagreement", "disagreements")


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What scoring a file gave."""

    rows: int
    completions: int
    mean: float
    """Of the normalised scores."""
    std: float
    """Population standard deviation of the normalised scores."""
    output: Path

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return {
            "rows": self.rows,
            "completions": self.completions,
            "mean score": self.mean,
            "standard deviation": self.std,
            "output": str(self.output),
        }


@dataclass(frozen=True, slots=True)
class _Item:
    """A row whose completions can be scored."""

    place: str
    prompt: Prompt
    completions: tuple[str, ...]
    fields: Mapping[str, Any]
    """What is written of the row, scores aside."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of B completions, float32 (B,) each."""

    normalised: Tensor
    raw: Tensor
    disagreement: Tensor | None
    """None where there is one model."""


def score_rows(
    config: ScoreConfig, *, listener: Listener | None = None
) -> Iterator[dict[str, Any]]:
    """Yield each row of the input with its scores, in order.

    ``score`` is normalised as the reward run says and ``raw_score`` is the head's own number; a row
    of ``completions`` has lists, ``scores`` and ``raw_scores``. With several models, or a run
    that trained several, both are the members' mean, and ``disagreement`` (``disagreements``) is
    the population standard deviation between their normalised scores. The fields of all rows are
    checked before the first is scored.

    Raises:
        RlhfError: For whatever the user can mend; a row is named by ``file:line``.
    """
    folders = check_reward_runs(expand_ensembles(as_tuple(config.reward_model)))
    total = sum(1 for _ in _read_items(config.input))
    models = load_reward_models(folders, dtype=config.dtype, device=Ranks().device)
    done = 0
    for items in _pieces(_read_items(config.input)):
        scores = _score(models, items)
        done += len(items)
        if listener is not None:
            listener("score", done, total, {"score/mean": float(scores.normalised.mean())})
        yield from _scored(items, scores)


def score_file(config: ScoreConfig, *, listener: Listener | None = None) -> ScoreResult:
    """Write the rows of ``score_rows`` to ``config.output``, all of them or no file.

    Raises:
        RlhfError: For whatever the user can mend.
    """
    if config.output is None:
        raise ConfigError("output: None is not allowed; give a path")
    output = Path(config.output)
    rows = count = 0
    total = squares = 0.0
    with _whole_file(output) as file:
        for row in score_rows(config, listener=listener):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            own = row["scores"] if "scores" in row else [row["score"]]
            rows, count = rows + 1, count + len(own)
            total += sum(own)
            squares += sum(score * score for score in own)
    mean = total / count
    return ScoreResult(rows, count, mean, math.sqrt(max(0.0, squares / count - mean**2)), output)


# -- reward models --------------------------------------------------------------------------------


def expand_ensembles(paths: Sequence[str]) -> list[str]:
    """Put the run folders of an ensemble's members in place of the run that trained them.

    Raises:
        ConfigError: If a path is no finished reward run.
    """
    for path in paths:
        _require_reward_run(path)
    return [str(folder) for path in paths for folder in member_folders(path)]


def check_reward_runs(paths: Sequence[str]) -> list[Path]:
    """Refuse what is no finished reward run, and runs on different bases, before loading any.

    Raises:
        ConfigError: Naming the run folder.
    """
    prints: dict[str, str] = {}
    for path in paths:
        _require_reward_run(path)
        try:
            prints[path] = read_link(Path(path) / ADAPTER_FOLDER)["base_fingerprint"]
        except CheckpointError as error:
            raise ConfigError(f"reward_model: {error}") from error
        if prints[path] != prints[paths[0]]:
            raise ConfigError(
                f"reward_model: {paths[0]} and {path} were trained on different bases (sha256 "
                f"{prints[paths[0]][:12]} and {prints[path][:12]}); score with each on its own"
            )
    return [Path(path) for path in paths]


def _require_reward_run(path: str) -> None:
    try:
        require_run(path, "reward")
    except CheckpointError as error:
        raise ConfigError(f"reward_model: {error}") from error


def load_reward_models(
    folders: Sequence[Path], *, dtype: Dtype, device: torch.device
) -> list[RewardModel]:
    """Load the base that reward runs link to, and each run as a role on it.

    Raises:
        CheckpointError: If the base or an adapter is gone or changed.
    """
    source = ModelSource(linked_base(folders[0] / ADAPTER_FOLDER))
    base = load_base(source, dtype=dtype, device=device)
    roles, chat = Roles(base), ChatFormat.of(base.tokenizer, base.model)
    return [
        RewardModel.load(folder, roles, chat, role="reward" if not i else f"reward_{i + 1}")
        for i, folder in enumerate(folders)
    ]


def raw_scores(model: RewardModel, scores: Tensor) -> Tensor:
    """What the head gave before its normalisation, float32 (B,) on the CPU."""
    mean, std = model.head.mean.double().cpu(), model.head.std.double().cpu()
    return (scores.double() * std + mean).float()


def _score(models: Sequence[RewardModel], items: Sequence[_Item]) -> _Scores:
    """Score all completions of some rows, in their order."""
    rows = [row for item in items for row in _encode(models[0], item)]
    members = torch.stack([model.score(rows) for model in models])
    raw = torch.stack([raw_scores(*pair) for pair in zip(models, members, strict=True)])
    normalised = ensemble_score(members, "mean")
    places = [item.place for item in items for _ in item.completions]
    for row in (~torch.isfinite(normalised)).nonzero().flatten().tolist():
        raise TrainingError(
            f"{places[row]}: its score is {float(normalised[row])}; use --dtype float32"
        )
    spread = ensemble_disagreement(members) if len(models) > 1 else None
    return _Scores(normalised, ensemble_score(raw, "mean"), spread)


def _encode(model: RewardModel, item: _Item) -> list[tuple[list[int], list[int]]]:
    """Token ids of a row's prompt with each completion; too long for the model is refused."""
    chat, config = model.chat, model.roles.base.model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or math.inf
    try:
        prompt = chat.encode_prompt(item.prompt)
        rows = [(prompt, chat.encode_completion(text)) for text in item.completions]
    except DataError as error:
        raise DataError(f"{item.place}: {error}") from error
    size = max(len(prompt) + len(completion) for _, completion in rows)
    if size > longest:
        raise DataError(
            f"{item.place}: prompt and completion have {size} tokens, the model reads {longest}; "
            "shorten or drop them"
        )
    return rows


def _scored(items: Sequence[_Item], scores: _Scores) -> Iterator[dict[str, Any]]:
    """Yield the rows to write."""
    columns = {"score": scores.normalised, "raw_score": scores.raw}
    if scores.disagreement is not None:
        columns["disagreement"] = scores.disagreement
    numbers = {name: column.tolist() for name, column in columns.items()}
    start = 0
    for item in items:
        stop = start + len(item.completions)
        if "completions" in item.fields:
            found = {f"{name}s": column[start:stop] for name, column in numbers.items()}
        else:
            found = {name: column[start] for name, column in numbers.items()}
        yield {**item.fields, **found}
        start = stop


# -- rows -----------------------------------------------------------------------------------------


def _read_items(path: str) -> Iterator[_Item]:
    for row in read_rows(path):
        try:
            yield _item(row)
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from None


def _pieces(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    piece: list[_Item] = []
    for item in items:
        piece.append(item)
        if len(piece) == _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


def _item(row: Row) -> _Item:
    fields = row.fields
    for name in _ADDED:
        if name in fields:
            raise DataError(f"has a field {name!r} already; rename it, its place is taken")
    prompt, texts, shown = _parts(fields)
    rest = {name: value for name, value in fields.items() if name not in _TEXT_FIELDS}
    written = {"prompt": prompt, **shown, **rest}
    try:
        json.dumps(written, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(f"holds a value that JSON can't ({error}); drop that column") from None
    return _Item(row.place, Prompt.parse(prompt), texts, written)


def _parts(fields: Mapping[str, Any]) -> tuple[Any, tuple[str, ...], dict[str, Any]]:
    """A row's prompt, its completions, and the completions as they are written."""
    given = [name for name in _TEXT_FIELDS if name in fields]
    if given == ["messages"]:
        turns = _turns("messages", fields["messages"])
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise DataError("'messages' must hold a prompt and end with the assistant's answer")
        return turns[:-1], (turns[-1]["content"],), {"completion": turns[-1]["content"]}
    if given == ["prompt", "completion"]:
        text = _answer("completion", fields["completion"])
        return _prompt(fields["prompt"]), (text,), {"completion": text}
    if given == ["prompt", "completions"]:
        answers = fields["completions"]
        if not isinstance(answers, list) or not answers:
            raise DataError("'completions' must be a list of one text or more")
        texts = tuple(_answer(f"completions[{i}]", text) for i, text in enumerate(answers))
        return _prompt(fields["prompt"]), texts, {"completions": list(texts)}
    if given == ["prompt", "chosen", "rejected"]:
        texts = tuple(_answer(name, fields[name]) for name in ("chosen", "rejected"))
        return _prompt(fields["prompt"]), texts, {"completions": list(texts), "ranks": [1, 2]}
    raise DataError(_odd_fields(given))


def _odd_fields(given: Sequence[str]) -> str:
    if given == ["prompt"]:
        return "'completion' is missing; give prompt and completion, or prompt and completions"
    if "prompt" not in given and "messages" not in given:
        return "'prompt' is missing"
    return (
        f"has {' and '.join(given)}; give prompt with either completion, completions, or chosen "
        "and rejected, or messages alone"
    )


def _prompt(value: object) -> object:
    return _turns("prompt", value) if isinstance(value, list) else value


def _answer(name: str, value: object) -> str:
    """Read an answer: text, or a list of one assistant message."""
    if isinstance(value, list):
        turns = _turns(name, value)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise DataError(f"{name!r} must be text or exactly one assistant message")
        value = turns[0]["content"]
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{name!r} holds a lone surrogate, which no tokenizer can read") from None
    return value


def _turns(name: str, value: object) -> list[dict[str, str]]:
    """Check that messages have role and content and nothing that would be lost."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{name!r} must be a list of messages")
    for turn in value:
        if not isinstance(turn, Mapping) or set(turn) != {"role", "content"}:
            raise DataError(f"{name!r}: a message must have 'role' and 'content' and nothing else")
        if not isinstance(turn["content"], str):
            raise DataError(
                f"{name!r}: 'content' must be text, not {type(turn['content']).__name__}"
            )
    return [dict(turn) for turn in value]


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[str]]:
    """A text file that appears at ``path`` when the block ends well; an old one is refused."""
    if path.exists():
        raise ConfigError(f"output: {path} exists already; remove it or give another path")
    temporary = path.parent / f".tmp-{path.name}-{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"output: {path}: not written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
