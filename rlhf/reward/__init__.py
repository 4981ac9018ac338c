"""The reward stage: K-wise rankings in; an adapter with a score head and its card out."""

from rlhf.reward.model import RewardModel
from rlhf.reward.stage import RewardResult, RewardStage

__all__ = ["RewardModel", "RewardResult", "RewardStage"]
