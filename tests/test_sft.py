"""The SFT stage on the tiny model."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config import AdapterConfig, SFTConfig
from rlhf.data.chat import ChatFormat
from rlhf.errors import DataError, TrainingError
from rlhf.inference import Policy
from rlhf.model.base import load_base, resolve_model
from rlhf.records import Demonstration, Prompt
from rlhf.sft import SFTStage, _tokenize


@pytest.fixture
def config(tiny, tmp_path, write_rows):
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    demos = [
        {"prompt": f"{x} {y}", "completion": f"{y} {x} good", "task": "swap"}
        for x in words
        for y in words
    ]
    return SFTConfig(
        model_name_or_path=str(tiny),
        train_file=write_rows("demos.jsonl", demos),
        output_dir=str(tmp_path / "sft"),
        adapter=AdapterConfig(r=8, lora_alpha=16),
        learning_rate=2e-2,
        num_train_epochs=6,
        per_device_train_batch_size=8,
        eval_fraction=0.2,
    )


def test_the_loss_is_on_the_completion_and_its_end_token(tiny):
    base = load_base(resolve_model(str(tiny)), dtype="float32", device=torch.device("cpu"))
    chat = ChatFormat.of(base.tokenizer, base.model)
    rows = _tokenize([Demonstration(Prompt.parse("a b"), "good c")], chat)
    # <s> <user> a b <asst> | good c </s>
    assert rows["input_ids"][0] == [1, 3, 6, 7, 4, 26, 8, 2]
    assert rows["labels"][0] == [-100] * 5 + [26, 8, 2]


def test_it_learns_and_leaves_a_folded_base_that_is_the_policy(config, tiny):
    result = SFTStage(config).run()
    first = json.loads((result.output_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss/train"] > 2.5
    assert result.train_loss < 1.5
    assert result.eval_loss < 2.0
    run = json.loads((result.output_dir / "run.json").read_text())
    assert result.steps == 6 * math.ceil(run["counts"]["train"] / 8)
    # Folded base against base + adapter, in float32.
    from rlhf.model.adapters import attach_saved

    ids = torch.tensor([[1, 3, 6, 7, 4]])
    folded = AutoModelForCausalLM.from_pretrained(result.model, dtype=torch.float32)
    adapted = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    before = adapted(ids).logits.detach()
    attach_saved(adapted, result.adapter)
    with torch.no_grad():
        torch.testing.assert_close(folded(ids).logits, adapted(ids).logits, rtol=0, atol=1e-4)
    assert (before - folded(ids).logits).abs().max() > 0.1
    policy = Policy.load(str(result.output_dir), dtype="float32")
    assert policy.roles.base.fingerprint == result.base_fingerprint
    texts = policy.complete([Prompt.parse("a b")], max_new_tokens=6, temperature=1.0, keys=None)
    assert next(texts).endswith("good")


def test_a_diverged_run_is_refused_not_saved(config):
    import dataclasses

    with pytest.raises(TrainingError, match="the loss became nan; lower learning_rate"):
        SFTStage(dataclasses.replace(config, learning_rate=1e30, max_steps=6)).run()
    assert not (Path(config.output_dir) / "model").exists()


def test_prompts_as_long_as_the_model_lose_no_run(config, write_rows):
    """The tiny model has 128 positions; its rotary ones go on, but no sample is taken there."""
    import dataclasses

    rows = [{"prompt": " ".join("abcd"[i % 4] * 130), "completion": "good"} for i in range(8)]
    rows = [{**row, "prompt": f"{row['prompt']} {'efghijkl'[i]}"} for i, row in enumerate(rows)]
    long = dataclasses.replace(
        config, train_file=write_rows("long.jsonl", rows), max_steps=1, eval_fraction=0.0
    )
    result = SFTStage(long).run()
    assert result.model.is_dir()
    assert (result.output_dir / "samples.jsonl").read_text() == ""


def test_few_log_rows_do_not_matter(config):
    import dataclasses

    result = SFTStage(dataclasses.replace(config, max_steps=3, logging_steps=50)).run()
    assert result.steps == 3
    assert math.isfinite(result.train_loss)


def test_a_demonstration_too_long_is_refused(config):
    import dataclasses

    with pytest.raises(DataError, match="64 of 64 demonstrations have more than max_length 6"):
        SFTStage(dataclasses.replace(config, max_length=6)).run()
