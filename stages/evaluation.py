"""Evaluation: base, SFT and PPO on held-out prompts; a report with plots out.

    python stages/evaluation.py --config stages/configs/evaluation.yaml --eval_file held_out.jsonl
    accelerate launch stages/evaluation.py --config stages/configs/evaluation.yaml ...

``--help`` explains every option. In Python:
``from stages.evaluation import EvaluationStage, EvaluationConfig``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # as a script: before the import of torch, so that --help is quick
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rlhf.cli import run_stage

    sys.exit(run_stage("evaluate", sys.argv[1:], prog="stages/evaluation.py"))

from rlhf.config import EvaluationConfig
from rlhf.evaluate import EvaluationResult, EvaluationStage

__all__ = ["EvaluationConfig", "EvaluationResult", "EvaluationStage"]
