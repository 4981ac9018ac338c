"""PPO: prompts and a reward in; a policy adapter on the folded base and its export out.

    python stages/ppo.py --config stages/configs/ppo.yaml --train_file prompts.jsonl
    accelerate launch stages/ppo.py --config stages/configs/ppo.yaml ...

``--help`` explains every option. In Python: ``from stages.ppo import PPOStage, PPOConfig``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # as a script: before the import of torch, so that --help is quick
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rlhf.cli import run_stage

    sys.exit(run_stage("ppo", sys.argv[1:], prog="stages/ppo.py"))

from rlhf.config import PPOConfig
from rlhf.ppo import PPOResult, PPOStage

__all__ = ["PPOConfig", "PPOResult", "PPOStage"]
