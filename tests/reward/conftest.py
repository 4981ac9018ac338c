"""Reward runs made in process, every parameter at random, so that nothing is trained."""

from pathlib import Path

import pytest
import torch
from model.families import CPU, make_family, randomize
from tiny_model import make_tokenizer

from rlhf.config import AdapterConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.model.base import load_base, resolve_model
from rlhf.model.roles import Roles
from rlhf.reward import RewardModel
from rlhf.runs import RunFolder


@pytest.fixture
def make_base(tmp_path):
    """Write a base of a family and give its folder."""

    def make(family="llama", tokenizer=None, name="base", **settings) -> Path:
        folder = tmp_path / name
        make_family(family, **settings).save_pretrained(folder)
        (tokenizer or make_tokenizer()).save_pretrained(folder)
        return folder

    return make


def open_base(base, *run_folders):
    """A base with reward runs on it."""
    loaded = load_base(resolve_model(str(base)), dtype="float32", device=CPU)
    roles, chat = Roles(loaded), ChatFormat.of(loaded.tokenizer, loaded.model)
    return [
        RewardModel.load(folder, roles, chat, role=f"reward_{number}")
        for number, folder in enumerate(run_folders)
    ]


@pytest.fixture
def make_run(tmp_path):
    """Write a finished reward run on a base; give its folder."""

    def make(base, name="reward", *, seed=0, mean=0.7, std=1.9, targets="all-linear") -> Path:
        folder = tmp_path / name
        config = RewardConfig(
            model_name_or_path=str(base), rankings="rankings.jsonl", output_dir=str(folder)
        )
        loaded = load_base(resolve_model(str(base)), dtype="float32", device=CPU)
        roles, chat = Roles(loaded), ChatFormat.of(loaded.tokenizer, loaded.model)
        adapter = AdapterConfig(r=2, lora_alpha=4, target_modules=targets)
        roles.add("reward", adapter, trainable=True, seed=seed)
        randomize(roles, "reward")
        model = RewardModel(roles, chat)
        rng = torch.Generator().manual_seed(seed)
        model.head.weight.data = torch.randn(model.head.weight.shape, generator=rng) * 0.3
        model.head.normalize(mean, std)
        with RunFolder(folder, "reward", config):
            model.save(folder / "adapter")
        return folder

    return make


@pytest.fixture
def load_models():
    """Give the ``RewardModel`` of each run folder, on one base."""
    return open_base
