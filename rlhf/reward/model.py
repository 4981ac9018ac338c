"""A reward role with its score head: scores of completions, as sampled or as text.

The score is read at the end token by a float32 head outside PEFT, whose constants make
demonstrations score 0 on average and completions spread with standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.checkpoints import write_folder
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import GroupBatch
from rlhf.model.adapters import save_adapter
from rlhf.model.base import ADAPTER_FOLDER, check_base, write_link
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_scores
from rlhf.records import Demonstration

HEAD_FILE = "score_head.safetensors"
_SCORING_BATCH = 64


class RewardModel:
    """A reward role with its score head and text format."""

    def __init__(
        self,
        roles: Roles,
        chat: ChatFormat,
        head: ScalarHead | None = None,
        role: str = "reward",
    ) -> None:
        self.roles = roles
        self.chat = chat
        self.role = role
        self.head = head or ScalarHead(roles.base.hidden_size).to(roles.base.device)
        self.head.bias.requires_grad_(False)  # transformers' score heads have none

    @classmethod
    def load(
        cls, run_folder: Path, roles: Roles, chat: ChatFormat, role: str = "reward"
    ) -> RewardModel:
        """Add a trained reward adapter to a base under a role, refusing one of another base."""
        adapter = run_folder / ADAPTER_FOLDER
        check_base(adapter, roles.base)
        roles.add(role, adapter, trainable=False)
        head = ScalarHead(roles.base.hidden_size)
        head.load(adapter / HEAD_FILE)
        return cls(roles, chat, head.to(roles.base.device).requires_grad_(False), role)

    def save(self, folder: Path) -> None:
        """Write adapter, head and the link to the base as one folder."""

        def fill(path: Path) -> None:
            save_adapter(self.roles.peft_model, self.role, path, base_path=self.roles.base.path)
            write_link(path, self.roles.base)
            self.head.save(path / HEAD_FILE)

        write_folder(folder, fill, {"base_fingerprint": self.roles.base.fingerprint})

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Adapter parameters and the head's weight, by name."""
        return self.roles.parameters(self.role) | {"score_head.weight": self.head.weight}

    def count_tokens(self, completion: str) -> int:
        """Tokens of a completion with its end token."""
        return len(self.chat.encode_completion(completion))

    def encode_demonstrations(
        self, demonstrations: Sequence[Demonstration]
    ) -> list[tuple[list[int], list[int]]]:
        """Tokenise prompts with their written completions."""
        chat = self.chat
        return [
            (chat.encode_prompt(item.prompt), chat.encode_completion(item.completion))
            for item in demonstrations
        ]

    @torch.no_grad()
    def score(self, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Normalised scores of (prompt, completion) id lists, float32 (B,) on the CPU.

        Neighbours with the same prompt share its computation; rows are scored in batches of
        similar length. Neither changes a score.
        """
        starts = [row for row in range(len(rows)) if row == 0 or rows[row][0] != rows[row - 1][0]]
        spans = [range(*ends) for ends in pairwise([*starts, len(rows)])]
        spans.sort(key=lambda span: len(rows[span[0]][0]) + max(len(rows[row][1]) for row in span))
        scores = torch.zeros(len(rows))
        with self.roles.use(self.role):
            for chunk in _chunks(spans, _SCORING_BATCH):
                groups = self.group(
                    [rows[span[0]][0] for span in chunk],
                    [[rows[row][1] for row in span] for span in chunk],
                )
                places = torch.tensor([row for span in chunk for row in span])
                scores[places] = completion_scores(self.roles, groups, self.head).cpu()
        return scores

    def score_ids(
        self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]
    ) -> Tensor:
        """Normalised scores of sampled completions, float32 (B,).

        The head was trained at the end token of written completions, so it is put in place of
        whatever stop token was sampled, and after a completion that was cut off.
        """
        chat = self.chat
        closed = [
            [*(ids[:-1] if chat.has_ended(ids) else ids), chat.end_id] for ids in completion_ids
        ]
        return self.score(list(zip(prompt_ids, closed, strict=True)))

    def score_texts(self, pairs: Sequence[tuple[Any, str]]) -> Tensor:
        """Normalised scores of (Prompt, completion text) pairs, float32 (B,)."""
        chat = self.chat
        return self.score(
            [(chat.encode_prompt(p), chat.encode_completion(text)) for p, text in pairs]
        )

    def group(
        self, prompts: Sequence[list[int]], completions: Sequence[Sequence[list[int]]]
    ) -> GroupBatch:
        """Prompts with their completions, as this model reads them."""
        return GroupBatch(prompts, completions, self.chat.pad_id, self.roles.base.device)


def _chunks(spans: Sequence[range], size: int) -> Iterator[list[range]]:
    """Neighbouring spans with up to ``size`` rows together; a longer span stands alone."""
    chunk: list[range] = []
    for span in spans:
        if chunk and sum(map(len, chunk)) + len(span) > size:
            yield chunk
            chunk = []
        chunk.append(span)
    if chunk:
        yield chunk
