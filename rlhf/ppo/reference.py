"""What PPO's KL is taken to: the frozen base, the weights before SFT, or another adapter."""

from __future__ import annotations

from rlhf.config import PPOConfig
from rlhf.errors import ConfigError
from rlhf.export import find_origin
from rlhf.model.adapters import negate
from rlhf.model.base import check_base, resolve_model
from rlhf.model.roles import Roles

REFERENCE_ROLE = "reference"


def add_reference(roles: Roles, config: PPOConfig) -> str | None:
    """Add the role that the KL is taken to; None stands for the base itself.

    The weights before SFT are the folded base less the SFT update, so they are a role on it too:
    the SFT adapter with its sign turned. In float32 that is exact up to rounding; in bfloat16 it
    misses the pretrained weights by the rounding of the fold.

    Raises:
        ConfigError: If the base was never folded, or the name stands for no adapter.
    """
    if config.reference == "base":
        return None
    if config.reference == "pretrained":
        origin = find_origin(roles.base.path)
        if origin is None:
            raise ConfigError(
                f"reference: pretrained needs a base folded by the SFT stage, and "
                f"{roles.base.path} is none; use base"
            )
        roles.add(REFERENCE_ROLE, origin.sft_adapter, trainable=False)
        negate(roles.peft_model, REFERENCE_ROLE)
        return REFERENCE_ROLE
    source = resolve_model(config.reference, field="reference")
    if source.adapter is None:
        raise ConfigError(
            f"reference: {config.reference} is a whole model; name the run folder of an adapter "
            "on this base, base or pretrained"
        )
    check_base(source.adapter, roles.base)
    roles.add(REFERENCE_ROLE, source.adapter, trainable=False)
    return REFERENCE_ROLE
