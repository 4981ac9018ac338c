"""The records that data, store and labeling app share: frozen, validated, free of torch.

A prompt is text, or chat messages (``{"role", "content"}``) of which the last one awaits an
answer. Everything here can be checked without a tokenizer; what needs one lives in
``rlhf.data``. Readers add ``file:line`` to the errors raised here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
MAX_CANDIDATES = 9


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"role {self.role!r} is not one of {', '.join(ROLES)}")
        _require_text("content", self.content, allow_empty=self.role == "system")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: the turns of a conversation up to the answer to be given."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages:
            raise DataError("'prompt' has no messages; give it at least one")
        if self.messages[-1].role == "assistant":
            raise DataError("'prompt' ends with an assistant message; move it to 'completion'")

    @classmethod
    def parse(cls, value: object) -> Prompt:
        """Read a prompt from a string or a list of ``{"role", "content"}`` messages."""
        if isinstance(value, str):
            _require_text("prompt", value)
            return cls((Message("user", value),))
        if isinstance(value, Sequence):
            return cls(tuple(_parse_message(item) for item in value))
        raise DataError(f"'prompt' must be text or a list of messages, not {_kind(value)}")

    @property
    def text(self) -> str:
        """The prompt as a person reads it; roles are named when there are several turns."""
        if len(self.messages) == 1 and self.messages[0].role == "user":
            return self.messages[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages)

    @property
    def sha256(self) -> str:
        """Identity of the prompt: the same turns give the same hash on every machine."""
        turns = [[message.role, message.content] for message in self.messages]
        canonical = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    def to_json(self) -> str | list[dict[str, str]]:
        """Give back what ``parse`` reads: plain text for a single user turn."""
        if len(self.messages) == 1 and self.messages[0].role == "user":
            return self.messages[0].content
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the answer that a person would give."""

    prompt: Prompt
    completion: str
    task: str | None = None
    """Name of the task it belongs to; reports break figures down by it."""

    def __post_init__(self) -> None:
        _require_text("completion", self.completion)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the K completions that a person ranks."""

    text: str
    model: str | None = None
    """Where it came from (policy and version); never shown to annotators."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One person's order of K completions of one prompt; 1 is best, equal ranks are ties."""

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int | None, ...]
    """One rank per completion; None means not ranked."""
    annotator: str | None = None
    id: str | None = None
    flags: tuple[tuple[str, ...], ...] | None = None
    """Per completion, the flags that the annotator raised."""
    strengths: tuple[int, ...] | None = None
    """How much better each tier is than the next one, best tier first."""
    simulated: bool = False
    """True when a program made the ranking; shown wherever figures depend on it."""
    action: str = "rank"
    """``rank``, ``all_bad``, ``cannot_judge`` or ``skip``; only ``rank`` orders answers."""
    others_worse: bool = False
    """True when the annotator said that every unranked completion is worse than the ranked."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.completions)
        if not 2 <= count <= MAX_CANDIDATES:
            raise DataError(
                f"'completions' has {count} entries; a ranking needs 2 to {MAX_CANDIDATES}"
            )
        if len(self.ranks) != count:
            raise DataError(
                f"'ranks' has {len(self.ranks)} entries for {count} completions; give one each"
            )
        for text in self.completions:
            _require_text("completions", text, allow_empty=True)
        for rank in self.ranks:
            if rank is not None and (type(rank) is not int or not 1 <= rank <= count):
                raise DataError(
                    f"rank {rank!r} is not a whole number from 1 to {count} (null = not ranked)"
                )

    @property
    def effective_ranks(self) -> tuple[int | None, ...]:
        """Ranks with the unranked last, tied, where the annotator called all others worse."""
        if not self.others_worse:
            return self.ranks
        last = max((rank for rank in self.ranks if rank is not None), default=0) + 1
        return tuple(last if rank is None else rank for rank in self.ranks)

    def strict_pairs(self) -> Iterator[tuple[int, int]]:
        """Yield (better, worse) positions; ties give no pair, nor do unranked completions."""
        ranks = self.effective_ranks
        for better, rank in enumerate(ranks):
            for worse, other in enumerate(ranks):
                if rank is not None and other is not None and rank < other:
                    yield better, worse


def _parse_message(item: object) -> Message:
    if not isinstance(item, Mapping) or not {"role", "content"} <= set(item):
        raise DataError("a message needs 'role' and 'content'")
    return Message(item["role"], item["content"])


def _require_text(name: str, value: object, *, allow_empty: bool = False) -> None:
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be text, not {_kind(value)}")
    if not value.strip() and not allow_empty:
        raise DataError(f"{name!r} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{name!r} holds a lone surrogate, which no tokenizer can read") from None


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
