"""Human rankings in, an aligned LoRA adapter out.

The public names load on first use, so that ``import rlhf`` costs nothing and the labeling app
never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf.config import EvaluationConfig, PPOConfig, RewardConfig, SFTConfig
    from rlhf.evaluate import EvaluationStage
    from rlhf.ppo import PPOStage
    from rlhf.reward import RewardStage
    from rlhf.sft import SFTStage
    from rlhf.store import RankingStore

__version__ = "0.1.0"

__all__ = [
    "EvaluationConfig",
    "EvaluationStage",
    "PPOConfig",
    "PPOStage",
    "RankingStore",
    "RewardConfig",
    "RewardStage",
    "SFTConfig",
    "SFTStage",
]

_HOME = {
    "EvaluationConfig": "rlhf.config",
    "EvaluationStage": "rlhf.evaluate",
    "PPOConfig": "rlhf.config",
    "PPOStage": "rlhf.ppo",
    "RankingStore": "rlhf.store",
    "RewardConfig": "rlhf.config",
    "RewardStage": "rlhf.reward",
    "SFTConfig": "rlhf.config",
    "SFTStage": "rlhf.sft",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
