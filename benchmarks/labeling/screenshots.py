"""The pictures of docs/labeling.md: ``python benchmarks/labeling/screenshots.py``.

A small store is made up, served as people start it, and looked at in a real browser.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from browsing import context_of, missing, opened
from figures import REPOSITORY
from serving import Server, log_in, make_store

from rlhf.records import Candidate, Prompt
from rlhf.store import Gold, NewTask, RankingStore, Submission

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

IMAGES = REPOSITORY / "docs" / "images"
WIDE: ViewportSize = {"width": 1200, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}

_QUESTIONS = (
    ("Why do leaves turn yellow in autumn?", "trees take the green pigment back"),
    ("How do I undo the last commit without losing my changes?", "`git reset --soft HEAD~1`"),
    ("What is the sum of the first n whole numbers?", "\\(\\frac{n(n+1)}{2}\\)"),
    ("My bread stays flat. What can I do?", "fresh yeast and more time in a warm place"),
    ("How far away is the Moon?", "about 384,000 km, and it varies by a tenth"),
    ("Which plug do I need in Denmark?", "type K; type C fits most of the time"),
    ("Is it safe to leave a laptop plugged in?", "yes; stop at 80 % if it will stay so for weeks"),
    ("How do I say thank you in Japanese?", "ありがとう, politely ありがとうございます"),
    ("Why is the sky blue?", "air scatters short waves more than long ones"),
    ("What does HTTP 429 mean?", "too many requests: wait as long as `Retry-After` says"),
)
_GUIDELINES = """**Put the answers in order, best first.**

1. Right before well written: an answer that is wrong goes below one that is plain.
2. Short is fine when it answers the question.
3. Ties are welcome when you would be glad of either.

Flag an answer that is harmful or holds somebody's private data.
"""


def answers(fact: str) -> tuple[str, ...]:
    """Write four answers: best, longer, evasive, wrong."""
    return (
        f"In short: {fact}.",
        f"Good question. There is more than one way to look at it, but mostly: {fact}.\n\n"
        "- It depends on the details.\n- Ask again if you need an example.",
        "I am not sure that I can help with that. You could look it up.",
        "That can't be known.",
    )


def some_tasks() -> Iterator[NewTask]:
    """Make the tasks, a training item first."""
    for number, (question, fact) in enumerate(_QUESTIONS):
        candidates = tuple(map(Candidate, answers(fact)))
        if number == 0:
            gold = Gold((1, 2, 3, 4), f"The first says it: {fact}. The last is simply wrong.")
            yield NewTask(Prompt.parse(question), candidates, pool="training", gold=gold)
        else:
            yield NewTask(Prompt.parse(question), candidates, overlap=3)


def rank_some(store: RankingStore) -> None:
    """Let people rank: most agree, one does not care."""
    rng = random.Random(0)
    for name, noise in (("ben", 0.4), ("chi", 0.5), ("dara", 4.0), ("ada", 0.3)):
        for number in range(7):
            held = store.claim(name)
            if held is None:
                break
            texts = {text: place for place, text in enumerate(answers(_fact(held.prompt)))}
            value = [texts[text] + rng.gauss(0, noise) for text in held.completions]
            order = sorted(range(4), key=value.__getitem__)
            ranks = [order.index(place) + 1 for place in range(4)]
            request = f"{name}-{number:04}-request"
            active = int(1000 * rng.uniform(2 if name == "dara" else 15, 60))
            done = Submission(request, tuple(ranks), active_ms=active)
            if number == 5 and name == "chi":
                done = Submission(request, action="skip", reason="too_long")
            store.submit(held.id, name, done)


def _fact(prompt: Prompt) -> str:
    return dict(_QUESTIONS)[prompt.messages[-1].content]


def take(browser: Browser, address: str) -> None:
    """Take the pictures."""
    page = browser.new_page(viewport=WIDE)
    page.goto(f"{address}/login")
    _shoot(page, "login")
    for name, screens in (
        ("eli", {"training": "#/rank"}),
        ("ben", {"rank": "#/rank"}),
        ("chi", {"work": "#/work"}),
        (
            "ada",
            {
                "review": "#/review",
                "admin": "#/admin/overview",
                "quality": "#/admin/quality",
                "people": "#/admin/people",
                "tasks": "#/admin/tasks",
                "export": "#/admin/export",
                "audit": "#/admin/audit",
            },
        ),
    ):
        cookies = log_in(address, name)
        context = context_of(browser, address, cookies)
        page = context.new_page()
        page.set_viewport_size(WIDE)
        for screen, place in screens.items():
            page.goto(f"{address}/rank/{place}")
            page.wait_for_selector(".rk h1, .rk .rk-card", timeout=30_000)
            _close_guidelines(page)
            if screen == "rank":
                _rank_two(page)
            _shoot(page, screen)
        if name == "ben":
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size(PHONE)
            _shoot(page, "rank-phone-dark")
        if name == "ada":
            page.goto(f"{address}/rank/#/review")
            page.locator(".rk table a, .rk table button, .rk li a").first.click()
            page.wait_for_selector(".rk .rk-card")
            _shoot(page, "review-item")
        context.close()


def _close_guidelines(page: Page) -> None:
    page.wait_for_timeout(500)
    if page.locator("dialog[open]").count():
        page.keyboard.press("Escape")


def _rank_two(page: Page) -> None:
    """Rank A first and B second, so that the picture shows work under way."""
    for key in ("a", "1", "b", "2"):
        page.keyboard.press(key)


def _shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(700)  # what fades in has faded in
    page.screenshot(path=IMAGES / f"labeling-{name}.png")


def main() -> int:
    """Make the store, serve it, take the pictures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    lacking = missing()
    if lacking:
        raise SystemExit(f"error: {lacking}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        people = {"ada": "admin", **dict.fromkeys(("ben", "chi", "dara", "eli"), "annotator")}
        make_store(path, [], people)
        with RankingStore.open(path) as store:
            store.add_tasks(list(some_tasks()))
            store.change_settings(strengths=True, guidelines=_GUIDELINES)
            rank_some(store)
        with Server(path) as server, opened() as browser:
            take(browser, server.address)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
