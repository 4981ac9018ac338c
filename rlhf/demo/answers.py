"""Reference answers of the demo's world: good ones, and ones with one of five known flaws.

Good answers vary on purpose (short or full, plain or courteous, with or without a needless
sentence), because people who write demonstrations do too; that leaves preference something to
choose. What an answer is worth is not decided here but read off its text by
``rlhf.demo.preference``.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

from rlhf.demo.world import (
    ASPECTS,
    BAD_WORDS,
    DAYS,
    GOOD_WORDS,
    ITEMS,
    LABELS,
    NAMES,
    PLACES,
    REMEDIES,
    VERBS,
    Event,
    Facts,
    Opinion,
    QuestionFacts,
    ReplyFacts,
    SentimentFacts,
    Slot,
    SummaryFacts,
    TaskPrompt,
)

Flaw = Literal["wrong_fact", "rude", "rambling", "off_topic", "too_short"]

FLAWS: tuple[Flaw, ...] = ("wrong_fact", "rude", "rambling", "off_topic", "too_short")
FLAW_WEIGHTS = (36, 20, 20, 12, 12)

OPENERS = ("Sure!", "Gladly.", "Happy to help.")
CLOSINGS = (
    "I hope this helps.",
    "Have a nice day.",
    "Thank you for asking.",
    "We wish you all the best.",
)
RUDE = (
    "What a stupid request.",
    "Stop bothering us.",
    "You are so annoying.",
    "Do not be lazy.",
    "This is boring nonsense.",
)
FLUFF = (
    "Let me think about this for a moment.",
    "There is a lot to say here.",
    "As everyone knows, life is full of surprises.",
    "I have read every word with much care.",
    "Many people would like to know that.",
)
OFF_TOPIC = (
    "My cousin likes long train rides.",
    "Rice tastes best with butter.",
    "The moon is far away tonight.",
    "Football fans sing very loudly.",
    "Cats sleep most of the time.",
)
FOBBED_OFF = ("No idea.", "See above.", "It depends.", "Yes.", "Okay.")


def good_answer(prompt: TaskPrompt, rng: random.Random) -> str:
    """Write an answer with the right facts; manners and brevity vary."""
    return _dress(prompt, _core(prompt.facts, rng), rng)


def good_core(prompt: TaskPrompt, rng: random.Random) -> str:
    """Write the right facts and nothing else."""
    return _core(prompt.facts, rng)


def flawed_answer(prompt: TaskPrompt, flaw: Flaw, rng: random.Random) -> str:
    """Write an answer that has the named flaw and is otherwise like a good one."""
    if flaw == "off_topic":
        return " ".join(rng.sample(OFF_TOPIC, rng.choice((1, 1, 2))))
    core = _core(corrupt(prompt.facts, rng) if flaw == "wrong_fact" else prompt.facts, rng)
    if flaw == "wrong_fact":
        return _dress(prompt, core, rng)
    if flaw == "rude":
        sentences = [core, rng.choice(RUDE)]
        rng.shuffle(sentences)
        return " ".join(sentences)
    if flaw == "too_short":
        words = core.split()
        cut = " ".join(words[: rng.randint(1, max(1, min(4, len(words) - 1)))])
        return cut.rstrip(".,:") if rng.random() < 0.5 else rng.choice(FOBBED_OFF)
    return _ramble(core, rng)


def draw_answer(prompt: TaskPrompt, rng: random.Random, *, good_share: float) -> str:
    """Write a good answer with probability ``good_share``, otherwise a flawed one."""
    if rng.random() < good_share:
        return good_answer(prompt, rng)
    return flawed_answer(prompt, rng.choices(FLAWS, FLAW_WEIGHTS)[0], rng)


def corrupt(facts: Facts, rng: random.Random) -> Facts:
    """Change one fact into a wrong one: swapped within the source, or drawn from its pool."""
    if isinstance(facts, SummaryFacts):
        return _corrupt_summary(facts, rng)
    if isinstance(facts, QuestionFacts):
        wrong = _other(_SLOT_POOLS[facts.slot], facts.event.slot(facts.slot), rng)
        return replace(facts, event=_with_slot(facts.event, facts.slot, wrong))
    if isinstance(facts, SentimentFacts):
        return _corrupt_sentiment(facts, rng)
    return _corrupt_reply(facts, rng)


def _ramble(core: str, rng: random.Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        return f"{core} {core}"
    if kind == 1:
        first, second = rng.sample(FLUFF, 2)
        return f"{first} {second} {core}" if rng.random() < 0.5 else f"{first} {core} {second}"
    return f"{core} {' '.join(rng.sample(OFF_TOPIC, 2))}"


def _dress(prompt: TaskPrompt, core: str, rng: random.Random) -> str:
    sentences = [core]
    if rng.random() < 0.35:
        sentences.insert(0, rng.choice(FLUFF))
    if rng.random() < 0.4:
        if prompt.task != "reply" and rng.random() < 0.5:
            sentences.insert(0, rng.choice(OPENERS))
        else:
            sentences.append(rng.choice(CLOSINGS))
    return " ".join(sentences)


def _core(facts: Facts, rng: random.Random) -> str:
    if isinstance(facts, SummaryFacts):
        return _summary(facts, rng)
    if isinstance(facts, QuestionFacts):
        return _question(facts, rng)
    if isinstance(facts, SentimentFacts):
        return _sentiment(facts, rng)
    return _reply(facts, rng)


def _summary(facts: SummaryFacts, rng: random.Random) -> str:
    with_place = rng.random() < 0.65
    clauses = [_clause(event, place=with_place) for event in facts.events]
    return f"{' and '.join(clauses)}."


def _clause(event: Event, *, place: bool = False, day: bool = False) -> str:
    where = f" at the {event.place}" if place else ""
    when = f" on {event.day}" if day else ""
    return f"{event.name} {event.verb} the {event.item}{where}{when}"


def _question(facts: QuestionFacts, rng: random.Random) -> str:
    event, slot = facts.event, facts.slot
    if rng.random() < 0.7:
        return f"{_clause(event, place=slot in ('where', 'when'), day=slot == 'when')}."
    return {
        "who": f"{event.name}.",
        "what": f"The {event.item}.",
        "where": f"At the {event.place}.",
        "when": f"On {event.day}.",
    }[slot]


def _sentiment(facts: SentimentFacts, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return f"{facts.label.capitalize()}."
    good = [opinion for opinion in facts.opinions if opinion.is_good]
    bad = [opinion for opinion in facts.opinions if not opinion.is_good]
    reasons = [rng.choice(side) for side in (good, bad) if side]
    because = " but ".join(f"the {reason.aspect} is {reason.word}" for reason in reasons)
    if kind < 0.65:
        return f"{facts.label.capitalize()}, because {because}."
    return f"The review is {facts.label}, because {because}."


def _reply(facts: ReplyFacts, rng: random.Random) -> str:
    if rng.random() < 0.35:
        return f"Dear {facts.name}, sorry about the {facts.item}. We will {facts.remedy}."
    return (
        f"Dear {facts.name}, we are sorry that the {facts.item} {facts.problem}. "
        f"We will {facts.remedy}."
    )


_SLOT_POOLS: dict[Slot, tuple[str, ...]] = {
    "who": NAMES,
    "what": ITEMS,
    "where": PLACES,
    "when": DAYS,
}
_EVENT_POOLS = {"name": NAMES, "verb": VERBS, "item": ITEMS, "place": PLACES}


def _other(pool: tuple[str, ...], right: str, rng: random.Random) -> str:
    return rng.choice([word for word in pool if word != right])


def _with_slot(event: Event, slot: Slot, word: str) -> Event:
    field = {"who": "name", "what": "item", "where": "place", "when": "day"}[slot]
    return replace(event, **{field: word})


def _corrupt_summary(facts: SummaryFacts, rng: random.Random) -> SummaryFacts:
    first, second = facts.events
    field = rng.choice(("name", "name", "item", "item", "verb"))
    if rng.random() < 0.2:
        swapped = replace(first, **{field: getattr(second, field)})
        return SummaryFacts((swapped, replace(second, **{field: getattr(first, field)})))
    position = rng.randrange(2)
    events = list(facts.events)
    wrong = _other(_EVENT_POOLS[field], getattr(events[position], field), rng)
    events[position] = replace(events[position], **{field: wrong})
    return SummaryFacts(tuple(events))


def _corrupt_sentiment(facts: SentimentFacts, rng: random.Random) -> SentimentFacts:
    if rng.random() < 0.6:
        return replace(facts, label=_other(LABELS, facts.label, rng))
    opinions = [_corrupt_opinion(opinion, facts, rng) for opinion in facts.opinions]
    return replace(facts, opinions=tuple(opinions))


def _corrupt_opinion(opinion: Opinion, facts: SentimentFacts, rng: random.Random) -> Opinion:
    if rng.random() < 0.5:
        return replace(opinion, word=_other(GOOD_WORDS + BAD_WORDS, opinion.word, rng))
    seen = {other.aspect for other in facts.opinions}
    return replace(opinion, aspect=rng.choice([a for a in ASPECTS if a not in seen]))


def _corrupt_reply(facts: ReplyFacts, rng: random.Random) -> ReplyFacts:
    field = rng.choice(("name", "item", "remedy", "remedy"))
    pools = {"name": NAMES, "item": ITEMS, "remedy": tuple(REMEDIES.values())}
    return replace(facts, **{field: _other(pools[field], getattr(facts, field), rng)})
