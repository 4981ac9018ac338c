"""Two processes do what one does: same completions sampled, same parameters afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
REWARD = """
def count_good(prompts, completions):
    return [float(text.split().count("good")) for text in completions]
"""


def launch(processes, script, *flags):
    """Run a stage script as so many processes (gloo)."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)),
        *("--master_port", "29531"),
        *(str(ROOT / "stages" / script), *flags),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[:3000]


def samples(run):
    """What was sampled, after a look at how many processes did it."""
    assert json.loads((run / "run.json").read_text())["processes"] == int(run.name)
    rows = (run / "samples.jsonl").read_text().splitlines()
    return [(json.loads(row)["step"], json.loads(row)["completion"]) for row in rows]


@pytest.mark.slow
def test_ppo(tiny, tmp_path, write_rows):
    (tmp_path / "rewards.py").write_text(REWARD)
    prompts = write_rows("prompts.jsonl", [{"prompt": f"{x} {y}"} for x in "abcd" for y in "efgh"])
    flags = {
        "model_name_or_path": tiny,
        "train_file": prompts,
        "reward_function": f"{tmp_path / 'rewards.py'}:count_good",
        "max_steps": 3,
        "rollout_batch_size": 8,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "per_device_train_batch_size": 2,
        "max_new_tokens": 6,
        "warmup_steps": 0,
        "learning_rate": 1e-3,
        "value_learning_rate": 1e-3,
        "adapter.r": 4,
        "adapter.lora_alpha": 8,
    }
    for processes in (1, 2):
        output = tmp_path / str(processes)
        pairs = [(f"--{name}", str(value)) for name, value in flags.items()]
        launch(processes, "ppo.py", "--output_dir", str(output), *(x for p in pairs for x in p))
    assert samples(tmp_path / "1") == samples(tmp_path / "2")
    for name in ("policy", "value", "value_head"):
        one, two = (
            load_file(tmp_path / str(p) / "checkpoints" / "step-3" / f"{name}.safetensors")
            for p in (1, 2)
        )
        for key, expected in one.items():
            torch.testing.assert_close(two[key], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_reward(tiny, tmp_path, write_rows):
    rows = [
        {"prompt": f"{x} {y}", "completions": ["good", "bad", "good bad"], "ranks": [1, 3, 2]}
        for x in "abcd"
        for y in "efgh"
    ]
    flags = {
        "model_name_or_path": tiny,
        "rankings": write_rows("rankings.jsonl", rows),
        "eval_fraction": 0.2,
        "learning_rate": 1e-3,
        "adapter.r": 4,
        "adapter.lora_alpha": 8,
    }
    pairs = [x for name, value in flags.items() for x in (f"--{name}", str(value))]
    for processes, size in ((1, 4), (2, 2)):
        output = tmp_path / str(processes)
        launch(
            processes,
            "reward.py",
            *("--output_dir", str(output), "--per_device_train_batch_size", str(size)),
            *pairs,
        )
        assert json.loads((output / "run.json").read_text())["processes"] == processes
    one, two = (
        load_file(tmp_path / p / "adapter" / "adapter_model.safetensors") for p in ("1", "2")
    )
    for key, expected in one.items():
        torch.testing.assert_close(two[key], expected, rtol=0, atol=1e-5)
