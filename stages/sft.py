"""Instruction tuning: demonstrations in; an adapter and the folded base out.

    python stages/sft.py --config stages/configs/sft.yaml --train_file demos.jsonl
    accelerate launch stages/sft.py --config stages/configs/sft.yaml ...

``--help`` explains every option. In Python: ``from stages.sft import SFTStage, SFTConfig``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # as a script: before the import of torch, so that --help is quick
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rlhf.cli import run_stage

    sys.exit(run_stage("sft", sys.argv[1:], prog="stages/sft.py"))

from rlhf.config import SFTConfig
from rlhf.sft import SFTResult, SFTStage

__all__ = ["SFTConfig", "SFTResult", "SFTStage"]
