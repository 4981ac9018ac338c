"""Does our PPO learn what TRL's learns? Reward and KL of both on the demo task, over seeds.

    rlhf demo
    python benchmarks/learning_vs_trl.py --demo runs/demo [--seeds 0 1 2] [--updates 40]

Both start from the demo's folded SFT base, with its prompts and its reward model, and take the
same number of updates with the same batch, clipping and KL coefficient. What differs:

- TRL trains a whole value model, with the policy's optimiser and learning rate
  (``--trl_learning_rate``); ours is an adapter with a learning rate of its own.
- TRL scores a completion that was cut off at its last token, ours at an end token put behind it;
  both take the same penalty off.
- TRL's warm-up begins at a learning rate of 0, ours at one step of it.

The values of both start as the reward model.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from driver import HERE, Worker, WorkerError, command_line, machine, note, table, worker_environment
from transformers import AutoModelForSequenceClassification

from rlhf.cli import quiet_libraries
from rlhf.data.chat import ChatFormat
from rlhf.data.readers import read_demonstrations, read_prompts
from rlhf.model.base import load_base, resolve_base
from rlhf.model.roles import Roles
from rlhf.reward import RewardModel
from rlhf.reward.export import export_classifier

CPU = torch.device("cpu")
PROBES = 32
TOLERANCE = 1e-4


def main() -> int:
    """Export the reward, run both over all seeds, print the comparison."""
    given = arguments()
    quiet_libraries()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = {"command": command_line(), "machine": machine(), "threads": given.threads}
    print(f"command: {report['command']}")
    print("machine: " + ", ".join(f"{key} {value}" for key, value in machine().items()))
    with tempfile.TemporaryDirectory(prefix="learning-") as scratch:
        settings = shared_settings(given) | export(given.demo, Path(scratch))
        runs: dict[str, list[list[dict[str, Any]]]] = {"ours": [], "trl": []}
        versions = {}
        try:
            for seed in given.seeds:
                for name, finished in runs.items():
                    versions[name], rows = run(name, settings | {"seed": seed}, given, scratch)
                    finished.append(rows)
        except WorkerError as error:
            note(f"error: {error}")
            return 1
    print("\n".join(describe(runs, given.seeds, trl=versions["trl"]["trl"])))
    if given.output is not None:
        report |= {"settings": settings, "seeds": given.seeds, "versions": versions, "runs": runs}
        given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def shared_settings(given: argparse.Namespace) -> dict[str, Any]:
    """What both sides are told; like the demo's own PPO run where there is no flag."""
    return {
        "base": str(resolve_base(str(given.demo / "sft")).base),
        "prompts": str(given.demo / "prompts_ppo.jsonl"),
        "reward": str(given.demo / "reward"),
        "updates": given.updates,
        "kl_coef": given.kl_coef,
        "learning_rate": given.learning_rate,
        "value_learning_rate": given.value_learning_rate,
        "trl_learning_rate": given.trl_learning_rate,
        "value": given.value,
        "rollout_batch_size": given.rollout_batch_size,
        "minibatches": 4,
        "epochs": 2,
        "max_new_tokens": 48,
        "missing_eos_penalty": 2.0,
        "cliprange_value": 0.5,
        "warmup_steps": 5,
        "lora_rank": 16,
        "lora_alpha": 32,
    }


def export(demo: Path, scratch: Path) -> dict[str, Any]:
    """Write the prompts' ids and the reward model as a sequence classifier; check its scores."""
    source = resolve_base(str(demo / "sft"))
    base = load_base(source, dtype="float32", device=CPU)
    chat = ChatFormat.of(base.tokenizer, base.model)
    prompts = read_prompts(str(demo / "prompts_ppo.jsonl"))
    ids = [chat.encode_prompt(prompt) for prompt in prompts]
    (scratch / "prompt_ids.json").write_text(json.dumps(ids))

    classifier, bias = normalised_classifier(demo / "reward", scratch)
    classifier.save_pretrained(scratch / "reward_export")
    written = read_demonstrations(str(demo / "demonstrations.jsonl"))[:PROBES]
    reward = RewardModel.load(demo / "reward", Roles(base), chat)
    rows = reward.encode_demonstrations(written)
    difference = largest_difference(classifier, bias, rows, reward.score(rows))
    print(f"reward export: largest difference of {len(rows)} scores {difference:.2g}")
    if difference > TOLERANCE:
        raise SystemExit(f"the exported reward model differs by {difference:.3g}")
    return {
        "prompt_ids": str(scratch / "prompt_ids.json"),
        "reward_export": str(scratch / "reward_export"),
        "score_bias": bias,
        "reward_difference": difference,
    }


def normalised_classifier(run_folder: Path, scratch: Path) -> tuple[Any, float]:
    """The exported reward run with its spread folded into the weights; and the bias it lacks."""
    exported = export_classifier(run_folder, scratch / "reward_raw")
    model = AutoModelForSequenceClassification.from_pretrained(
        exported.output_dir, dtype=torch.float32
    ).eval()
    constants = exported.normalization
    with torch.no_grad():
        model.score.weight.div_(constants.std)
    return model, -constants.mean / constants.std


@torch.no_grad()
def largest_difference(
    model: Any, bias: float, rows: Sequence[tuple[list[int], list[int]]], scores: torch.Tensor
) -> float:
    """Compare the classifier's scores with those of the reward role, row by row."""
    found = [
        float(model(input_ids=torch.tensor([[*prompt, *completion]])).logits) + bias
        for prompt, completion in rows
    ]
    return float((torch.tensor(found) - scores).abs().max())


def run(
    name: str, settings: Mapping[str, Any], given: argparse.Namespace, scratch: str
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """One PPO run of one implementation; give its versions and a row per update."""
    folder = Path(scratch) / f"{name}-{settings['seed']}"
    folder.mkdir()
    own = {**settings, "scratch": str(folder / "out")}
    (folder / "settings.json").write_text(json.dumps(own))
    interpreter = str(given.trl_python) if name == "trl" else sys.executable
    if not Path(interpreter).exists():
        raise WorkerError(f"{interpreter} is missing; make it with make bench-setup")
    command = [
        *(interpreter, str(HERE / f"learning_worker_{name}.py")),
        *("--folder", str(folder)),
        *("--updates", str(given.updates)),
        *("--threads", str(given.threads)),
        *("--device", "cpu"),
    ]
    environment = worker_environment(threads=given.threads, device="cpu")
    rows = []
    with Worker(f"{name} (seed {own['seed']})", command, environment, folder / "log") as worker:
        for update in range(given.updates):
            rows.append(worker.step())
            if (update + 1) % 10 == 0 or update + 1 == given.updates:
                last = rows[-1]
                note(
                    f"{worker.name}: update {update + 1} of {given.updates}, reward "
                    f"{last['reward']:.3f}, KL {last['kl']:.2f}, {last['total']:.2f} s"
                )
        return worker.facts["versions"], rows


def describe(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], seeds: Sequence[int], *, trl: str
) -> list[str]:
    """Final reward and KL of each run, then mean and spread over seeds."""
    finals = {name: [final(rows) for rows in finished] for name, finished in runs.items()}
    cells = [["last tenth of the updates", "reward", "KL (nats)", "first reward", "s per update"]]
    for name, results in finals.items():
        title = f"trl {trl}" if name == "trl" else name
        for seed, result in zip(seeds, results, strict=True):
            cells.append([f"{title}, seed {seed}", *(f"{result[key]:.3f}" for key in KEYS)])
        columns = [[result[key] for result in results] for key in KEYS]
        cells.append([f"{title}, mean ± sd", *(spread(column) for column in columns)])
    lines = ["", table(cells), ""]
    for key, what in (("reward", "reward"), ("kl", "KL")):
        ours, peer = ([result[key] for result in finals[name]] for name in ("ours", "trl"))
        error = math.sqrt(sum(variance(x) / len(x) for x in (ours, peer)))
        difference = statistics.mean(ours) - statistics.mean(peer)
        lines.append(f"{what}: ours - trl = {difference:+.3f}, standard error {error:.3f}")
    return lines


KEYS = ("reward", "kl", "first", "seconds")


def final(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the last tenth of the updates; over the first tenth for the start."""
    tenth = max(1, len(rows) // 10)
    return {
        "reward": statistics.mean(row["reward"] for row in rows[-tenth:]),
        "kl": statistics.mean(row["kl"] for row in rows[-tenth:]),
        "first": statistics.mean(row["reward"] for row in rows[:tenth]),
        "seconds": statistics.median(row["total"] for row in rows),
    }


def variance(numbers: Sequence[float]) -> float:
    """Sample variance; nan for a single number."""
    return statistics.variance(numbers) if len(numbers) > 1 else math.nan


def spread(numbers: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(numbers):.3f} ± {math.sqrt(variance(numbers)):.3f}"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="from rlhf demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rollout_batch_size", type=int, default=64)
    parser.add_argument("--kl_coef", type=float, default=0.05)
    parser.add_argument("--value", choices=("adapter", "shared"), default="adapter")
    parser.add_argument("--learning_rate", type=float, default=4e-4, help="of our policy")
    parser.add_argument("--value_learning_rate", type=float, default=8e-4, help="of our value")
    parser.add_argument(
        "--trl_learning_rate", type=float, default=4e-4, help="of TRL's policy and value model"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="results as JSON, with every update")
    parser.add_argument("--trl_python", type=Path, default=HERE / ".venv-trl/bin/python")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
