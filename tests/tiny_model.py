"""A two-layer Llama and its word-level tokenizer, made in process."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [chr(ord("a") + i) for i in range(20)] + ["good", "bad", "hello", "world"]
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<asst>' + m['content'] + '</s>' }}{% else %}{{ '<user>' + m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<asst>' }}{% endif %}"
)


def make_tokenizer():
    special = ["<pad>", "<s>", "</s>", "<user>", "<asst>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<asst>"],
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(seed=0, **overrides):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | overrides)).eval()
