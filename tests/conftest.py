"""Fixtures: a tiny model on disk and rows in files; no network."""

import json
from pathlib import Path

import pytest
import torch
from tiny_model import make_model, make_tokenizer


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of a two-layer Llama with a chat template."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSONL and give the path."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
