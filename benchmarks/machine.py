"""What this machine gives, and the least time that a PPO update could take on it.

    python benchmarks/machine.py [--sizes 0.8m 30m 134m] [--threads 2]

Measures matrix products at the shapes of the job and memory bandwidth, and divides the work that
``flops.py`` counts by them. Nothing of the library runs here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from driver import Load, command_line, machine, table
from flops import Work, layer_maps, update_work
from job import JOB, SIZES, Shape
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROWS = (JOB.minibatch * (JOB.prompt_tokens + JOB.completion_tokens), JOB.sequences)
"""Rows of a training step's products, and of a decoding step's."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The fastest way to multiply."""

    flops: float
    """FLOP per second over a layer's maps and the output head."""
    by: str


def main() -> None:
    """Measure and print."""
    given = arguments()
    torch.set_num_threads(given.threads)
    load = Load()
    report: dict[str, Any] = {
        "command": command_line(),
        "machine": machine(),
        "torch": torch.__version__,
        "threads": given.threads,
        "bandwidth": {"read": read_rate(2**28), "copy": copy_rate(2**28)},
        "sizes": {},
    }
    print(f"command: {report['command']}")
    print("machine: " + ", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(f"torch {torch.__version__}, {given.threads} threads")
    bandwidth = {name: f"{rate / 1e9:.1f} GB/s" for name, rate in report["bandwidth"].items()}
    print(f"memory: read {bandwidth['read']}, copy {bandwidth['copy']} (buffers of 268 MB)")
    for size in given.sizes:
        rows, facts = size_floors(SIZES[size])
        report["sizes"][size] = facts
        print(f"\n{size}\n{table(rows)}", flush=True)
    report["others"] = load.others()
    print(f"\nother processes used {report['others']:.0%} of a core meanwhile")
    if given.output is not None:
        given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def size_floors(shape: Shape) -> tuple[list[list[str]], dict[str, Any]]:
    """Rates of one model's shapes and the floors of all modes, as a table and as numbers."""
    head = ["seconds per update", "rollout", "scoring", "optimisation", "total"]
    head += [f"GFLOP/s at {rows} rows" for rows in ROWS] + ["read GB/s"]
    lines, facts = [head], {}
    for name, dtype in DTYPES.items():
        wide, narrow = (product_rate(shape, rows, dtype) for rows in ROWS)
        for value in ("adapter", "shared"):
            work = update_work(
                shape, JOB, weight_bytes=dtype.itemsize, shared_value=value == "shared"
            )
            # Weights that fit into a cache are read faster than memory.
            read = read_rate(round(work.decode_bytes))
            floor = floors(work, wide=wide.flops, narrow=narrow.flops, read=read)
            facts[f"{name}-{value}"] = {
                "work": asdict(work),
                "floors": floor,
                "products": {rows: asdict(r) for rows, r in zip(ROWS, (wide, narrow), strict=True)},
                "read": read,
            }
            cells = [f"{floor[phase]:.3f}" for phase in head[1:5]]
            rates = [f"{rate.flops / 1e9:.0f} ({rate.by})" for rate in (wide, narrow)]
            lines.append([f"{name}-{value}", *cells, *rates, f"{read / 1e9:.1f}"])
    return lines, facts


def floors(work: Work, *, wide: float, narrow: float, read: float) -> dict[str, float]:
    """Least seconds of each phase.

    Args:
        work: From ``update_work``.
        wide: FLOP/s of products with as many rows as a training step has.
        narrow: FLOP/s of products with as many rows as a decoding step has.
        read: Bytes per second.
    """
    step = max(work.decode_bytes / read, work.decode / narrow)
    found = {
        "rollout": work.prefill / wide + work.decode_steps * step,
        "scoring": work.scoring / wide,
        "optimisation": work.optimisation / wide,
    }
    return {**found, "total": sum(found.values())}


def product_rate(shape: Shape, rows: int, dtype: torch.dtype) -> Rate:
    """Multiply through every path that torch has; give the fastest over the model's maps."""
    counts: dict[tuple[int, int], int] = {}
    for widths in layer_maps(shape):
        counts[widths] = counts.get(widths, 0) + shape.layers
    counts[shape.hidden, shape.vocab] = 1
    flops = sum(2 * rows * i * o * count for (i, o), count in counts.items())
    found = []
    for by, prepare in PATHS.items():
        try:
            seconds = sum(
                count * best_seconds(prepare(*_operands(rows, *widths, dtype)))
                for widths, count in counts.items()
            )
        except (AttributeError, RuntimeError):
            continue  # this torch or this CPU lacks the path
        found.append(Rate(flops / seconds, by))
    return max(found, key=lambda rate: rate.flops)


def _operands(rows: int, i: int, o: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, i).to(dtype), torch.randn(o, i).to(dtype)


def _default(x: Tensor, weight: Tensor) -> Callable[[], object]:
    return lambda: F.linear(x, weight)


def _onednn(x: Tensor, weight: Tensor) -> Callable[[], object]:
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda: linear(x, weight, None, "none", [], "")


def _onednn_packed(x: Tensor, weight: Tensor) -> Callable[[], object]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to_mkldnn(), x.shape[0])
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda: linear(x, packed, None, "none", [], "")


PATHS = {"torch": _default, "onednn": _onednn, "onednn packed": _onednn_packed}


def read_rate(size: int) -> float:
    """Bytes per second when summing a buffer of so many bytes again and again."""
    buffer = torch.ones(max(1, size // 4))
    return buffer.numel() * 4 / best_seconds(buffer.sum)


def copy_rate(size: int) -> float:
    """Bytes read and written per second when copying a buffer of so many bytes."""
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2 * size / best_seconds(lambda: target.copy_(source))


@torch.no_grad()
def best_seconds(action: Callable[[], object], *, seconds: float = 0.1) -> float:
    """Shortest of several timings, each long enough for the clock."""
    action()
    started = time.perf_counter()
    action()
    repeats = max(1, round(2e-3 / max(1e-7, time.perf_counter() - started)))
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline or best == float("inf"):
        started = time.perf_counter()
        for _ in range(repeats):
            action()
        best = min(best, (time.perf_counter() - started) / repeats)
    return best


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.8m", "30m", "134m"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
