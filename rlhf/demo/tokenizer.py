"""The demo's tokenizer: one token per word or set phrase of its world, characters for the rest.

A word carries the space before it (``▁lamp``), as in Llama's tokenizers. A word that the world
does not know is spelt by single characters, and what is not ASCII by bytes, so there is no
unknown token and every text survives encoding and decoding. The phrases that carry one fact
("the lamp", "at the park", "on Monday", "is great") are one token each: with function words in
between, a model of this size does not learn within minutes which fact belongs to which. No
beginning-of-text token is added by ``encode``; the chat template writes it.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.demo import answers, corpus, world

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPACE = "▁"
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] + eos_token -}}"
    "{%- elif message['role'] == 'system' -%}"
    "{{- '<|system|>' + message['content'] -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '<|user|>' + message['content'] -}}"
    "{%- else -%}"
    "{{- raise_exception('the demo model knows no role ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
MAX_LENGTH = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer from the world's own words; the same on every machine."""
    pieces = [PAD, BOS, EOS, *corpus.CONTROL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [character for character in string.printable if not character.isspace()]
    pieces += [SPACE, "\n", "\t", *letters, *(SPACE + word for word in sorted(_world_words()))]
    phrases = [SPACE + phrase.replace(" ", SPACE) for phrase in _phrases()]
    pieces += phrases
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    # A phrase, a word with its space, or one character of anything else (punctuation, digits).
    pattern = Regex(
        f"(?:{'|'.join(phrases)})(?![A-Za-z])|{SPACE}?[A-Za-z]+|{SPACE}|[^A-Za-z{SPACE}]"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(corpus.CONTROL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )


def _phrases() -> list[str]:
    """List the phrases that are one token each."""
    return [
        *(f"the {item}" for item in world.ITEMS),
        *(f"at the {place}" for place in world.PLACES),
        *(f"on {day}" for day in world.DAYS),
        *(f"is {word}" for word in world.GOOD_WORDS + world.BAD_WORDS),
    ]


def _world_words() -> set[str]:
    """Collect every word that the world writes."""
    pools: Iterable[Iterable[str]] = (
        *(world.NAMES, world.ITEMS, world.PLACES, world.DAYS, world.VERBS),
        *(world.BASE_FORMS.values(), world.FILLERS, world.ASPECTS, world.LABELS),
        *(world.GOOD_WORDS, world.BAD_WORDS, world.REMEDIES, world.REMEDIES.values()),
        *(answers.OPENERS, answers.CLOSINGS, answers.RUDE, answers.FLUFF),
        *(answers.OFF_TOPIC, answers.FOBBED_OFF, corpus.VERDICTS),
    )
    words = {word for pool in pools for text in pool for word in re.findall(r"[A-Za-z]+", text)}
    # Wordings and sentence frames live in functions: a fixed draw of documents holds them all.
    rng = random.Random("tokenizer")
    for _ in range(3000):
        for text, _weight in corpus.draw_document(rng, exercise_share=0.2):
            words |= set(re.findall(r"[A-Za-z]+", re.sub(r"<[^>]*>", " ", text)))
    return words
