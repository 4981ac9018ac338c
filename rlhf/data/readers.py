"""Training data in: demonstrations, prompts and rankings, checked field by field.

Formats (the same fields in JSONL, CSV, Parquet and saved ``datasets`` folders):

- demonstration ``{"prompt": text | [messages], "completion": text}`` or ``{"messages": [...]}``
  whose last message is the assistant's; optional ``"task"``
- prompt ``{"prompt": text | [messages]}``; demonstrations serve too
- ranking ``{"prompt": ..., "completions": [text, ...], "ranks": [1, 2, 2, null]}`` with 1 the
  best, equal numbers ties, null not ranked; optional ``annotator``, ``id``, ``flags``,
  ``strengths``, ``simulated``, ``action``, ``others_worse``, ``meta``
- preference pair ``{"prompt": ..., "chosen": ..., "rejected": ...}``, text or messages as in TRL,
  read as a ranking of two

In CSV, structured fields (messages, completions, ranks, ...) are JSON in their cell and all else
is text, so a chat prompt needs JSONL or Parquet. Every fault is a ``DataError`` that begins with
``file:line``. Nothing is skipped, trimmed or guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data.rows import read_rows
from rlhf.errors import DataError
from rlhf.records import ROLES, Demonstration, Prompt, Ranking

Record = TypeVar("Record")
Fields = Mapping[str, Any]

_DEMONSTRATION = ("prompt", "completion", "messages", "task")
_RANKING_EXTRA = (
    "annotator",
    "id",
    "flags",
    "strengths",
    "simulated",
    "action",
    "others_worse",
    "meta",
)
_RANKING = ("prompt", "completions", "ranks", *_RANKING_EXTRA)
_PAIR = ("prompt", "chosen", "rejected", *_RANKING_EXTRA)
_ACTIONS = ("rank", "all_bad", "cannot_judge", "skip")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"


def read_demonstrations(path: str | Path) -> list[Demonstration]:
    """Read demonstrations; of ``messages``, the last assistant turn is the completion.

    Raises:
        DataError: At the first row that is not a demonstration.
    """
    return _read(path, _demonstration)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read prompts; from demonstrations, their prompts.

    Raises:
        DataError: At the first row that holds no prompt.
    """
    return _read(path, _prompt)


def read_rankings(path: str | Path) -> list[Ranking]:
    """Read rankings of 2 to 9 completions, or preference pairs as rankings of two.

    Raises:
        DataError: At the first row that is neither.
    """
    return _read(path, _ranking)


def _read(path: str | Path, build: Callable[[Fields], Record]) -> list[Record]:
    records = []
    for row in read_rows(path):
        try:
            records.append(build(row.fields))
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from None
    return records


def _demonstration(fields: Fields) -> Demonstration:
    _refuse_rankings(fields, "demonstrations")
    _known(fields, _DEMONSTRATION)
    if "messages" in fields:
        _refuse_beside_messages(fields)
        messages = _messages("messages", fields["messages"])
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise DataError("'messages' must hold a prompt and end with the assistant's answer")
        prompt, completion = _to_prompt(messages[:-1]), messages[-1]["content"]
    else:
        prompt = _to_prompt(_required(fields, "prompt"))
        completion = _answer("completion", _required(fields, "completion"))
    _visible("completion", completion, "a demonstration needs at least one token")
    return Demonstration(prompt, completion, task=_optional_text(fields, "task"))


def _prompt(fields: Fields) -> Prompt:
    _refuse_rankings(fields, "prompts")
    _known(fields, _DEMONSTRATION)
    _optional_text(fields, "task")
    if "messages" not in fields:
        return _to_prompt(_required(fields, "prompt"))
    _refuse_beside_messages(fields)
    messages = _messages("messages", fields["messages"])
    return _to_prompt(messages[:-1] if messages[-1]["role"] == "assistant" else messages)


def _ranking(fields: Fields) -> Ranking:
    if "completions" not in fields and {"completion", "messages"} & set(fields):
        raise DataError(
            "this is a demonstration, not a ranking ('completions' and 'ranks' are missing); "
            "demonstrations are for the sft stage"
        )
    if {"chosen", "rejected"} & set(fields):
        return _pair(fields)
    _known(fields, _RANKING)
    prompt = _to_prompt(_required(fields, "prompt"))
    completions = _list("completions", _required(fields, "completions"))
    texts = tuple(_answer(f"completions[{i}]", item) for i, item in enumerate(completions))
    ranks = tuple(_list("ranks", _required(fields, "ranks")))
    return _with_extras(prompt, texts, ranks, fields)


def _pair(fields: Fields) -> Ranking:
    """Read TRL's preference format; without ``prompt``, both sides begin with the same turns."""
    _known(fields, _PAIR)
    chosen, rejected = _required(fields, "chosen"), _required(fields, "rejected")
    if "prompt" in fields:
        prompt = _to_prompt(fields["prompt"])
    elif isinstance(chosen, str) or isinstance(rejected, str):
        raise DataError("'prompt' is missing")
    else:
        turns = _messages("chosen", chosen), _messages("rejected", rejected)
        if turns[0][:-1] != turns[1][:-1]:
            raise DataError("'chosen' and 'rejected' answer different prompts; give 'prompt'")
        prompt = _to_prompt(turns[0][:-1])
        chosen, rejected = turns[0][-1:], turns[1][-1:]
    texts = _answer("chosen", chosen), _answer("rejected", rejected)
    return _with_extras(prompt, texts, (1, 2), fields)


def _with_extras(
    prompt: Prompt, texts: tuple[str, ...], ranks: tuple[Any, ...], fields: Fields
) -> Ranking:
    action = _optional_text(fields, "action") or "rank"
    if action not in _ACTIONS:
        raise DataError(f"'action' is {action!r}; known: {', '.join(_ACTIONS)}")
    return Ranking(
        prompt,
        texts,
        ranks,
        annotator=_optional_text(fields, "annotator"),
        id=_optional_text(fields, "id"),
        flags=_flags(fields, len(texts)),
        strengths=_strengths(fields),
        simulated=_optional_bool(fields, "simulated"),
        action=action,
        others_worse=_optional_bool(fields, "others_worse"),
        meta=_meta(fields),
    )


def _flags(fields: Fields, count: int) -> tuple[tuple[str, ...], ...] | None:
    if fields.get("flags") is None:
        return None
    flags = _list("flags", fields["flags"])
    if len(flags) != count:
        raise DataError(f"'flags' has {len(flags)} entries for {count} completions; give one each")
    return tuple(tuple(_text("flags", flag) for flag in _list("flags", item)) for item in flags)


def _strengths(fields: Fields) -> tuple[int, ...] | None:
    if fields.get("strengths") is None:
        return None
    strengths = _list("strengths", fields["strengths"])
    for strength in strengths:
        if type(strength) is not int or strength < 0:
            raise DataError(f"'strengths' holds {strength!r}; give whole numbers from 0")
    return tuple(strengths)


def _meta(fields: Fields) -> Mapping[str, Any]:
    meta = fields.get("meta")
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise DataError(f"'meta' must be an object, not {_kind(meta)}")
    return dict(meta)


def _to_prompt(value: object) -> Prompt:
    prompt = Prompt.parse(_messages("prompt", value) if _is_list(value) else value)
    for message in prompt.messages:
        if message.role != "system":
            _visible("prompt", message.content, "a prompt needs at least one token")
        _text("prompt", message.content)
    return prompt


def _messages(name: str, value: object) -> list[dict[str, str]]:
    """Check a list of ``{"role", "content"}``; a field beside these two is refused."""
    messages = _list(name, value)
    if not messages:
        raise DataError(f"{name!r} has no messages; give it at least one")
    for message in messages:
        if not isinstance(message, Mapping):
            raise DataError(f"{name!r}: a message must be an object, not {_kind(message)}")
        _known(message, ("role", "content"), f"{name}: ")
        role = _required(message, "role", f"{name}: ")
        if role not in ROLES:
            raise DataError(f"{name!r}: role {role!r} is not one of {', '.join(ROLES)}")
        _text(f"{name}: content", _required(message, "content", f"{name}: "))
    return [dict(message) for message in messages]


def _answer(name: str, value: object) -> str:
    """Read an answer: text, or (as in TRL) a list of one assistant message."""
    if not _is_list(value):
        return _text(name, value)
    messages = _messages(name, value)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise DataError(f"{name!r} must be text or exactly one assistant message")
    return messages[0]["content"]


def _refuse_rankings(fields: Fields, wanted: str) -> None:
    if {"completions", "ranks", "chosen", "rejected"} & set(fields):
        raise DataError(
            f"this is a ranking, but {wanted} are wanted here; rankings are for the reward stage"
        )


def _refuse_beside_messages(fields: Fields) -> None:
    for name in ("prompt", "completion"):
        if name in fields:
            raise DataError(f"has 'messages' and {name!r}; give either messages or the pair")


def _known(fields: Fields, known: Collection[str], where: str = "") -> None:
    for name in fields:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise DataError(f"{where}unknown field {name!r}; {remedy}")


def _required(fields: Fields, name: str, where: str = "") -> Any:
    if name not in fields:
        raise DataError(f"{where}{name!r} is missing")
    return fields[name]


def _visible(name: str, text: str, why: str) -> None:
    if not text.strip().strip(_INVISIBLE).strip():
        raise DataError(f"{name!r} is empty; {why}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be text, not {_kind(value)}")
    if "\0" in value:
        raise DataError(f"{name!r} holds a NUL character; remove it")
    return value


def _optional_text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else _text(name, value)


def _optional_bool(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{name!r} must be true or false, not {value!r}")
    return bool(value)


def _list(name: str, value: object) -> list[Any]:
    if not _is_list(value):
        raise DataError(f"{name!r} must be a list, not {_kind(value)}")
    return list(value)  # type: ignore[call-overload, no-any-return]  # a Sequence by _is_list


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
