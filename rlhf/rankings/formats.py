"""Rankings from the files of other tools: one small reader per format, which takes one row.

A reader gives the rankings of a row (a tree has several, a record without an answer none) and
raises ``DataError`` for what its format does not document; the caller adds ``file:line``. For a
row that can't be ranked, though its format has such, it raises ``LeftOut``; the caller counts it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.rows import Row, parse_json, read_rows
from rlhf.errors import DataError
from rlhf.records import Message, Prompt, Ranking
from rlhf.store.checks import dense_ranks

Fields = Mapping[str, Any]

_HUMAN = "\n\nHuman:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPACE = re.compile(r"[ \t\r\n]*")
_OASST_ROLES = {"prompter": "user", "assistant": "assistant"}
_MORE_THAN_TEXT = ("image", "images", "tools")


class LeftOut(Exception):  # noqa: N818 - a row to count, not a fault
    """A row that its format allows and nobody can rank; the text says why, in a word or two."""


def read_items(path: Path) -> Iterator[Row]:
    """Yield rows with their places: those of a JSON list, or of a file that ``read_rows`` knows.

    Raises:
        DataError: At the first thing that is not clean.
    """
    if path.suffix == ".json" and _begins_a_list(path):
        return _read_list(path)
    return read_rows(path)


def detect(fields: Fields) -> str | None:
    """Tell the format of a file from its first row; None where it is none of the known ones."""
    if {"completions", "ranks"} <= set(fields):
        return "rlhf"
    if {"chosen", "rejected"} <= set(fields):
        sides = (fields["chosen"], fields["rejected"])
        spoken = all(isinstance(side, str) and side.startswith(_HUMAN) for side in sides)
        return "hh" if spoken and "prompt" not in fields else "trl"
    if {"message_tree_id", "prompt"} <= set(fields):
        return "oasst"
    if {"fields", "responses"} <= set(fields):
        return "argilla"
    return "label-studio" if {"data", "annotations"} <= set(fields) else None


def read_hh(fields: Fields) -> list[Ranking]:
    r"""Read a row of HH-RLHF: transcripts (``\n\nHuman: ...``) that differ in the last answer.

    Raises:
        LeftOut: If there is nothing to rank in it, as in some rows of the published set.
    """
    for name in fields:
        if name not in ("chosen", "rejected"):
            raise DataError(f"unknown field {name!r}; HH-RLHF has 'chosen' and 'rejected'")
    sides = [_transcript(name, _required(fields, name)) for name in ("chosen", "rejected")]
    for *before, (speaker, _) in sides:
        if speaker != "assistant":
            raise LeftOut("no last answer")
        if not all(said.strip() for _, said in before):
            raise LeftOut("empty turn")
        if before[-1][0] == "assistant":
            raise LeftOut("answered twice")
    (*turns, (_, answer)), (*other_turns, (_, other)) = sides
    if turns != other_turns:
        raise DataError("'chosen' and 'rejected' differ before their last answer; remove the row")
    prompt = Prompt(tuple(Message(role, text) for role, text in turns))
    return [Ranking(prompt, (answer, other), (1, 2))]


def read_trl(fields: Fields) -> list[Ranking]:
    """Read a preference row of TRL: text or messages, the prompt in a field or in both sides.

    Other columns are left alone, as TRL does, but for those that hold more than text.
    """
    for name in _MORE_THAN_TEXT:
        if fields.get(name):
            raise DataError(f"{name!r} can't be ranked here; only text can")
    chosen, rejected = _required(fields, "chosen"), _required(fields, "rejected")
    if "prompt" in fields:
        prompt = fields["prompt"]
    else:
        prompt, chosen, rejected = _split_implicit(chosen, rejected)
    texts = _answer("chosen", chosen), _answer("rejected", rejected)
    return [Ranking(_prompt(prompt), texts, (1, 2), annotator=_optional(fields, "annotator"))]


def read_oasst(fields: Fields) -> list[Ranking]:
    """Read a message tree of OASST: each prompt with two or more ranked answers is a ranking.

    Deleted messages are left out with all that follows them, unranked answers alone.

    Raises:
        LeftOut: If the first message is deleted.
    """
    root = fields.get("prompt")
    if not isinstance(root, Mapping):
        raise DataError("'prompt' holds no message tree; give OASST's file named .trees.jsonl")
    if root.get("deleted"):
        raise LeftOut("deleted")
    return list(_walk(root, ()))


def read_argilla(fields: Fields) -> list[Ranking]:
    """Read a record of Argilla, of its REST API or its SDK 1, with answers to a ranking question.

    The question's values name fields, whose texts are the completions; the one other field is the
    prompt. A list of names without ranks is refused: SDK 2 and the page keep the order of the
    question in it. Drafts and discarded responses don't count. One without ``status`` counts as
    submitted, which is the default of SDK 1; SDK 2 never writes it, whatever the response is.
    """
    texts = _object("fields", _required(fields, "fields"))
    return [
        _argilla_ranking(texts, ranks, response)
        for response, value in _argilla_values(_required(fields, "responses"))
        if _text("status", response.get("status", "submitted")) == "submitted"
        and (ranks := _named_fields(value, texts)) is not None
    ]


def read_label_studio(fields: Fields) -> list[Ranking]:
    """Read a task of Label Studio's JSON export: a List whose items a Ranker without buckets sorts.

    The items' ``body`` are the completions; ``prompt``, or the one other text, is the prompt.
    """
    data = _required(fields, "data")
    if not isinstance(data, Mapping):
        raise DataError("'data' must be an object; export as JSON, not as JSON-MIN")
    return [
        ranking
        for annotation in _objects("annotations", _required(fields, "annotations"))
        for ranking in _label_studio_rankings(data, annotation)
    ]


READERS: dict[str, Callable[[Fields], list[Ranking]]] = {
    "hh": read_hh,
    "oasst": read_oasst,
    "trl": read_trl,
    "argilla": read_argilla,
    "label-studio": read_label_studio,
}


# -- JSON lists -----------------------------------------------------------------------------------


def _begins_a_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError:
        return False


def _read_list(path: Path) -> Iterator[Row]:
    text = _read_text(path)
    position, line, counted = text.index("[") + 1, 1, 0
    while True:
        position = _after_space(text, position)
        if text[position : position + 1] == "]":
            break
        line, counted = line + text.count("\n", counted, position), position
        place = f"{path}:{line}"
        end = _end_of_value(text, position, path)
        value = parse_json(text[position:end], place)
        if not isinstance(value, dict):
            raise DataError(f"{place}: {_kind(value)} instead of an object {{...}}")
        yield Row(place, value)
        position = _after_space(text, end)
        if text[position : position + 1] not in (",", "]"):
            raise DataError(f"{place}: the list does not go on after this object; add ',' or ']'")
        position += text[position] == ","
    if text[position + 1 :].strip():
        raise DataError(f"{path}: goes on after the end of its list; keep one list")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8; save it as UTF-8") from None


def _end_of_value(text: str, start: int, path: Path) -> int:
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


# -- HH-RLHF and TRL ------------------------------------------------------------------------------


def _transcript(name: str, value: object) -> list[tuple[str, str]]:
    """Split a transcript into its turns: who spoke, and what."""
    text = _text(name, value)
    if not text.startswith(_HUMAN):
        raise DataError(f"{name!r} must begin with a blank line and 'Human:'")
    _, *parts = _TURN.split(text)
    return [
        ("user" if speaker == "Human" else "assistant", said.removeprefix(" "))
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _split_implicit(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Take off the beginning that both sides share: TRL's implicit prompt.

    In text, a space before the first difference belongs to the completion.

    Source: ``extract_prompt`` in trl/data_utils.py.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        both = enumerate(zip(chosen, rejected, strict=False))
        end = next((place for place, (one, other) in both if one != other), None)
        if end is None:
            raise DataError("one of 'chosen' and 'rejected' begins the other; give 'prompt'")
        end -= end > 0 and chosen[end - 1] == " "
        return chosen[:end], chosen[end:], rejected[end:]
    one, other = _messages("chosen", chosen), _messages("rejected", rejected)
    if one[:-1] != other[:-1]:
        raise DataError("'chosen' and 'rejected' answer different prompts; give 'prompt'")
    return one[:-1], one[-1:], other[-1:]


def _prompt(value: object) -> Prompt:
    return Prompt.parse(value if isinstance(value, str) else _messages("prompt", value))


def _answer(name: str, value: object) -> str:
    """Read an answer: text, or a list of one assistant message."""
    if isinstance(value, str):
        return _text(name, value)
    messages = _messages(name, value)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise DataError(f"{name!r} must be text or exactly one assistant message")
    return _text(name, messages[0]["content"])


def _messages(name: str, value: object) -> list[Mapping[str, Any]]:
    messages = _objects(name, value)
    for message in messages:
        if set(message) != {"role", "content"}:
            raise DataError(f"{name!r}: a message must have 'role' and 'content' and nothing else")
    if not messages:
        raise DataError(f"{name!r} has no messages; give it at least one")
    return messages


# -- OASST ----------------------------------------------------------------------------------------


def _walk(node: Fields, before: tuple[Message, ...]) -> Iterator[Ranking]:
    """Yield the rankings below a message, its own answers first."""
    thread = (*before, _oasst_message(node))
    replies = [
        reply for reply in _objects("replies", node.get("replies", [])) if not reply.get("deleted")
    ]
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if thread[-1].role == "user" and len(ranked) >= 2:
        yield _oasst_ranking(thread, ranked, node)
    for reply in replies:
        yield from _walk(reply, thread)


def _oasst_ranking(thread: tuple[Message, ...], ranked: Sequence[Fields], node: Fields) -> Ranking:
    ranks = [_whole("rank", reply["rank"]) for reply in ranked]
    texts = tuple(_oasst_message(reply).content for reply in ranked)
    try:
        return Ranking(Prompt(thread), texts, dense_ranks(ranks))
    except DataError as error:
        raise DataError(f"replies to message {node.get('message_id')!r}: {error}") from None


def _oasst_message(node: Fields) -> Message:
    role = _text("role", _required(node, "role"))
    if role not in _OASST_ROLES:
        raise DataError(f"role {role!r} is not one of {', '.join(_OASST_ROLES)}")
    return Message(_OASST_ROLES[role], _text("text", _required(node, "text")))


# -- Argilla and Label Studio ---------------------------------------------------------------------


def _argilla_values(responses: object) -> Iterator[tuple[Fields, object]]:
    """Yield responses with each value in them; SDK 2 has them by question, all others by person."""
    if isinstance(responses, Mapping):
        for given in responses.values():
            for response in _objects("responses", given):
                yield response, response.get("value")
        return
    for response in _objects("responses", responses):
        for given in _object("values", response.get("values") or {}).values():
            value = _object("values", given).get("value")
            if isinstance(value, list) and not all(isinstance(item, str) for item in value):
                yield response, value  # text alone would be labels


def _named_fields(value: object, texts: Fields) -> dict[str, int] | None:
    """Read a ranking: fields and their ranks; None for an answer of another kind."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    ranks: dict[str, int] = {}
    for item in value:
        given = item if isinstance(item, Mapping) else {"value": item}
        name, rank = given.get("value"), given.get("rank")
        if not isinstance(name, str) or name not in texts:
            if "rank" in given:
                raise DataError(f"{name!r} is ranked, but is no field; name values as fields")
            return None
        if rank is None:
            raise DataError(
                f"{name!r} has no rank; Argilla's SDK 2 lists names in the order of the question, "
                "whatever the ranks; export the items of /api/v1/datasets/ID/records?include="
                "responses, its REST API"
            )
        if name in ranks:
            raise DataError(f"field {name!r} is ranked twice; keep one")
        ranks[name] = _whole("rank", rank)
    return ranks


def _argilla_ranking(texts: Fields, ranks: Mapping[str, int], response: Fields) -> Ranking:
    names = [name for name in texts if name in ranks]
    others = [name for name in texts if name not in ranks and texts[name]]
    if len(others) != 1:
        raise DataError(
            f"{len(others)} fields are not ranked ({', '.join(others) or 'none'}); keep the one "
            "that is the prompt"
        )
    return Ranking(
        _prompt(texts[others[0]]),
        tuple(_text(name, texts[name]) for name in names),
        dense_ranks([ranks[name] for name in names]),
        annotator=_optional(response, "user_id"),
    )


def _label_studio_rankings(data: Fields, annotation: Fields) -> Iterator[Ranking]:
    for result in _objects("result", annotation.get("result", [])):
        if result.get("type") != "ranker" or annotation.get("was_cancelled"):
            continue
        prompt, items = _label_studio_task(data)
        order = [str(name) for name in _ranker_order(result)]
        if sorted(order) != sorted(items):
            raise DataError("the ranker must hold each item of the list once")
        yield Ranking(
            prompt,
            tuple(items.values()),
            tuple(order.index(name) + 1 for name in items),
            annotator=_label_studio_person(annotation.get("completed_by")),
        )


def _ranker_order(result: Fields) -> list[Any]:
    """Read the one list of a Ranker without buckets, which is named as the Ranker."""
    value = result.get("value")
    ranker = value.get("ranker") if isinstance(value, Mapping) else None
    name = _text("from_name", _required(result, "from_name"))
    order = ranker.get(name) if isinstance(ranker, Mapping) and set(ranker) == {name} else None
    if not isinstance(order, list):
        raise DataError(f"ranker {name!r} does not hold one list under its name; use no buckets")
    return order


def _label_studio_task(data: Fields) -> tuple[Prompt, dict[str, str]]:
    lists = [value for value in data.values() if isinstance(value, list)]
    if len(lists) != 1:
        raise DataError(f"'data' has {len(lists)} lists; give one, of items with 'id' and 'body'")
    items = _objects("data", lists[0])
    texts = {str(_required(item, "id")): _text("body", _required(item, "body")) for item in items}
    if len(texts) < len(items):
        raise DataError("two items have one 'id'; give each its own")
    others = [name for name, value in data.items() if isinstance(value, str)]
    name = "prompt" if "prompt" in others else others[0] if len(others) == 1 else None
    if name is None:
        raise DataError(f"'data' has {len(others)} texts beside its list; name the prompt 'prompt'")
    return Prompt.parse(data[name]), texts


def _label_studio_person(value: object) -> str | None:
    number = value.get("id") if isinstance(value, Mapping) else value
    return None if number is None else f"label-studio-{number}"


# -- small things ---------------------------------------------------------------------------------


def _required(fields: Fields, name: str) -> Any:
    if name not in fields:
        raise DataError(f"{name!r} is missing")
    return fields[name]


def _optional(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else _text(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be text, not {_kind(value)}")
    if "\0" in value:
        raise DataError(f"{name!r} holds a NUL character; remove it")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{name!r} must be a whole number, not {value!r}")
    return value


def _objects(name: str, value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise DataError(f"{name!r} must be a list, not {_kind(value)}")
    for item in value:
        if not isinstance(item, Mapping):
            raise DataError(f"{name!r} must hold objects, not {_kind(item)}")
    return value


def _object(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{name!r} must be an object, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
