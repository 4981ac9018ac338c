"""PPO updates of this library and of its peers on one job, in turns.

    python benchmarks/ppo_vs_trl.py [--sizes 0.8m 30m 134m] [--output results.json]

Every implementation is one process that stays alive and takes one update when told, so that peak
memory is its own and all of them meet the same state of the machine. The first update of each
warms up and is not counted.
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

MODES = ("fp32-adapter", "fp32-shared", "bf16-adapter", "bf16-shared")
PEERS = ("trl", "llamafactory")
PHASES = ("rollout", "scoring", "optimisation", "total")


def main() -> int:
    """Run all sizes, print the tables, write the results."""
    given = arguments()
    report: dict[str, Any] = {
        "command": command_line(),
        "machine": machine(),
        "job": asdict(JOB),
        "threads": given.threads,
        "device": given.device,
        "updates": given.updates,
        "sizes": {},
    }
    print(f"command: {report['command']}")
    print("machine: " + ", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for size in given.sizes:
        try:
            result = run_size(size, given)
        except WorkerError as error:
            note(f"error: {error}")
            return 1
        report["sizes"][size] = result
        print(f"\n{size}\n" + "\n".join(describe(result)), flush=True)
        if given.output is not None:
            given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def run_size(size: str, given: argparse.Namespace) -> dict[str, Any]:
    """Let all implementations take turns on one model."""
    folder = job_folder(size, given.cache)
    samples: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        workers = []
        for name in [*given.peers, *given.modes]:
            note(f"{size}: starting {name}")
            workers.append(stack.enter_context(start(name, folder, given)))
            samples[name] = []
        for update in range(given.updates + 1):
            at = update % len(workers)  # another one goes first each time
            for worker in workers[at:] + workers[:at]:
                sample = worker.step(wait=given.wait)
                samples[worker.name].append(sample)
                note(
                    f"{size}: update {update} of {worker.name}: {sample['total']:.2f} s, "
                    f"others {sample['others']:.0%} of a core"
                )
        versions = {worker.name: worker.facts["versions"] for worker in workers}
    return {
        "versions": versions,
        "samples": samples,
        "medians": {name: summarise(rows[1:]) for name, rows in samples.items()},
    }


def start(name: str, folder: JobFolder, given: argparse.Namespace) -> Worker:
    """Start the worker of a peer or of one of our modes."""
    interpreters = {"trl": given.trl_python, "llamafactory": given.lf_python}
    interpreter = str(interpreters.get(name, sys.executable))
    if not Path(interpreter).exists():
        raise WorkerError(f"{interpreter} is missing; make it with {_SETUP[name]}")
    script = f"worker_{name}.py" if name in interpreters else "worker_ours.py"
    command = [
        *(interpreter, str(HERE / script)),
        *("--folder", str(folder.path)),
        *("--updates", str(given.updates + 1)),
        *("--threads", str(given.threads)),
        *("--device", given.device),
        *("--mode", name),
    ]
    environment = worker_environment(threads=given.threads, device=given.device)
    return Worker(name, command, environment, folder.path / "logs" / f"{name}.log")


_SETUP = {"trl": "make bench-setup", "llamafactory": "make bench-setup-lf"}


def summarise(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the quiet samples, or over all where fewer than two are quiet."""
    quiet = [row for row in samples if row["others"] <= NOISY]
    used = quiet if len(quiet) >= 2 else samples
    medians: dict[str, Any] = {
        phase: statistics.median(row[phase] for row in used) for phase in PHASES
    }
    medians["tokens_per_s"] = statistics.median(row["tokens"] / row["total"] for row in used)
    medians["peak_mb"] = max(row["peak_mb"] for row in samples)
    if samples[-1]["peak_cuda_mb"] is not None:
        medians["peak_cuda_mb"] = max(row["peak_cuda_mb"] for row in samples)
    return {**medians, "quiet": len(quiet), "samples": len(samples), "noisy": len(quiet) < 2}


def describe(result: Mapping[str, Any]) -> list[str]:
    """Two tables: medians, and each peer's figures over ours."""
    medians = result["medians"]
    columns = [*PHASES, "tokens_per_s", "peak_mb"]
    columns += ["peak_cuda_mb"] if all("peak_cuda_mb" in row for row in medians.values()) else []
    heads = {"tokens_per_s": "token/s", "peak_mb": "peak RSS MB", "peak_cuda_mb": "peak GPU MB"}
    rows = [["seconds per update", *(heads.get(name, name) for name in columns), "quiet"]]
    for name, row in medians.items():
        cells = [f"{row[x]:.3f}" if x in PHASES else f"{row[x]:.0f}" for x in columns]
        rows.append([label(name, result), *cells, f"{row['quiet']}/{row['samples']}"])
    lines = [table(rows), ""]
    ratios = [["ratio", *rows[0][1:-1]]]
    for peer in (name for name in medians if name in PEERS):
        for ours in (name for name in medians if name not in PEERS):
            cells = [ratio(medians[peer], medians[ours], name) for name in columns]
            ratios.append([f"{peer} / {ours}", *cells])
    if len(ratios) > 1:
        lines += [table(ratios), "(token/s: ours / peer)"]
    noisy = [name for name, row in medians.items() if row["noisy"]]
    if noisy:
        lines.append(
            f"NOISY: fewer than 2 quiet samples (others at most {NOISY:.0%} of a core), so the "
            f"medians are over all of them: {', '.join(noisy)}"
        )
    return lines


def label(name: str, result: Mapping[str, Any]) -> str:
    """Name a row, with the version where it is a peer's."""
    return f"{name} {result['versions'][name].get(name, '')}" if name in PEERS else f"ours {name}"


def ratio(peer: Mapping[str, float], ours: Mapping[str, float], name: str) -> str:
    """Peer over ours, or the other way round where more is better."""
    above, below = (ours, peer) if name == "tokens_per_s" else (peer, ours)
    return f"{above[name] / below[name]:.2f}" if below[name] > 0 else "-"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.8m", "30m", "134m"])
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["trl"])
    parser.add_argument("--updates", type=int, default=3, help="after the one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--wait", type=float, default=10.0, help="seconds to wait for a quiet machine, each time"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="results as JSON, with every sample")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache", help="for the models")
    parser.add_argument("--trl_python", type=Path, default=HERE / ".venv-trl/bin/python")
    parser.add_argument("--lf_python", type=Path, default=HERE / ".venv-lf/bin/python")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
