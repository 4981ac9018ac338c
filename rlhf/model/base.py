"""Find, load and fingerprint the frozen base that every role shares.

A model is named by a transformers folder, a hub id, or the run folder of an earlier stage. A run
folder stands for what the stage produced: an SFT run for its folded base, a PPO run for its
policy adapter on that base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.checkpoints import fingerprint_model, fingerprint_tokenizer
from rlhf.config import Dtype
from rlhf.errors import CheckpointError, ConfigError

ADAPTER_FOLDER = "adapter"
MODEL_FOLDER = "model"
LINK_FILE = "base.json"
FOLDED_FILE = "folded.json"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a named model lies on disk."""

    base: Path
    """transformers folder of the base."""
    adapter: Path | None = None
    """Folder of the policy adapter on that base, if the name stands for one."""


@dataclass(frozen=True, slots=True)
class FrozenBase:
    """A loaded base: no parameter of it requires a gradient."""

    model: Any
    """The transformers causal language model, in evaluation mode."""
    tokenizer: Any
    path: Path
    fingerprint: str
    """sha256 of the weights as stored, independent of sharding and of the dtype loaded in."""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state."""
        return int(self.model.config.get_text_config().hidden_size)


def resolve_model(name: str, *, field: str = "model_name_or_path") -> ModelSource:
    """Find the base, and the adapter if there is one, that a name stands for.

    Args:
        name: Folder of a transformers model or of a run, or a hub id.
        field: Config field that holds the name, for error messages.

    Raises:
        ConfigError: If nothing usable is there.
    """
    path = Path(name)
    if (path / MODEL_FOLDER / "config.json").is_file():
        return ModelSource(path / MODEL_FOLDER)
    if (path / ADAPTER_FOLDER / LINK_FILE).is_file():
        if (path / ADAPTER_FOLDER / "score_head.safetensors").is_file():
            raise ConfigError(
                f"{field}: {name} is a reward run; name an SFT or PPO run, or a model"
            )
        return ModelSource(linked_base(path / ADAPTER_FOLDER), path / ADAPTER_FOLDER)
    if (path / "config.json").is_file():
        return ModelSource(path)
    if path.exists():
        raise ConfigError(
            f"{field}: {name} holds neither a transformers model (config.json) nor a finished run"
        )
    return ModelSource(_download(name, field))


def resolve_base(name: str, *, field: str = "model_name_or_path") -> ModelSource:
    """Find a base to train on; a name that stands for an adapter on a base is refused.

    Raises:
        ConfigError: If nothing usable is there, or the name is that of a PPO run.
    """
    source = resolve_model(name, field=field)
    if source.adapter is not None:
        raise ConfigError(
            f"{field}: {name} is a policy adapter on the base {source.base}; training starts from "
            "a base: name the SFT run or that folder"
        )
    return source


def load_base(source: ModelSource, *, dtype: Dtype, device: torch.device) -> FrozenBase:
    """Load a base and freeze it.

    Args:
        source: From ``resolve_model``.
        dtype: Precision to hold the weights in; ``auto`` is bfloat16 where a GPU has it.
        device: Where to put it.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.base)
        model = AutoModelForCausalLM.from_pretrained(source.base, dtype=pick_dtype(dtype, device))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{source.base}: can't be loaded as a language model: {reason}"
        ) from error
    model.to(device).eval().requires_grad_(False)
    return FrozenBase(model, tokenizer, source.base, fingerprint_model(source.base))


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Turn the config's word into a torch dtype."""
    if dtype == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def weights_digest(named: Iterable[tuple[str, nn.Parameter]]) -> str:
    """sha256 of parameters in memory; taken before and after a run, it shows a base untouched."""
    digest = hashlib.sha256()
    for name, parameter in sorted(named, key=lambda item: item[0]):
        digest.update(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}|".encode())
        flat = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def write_link(folder: Path, base: FrozenBase, **more: object) -> None:
    """Write into an adapter's folder which base it belongs to.

    The path is a hint, the fingerprints decide; ``linked_base`` and ``check_base`` read them.
    """
    link = {
        "base_path": str(base.path.resolve()),
        "base_fingerprint": base.fingerprint,
        "tokenizer_fingerprint": fingerprint_tokenizer(base.path),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        **more,
    }
    (folder / LINK_FILE).write_text(json.dumps(link, indent=2) + "\n", encoding="utf-8")


def read_link(adapter: Path) -> dict[str, Any]:
    """Read what ``write_link`` wrote."""
    try:
        return dict(json.loads((adapter / LINK_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(
            f"{adapter}: no {LINK_FILE}, so its base is unknown; was it made by this toolkit?"
        ) from None


def linked_base(adapter: Path) -> Path:
    """Find the base folder of an adapter: where it was, or beside the run if both were moved."""
    recorded = Path(read_link(adapter)["base_path"])
    moved = adapter.resolve().parent.parent / recorded.parent.name / recorded.name
    for candidate in (recorded, moved):
        if (candidate / "config.json").is_file():
            return candidate
    raise CheckpointError(
        f"{adapter}: its base {recorded} is gone; put it back, or beside the run folder"
    )


def check_fingerprint(base: Path, expected: str, *, needed_by: Path) -> None:
    """Refuse a base whose weights changed since something was made from it."""
    found = fingerprint_model(base)
    if found != expected:
        raise CheckpointError(
            f"{base}: its weights changed (sha256 {found[:12]}, was {expected[:12]}) since "
            f"{needed_by} was made from it; restore them"
        )


def check_base(adapter: Path, base: FrozenBase) -> None:
    """Refuse an adapter that was trained on other weights or another tokenizer."""
    link = read_link(adapter)
    if link["base_fingerprint"] != base.fingerprint:
        raise CheckpointError(
            f"{adapter}: trained on another base ({link['base_path']}, sha256 "
            f"{link['base_fingerprint'][:12]}) than {base.path} ({base.fingerprint[:12]}); "
            "train it on this base, or name the base it belongs to [wrong_base]"
        )
    if link["tokenizer_fingerprint"] != fingerprint_tokenizer(base.path):
        raise CheckpointError(
            f"{adapter}: its tokenizer or chat template differs from that of {base.path}; "
            "restore the tokenizer files it was trained with"
        )


def _download(name: str, field: str) -> Path:
    """Fetch a hub model, or find it in the local cache."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise ConfigError(
            f"{field}: {name!r} is no folder here and no model that the hub gives "
            f"({type(error).__name__}); check the path"
        ) from error
