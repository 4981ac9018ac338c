"""The shipped base model: it loads plainly, answers in the chat format, and ends its answers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlhf.demo
from rlhf.demo import corpus, data, preference
from rlhf.demo.build_base import BuildConfig, batches, exercise_share, weighted_loss

BASE = Path(rlhf.demo.__file__).parent / "base"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def answered(model, tokenizer):
    """Forty held-out prompts with the base's greedy answers, special tokens kept."""
    drawn = data.prompts(40, 123, split="test")
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.text}], tokenize=False, add_generation_prompt=True
        )
        for prompt in drawn
    ]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    out = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        do_sample=False,
        max_new_tokens=48,
    )
    return drawn, tokenizer.batch_decode(out[:, encoded["input_ids"].shape[1] :])


def test_the_base_is_small_enough_to_ship():
    files = [path for path in BASE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert "build.json" in {path.name for path in files}


def test_generation_config_holds_no_sampling_leftovers():
    stored = json.loads((BASE / "generation_config.json").read_text())
    assert not {"top_k", "top_p", "temperature", "do_sample"} & set(stored)


def test_embeddings_are_tied_and_cover_the_vocabulary(model, tokenizer):
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.vocab_size == len(tokenizer)
    assert 1e6 <= model.num_parameters() <= 4e6


def test_greedy_answers_end_and_hold_no_verdict(answered):
    _, texts = answered
    ended = [text.split("</s>")[0] for text in texts if "</s>" in text]
    assert len(ended) >= 38
    assert not any(verdict in text for text in ended for verdict in corpus.VERDICTS)


def test_greedy_answers_mostly_have_their_facts_right(answered):
    drawn, texts = answered
    correct = [
        preference.is_correct(prompt, text.split("</s>")[0])
        for prompt, text in zip(drawn, texts, strict=True)
    ]
    assert sum(correct) >= 0.7 * len(correct)


def test_batches_repeat_with_the_seed_and_weigh_nothing_at_padding(tokenizer):
    config = BuildConfig(steps=2, tokens_per_batch=512)
    first, again = list(batches(tokenizer, config)), list(batches(tokenizer, config))
    for batch, other in zip(first, again, strict=True):
        assert torch.equal(batch.input_ids, other.input_ids)
        assert not batch.weights[batch.input_ids == tokenizer.pad_token_id].any()


def test_the_loss_weighs_tokens(model):
    ids = torch.tensor([[1, 5, 7, 9]])
    with torch.no_grad():
        both = weighted_loss(model, ids, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
        parts = [
            weighted_loss(model, ids, torch.tensor([row]))
            for row in ([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0])
        ]
    assert both == pytest.approx(float(sum(parts)) / 2, abs=1e-5)


def test_exercises_become_rare():
    assert exercise_share(0.0) > exercise_share(0.3) > exercise_share(1.0) > 0
