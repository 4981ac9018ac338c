"""A PPO adapter for the ORIGINAL base: the SFT and PPO updates concatenated, and checked.

The PPO adapter belongs to the folded base, where it is exact. Users of other tools want one
adapter for the weights they downloaded; folding rounds in bfloat16, so the export is loaded back
with plain PEFT and compared with the policy, and the largest difference is recorded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf.checkpoints import delete_folder, write_folder, write_json
from rlhf.config import Dtype
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.errors import TrainingError
from rlhf.model.adapters import attach_saved, concatenate, read_delta
from rlhf.model.base import (
    ADAPTER_FOLDER,
    FOLDED_FILE,
    ModelSource,
    check_fingerprint,
    linked_base,
    load_base,
)
from rlhf.model.generation import sample_completions
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs

EXPORT_FOLDER = "export"
REPORT_FILE = "export.json"
MAX_DIFFERENCE_FP32 = 1e-4
"""Largest accepted difference of a log-probability in float32, nats."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What a policy says on a few prompts."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    """Its greedy completions."""
    logprobs: Tensor
    """Of their tokens, float32 (B, C) on the CPU."""
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How far the export is from the policy."""

    dtype: str
    probes: int
    max_difference: float
    """Largest difference of a token's log-probability, nats."""
    same_greedy_text: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """What a folded base was made from."""

    base: Path
    """The original base."""
    fingerprint: str
    sft_adapter: Path
    folded_in: str
    """dtype in which the adapter was folded; bfloat16 rounds."""


def find_origin(base: Path) -> Origin | None:
    """Find the original of a folded base and check that it is still the same.

    Raises:
        CheckpointError: If the original or the SFT adapter is gone or changed.
    """
    if not (base / FOLDED_FILE).is_file():
        return None
    link = json.loads((base / FOLDED_FILE).read_text(encoding="utf-8"))
    sft_adapter = base / link["adapter"]
    original = linked_base(sft_adapter)
    check_fingerprint(original, link["original_fingerprint"], needed_by=base)
    return Origin(original, link["original_fingerprint"], sft_adapter, link["dtype"])


def take_probes(
    roles: Roles, chat: ChatFormat, prompt_ids: list[list[int]], *, max_new_tokens: int
) -> Probes:
    """Decode greedily and record log-probabilities, in the role scope of the caller."""
    completion_ids = sample_completions(
        roles, chat, prompt_ids, max_new_tokens=max_new_tokens, temperature=1.0, keys=None
    ).ids
    return Probes(
        prompt_ids=prompt_ids,
        completion_ids=completion_ids,
        logprobs=_logprobs(roles, chat, prompt_ids, completion_ids),
        max_new_tokens=max_new_tokens,
    )


def export_to_original(
    run_folder: Path, probes: Probes, *, dtype: Dtype, device: torch.device
) -> ExportReport | None:
    """Write ``export/`` beside the PPO adapter and check it.

    Args:
        run_folder: A PPO run whose adapter is written.
        probes: What the trained policy said.
        dtype: Precision to compare in, the run's own.
        device: Where to load the original base.

    Returns:
        The comparison, or None where the base was never folded (it is the original).

    Raises:
        TrainingError: If the export differs by more than 1e-4 in float32 or says something else
            when decoded greedily, where folding and training were in float32; it is deleted then.
    """
    adapter = run_folder / ADAPTER_FOLDER
    origin = find_origin(linked_base(adapter))
    if origin is None:
        return None
    export = run_folder / EXPORT_FOLDER
    deltas = [read_delta(origin.sft_adapter), read_delta(adapter)]
    write_folder(
        export,
        lambda path: concatenate(deltas, path, base_path=origin.base),
        {"base_fingerprint": origin.fingerprint},
    )
    report = _compare(origin.base, export, probes, dtype=dtype, device=device)
    bad = report.max_difference > MAX_DIFFERENCE_FP32 or not report.same_greedy_text
    if report.dtype == origin.folded_in == "float32" and bad:
        delete_folder(export)
        raise TrainingError(
            f"{export}: the export differs from the policy by {report.max_difference:.2g} nats "
            f"(allowed {MAX_DIFFERENCE_FP32:g}) or in its greedy text and was deleted; the adapter "
            f"on the folded base, {adapter}, is sound"
        )
    write_json(run_folder / REPORT_FILE, asdict(report))
    return report


def _compare(
    original: Path, export: Path, probes: Probes, *, dtype: Dtype, device: torch.device
) -> ExportReport:
    """Load the export as any PEFT user would and repeat the probes."""
    base = load_base(ModelSource(original), dtype=dtype, device=device)
    chat = ChatFormat.of(base.tokenizer, base.model)
    attach_saved(base.model, export)
    roles = Roles(base, forward="transformers")
    with roles.use(EXPORT_FOLDER):
        logprobs = _logprobs(roles, chat, probes.prompt_ids, probes.completion_ids)
        greedy = sample_completions(
            roles,
            chat,
            probes.prompt_ids,
            max_new_tokens=probes.max_new_tokens,
            temperature=1.0,
            keys=None,
        ).ids
    return ExportReport(
        dtype=str(base.model.dtype).removeprefix("torch."),
        probes=len(probes.prompt_ids),
        max_difference=float((logprobs - probes.logprobs).abs().max()),
        same_greedy_text=greedy == probes.completion_ids,
    )


@torch.no_grad()
def _logprobs(
    roles: Roles, chat: ChatFormat, prompt_ids: list[list[int]], completion_ids: list[list[int]]
) -> Tensor:
    batch = collate(prompt_ids, completion_ids, pad_id=chat.pad_id, device=roles.base.device)
    return completion_logprobs(roles, batch, temperature=1.0).cpu()
