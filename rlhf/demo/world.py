"""The demo's world: who left what where, what people think of it, and what they ask.

Here: the pools, the facts behind every prompt, and the generator of prompts for four tasks
(``summary``, ``question``, ``sentiment``, ``reply``) with several instruction wordings each.
All text is synthetic and comes from ``random.Random`` alone, so a seed gives the same prompts on
every machine. Reference answers live in ``rlhf.demo.answers``, judging in
``rlhf.demo.preference``.

A prompt belongs to one split by the hash of its *source* (note, review or customer message):
what the base was pretrained on (``corpus``), what the demo trains on (``train``) and what it is
measured on (``test``) can't share a source, whatever the seeds and the wording.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Task = Literal["summary", "question", "sentiment", "reply"]
Split = Literal["corpus", "train", "test"]
Slot = Literal["who", "what", "where", "when"]

TASKS: tuple[Task, ...] = ("summary", "question", "sentiment", "reply")
SLOTS: tuple[Slot, ...] = ("who", "what", "where", "when")

NAMES = (
    *("Anna", "Ben", "Carl", "Dora", "Emma", "Frank", "Grace", "Hugo", "Iris", "Jack"),
    *("Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor"),
)
ITEMS = (
    *("lamp", "kettle", "clock", "chair", "bike", "radio", "mirror", "basket", "guitar", "tent"),
    *("blanket", "camera", "ladder", "bottle", "helmet", "drum", "vase", "knife", "piano", "coat"),
)
PLACES = (
    *("park", "farm", "market", "school", "station", "beach", "library", "hotel"),
    *("bakery", "harbor", "museum", "office", "garden", "garage", "bridge", "theater"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
BASE_FORMS = {
    "left": "leave",
    "sold": "sell",
    "bought": "buy",
    "found": "find",
    "hid": "hide",
    "lost": "lose",
    "broke": "break",
    "cleaned": "clean",
    "painted": "paint",
    "fixed": "fix",
}
"""Verbs in the past, as notes use them, and the form that questions use."""
VERBS = tuple(BASE_FORMS)
FILLERS = (
    "It was a quiet week.",
    "The weather was mild.",
    "Nobody was in a hurry.",
    "The streets were busy.",
    "There was some rain.",
    "It all went well.",
)
ASPECTS = (
    *("color", "price", "shape", "size", "quality", "design"),
    *("delivery", "finish", "manual", "smell", "sound", "weight"),
)
GOOD_WORDS = ("great", "lovely", "excellent", "perfect", "pleasant", "superb")
BAD_WORDS = ("bad", "awful", "terrible", "poor", "ugly", "weak")
LABELS = ("positive", "negative", "mixed")
REMEDIES = {
    "arrived broken": "send you a new one",
    "never arrived": "ship it again today",
    "stopped working": "repair it for free",
    "is missing a part": "mail you the part",
    "has the wrong color": "exchange it for you",
    "was billed twice": "return the extra money",
}
"""What can go wrong with an order, and the one right remedy for it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Somebody did something with an item, somewhere, on some day."""

    name: str
    verb: str
    """In the past, one of ``VERBS``."""
    item: str
    place: str
    day: str

    @property
    def sentence(self) -> str:
        """The event as notes tell it."""
        return f"{self.name} {self.verb} the {self.item} at the {self.place} on {self.day}."

    def slot(self, slot: Slot) -> str:
        """Give the word that answers a who, what, where or when question."""
        return {"who": self.name, "what": self.item, "where": self.place, "when": self.day}[slot]


@dataclass(frozen=True, slots=True)
class SummaryFacts:
    """What a summary must keep."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class QuestionFacts:
    """What a question is about."""

    event: Event
    """The event that is asked about."""
    slot: Slot


@dataclass(frozen=True, slots=True)
class Opinion:
    """One judgement in a review: the price is great."""

    aspect: str
    word: str

    @property
    def is_good(self) -> bool:
        """Tell praise from blame."""
        return self.word in GOOD_WORDS


@dataclass(frozen=True, slots=True)
class SentimentFacts:
    """What a review says, and its label."""

    opinions: tuple[Opinion, ...]
    label: str
    """One of ``LABELS``; ``mixed`` when there are praise and blame."""


@dataclass(frozen=True, slots=True)
class ReplyFacts:
    """Who complains about what, and what the shop must do."""

    name: str
    item: str
    problem: str
    """One of the keys of ``REMEDIES``."""
    remedy: str


Facts = SummaryFacts | QuestionFacts | SentimentFacts | ReplyFacts


@dataclass(frozen=True, slots=True)
class TaskPrompt:
    """One prompt with what is needed to judge an answer to it."""

    task: Task
    text: str
    """The prompt as the model sees it: an instruction around the source."""
    source: str
    """The note, review or message that ``text`` is about; its hash decides the split."""
    facts: Facts

    @property
    def split(self) -> Split:
        """The one split that this prompt can belong to."""
        return split_of(self.source)


def split_of(source: str) -> Split:
    """Assign a source text to a split by its hash: 70 % corpus, 15 % train, 15 % test."""
    share = hashlib.sha256(source.encode()).digest()[0] / 256
    if share < 0.7:
        return "corpus"
    return "train" if share < 0.85 else "test"


def draw_prompt(rng: random.Random, split: Split, task: Task | None = None) -> TaskPrompt:
    """Draw a prompt of a split; without ``task`` all four are equally likely."""
    chosen: Task = rng.choice(TASKS) if task is None else task
    while True:
        source, body, facts = _SOURCES[chosen](rng)
        if split_of(source) == split:
            break
    text = rng.choice(_WORDINGS[chosen]).format(body)
    return TaskPrompt(chosen, text, source, facts)


def draw_events(rng: random.Random, count: int) -> tuple[Event, ...]:
    """Draw events that share no name, verb, item, place or day."""
    columns = (rng.sample(pool, count) for pool in (NAMES, VERBS, ITEMS, PLACES, DAYS))
    return tuple(Event(*row) for row in zip(*columns, strict=True))


def note_text(events: tuple[Event, ...], rng: random.Random) -> str:
    """Write a note: one sentence per event among up to two fillers."""
    sentences = [event.sentence for event in events]
    for filler in rng.sample(FILLERS, rng.choice((0, 1, 1, 2) if len(events) == 1 else (0, 1))):
        sentences.insert(rng.randrange(len(sentences) + 1), filler)
    return " ".join(sentences)


def question_text(event: Event, slot: Slot, rng: random.Random) -> str:
    """Ask for one slot of an event, in a way that only this event can answer."""
    base = BASE_FORMS[event.verb]
    return {
        "who": f"Who {event.verb} the {event.item}?",
        "what": rng.choice(
            (
                f"What did {event.name} {base}?",
                f"What did {event.name} {base} at the {event.place}?",
            )
        ),
        "where": f"Where did {event.name} {base} the {event.item}?",
        "when": f"When did {event.name} {base} the {event.item}?",
    }[slot]


def draw_opinions(rng: random.Random) -> SentimentFacts:
    """Draw two or three opinions; the three labels are equally likely."""
    label = rng.choice(LABELS)
    count = rng.choice((2, 2, 3))
    if label == "mixed":
        goods = [True, False, rng.random() < 0.5][:count]
        rng.shuffle(goods)
    else:
        goods = [label == "positive"] * count
    words = [rng.choice(GOOD_WORDS if good else BAD_WORDS) for good in goods]
    aspects = rng.sample(ASPECTS, count)
    opinions = tuple(Opinion(a, w) for a, w in zip(aspects, words, strict=True))
    return SentimentFacts(opinions, label)


def review_text(opinions: tuple[Opinion, ...], rng: random.Random) -> str:
    """Write a review: what was bought, then one sentence per opinion."""
    item, day = rng.choice(ITEMS), rng.choice(DAYS)
    opening = rng.choice((f"I bought this {item} on {day}.", f"The {item} came on {day}."))
    body = " ".join(f"The {opinion.aspect} is {opinion.word}." for opinion in opinions)
    return f"{opening} {body}"


def _summary_source(rng: random.Random) -> tuple[str, str, Facts]:
    events = draw_events(rng, 2)
    note = note_text(events, rng)
    return note, note, SummaryFacts(events)


def _question_source(rng: random.Random) -> tuple[str, str, Facts]:
    (event,) = draw_events(rng, 1)
    slot = rng.choice(SLOTS)
    note, question = note_text((event,), rng), question_text(event, slot, rng)
    body = f"{note} {question}" if rng.random() < 0.7 else f"{question} {note}"
    return note, body, QuestionFacts(event, slot)


def _sentiment_source(rng: random.Random) -> tuple[str, str, Facts]:
    facts = draw_opinions(rng)
    review = review_text(facts.opinions, rng)
    return review, review, facts


def _reply_source(rng: random.Random) -> tuple[str, str, Facts]:
    name, item, day = rng.choice(NAMES), rng.choice(ITEMS), rng.choice(DAYS)
    problem = rng.choice(tuple(REMEDIES))
    source = rng.choice(
        (
            f"I am {name}. On {day} I ordered the {item} but it {problem}.",
            f"I ordered the {item} on {day} but it {problem}. My name is {name}.",
        )
    )
    return source, source, ReplyFacts(name, item, problem, REMEDIES[problem])


_SOURCES = {
    "summary": _summary_source,
    "question": _question_source,
    "sentiment": _sentiment_source,
    "reply": _reply_source,
}
_WORDINGS: dict[Task, tuple[str, ...]] = {
    "summary": (
        "Summarize the note. {}",
        "Write a short summary of this note: {}",
        "{} What happened, in one sentence?",
        "Give me the main points. {}",
        "Please shorten this text: {}",
    ),
    "question": (
        "Read the note and answer the question. {}",
        "{}",
        "Answer from the text. {}",
        "Here is a note with a question. {}",
        "{} Give the answer.",
    ),
    "sentiment": (
        "Is this review positive, negative or mixed? {}",
        "Classify the review and say why. {}",
        "{} What is the sentiment of this review?",
        "Review: {} Positive, negative or mixed?",
        "Tell me how this customer feels, and why. {}",
    ),
    "reply": (
        "Write a reply to this customer. {}",
        "Answer this complaint: {}",
        "{} Please write our reply.",
        "A customer wrote: {} How should we reply?",
        "Reply to this message with the right remedy. {}",
    ),
}
