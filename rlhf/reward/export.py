"""A reward run as a sequence classifier for plain transformers, compared with what it came from.

The adapter is merged into a copy of the base and the head becomes ``score.weight``, so the logit
is the raw score; transformers' classifiers have no place for the normalisation, which is a file
beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rlhf.checkpoints import write_folder, write_json, write_text
from rlhf.config import Dtype, RewardExportConfig
from rlhf.errors import CheckpointError, ConfigError, TrainingError
from rlhf.model.adapters import LoraDelta, fold, read_delta
from rlhf.model.base import ADAPTER_FOLDER, linked_base, pick_dtype
from rlhf.ops.masking import length_mask
from rlhf.records import Prompt
from rlhf.reward.ensemble import member_folders
from rlhf.reward.score import check_reward_runs, load_reward_models, raw_scores
from rlhf.runs import Listener

NORMALIZATION_FILE = "normalization.json"
REPORT_FILE = "export.json"
PAD_TOKEN = "<|pad|>"
"""Added where the tokenizer has no token that could pad."""
MAX_DIFFERENCE_FP32 = 1e-4
"""Largest accepted difference of a raw score in float32."""

_CPU = torch.device("cpu")
_PROBES = (
    ("Hi", "Hello."),
    ("a b c", "good"),
    ("Name two colours.", "Red and blue."),
    ("What is 2 + 2?", "It is 4, good and not bad."),
    ("Hello world", ""),
    ("Say a few words about rain.", "Rain is water that falls, a drop at a time, on the world."),
)
_SPARE = ("pad", "reserved", "unused")
"""Words in the names of special tokens that are there to be given a use."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """How the logit of an exported classifier becomes a score, and where it is read."""

    mean: float
    std: float
    end_token: str
    """Text of the token that must follow a completion; the logit is read there."""
    end_token_id: int
    formula: str = "score = (raw - mean) / std"


@dataclass(frozen=True, slots=True)
class ClassifierExport:
    """What was written, and how far it is from the reward model."""

    output_dir: Path
    dtype: str
    pad_token: str
    pad_token_id: int
    normalization: Normalization
    probes: int
    max_difference: float
    """Largest difference of a raw score, alone and in a padded batch."""

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return {
            "model": str(self.output_dir),
            "dtype": self.dtype,
            "end token": self.normalization.end_token,
            "pad token": self.pad_token,
            "largest difference of a raw score": self.max_difference,
        }


def export_reward(
    config: RewardExportConfig, *, listener: Listener | None = None
) -> ClassifierExport:
    """Run ``export_classifier`` for the command line; it has no steps to tell a listener of."""
    return export_classifier(Path(config.reward_model), Path(config.output_dir), dtype=config.dtype)


def export_classifier(
    run_folder: Path, output_dir: Path, *, dtype: Dtype = "float32"
) -> ClassifierExport:
    """Write a reward run as a sequence classifier, load it back and compare raw scores.

    All of it runs on the CPU.

    Args:
        run_folder: A finished run of the reward stage.
        output_dir: New or empty folder; it appears whole or not at all.
        dtype: Precision of the weights and of the comparison; ``auto`` is float32.

    Raises:
        ConfigError: If transformers has no sequence classifier for this base, the folder is not
            empty or the run is no reward run.
        TrainingError: If a raw score differs by more than 1e-4 in float32; nothing is left then.
    """
    output_dir = output_dir.absolute()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ConfigError(f"output_dir: {output_dir} holds files; give a new or empty folder")
    original = _read_original(run_folder, dtype)
    done: list[ClassifierExport] = []

    def fill(path: Path) -> None:
        tokenizer = _write_model(path, original, dtype)
        difference = _largest_difference(path, original, tokenizer.pad_token_id, dtype)
        if pick_dtype(dtype, _CPU) == torch.float32 and not difference <= MAX_DIFFERENCE_FP32:
            raise TrainingError(
                f"{output_dir}: the exported model's raw scores differ from the reward model's by "
                f"{difference:.2g} (allowed {MAX_DIFFERENCE_FP32:g}), so it was deleted; "
                f"{run_folder} is sound"
            )
        export = ClassifierExport(
            output_dir=output_dir,
            dtype=str(pick_dtype(dtype, _CPU)).removeprefix("torch."),
            pad_token=str(tokenizer.pad_token),
            pad_token_id=int(tokenizer.pad_token_id),
            normalization=original.normalization,
            probes=len(original.rows),
            max_difference=difference,
        )
        _write_notes(path, export, has_template=tokenizer.chat_template is not None)
        done.append(export)

    write_folder(output_dir, fill, {"base_fingerprint": original.fingerprint})
    return done[0]


def read_normalization(folder: Path) -> Normalization | None:
    """Read what an export says of its scores; None where the folder is no export.

    Raises:
        CheckpointError: If the file can't be used.
    """
    file = folder / NORMALIZATION_FILE
    try:
        fields = json.loads(file.read_bytes())
        found = Normalization(
            mean=float(fields["mean"]),
            std=float(fields["std"]),
            end_token=str(fields["end_token"]),
            end_token_id=int(fields["end_token_id"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: not a readable normalisation ({error}); export the reward model anew"
        ) from error
    if not (math.isfinite(found.mean) and math.isfinite(found.std) and found.std > 0):
        raise CheckpointError(
            f"{file}: mean {found.mean} and std {found.std} can't normalise a score; export the "
            "reward model anew"
        )
    return found


# -- the original ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Original:
    """What is needed of a reward run, and what it says of the probes."""

    adapter: Path
    base: Path
    fingerprint: str
    """Of the base."""
    weight: Tensor
    """Of the head, float32 (H,)."""
    normalization: Normalization
    stop_ids: frozenset[int]
    """Ids that may end a completion, by tokenizer, config or generation config."""
    rows: list[tuple[list[int], list[int]]]
    """Probes: ids of prompt and completion."""
    raw: Tensor
    """Their raw scores, float32 (B,)."""


def _read_original(run_folder: Path, dtype: Dtype) -> _Original:
    """Load a reward model, score the probes and let go of it."""
    (folder,) = check_reward_runs([str(_only_member(run_folder))])
    base = linked_base(folder / ADAPTER_FOLDER)
    _check_architecture(base)
    (model,) = load_reward_models([folder], dtype=dtype, device=_CPU)
    chat = model.chat
    rows = [
        (chat.encode_prompt(Prompt.parse(prompt)), chat.encode_completion(text))
        for prompt, text in _PROBES
    ]
    named = model.roles.base.model.config.get_text_config().eos_token_id
    return _Original(
        adapter=folder / ADAPTER_FOLDER,
        base=base,
        fingerprint=model.roles.base.fingerprint,
        weight=model.head.weight.detach(),
        normalization=Normalization(
            mean=float(model.head.mean),
            std=float(model.head.std),
            end_token=str(chat.tokenizer.convert_ids_to_tokens(chat.end_id)),
            end_token_id=chat.end_id,
        ),
        stop_ids=chat.stop_ids | set(named if isinstance(named, list) else [named]),
        rows=rows,
        raw=raw_scores(model, model.score(rows)),
    )


def _only_member(run_folder: Path) -> Path:
    """The folder itself; an ensemble has no weights that could be merged into one model."""
    members = member_folders(run_folder)
    if len(members) > 1:
        raise ConfigError(
            f"reward_model: {run_folder} holds {len(members)} reward models; export one of them, "
            f"such as {members[0]}"
        )
    return members[0]


def _check_architecture(base: Path) -> None:
    config = AutoConfig.from_pretrained(base)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"reward_model: transformers has no sequence classifier for {config.model_type} "
            f"({base}); use the run with rlhf score, or train the reward on another base"
        )


# -- the model ------------------------------------------------------------------------------------


def _write_model(path: Path, original: _Original, dtype: Dtype) -> Any:
    """Write the merged model and its tokenizer; give the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(original.base)
    model = AutoModelForSequenceClassification.from_pretrained(
        original.base, num_labels=1, dtype=pick_dtype(dtype, _CPU)
    ).eval()
    score = getattr(model, "score", None)
    if not isinstance(score, nn.Linear) or "bias" in dict(score.named_parameters()):
        raise ConfigError(
            f"reward_model: the sequence classifier of {model.config.model_type} has no plain "
            "linear score; use the run with rlhf score, or train the reward on another base"
        )
    fold(model, _of_backbone(read_delta(original.adapter), model.base_model_prefix))
    with torch.no_grad():
        score.weight.copy_(original.weight[None])
    size = model.get_input_embeddings().num_embeddings
    pad_id = _choose_pad(tokenizer, original.stop_ids, size)
    _make_room(model, pad_id)
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = pad_id
    tokenizer.padding_side = "right"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return tokenizer


def _of_backbone(delta: LoraDelta, prefix: str) -> LoraDelta:
    """Leave out the output head, which a classifier lacks and no score depends on."""
    inside: Mapping[str, tuple[Tensor, Tensor, float]] = {
        name: factors for name, factors in delta.factors.items() if name.startswith(f"{prefix}.")
    }
    return LoraDelta(inside)


def _choose_pad(tokenizer: Any, stop_ids: frozenset[int], size: int) -> int:
    """Give the tokenizer a pad token that no text holds, and give its id.

    transformers reads the logit at the last id that differs from the pad token's, so a pad token
    that ends a completion would move it. Taken are the tokenizer's own, a spare special token, or
    a new one.
    """
    used = stop_ids | {tokenizer.bos_token_id, tokenizer.unk_token_id}
    template = str(tokenizer.chat_template or "")

    def is_free(number: int | None, text: str) -> bool:
        return number is not None and number not in used and text not in template

    own = tokenizer.pad_token_id
    if is_free(own, str(tokenizer.pad_token)) and own < size:
        return int(own)
    spare = {
        number: str(token)
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and number < size and is_free(number, str(token))
    }
    for word in _SPARE:
        for number, text in spare.items():
            if word in text.lower():
                tokenizer.pad_token = text
                return int(number)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return int(tokenizer.pad_token_id)


def _make_room(model: Any, pad_id: int) -> None:
    """Grow the embedding up to a new pad token, whose row is 0."""
    if pad_id >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(pad_id + 1, mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[pad_id] = 0


@torch.no_grad()
def _largest_difference(path: Path, original: _Original, pad_id: int, dtype: Dtype) -> float:
    """Load the export as its users do and score the probes, alone and in a padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=pick_dtype(dtype, _CPU)
    ).eval()
    ids = [torch.tensor([*prompt, *completion]) for prompt, completion in original.rows]
    alone = torch.cat([model(input_ids=row[None]).logits[:, 0] for row in ids])
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=float(pad_id))
    mask = length_mask(torch.tensor([len(row) for row in ids]), padded.shape[1]).long()
    together = model(input_ids=padded, attention_mask=mask).logits[:, 0]
    found = torch.stack([alone, together]).float()
    return float((found - original.raw).abs().max())


# -- what stands beside it ------------------------------------------------------------------------


def _write_notes(path: Path, export: ClassifierExport, *, has_template: bool) -> None:
    write_json(path / NORMALIZATION_FILE, asdict(export.normalization))
    report = asdict(export)
    for name in ("output_dir", "normalization"):
        del report[name]
    write_json(path / REPORT_FILE, report)
    encode = _TEMPLATED if has_template else _PLAIN
    norm = export.normalization
    write_text(
        path / "README.md",
        _README.format(
            encode=encode, end=norm.end_token, pad=export.pad_token, mean=norm.mean, std=norm.std
        ),
    )


_TEMPLATED = """\
messages = [{"role": "user", "content": prompt}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
ids = tokenizer.encode(text, add_special_tokens=False)
"""
_PLAIN = """\
ids = tokenizer.encode(prompt)  # without an end token, where the tokenizer adds one
"""
_README = """\
# Reward model as a sequence classifier

Reads a prompt with a completion; the logit at the end token `{end}` is the raw score, and
`score = (raw - {mean:.6g}) / {std:.6g}` (`normalization.json`). Higher is better.

```python
import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
constants = json.loads(Path(folder, "normalization.json").read_text())
{encode}\
ids += tokenizer.encode(completion, add_special_tokens=False) + [constants["end_token_id"]]
raw = model(input_ids=torch.tensor([ids])).logits[0, 0].item()
score = (raw - constants["mean"]) / constants["std"]
```

Pad batches on the right with `{pad}`. `export.json` has the precision and how far the raw scores
are from those of the reward model.
"""
