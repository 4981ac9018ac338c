"""A policy that answers: any stage's result or any model, loaded for sampling only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from rlhf.config import Dtype
from rlhf.data.chat import ChatFormat
from rlhf.model.base import check_base, load_base, resolve_model, weights_digest
from rlhf.model.generation import NoiseKey, sample_completions
from rlhf.model.roles import Roles
from rlhf.ranks import Ranks
from rlhf.records import Prompt


class Policy:
    """A loaded model with its policy adapter, if the name stands for one."""

    def __init__(self, roles: Roles, chat: ChatFormat, role: str | None) -> None:
        self.roles = roles
        self.chat = chat
        self.role = role

    @classmethod
    def load(cls, name: str, *, dtype: Dtype) -> Policy:
        """Load a run folder, a model folder or a hub id.

        Raises:
            RlhfError: If nothing usable is there or the adapter is of another base.
        """
        source = resolve_model(name)
        base = load_base(source, dtype=dtype, device=Ranks().device)
        roles = Roles(base)
        if source.adapter is not None:
            check_base(source.adapter, base)
            roles.add("policy", source.adapter, trainable=False)
        role = None if source.adapter is None else "policy"
        return cls(roles, ChatFormat.of(base.tokenizer, base.model), role)

    @property
    def version(self) -> str:
        """Identity of the weights that answer, base and adapter, 12 hexadecimal digits."""
        if self.role is None:
            return self.roles.base.fingerprint[:12]
        adapter = weights_digest(self.roles.parameters(self.role).items())
        both = f"{self.roles.base.fingerprint} {adapter}"
        return hashlib.sha256(both.encode()).hexdigest()[:12]

    def complete_ids(
        self,
        prompt_ids: Sequence[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        keys: Sequence[NoiseKey] | None,
        batch_size: int,
    ) -> Iterator[list[list[int]]]:
        """Sample completions as token ids, batch by batch, in the order of the prompts."""
        for start in range(0, len(prompt_ids), batch_size):
            stop = start + batch_size
            with self.roles.use(self.role):
                yield sample_completions(
                    self.roles,
                    self.chat,
                    prompt_ids[start:stop],
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    keys=None if keys is None else keys[start:stop],
                ).ids

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        temperature: float,
        keys: Sequence[NoiseKey] | None,
        batch_size: int = 64,
    ) -> Iterator[str]:
        """Sample one completion per prompt as text, in order; ``keys`` None is greedy."""
        prompt_ids = [self.chat.encode_prompt(prompt) for prompt in prompts]
        batches = self.complete_ids(
            prompt_ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            keys=keys,
            batch_size=batch_size,
        )
        for batch in batches:
            yield from (self.chat.decode_completion(ids) for ids in batch)
