"""What the simulated annotators like, and how they rank: the demo's hidden preference.

``judge`` reads an answer against the facts of its prompt and gives three parts: facts (up to 1.3),
manners (+0.3 courteous, -1 rude) and directness (0, or less for every needless sentence,
repetition or unfinished end). Their sum is the true utility. It is made of a few coarse steps,
so two answers differ clearly or not at all, and no length rule predicts it: courtesy and full
answers are longer and better, fluff and repetition longer and worse.

The annotators are simulated. Each adds noise of its own to the true utility and calls a tie what
differs by less than a threshold; nothing here looks at a model.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.demo.answers import CLOSINGS, OPENERS
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
    QuestionFacts,
    ReplyFacts,
    SentimentFacts,
    SummaryFacts,
    TaskPrompt,
)

RUDE_WORDS = frozenset({"stupid", "bothering", "annoying", "lazy", "boring", "nonsense"})
_COURTESIES = tuple(phrase.rstrip(".!").lower() for phrase in OPENERS + CLOSINGS)
_POOLS = {"name": NAMES, "verb": VERBS, "item": ITEMS, "place": PLACES, "day": DAYS}
_KIND = {word.lower(): kind for kind, pool in _POOLS.items() for word in pool}
_OPINIONS = frozenset(GOOD_WORDS + BAD_WORDS)
_CONTENT = frozenset(_KIND) | _OPINIONS | frozenset(ASPECTS + LABELS) | {"sorry"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The parts of an answer's true utility."""

    facts: float
    """From about -2 (all wrong) to 1.3 (all right and complete)."""
    manners: float
    directness: float
    is_correct: bool
    """True when the task itself is solved: what had to be said is there and nothing is wrong."""

    @property
    def total(self) -> float:
        """The true utility."""
        return self.facts + self.manners + self.directness


@dataclass(frozen=True, slots=True)
class Annotator:
    """A simulated annotator: the true utility seen through noise."""

    name: str
    noise: float
    """Standard deviation of the noise on one answer's utility."""
    seed: int
    tie_below: float = 0.15
    """Two neighbours in the order whose noisy utilities differ by less are tied."""


ANNOTATORS = (
    Annotator("simulated-1", noise=0.2, seed=11),
    Annotator("simulated-2", noise=0.3, seed=12),
)
"""The two honest annotators of the demo."""


def true_utility(prompt: TaskPrompt, answer: str) -> float:
    """Score an answer by the hidden preference; noise-free."""
    return judge(prompt, answer).total


def is_correct(prompt: TaskPrompt, answer: str) -> bool:
    """Tell whether the answer solves its task, whatever its manners and length."""
    return judge(prompt, answer).is_correct


def judge(prompt: TaskPrompt, answer: str) -> Judgement:
    """Read an answer against the facts of its prompt."""
    facts = prompt.facts
    if isinstance(facts, SummaryFacts):
        score, correct = _judge_summary(facts, answer)
    elif isinstance(facts, QuestionFacts):
        score, correct = _judge_question(facts, answer)
    elif isinstance(facts, SentimentFacts):
        score, correct = _judge_sentiment(facts, answer)
    else:
        score, correct = _judge_reply(facts, answer)
    return Judgement(score, _manners(answer), _directness(answer), correct)


def noisy_utility(prompt: TaskPrompt, answer: str, annotator: Annotator) -> float:
    """Score an answer as one annotator sees it.

    The noise depends on annotator, prompt and text only: the same text gets the same score.
    """
    key = "\x1f".join((str(annotator.seed), prompt.text, answer))
    noise = random.Random(hashlib.sha256(key.encode()).digest()).gauss(0.0, annotator.noise)
    return true_utility(prompt, answer) + noise


def rank(prompt: TaskPrompt, answers: Sequence[str], annotator: Annotator) -> list[int]:
    """Rank answers as one annotator would: 1 is best, equal ranks are ties.

    Going down the order, an answer joins the tier above when it lies within ``tie_below`` of
    that tier's best answer, so a tie never spans more than the threshold.
    """
    scores = [noisy_utility(prompt, answer, annotator) for answer in answers]
    return ranks_of(scores, annotator.tie_below)


def ranks_of(scores: Sequence[float], tie_below: float) -> list[int]:
    """Turn scores into ranks: 1 is best, a rank counts the answers in better tiers."""
    order = sorted(range(len(scores)), key=lambda position: -scores[position])
    ranks = [0] * len(scores)
    top, tier = float("inf"), 0
    for place, position in enumerate(order, start=1):
        if top - scores[position] >= tie_below:
            top, tier = scores[position], place
        ranks[position] = tier
    return ranks


def _judge_summary(facts: SummaryFacts, answer: str) -> tuple[float, bool]:
    covered, placed, wrong = set[Event](), set[Event](), 0
    for clause in _clauses(answer):
        event = next((e for e in facts.events if e.name.lower() == clause["name"]), None)
        if event is None:
            wrong += 1
            continue
        errors = _mismatches(clause, event)
        wrong += errors
        if not errors and {"verb", "item"} <= clause.keys():
            covered.add(event)
            if "place" in clause:
                placed.add(event)
    score = 0.5 * len(covered) + 0.15 * len(placed) - 0.5 * min(wrong, 3)
    return score, wrong == 0 and len(covered) == len(facts.events)


def _clauses(answer: str) -> list[dict[str, str]]:
    """Split an answer at its names; each clause holds the entities said of one name."""
    clauses: list[dict[str, str]] = []
    for sentence in _sentences(answer):
        clause: dict[str, str] = {}
        for word in _words(sentence):
            kind = _KIND.get(word)
            if kind is None:
                continue
            if kind in clause:
                clauses.append(clause)
                clause = {}
            clause[kind] = word
        if clause:
            clauses.append(clause)
    return [{"name": "", **clause} for clause in clauses]


def _mismatches(clause: dict[str, str], event: Event) -> int:
    return sum(getattr(event, kind).lower() != word for kind, word in clause.items())


def _judge_question(facts: QuestionFacts, answer: str) -> tuple[float, bool]:
    said: dict[str, set[str]] = {}
    for word in _words(answer):
        if word in _KIND:
            said.setdefault(_KIND[word], set()).add(word)
    event = facts.event
    wrong = sum(
        word != getattr(event, kind).lower() for kind, words in said.items() for word in words
    )
    right = event.slot(facts.slot).lower() in _words(answer)
    full = right and all(
        word.lower() in _words(answer) for word in (event.name, event.verb, event.item)
    )
    score = 1.0 * right + 0.3 * (full and not wrong) - 0.7 * min(wrong, 2)
    return score, right and not wrong


def _judge_sentiment(facts: SentimentFacts, answer: str) -> tuple[float, bool]:
    words = _words(answer)
    labels = {word for word in words if word in LABELS}
    right = labels == {facts.label}
    true = {(opinion.aspect, opinion.word): opinion.is_good for opinion in facts.opinions}
    reasons = _reasons(words)
    wrong = sum(reason not in true for reason in reasons)
    sides = {true[reason] for reason in reasons if reason in true}
    complete = right and not wrong and len(sides) == len(set(true.values()))
    score = (0.8 if right else -0.7 if labels else 0.0) + 0.5 * complete - 0.5 * min(wrong, 2)
    return score, right and not wrong


def _reasons(words: list[str]) -> set[tuple[str, str]]:
    """Pair every aspect with the next opinion word, and stray ones with nothing."""
    reasons, aspect = set[tuple[str, str]](), ""
    for word in words:
        if word in ASPECTS:
            if aspect:
                reasons.add((aspect, ""))
            aspect = word
        elif word in _OPINIONS:
            reasons.add((aspect, word))
            aspect = ""
    return reasons | ({(aspect, "")} if aspect else set())


def _judge_reply(facts: ReplyFacts, answer: str) -> tuple[float, bool]:
    text = " ".join(_words(answer))
    name = _match(facts.name.lower(), {w for w in _words(answer) if _KIND.get(w) == "name"})
    item = _match(facts.item, {w for w in _words(answer) if _KIND.get(w) == "item"})
    remedy = _match(facts.remedy, {phrase for phrase in REMEDIES.values() if phrase in text})
    problem = _match(facts.problem, {phrase for phrase in REMEDIES if phrase in text})
    parts = ((name, 0.3), (item, 0.3), (remedy, 0.4), (problem, 0.3))
    score = sum(weight * (found if found > 0 else 2.0 * found) for found, weight in parts)
    return score, name == item == remedy == 1 and problem >= 0


def _match(right: str, said: set[str]) -> int:
    """1 when exactly the right thing is said, 0 when nothing is, -1 when something wrong is."""
    return 0 if not said else 1 if said == {right} else -1


def _manners(answer: str) -> float:
    text = answer.lower()
    if RUDE_WORDS & set(_words(answer)):
        return -1.0
    return 0.3 if any(phrase in text for phrase in _COURTESIES) else 0.0


def _directness(answer: str) -> float:
    sentences = _sentences(answer)
    relevant = [_is_relevant(sentence) for sentence in sentences]
    stray = sum(
        not keep and not _manners(sentence)
        for keep, sentence in zip(relevant, sentences, strict=True)
    )
    unfinished = not answer.rstrip().endswith((".", "!", "?"))
    score = -0.3 * min(stray, 3) - 0.6 * unfinished - 0.6 * (not any(relevant))
    return score - _repetition(answer)


def _is_relevant(sentence: str) -> bool:
    text = " ".join(_words(sentence))
    return bool(_CONTENT & set(text.split())) or any(remedy in text for remedy in REMEDIES.values())


def _repetition(answer: str) -> float:
    """0.4 for up to two repeated runs of four words, 0.8 for more, and for a sentence twice."""
    words = _words(answer)
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    repeated = len(runs) - len(set(runs))
    sentences = [tuple(_words(sentence)) for sentence in _sentences(answer)]
    if repeated > 2 or len(set(sentences)) < len(sentences):
        return 0.8
    return 0.4 if repeated else 0.0


def _sentences(text: str) -> list[str]:
    return [found for found in re.findall(r"[^.!?]+[.!?]*", text) if _words(found)]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
