"""Reward training of this library and of TRL on the same rankings, in turns.

    python benchmarks/reward_vs_trl.py [--sizes 30m] [--candidates 4 9] [--output results.json]
    python benchmarks/reward_vs_trl.py --learning [--seeds 0 1 2]

Ours takes a prompt with all of its K ranked answers, TRL's ``RewardTrainer`` the K(K-1)/2 pairs of
the same answers. Base, tokens, optimiser steps, learning rate and schedule are the same, and so
are rank and modules of LoRA; a score head is trained beside it. Everything is float32.

Without ``--learning`` it times steps: every implementation is one process that takes one step when
told; the first warms up and is not counted. With ``--learning`` both train for one epoch on
planted rankings (``reward_job.py``), one after the other, and are compared on held-out prompts.
What differs there is the random start of the adapter, the score head's (ours begins at 0) and the
order of the prompts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from driver import (
    HERE,
    NOISY,
    Worker,
    WorkerError,
    command_line,
    job_folder,
    machine,
    note,
    table,
    worker_environment,
)
from job import JOB, SIZES, JobFolder
from reward_job import Planted, RewardJob, pair_accuracy, pairs_of, random_rows

NAMES = ("trl", "ours")
PROMPT_TOKENS, ANSWER_TOKENS = 64, 48
COMPARISONS = 12
"""A step takes as many prompts as make so many comparisons, one at the least."""
COLUMNS = {"total": "s per step", "comparisons_per_s": "comparisons/s", "peak_mb": "peak RSS MB"}


def main() -> int:
    """Run what was asked for, print the tables, write the results."""
    given = arguments()
    report: dict[str, Any] = {
        "command": command_line(),
        "machine": machine(),
        "threads": given.threads,
        "sizes": {},
    }
    print(f"command: {report['command']}")
    print("machine: " + ", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for size in given.sizes:
        try:
            base = job_folder(size, given.cache)
            result = learning(size, base, given) if given.learning else timing(size, base, given)
        except WorkerError as error:
            note(f"error: {error}")
            return 1
        report["sizes"][size] = result
        lines = describe_learning(result) if given.learning else describe(result)
        print(f"\n{size}\n" + "\n".join(lines), flush=True)
        if given.output is not None:
            given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def timing(size: str, base: JobFolder, given: argparse.Namespace) -> dict[str, Any]:
    """Let both take turns, for each number of candidates."""
    result: dict[str, Any] = {"versions": {}, "samples": {}, "medians": {}, "job": {}}
    for candidates in given.candidates:
        prompts = max(1, COMPARISONS // pairs_of(candidates))
        rows = random_rows(
            vocab=SIZES[size].vocab,
            count=prompts * (given.steps + 1),
            candidates=candidates,
            prompt_tokens=PROMPT_TOKENS,
            answer_tokens=ANSWER_TOKENS,
        )
        job = RewardJob(
            base=str(base.base),
            rows=rows,
            candidates=candidates,
            prompts_per_step=prompts,
            learning_rate=JOB.learning_rate,
            seed=0,
            lora_rank=JOB.lora_rank,
            lora_alpha=JOB.lora_alpha,
            held_out=[],
        )
        case = f"K={candidates}"
        result["job"][case] = {"prompts_per_step": prompts, "comparisons": job.comparisons}
        folder = base.scratch / f"reward-{candidates}"
        job.write(folder)
        samples = take_turns(f"{size} {case}", job, folder, given, result["versions"])
        for name, taken in samples.items():
            result["samples"][f"{name} {case}"] = taken
            result["medians"][f"{name} {case}"] = summarise(taken[1:], job.comparisons)
    return result


def take_turns(
    title: str,
    job: RewardJob,
    folder: Path,
    given: argparse.Namespace,
    versions: dict[str, dict[str, str]],
) -> dict[str, list[dict[str, Any]]]:
    """Take every step of both; another one goes first each time."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        workers = []
        for name in NAMES:
            note(f"{title}: starting {name}")
            workers.append(stack.enter_context(start(name, job, folder, given)))
            versions[name] = workers[-1].facts["versions"]
        for step in range(job.steps):
            at = step % len(workers)
            for worker in workers[at:] + workers[:at]:
                sample = worker.step(wait=given.wait)
                samples[worker.name].append(sample)
                note(
                    f"{title}: step {step} of {worker.name}: {sample['total']:.2f} s, "
                    f"others {sample['others']:.0%} of a core"
                )
    return samples


def learning(size: str, base: JobFolder, given: argparse.Namespace) -> dict[str, Any]:
    """Train both on each seed's rankings, one after the other; compare on held-out prompts."""
    planted = Planted()
    result: dict[str, Any] = {
        "planted": asdict(planted),
        "learning_rate": given.learning_rate,
        "prompts_per_step": given.prompts_per_step,
        "seeds": given.seeds,
        "utility": [],
        "versions": {},
        "runs": {name: [] for name in NAMES},
    }
    for at, seed in enumerate(given.seeds):
        train, held_out, utility = planted.rows(seed)
        result["utility"].append(utility)
        job = RewardJob(
            base=str(base.base),
            rows=train,
            candidates=planted.candidates,
            prompts_per_step=given.prompts_per_step,
            learning_rate=given.learning_rate,
            seed=seed,
            lora_rank=JOB.lora_rank,
            lora_alpha=JOB.lora_alpha,
            held_out=held_out,
        )
        folder = base.scratch / f"reward-learning-{seed}"
        job.write(folder)
        for name in NAMES[:: 1 if at % 2 == 0 else -1]:
            with start(name, job, folder, given) as worker:
                samples = [worker.step() for _ in range(job.steps)]
                accuracy = pair_accuracy(worker.step()["scores"])
                result["versions"][name] = worker.facts["versions"]
            run = summarise(samples[1:], job.comparisons) | {"accuracy": accuracy}
            result["runs"][name].append(run)
            note(f"{size}: seed {seed} of {name}: held-out accuracy {accuracy:.3f}")
    return result


def start(name: str, job: RewardJob, folder: Path, given: argparse.Namespace) -> Worker:
    """Start one side's worker."""
    command = [
        *(sys.executable, str(HERE / f"worker_reward_{name}.py")),
        *("--folder", str(folder)),
        *("--updates", str(job.steps)),
        *("--threads", str(given.threads)),
        *("--device", "cpu"),
    ]
    environment = worker_environment(threads=given.threads, device="cpu")
    return Worker(name, command, environment, folder / "logs" / f"{name}.log")


def summarise(samples: Sequence[Mapping[str, Any]], comparisons: int) -> dict[str, Any]:
    """Medians over the quiet samples, or over all where fewer than two are quiet."""
    quiet = [row for row in samples if row["others"] <= NOISY]
    used = quiet if len(quiet) >= 2 else samples
    total = statistics.median(row["total"] for row in used)
    return {
        "total": total,
        "comparisons_per_s": comparisons / total,
        "peak_mb": max(row["peak_mb"] for row in samples),
        "quiet": len(quiet),
        "samples": len(samples),
        "noisy": len(quiet) < 2,
    }


def describe(result: Mapping[str, Any]) -> list[str]:
    """Two tables: medians, and TRL's figures over ours."""
    medians = result["medians"]
    rows = [["one optimiser step", "prompts", "comparisons", *COLUMNS.values(), "quiet"]]
    ratios = [["ratio", *COLUMNS.values()]]
    for case, job in result["job"].items():
        counts = [str(job["prompts_per_step"]), str(job["comparisons"])]
        for name in NAMES:
            row = medians[f"{name} {case}"]
            title = f"{label(name, result)}, {case}"
            rows.append([title, *counts, *figures(row), f"{row['quiet']}/{row['samples']}"])
        peer, ours = medians[f"trl {case}"], medians[f"ours {case}"]
        ratios.append([f"trl / ours, {case}", *(ratio(peer, ours, name) for name in COLUMNS)])
    lines = [table(rows), "", table(ratios), "(comparisons/s: ours / trl)"]
    noisy = [name for name, row in medians.items() if row["noisy"]]
    return lines + ([noise(noisy)] if noisy else [])


def describe_learning(result: Mapping[str, Any]) -> list[str]:
    """Held-out accuracy of each run, and the difference over seeds."""
    runs, seeds = result["runs"], result["seeds"]
    rows = [["one epoch", "held-out accuracy", *COLUMNS.values(), "quiet"]]
    for name in NAMES:
        for seed, run in zip(seeds, runs[name], strict=True):
            title = f"{label(name, result)}, seed {seed}"
            quiet = f"{run['quiet']}/{run['samples']}"
            rows.append([title, f"{run['accuracy']:.3f}", *figures(run), quiet])
        rates = [run["comparisons_per_s"] for run in runs[name]]
        blank, rate = "", f"{statistics.median(rates):.1f}"
        mean = spread([run["accuracy"] for run in runs[name]])
        rows.append([f"{label(name, result)}, all seeds", mean, blank, rate, blank, blank])
    pairs = zip(runs["ours"], runs["trl"], strict=True)
    differences = [ours["accuracy"] - trl["accuracy"] for ours, trl in pairs]
    lines = [
        table(rows),
        "",
        f"held-out accuracy: ours - trl = {spread(differences, sign='+')} (mean ± sd over seeds)",
        f"the planted utility itself, without its noise: {spread(result['utility'])}",
    ]
    noisy = [
        f"{name} seed {seed}"
        for name in NAMES
        for seed, run in zip(seeds, runs[name], strict=True)
        if run["noisy"]
    ]
    return lines + ([noise(noisy)] if noisy else [])


def figures(row: Mapping[str, float]) -> list[str]:
    """Cells of ``COLUMNS``."""
    return [f"{row['total']:.3f}", f"{row['comparisons_per_s']:.1f}", f"{row['peak_mb']:.0f}"]


def noise(names: Sequence[str]) -> str:
    """Say whose medians are over noisy samples."""
    return (
        f"NOISY: fewer than 2 quiet samples (others at most {NOISY:.0%} of a core), so the "
        f"medians are over all of them: {', '.join(names)}"
    )


def label(name: str, result: Mapping[str, Any]) -> str:
    """Name a row, with the version where it is the peer's."""
    return f"trl {result['versions']['trl']['trl']}" if name == "trl" else name


def ratio(peer: Mapping[str, float], ours: Mapping[str, float], name: str) -> str:
    """Peer over ours, or the other way round where more is better."""
    above, below = (ours, peer) if name == "comparisons_per_s" else (peer, ours)
    return f"{above[name] / below[name]:.2f}"


def spread(numbers: Sequence[float], *, sign: str = "") -> str:
    """Mean and standard deviation; the mean alone of a single number."""
    mean = f"{statistics.mean(numbers):{sign}.3f}"
    return f"{mean} ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 else mean


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default 30m; 0.8m to learn")
    parser.add_argument("--candidates", type=int, nargs="+", choices=range(2, 10), default=[4, 9])
    parser.add_argument("--steps", type=int, default=5, help="after the one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--wait", type=float, default=10.0, help="seconds to wait for a quiet machine, each time"
    )
    parser.add_argument("--learning", action="store_true", help="compare what is learnt instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts_per_step", type=int, default=4, help="with --learning")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="with --learning")
    parser.add_argument("--output", type=Path, help="results as JSON, with every sample")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache", help="for the models")
    given = parser.parse_args()
    given.sizes = given.sizes or (["0.8m"] if given.learning else ["30m"])
    if given.learning and Planted().train % given.prompts_per_step:
        parser.error(f"--prompts_per_step must divide {Planted().train}")
    return given


if __name__ == "__main__":
    sys.exit(main())
