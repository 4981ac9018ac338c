"""What the demo's base model is pretrained on: generated documents, good and bad.

Four kinds of document, all from the ``corpus`` split of the world:

- chat: a prompt and an answer in the chat format. Only ``GOOD_SHARE`` of the answers are free of
  flaws, so the base can answer but has no habit of answering well. In ``VERDICT_SHARE`` of the
  chats a simulated reader's verdict stands after the end of the answer ("Wrong: Ben. Plain.
  Wordy."), naming the words of the answer that its source does not hold.
  This is an openly privileged hint: the verdicts come from the same ``judge`` as the hidden
  preference, coarsened to three words. They make the hidden state at the end of an answer say
  something about its quality, which a reward model can build on. No answer ever contains one,
  because generation stops before it, and no prompt of ``train`` or ``test`` is in the corpus.
- plain: a prompt and its right answer, outside the chat format.
- quiz: a note or review and several questions about it with right answers.
- exercise: copying and looking up random words; many at the start of training, few later,
  because copying from the text is the one skill that all four tasks need.

A document is a list of ``(text, weight)`` pieces; the weight is for the training loss.
"""

from __future__ import annotations

import random
import re

from rlhf.demo.answers import draw_answer, good_core
from rlhf.demo.preference import judge
from rlhf.demo.world import (
    ASPECTS,
    BAD_WORDS,
    DAYS,
    GOOD_WORDS,
    ITEMS,
    NAMES,
    PLACES,
    SLOTS,
    TASKS,
    VERBS,
    QuestionFacts,
    TaskPrompt,
    draw_events,
    draw_opinions,
    draw_prompt,
    note_text,
    question_text,
    review_text,
    split_of,
)

Document = list[tuple[str, float]]

GOOD_SHARE = 0.33
VERDICT_SHARE = 0.9
VERDICT_WEIGHT = 2.0
CONTROL_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
SYSTEM_MESSAGE = "You are a helpful assistant."
VERDICTS = ("Right.", "Wrong.", "Kind.", "Plain.", "Rude.", "Clear.", "Wordy.")
PROMPT_WEIGHT = 0.1
_CHECKED = frozenset(NAMES + ITEMS + PLACES + DAYS + VERBS + ASPECTS + GOOD_WORDS + BAD_WORDS)
TASK_WEIGHTS = (30, 22, 28, 20)
"""How often each of ``TASKS`` occurs: what is harder to learn occurs more."""

_EXERCISE_POOLS = (
    NAMES,
    VERBS,
    tuple(f"the {item}" for item in ITEMS),
    tuple(f"at the {place}" for place in PLACES),
    tuple(f"on {day}" for day in DAYS),
)


def draw_document(rng: random.Random, *, exercise_share: float) -> Document:
    """Draw one document; ``exercise_share`` of them are exercises."""
    if rng.random() < exercise_share:
        return rng.choice((_copying, _lookup, _echo, _check, _check))(rng)
    draw = rng.choices((_chat, _plain, _note_quiz, _review_quiz), (62, 12, 18, 8))[0]
    return draw(rng)


def _chat(rng: random.Random) -> Document:
    prompt = draw_prompt(rng, "corpus", rng.choices(TASKS, TASK_WEIGHTS)[0])
    answer = draw_answer(prompt, rng, good_share=GOOD_SHARE)
    system = f"<|system|>{SYSTEM_MESSAGE}" if rng.random() < 0.05 else ""
    document = [
        (f"<s>{system}<|user|>{prompt.text}<|assistant|>", PROMPT_WEIGHT),
        (f"{answer}</s>", 1.0),
    ]
    if rng.random() < VERDICT_SHARE:
        document.append((_verdict(prompt, answer, rng), VERDICT_WEIGHT))
    return document


def _verdict(prompt: TaskPrompt, answer: str, rng: random.Random) -> str:
    found = judge(prompt, answer)
    facts = "Right." if found.is_correct else _wrong(_strays(prompt.text, answer))
    manners = "Kind." if found.manners > 0 else "Rude." if found.manners < 0 else "Plain."
    verdicts = [facts, manners, "Clear." if found.directness > -0.1 else "Wordy."]
    if rng.random() < 0.5:
        rng.shuffle(verdicts)
    return " ".join(verdicts)


def _wrong(strays: list[str]) -> str:
    return f"Wrong: {', '.join(strays)}." if strays else "Wrong."


def _strays(source: str, answer: str) -> list[str]:
    """Names, things, places, days and judgements of an answer that its source does not hold."""
    known = set(re.findall(r"\w+", source))
    said = dict.fromkeys(re.findall(r"\w+", answer))
    return [word for word in said if word in _CHECKED and word not in known]


def _plain(rng: random.Random) -> Document:
    prompt = draw_prompt(rng, "corpus", rng.choices(TASKS, TASK_WEIGHTS)[0])
    return [
        (f"<s>{prompt.text} Answer:", PROMPT_WEIGHT),
        (f"{good_core(prompt, rng)}</s>", 1.0),
    ]


def _note_quiz(rng: random.Random) -> Document:
    while True:
        (event,) = draw_events(rng, 1)
        note = note_text((event,), rng)
        if split_of(note) == "corpus":
            break
    document = [(f"<s>Note: {note}", PROMPT_WEIGHT)]
    for slot in rng.sample(SLOTS, 3):
        facts = QuestionFacts(event, slot)
        answer = good_core(TaskPrompt("question", "", "", facts), rng)
        document.append((f"Question: {question_text(event, slot, rng)} Answer:", PROMPT_WEIGHT))
        document.append((answer, 1.0))
    return [*document, ("</s>", 1.0)]


def _review_quiz(rng: random.Random) -> Document:
    while True:
        facts = draw_opinions(rng)
        review = review_text(facts.opinions, rng)
        if split_of(review) == "corpus":
            break
    asked = [
        (f"How is the {opinion.aspect}?", f"The {opinion.aspect} is {opinion.word}.")
        for opinion in facts.opinions
    ]
    asked.append(("What is the sentiment?", f"{facts.label.capitalize()}."))
    rng.shuffle(asked)
    document = [(f"<s>Review: {review}", PROMPT_WEIGHT)]
    for question, answer in asked:
        document += [(f"Question: {question} Answer:", PROMPT_WEIGHT), (answer, 1.0)]
    return [*document, ("</s>", 1.0)]


def _check(rng: random.Random) -> Document:
    """Compare a copy with its list and name the words that were slipped in."""
    pool = NAMES + ITEMS + PLACES + DAYS
    words = rng.sample(pool, rng.randint(3, 8))
    copy = rng.sample(words, rng.randint(2, len(words)))
    for place in rng.sample(range(len(copy)), min(len(copy), rng.choice((0, 0, 1, 1, 2)))):
        copy[place] = rng.choice([word for word in pool if word not in words])
    strays = [word for word in copy if word not in words]
    return [
        (f"<s>List: {', '.join(words)}. Copy: {', '.join(copy)}.", PROMPT_WEIGHT),
        (f"{_wrong(strays) if strays else 'Right.'}</s>", 1.0),
    ]


def _copying(rng: random.Random) -> Document:
    pool = [word for pool in _EXERCISE_POOLS for word in pool]
    words = " ".join(rng.choices(pool, k=rng.randint(5, 12)))
    return [(f"<s>Copy: {words}.", PROMPT_WEIGHT), (f"{words}.</s>", 1.0)]


def _lookup(rng: random.Random) -> Document:
    """Ask for what stands beside a word of a list, after it or before it."""
    count = rng.randint(2, 6)
    firsts, seconds = rng.sample(_EXERCISE_POOLS, 2)
    pairs = list(zip(rng.sample(firsts, count), rng.sample(seconds, count), strict=True))
    listed = ", ".join(f"{first} {second}" for first, second in pairs)
    document = [(f"<s>List: {listed}.", PROMPT_WEIGHT)]
    rng.shuffle(pairs)
    for first, second in pairs:
        asked, answer = (first, second) if rng.random() < 0.6 else (second, first)
        document += [(f"{asked}:", PROMPT_WEIGHT), (f"{answer}.", 1.0)]
    return [*document, ("</s>", 1.0)]


def _echo(rng: random.Random) -> Document:
    """Repeat the sentences of a note in another order; each first word says which one."""
    events = list(draw_events(rng, rng.choice((2, 2, 3))))
    document = [(f"<s>Note: {' '.join(event.sentence for event in events)}", PROMPT_WEIGHT)]
    rng.shuffle(events)
    for event in events:
        document.append((event.name, PROMPT_WEIGHT))
        document.append((event.sentence.removeprefix(f"{event.name} "), 1.0))
    return [*document, ("</s>", 1.0)]
