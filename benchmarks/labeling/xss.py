"""Whether hostile texts do anything in a real browser, wherever the pages show them.

    python benchmarks/labeling/xss.py

Puts every string of ``tests/ui/xss_strings.py`` into seven places: prompts, answers, comments,
names of people, notes of reviewers, guidelines, and the preview of an export with lines of errors.
Opens each screen that shows them, in chromium, as annotator, reviewer and admin. A string fires
when a script of it runs, it adds an element, attribute or address that the server's renderer never
writes, the console complains, a dialog opens or another host is asked. At the end a planted one
must be noticed.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from browsing import missing, opened
from figures import Figure, note, parser, read_options, report, skip, workplace
from hostile import STAFF, K, make_hostile_store, own_rankings, storable
from serving import Server, batches
from visiting import CANARY, Judge, Shown, Visit
from xss_strings import XSS_STRINGS  # beside the tests; visiting knows the way

from rlhf.store import RankingStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def annotator_screens(visit: Visit, strings: Sequence[str], shown: dict[str, Shown]) -> None:
    """Show every task and the own comments, on the sheet and in My work."""
    owned = own_rankings(visit.store, visit.name)
    own = list({row.assignment_id: row for row in owned}.values())
    for row in own:
        texts = [message.content for message in row.prompt.messages[:-1]]
        visit.open_sheet(row.assignment_id, len(row.completions))
        visit.judge.look(shown["prompts"], ())
        visit.page.keyboard.press("m")  # as raw text
        visit.judge.look(shown["prompts"], texts, as_is=True)
        visit.judge.look(shown["answers"], row.completions, as_is=True)
        visit.page.keyboard.press("m")
    visit.go("#/work", ".tm-entry")
    visit.load_all()
    visit.judge.look(shown["comments"], [row.decision.comment for row in own], as_is=True)
    visit.open_sheet(own[0].assignment_id, 2)
    error = ""
    visit.answer("/api/submit", 422, lambda: {"error": error})
    visit.watch.expected = ("status of 422",)
    for error in strings:
        visit.page.keyboard.press("Control+Enter")
        visit.page.wait_for_function(
            "(text) => document.querySelector('.rk-side .rk-error')?.textContent.includes(text)",
            arg=error,
        )
        visit.judge.look(shown["errors and previews"], [error])


def guidelines(visit: Visit, strings: Sequence[str], shown: Shown) -> None:
    """Show every string in the guidelines, some at a time."""
    for part in batches(strings, 4):
        visit.store.change_settings(guidelines="\n\n".join(part))
        if visit.store.settings().guidelines_version == 1:
            visit.page.reload()  # the button appears, the drawer opens by itself
            visit.wait("dialog[open] .rk-text")
        else:
            visit.page.click("button:has-text('Guidelines')")
            visit.wait("dialog[open] .rk-text")
        visit.judge.look(shown, part)
        visit.page.keyboard.press("Escape")
        visit.page.wait_for_selector("dialog", state="detached")


def own_names(visits: Callable[[str], Visit], called: Sequence[str], shown: Shown) -> None:
    """Show people their own names, in the header of their own pages."""
    for name in called:
        visit = visits(name)
        visit.judge.look(shown, [name], as_is=True)
        visit.context.close()


def reviewer_screens(visit: Visit, strings: Sequence[str], shown: dict[str, Shown]) -> None:
    """Show every task with everybody's comments and the notes on it."""
    visit.go("#/review", "tbody tr")
    visit.judge.look(shown["prompts"], ())
    for number in range(1, 1 + len(list(batches(strings, K)))):
        visit.go(f"#/review/{number}", ".tm-item .rk-card")
        task = visit.store.reviews.open_task(number)
        comments = [ranking.decision.comment for ranking in task.rankings]
        visit.judge.look(shown["comments"], comments, as_is=True)
        written = [review.note for review in visit.store.reviews.of_task(number)]
        visit.judge.look(shown["notes"], written, as_is=True)


def admin_screens(
    visit: Visit, strings: Sequence[str], called: Sequence[str], shown: dict[str, Shown]
) -> None:
    """Show names, prompts and exports on the admin's pages."""
    for screen, ready in (("overview", ".tm-tiles"), ("quality", ".tm-section")):
        visit.go(f"#/admin/{screen}", ready)
        visit.judge.look(shown["names"], [])
    visit.go("#/admin/people", "tbody tr")
    visit.judge.look(shown["names"], called, as_is=True)
    visit.go("#/admin/tasks", "tbody tr")
    visit.judge.look(shown["prompts"], [])
    visit.go("#/admin/audit", "tbody tr")
    visit.judge.look(shown["names"], [])
    visit.go("#/admin/export", "select")
    rows: Sequence[str] = ()
    previews = [*batches(strings, 25)]
    visit.page.click("button:has-text('Preview')")  # the server's own first
    visit.wait(".tm-sample")
    visit.judge.look(shown["errors and previews"], [])
    visit.answer(
        "/api/admin/export-preview",
        200,
        lambda: {
            "rows": len(rows),
            "sha256": rows[0],
            "pairs": 1,
            "ties": 1,
            "sample": [{"prompt": text, text: [text]} for text in rows],
        },
    )
    for rows in previews:
        visit.page.evaluate("document.querySelector('.tm-sample').remove()")
        visit.page.click("button:has-text('Preview')")
        visit.wait(".tm-sample")
        visit.judge.look(shown["errors and previews"], rows)


def login_screen(visit: Visit, strings: Sequence[str], shown: Shown) -> None:
    """Show the name of a failed login again, on the form."""
    page = visit.context.browser.new_context().new_page()  # type: ignore[union-attr]
    page.add_init_script(CANARY)
    watch = visit.watch
    judge = Judge(watch.on(page), watch)
    watch.expected = ("status of 401", "status of 429", "status of 503")
    page.goto(f"{visit.address}/login")
    for text in strings:
        with page.expect_navigation():
            page.evaluate(
                "(text) => { const [form] = document.forms; form.name.value = text;"
                " form.password.value = 'wrong'; form.submit(); }",
                text,
            )
        judge.look(shown, [text])
    page.context.close()


def notices_planted(visit: Visit) -> bool:
    """Plant a string that fires, and say whether it is noticed."""
    shown = Shown()
    visit.page.evaluate(
        "document.querySelector('.rk').insertAdjacentHTML('beforeend',"
        " '<img src=x:x onerror=alert(1)><p class=rk-text><a href=javascript:alert(2)>x</a></p>')"
    )
    visit.page.wait_for_timeout(300)
    visit.judge.look(shown, ["planted"])
    return bool(shown.fired) and "alert 1" in shown.fired[0]


PLACES = ("prompts", "answers", "comments", "names", "notes", "guidelines", "errors and previews")


def attack(
    browser: Browser, server: Server, store: RankingStore, strings: Sequence[str], called: list[str]
) -> tuple[dict[str, Shown], bool]:
    """Open every screen."""
    shown = {place: Shown() for place in PLACES}

    def visits(name: str) -> Visit:
        return Visit(browser, server, store, name)

    annotator = visits("ann")
    note("annotator")
    annotator_screens(annotator, strings, shown)
    annotator.context.close()
    note("comments of the others")
    for name in (account.name for account in store.people.accounts()):
        own = own_rankings(store, name)
        if len(own) < 2 or name in STAFF:
            continue
        visit = visits(name)
        visit.go("#/work", ".tm-entry")
        visit.load_all()
        visit.judge.look(shown["comments"], [row.decision.comment for row in own], as_is=True)
        visit.context.close()
    note("reviewer")
    reviewer = visits("rev")
    reviewer_screens(reviewer, strings, shown)
    reviewer.context.close()
    note("admin")
    admin = visits("adm")
    admin_screens(admin, strings, called, shown)
    note("guidelines")
    admin.go("#/rank", "h1")
    guidelines(admin, strings, shown["guidelines"])
    note("names")
    own_names(visits, called[:: max(1, len(called) // 30)], shown["names"])
    login_screen(admin, called, shown["names"])
    return shown, notices_planted(admin)


def main() -> int:
    """Attack and print."""
    build = parser(__doc__)
    build.add_argument("--strings", type=int, help="so many, of every family (default: all)")
    given = read_options(build, strings=60)
    if why := missing():
        return skip(why)
    strings = storable(XSS_STRINGS)
    if given.strings is not None:
        strings = random.Random(given.seed).sample(strings, min(given.strings, len(strings)))
    with workplace(given) as folder, opened() as browser:
        path = folder / "hostile.sqlite"
        note(f"{len(strings)} strings into a store")
        called = make_hostile_store(path, strings, given.seed)
        with Server(path) as server, RankingStore.open(path, create=False) as store:
            shown, noticed = attack(browser, server, store, strings, called)
    for place, one in shown.items():
        for line in one.fired[:5]:
            note(f"{place}: {line}")
    wanted = len(strings)
    figures = [Figure("strings", wanted, least=None if given.quick else 500)]
    for place, one in shown.items():
        known, least = (called, len(called)) if place == "names" else (strings, wanted)
        count = len(one.strings.intersection(known))
        figures.append(Figure(f"{place}: strings shown", count, least=least))
        figures.append(Figure(f"{place}: fired", len(one.fired), most=0))
    figures.append(Figure("a planted one is noticed (1 is yes)", int(noticed), least=1))
    return report(figures, given, names=f"{len(called)} of the strings, as far as names may go")


if __name__ == "__main__":
    sys.exit(main())
