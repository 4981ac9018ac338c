"""Learning per second with the value on an adapter of its own and on the policy's trunk.

    python benchmarks/value_modes.py --demo runs/demo

Repeats the PPO run of a finished ``rlhf demo`` with each value mode and seed, in turns, and prints
what each reached and when. The reward model's score stands for learning; the KL says at what cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rlhf.cli import quiet_libraries
from rlhf.config import PPOConfig
from rlhf.options import parse
from rlhf.ppo import PPOStage

MODES = ("adapter", "shared")


@dataclass
class Curve:
    """One run: score and KL of each update, and when it was done."""

    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    started: float = 0.0

    def __call__(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Note one update."""
        if not self.seconds:
            self.started = time.monotonic() - metrics["time/update_s"]
        self.seconds.append(time.monotonic() - self.started)
        self.scores.append(metrics["score/mean"])
        self.kls.append(metrics["kl/reference"])

    def tail(self, values: list[float]) -> float:
        """Mean over the last tenth of the updates."""
        return statistics.mean(values[-max(1, len(values) // 10) :])

    def when(self, score: float) -> float | None:
        """Seconds until the mean score of five updates reached a level; None if it never did."""
        for at in range(5, len(self.scores) + 1):
            if statistics.mean(self.scores[at - 5 : at]) >= score:
                return self.seconds[at - 1]
        return None


def run(demo: Path, mode: str, seed: int, updates: int, extra: list[str]) -> Curve:
    """Repeat the demo's PPO with another value mode."""
    curve = Curve()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config", str(demo / "ppo" / "config.yaml"), "--output_dir", f"{folder}/run"]
        flags += ["--value", mode, "--seed", str(seed), "--max_steps", str(updates), *extra]
        PPOStage(parse(PPOConfig, flags, prog="value_modes"), listener=curve).run()
    return curve


def main() -> None:
    """Run every mode and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=65)
    parser.add_argument("--level", type=float, default=0.7, help="score whose time is told")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given, extra = parser.parse_known_args()
    quiet_libraries()
    torch.set_num_threads(given.threads)
    print("mode     seed  score    KL  seconds  s/update  seconds to the level")
    for seed in given.seeds:
        for mode in given.modes:
            curve = run(given.demo, mode, seed, given.updates, extra)
            when = curve.when(given.level)
            print(
                f"{mode:8} {seed:4} {curve.tail(curve.scores):6.3f} {curve.tail(curve.kls):5.2f} "
                f"{curve.seconds[-1]:8.0f} {curve.seconds[-1] / len(curve.seconds):9.2f}  "
                f"{'never' if when is None else f'{when:.0f}'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
