"""A transformers sequence classifier as a reward: it reads the text with its own tokenizer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError, ConfigError, DataError, TrainingError
from rlhf.ops.masking import length_mask
from rlhf.records import Prompt
from rlhf.reward.export import NORMALIZATION_FILE, Normalization, read_normalization

NO_CARD = "scores are used as they are: no reward card gives their mean and spread"
WANTED = (
    "give a finished run folder of the reward stage or a sequence-classification model of "
    "transformers"
)
SHOWN = 60
"""Characters of a text that a message shows."""
MAX_SCORE = 1e12
"""Larger ones have no float32 variance over a rollout."""
_BATCH = 16


class ClassifierReward:
    """A transformers sequence classifier, which reads the text with a tokenizer of its own.

    With one label the score is its logit; with two it is logit[1] - logit[0], the log-odds of the
    second. A completion scores as it would alone: rows are padded on the right with the id that
    the model's config names, which transformers' decoders skip to find the last token (so they do
    where it is the end token), and one by one where it names none.

    An exported reward run (it has a normalization.json) is read as the run itself: the completion
    ends with the token that the file names, and the score is normalised by its constants.
    """

    note: str | None = NO_CARD

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        chat: ChatFormat,
        normalization: Normalization | None = None,
    ) -> None:
        if normalization is not None:
            self.note = None
        self.normalization = normalization
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.chat = chat
        self._positions = _positions(model)
        self._control = _control_texts(tokenizer)
        pad = model.config.get_text_config().pad_token_id
        size = model.get_input_embeddings().num_embeddings
        self._pad_id: int | None = pad if pad is not None and 0 <= pad < size else None

    @classmethod
    def load(cls, path: str, name: str, chat: ChatFormat, device: torch.device) -> ClassifierReward:
        """Load a folder or hub model, in the dtype that its config names (else float32)."""
        config = read_classifier_config(path)
        try:
            normalization = read_normalization(_config_folder(path))
        except CheckpointError as error:
            raise ConfigError(f"reward_model: {error}") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=config.dtype or torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"reward_model: {path} can't be loaded: {first_line(error)}"
            ) from error
        missing = sorted(loading["missing_keys"])
        if missing:
            raise ConfigError(
                f"reward_model: {path} has no weights for {missing[0]}, so its scores would be "
                f"random; {WANTED}"
            )
        model.to(device).eval().requires_grad_(False)
        return cls(model, tokenizer, name, chat, normalization)

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
        size = 1 if self._pad_id is None else _BATCH
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        scores = torch.zeros(len(rows))
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            scores[torch.tensor(chunk)] = self._forward([rows[row] for row in chunk])
        if self.normalization is not None:
            scores = (scores - self.normalization.mean) / self.normalization.std
        return finite_scores(scores, f"reward {self.name}", self.chat, completion_ids)

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Token ids of a prompt with its completion.

        Text from a chat template gets no further special tokens: the template writes those that
        the model wants. Without a template, the completion stands in a new line under the prompt.
        An exported reward run gets prompt and completion as the reward stage writes them.
        The text of a control token in prompt or completion is read as text: a space breaks it up,
        or a policy could write the end of its turn and a turn of the user's.

        Raises:
            DataError: If the template refuses the prompt.
            TrainingError: If the text is longer than the model can read; it is never cut.
        """
        completion = self._as_text(completion)
        prompt = Prompt(
            tuple(replace(turn, content=self._as_text(turn.content)) for turn in prompt.messages)
        )
        if self.normalization is not None:
            ids = self._encode_for(self.normalization, prompt, completion)
        elif self.tokenizer.chat_template is None:
            ids = self.tokenizer(f"{prompt.text}\n{completion}")["input_ids"]
        else:
            ids = self.tokenizer(self._render(prompt, completion), add_special_tokens=False)[
                "input_ids"
            ]
        if self._positions is not None and len(ids) > self._positions:
            raise TrainingError(
                f"reward {self.name}: prompt {prompt.text[:SHOWN]!r} with its completion has "
                f"{len(ids)} tokens, the model reads {self._positions}; lower max_new_tokens or "
                "drop long prompts"
            )
        return list(ids)

    def _as_text(self, content: str) -> str:
        """Break up the control texts in what a person or a policy wrote."""
        while self._control and (found := self._control.search(content)):
            at = found.start() + 1
            content = content[:at] + " " + content[at:]
        return content

    def _encode_for(
        self, normalization: Normalization, prompt: Prompt, completion: str
    ) -> list[int]:
        end_id = normalization.end_token_id
        chat = ChatFormat(
            tokenizer=self.tokenizer,
            end_id=end_id,
            stop_ids=frozenset({end_id}),
            pad_id=end_id,
            control=(),
        )
        return [*chat.encode_prompt(prompt), *chat.encode_completion(completion)]

    def _render(self, prompt: Prompt, completion: str) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        messages.append({"role": "assistant", "content": completion})
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except TemplateError as error:
            raise DataError(
                f"the chat template of reward {self.name} refuses the prompt "
                f"{prompt.text[:SHOWN]!r}: {first_line(error)}"
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


def finite_scores(
    scores: Tensor, source: str, chat: ChatFormat, completion_ids: Sequence[list[int]]
) -> Tensor:
    """Refuse scores that no loss or figure can use, naming the first."""
    for row in (~(scores.abs() <= MAX_SCORE)).nonzero().flatten().tolist():
        text = chat.decode_completion(completion_ids[row])
        given = f"{source} gave {float(scores[row])} for {text[:SHOWN]!r}"
        if math.isfinite(scores[row]):
            given += f"; scores lie within +-{MAX_SCORE:g}, and score_clip cuts them closer still"
        raise TrainingError(given)
    return scores


def _control_texts(tokenizer: Any) -> re.Pattern[str] | None:
    """What the tokenizer reads as control tokens; single characters can't be broken up."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = {token.strip() for token in special | set(tokenizer.all_special_tokens)}
    wanted = [re.escape(token) for token in sorted(texts) if len(token) > 1]
    return re.compile("|".join(wanted)) if wanted else None


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


def read_classifier_config(path: str) -> Any:
    """Read a sequence classifier's config, refusing what gives no single score."""
    folder = _config_folder(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"reward_model: {path} holds neither a run (run.json) nor a model (config.json); "
            f"{WANTED}"
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"reward_model: {path} can't be read: {first_line(error)}") from error
    kinds = [str(kind) for kind in config.architectures or ()]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ConfigError(
            f"reward_model: {path} is {' or '.join(kinds) or 'of no known kind'}, which gives no "
            f"score; {WANTED}"
        )
    if config.num_labels not in (1, 2):
        raise ConfigError(
            f"reward_model: {path} has {config.num_labels} labels; give a model with one (its "
            "score) or two (the second is the good one)"
        )
    return config


def _config_folder(path: str) -> Path:
    """Find a model's config; fetch it, or take it from the local cache, where it is a hub model."""
    if Path(path).exists():
        return Path(path)
    try:
        files = ["config.json", NORMALIZATION_FILE]
        return Path(snapshot_download(path, allow_patterns=files))
    except Exception as error:
        raise ConfigError(
            f"reward_model: {path!r} is no folder here and no model that the hub gives "
            f"({type(error).__name__}); check the path"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
