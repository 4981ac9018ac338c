"""The demo's tokenizer: nothing is lost, nothing is unknown, and the template is a prefix."""

import pytest

from rlhf.demo import corpus, data
from rlhf.demo.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_world_text_survives_and_every_word_is_one_token(tokenizer):
    for demonstration in data.demonstrations(200, 0, split="test", good_share=0.5):
        for text in (demonstration.prompt.text, demonstration.completion):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert len(ids) == len(
                tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
                    tokenizer.backend_tokenizer.normalizer.normalize_str(text)
                )
            )


@pytest.mark.parametrize(
    "text",
    [
        "Zebra crossings, don't  panic!",
        " spaces around ",
        "naïve café ☕\n12,5\tpct",
        "",
        "▁?a"[1:],
    ],
)
def test_any_other_text_survives_too(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_word_is_spelt_by_letters(tokenizer):
    assert tokenizer.tokenize("zebra") == ["▁", "z", "e", "b", "r", "a"]


def test_special_tokens_are_distinct_and_single(tokenizer):
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    ids |= set(tokenizer.convert_tokens_to_ids(list(corpus.CONTROL_TOKENS)))
    assert len(ids) == 6
    assert len(tokenizer.encode("<|user|>")) == 1


def test_plain_encoding_adds_no_token(tokenizer):
    assert tokenizer.bos_token_id not in tokenizer.encode("Anna left the lamp.")


def test_the_template_ends_turns_and_the_prompt_is_a_prefix(tokenizer):
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Sure!"},
        {"role": "user", "content": "Who left the lamp?"},
    ]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<s><|system|>Be kind.<|user|>Hello.<|assistant|>Sure!</s>"
        "<|user|>Who left the lamp?<|assistant|>"
    )
    whole = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": "Anna."}], tokenize=False
    )
    assert whole == prompt + "Anna.</s>"


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for prompt in data.prompts(20, 0):
        assert loaded.encode(prompt.text) == tokenizer.encode(prompt.text)
        assert loaded.decode(loaded.encode(prompt.text)) == prompt.text
    assert loaded.chat_template == tokenizer.chat_template
