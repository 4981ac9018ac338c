"""Text to token ids and back: the one tokenisation boundary of all stages.

A prompt goes through the tokenizer's chat template, or, for a model without one, is plain text,
with the BOS token where the tokenizer adds one. A completion is tokenised on its own, so that the
ids a policy samples and the ids of a written completion have one form, and ends with the token
that ends an assistant's turn. No byte of a user's text ever becomes a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from rlhf.errors import DataError
from rlhf.records import Prompt

_PROBE = "probe"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one tokenizer writes prompts and completions."""

    tokenizer: Any
    end_id: int
    """Token that ends a written completion."""
    stop_ids: frozenset[int]
    """Tokens that end a sampled completion; ``end_id`` is one of them."""
    pad_id: int
    """Token that fills up batches; masks come from lengths, so it may equal ``end_id``."""
    control: tuple[str, ...]
    """Texts of control tokens, which data must not contain."""

    @classmethod
    def of(cls, tokenizer: Any, model: Any) -> ChatFormat:
        """Read the format from a tokenizer and the model's generation config."""
        stop_ids = set(_as_list(getattr(model.generation_config, "eos_token_id", None)))
        stop_ids |= set(_as_list(tokenizer.eos_token_id))
        end_id = _turn_end(tokenizer, stop_ids)
        if end_id is None:
            raise DataError(
                f"{tokenizer.name_or_path}: the tokenizer has no EOS token, so completions could "
                "not end; set eos_token in tokenizer_config.json"
            )
        pad_id = tokenizer.pad_token_id
        control = set(tokenizer.all_special_tokens)
        return cls(
            tokenizer=tokenizer,
            end_id=end_id,
            stop_ids=frozenset(stop_ids | {end_id}),
            pad_id=end_id if pad_id is None else pad_id,
            control=tuple(sorted(token for token in control if token.strip())),
        )

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt up to the point where the completion starts."""
        for message in prompt.messages:
            self._refuse_control(message.content)
        if self.tokenizer.chat_template is None:
            if len(prompt.messages) > 1:
                raise DataError(
                    "a prompt of several messages needs a chat template, and "
                    f"{self.tokenizer.name_or_path} has none; take a model that has one, or write "
                    "the conversation as one message"
                )
            return self._plain(prompt.messages[0].content)
        try:
            rendered = self.tokenizer.apply_chat_template(
                _as_dicts(prompt), tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise DataError(
                f"the chat template of {self.tokenizer.name_or_path} refuses the prompt "
                f"{prompt.text[:50]!r}: {error}"
            ) from error
        return list(self.tokenizer.encode(rendered, add_special_tokens=False))

    def encode_completion(self, text: str) -> list[int]:
        """Ids of a written completion, its end token included."""
        self._refuse_control(text)
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.end_id]

    def decode_completion(self, ids: Sequence[int]) -> str:
        """Text of a sampled or written completion without its stop token."""
        kept = list(ids[:-1]) if ids and ids[-1] in self.stop_ids else list(ids)
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def has_ended(self, ids: Sequence[int]) -> bool:
        """Tell whether a completion ended by itself."""
        return bool(ids) and ids[-1] in self.stop_ids

    def _plain(self, text: str) -> list[int]:
        ids = list(self.tokenizer.encode(text, add_special_tokens=True))
        if ids and ids[-1] in self.stop_ids and len(ids) > 1:
            ids.pop()  # some tokenizers append EOS
        return ids

    def _refuse_control(self, text: str) -> None:
        for token in self.control:
            if token in text:
                raise DataError(
                    f"text holds the control token {token!r} of {self.tokenizer.name_or_path}; "
                    "remove or rewrite it"
                )


def _turn_end(tokenizer: Any, stop_ids: set[int]) -> int | None:
    """Find the token that the chat template puts after an assistant's answer."""
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _PROBE}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        tail = rendered.rpartition(_PROBE)[2]
        special = set(tokenizer.all_special_ids) | stop_ids
        for token in tokenizer.encode(tail, add_special_tokens=False):
            if token in special:
                return int(token)
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    return min(stop_ids, default=None)


def _as_dicts(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def _as_list(ids: int | Sequence[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)
