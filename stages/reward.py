"""Reward model: K-wise rankings in; an adapter, a score head and a reward card out.

    python stages/reward.py --config stages/configs/reward.yaml --rankings store.sqlite
    accelerate launch stages/reward.py --config stages/configs/reward.yaml ...

``--help`` explains every option. In Python:
``from stages.reward import RewardStage, RewardConfig``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # as a script: before the import of torch, so that --help is quick
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rlhf.cli import run_stage

    sys.exit(run_stage("reward", sys.argv[1:], prog="stages/reward.py"))

from rlhf.config import RewardConfig
from rlhf.reward import RewardResult, RewardStage

__all__ = ["RewardConfig", "RewardResult", "RewardStage"]
