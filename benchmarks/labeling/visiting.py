"""One person's browser on the pages, and whether a text does anything there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from browsing import Watch, context_of
from figures import REPOSITORY
from serving import Server, ServerDied, session_of

sys.path.insert(0, str(REPOSITORY / "tests" / "ui"))

from xss_strings import EVENTS

from rlhf.store import RankingStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

# Before any script of the page, in every frame: what a string would call says so.
CANARY = """
window.fired = [];
for (const name of ['alert', 'confirm', 'prompt']) {
  window[name] = (...told) => { fired.push(name + ' ' + told.join()); };
}
"""
_SETTLED = """
() => [...document.querySelectorAll('button')]
  .filter((button) => button.textContent.includes('Load more'))
  .every((button) => !button.disabled)
"""
# Gives what no text may have become, after every event has been sent to every element of a text.
AUDIT = """
(events) => {
  const root = document.querySelector('.rk') || document.body;
  const wrong = [];
  const bad = 'script,iframe,object,embed,applet,frame,base,meta,style,link,portal,img,video,audio,'
    + 'source,svg,animate,set,marquee,template,dialog[open] dialog,.rk-text form,.rk-text input,'
    + '.rk-text button,.rk-text textarea,.rk-text select,.rk-text [id],.rk-text [name],'
    + '.rk-text [style*="position"],.rk-text [style*="url"],[srcdoc],[formaction],[background]';
  const own = 'svg.tm-chart, svg.tm-chart *, .tm svg, .tm svg *';
  for (const node of root.querySelectorAll('*')) {
    for (const { name, value } of node.attributes) {
      if (name.startsWith('on')) wrong.push(`${node.tagName} ${name}=${value}`);
      if (['href', 'src', 'action', 'xlink:href', 'data', 'poster'].includes(name)) {
        const { protocol } = new URL(value, location.href);
        if (!/^(https?|mailto):$/.test(protocol)) wrong.push(`${node.tagName} ${value}`);
      }
    }
    if (node.matches(bad) && !node.matches(own)) wrong.push(node.outerHTML.slice(0, 160));
  }
  for (const node of root.querySelectorAll('.rk-text *, .tm-prompt, bdi, td, pre')) {
    for (const name of events) node.dispatchEvent(new Event(name, { cancelable: true }));
  }
  const found = [...window.fired, ...wrong];
  for (const frame of document.querySelectorAll('iframe')) {
    try { found.push(...(frame.contentWindow.fired || [])); } catch { found.push('a frame'); }
  }
  window.fired = [];
  return found;
}
"""


@dataclass
class Shown:
    """The strings shown in a place, and what they did."""

    strings: set[str] = field(default_factory=set)
    fired: list[str] = field(default_factory=list)


class Judge:
    """Looks at a page after something was shown."""

    def __init__(self, page: Page, watch: Watch) -> None:
        self.page = page
        self.watch = watch

    def look(self, shown: Shown, strings: Sequence[str], *, as_is: bool = False) -> None:
        """Note what has happened since the last look, and blame it on these strings.

        They count as shown; where the page shows texts as they are, only those that are found.
        Unseen characters stand there by number, so texts with them can't be looked for.
        """
        found = self.page.evaluate(AUDIT, EVENTS.split())
        for seen in (self.watch.foreign, self.watch.errors, self.watch.dialogs):
            found += seen
            seen.clear()
        text = self.page.evaluate("document.body.textContent") if as_is else None
        shown.strings.update(
            one for one in strings if text is None or one in text or not _is_visible(one)
        )
        if found:
            shown.fired.append(f"{found[:3]} with {[text[:120] for text in strings[:12]]}")


def _is_visible(text: str) -> bool:
    return text.replace("\n", "").replace("\t", "").isprintable()


class Visit:
    """One person's browser, and the screens that they open."""

    def __init__(self, browser: Browser, server: Server, store: RankingStore, name: str) -> None:
        self.store, self.address, self.name = store, server.address, name
        cookies = session_of(store, name, server.port)
        self.context = context_of(browser, server.address, cookies)
        self.context.add_init_script(CANARY)
        self.watch = Watch(server.address)
        self.page = self.watch.on(self.context.new_page())
        self.judge = Judge(self.page, self.watch)
        self.page.goto(f"{self.address}/rank/")
        self.page.wait_for_selector(".rk-header nav a", timeout=60_000)

    def load_all(self) -> None:
        """Press "Load more" until there is no more."""
        # While a page is on its way the button is disabled; after the last one it hides.
        more = "button:has-text('Load more')"
        self.page.wait_for_function(_SETTLED)
        while self.page.locator(f"{more}:visible").count():
            self.page.click(more)
            self.page.wait_for_function(_SETTLED)

    def go(self, screen: str, ready: str) -> None:
        """Go to a screen and wait for what shows that it is drawn."""
        self.page.evaluate(
            "(screen) => { document.querySelector('.rk-screen')?.replaceChildren();"
            " location.hash = screen; }",
            screen,
        )
        # Attached is enough: a text may be invisible by itself.
        try:
            self.wait(f".rk-screen {ready}")
        except Exception as error:
            says = self.page.inner_text(".rk-screen")[:300]
            raise ServerDied(f"{screen} shows no {ready}: {says}; {self.watch.errors}") from error

    def wait(self, selector: str) -> None:
        """Wait for an element."""
        self.page.wait_for_selector(selector, state="attached", timeout=60_000)

    def open_sheet(self, assignment: int, texts: int) -> None:
        """Open a task for correction."""
        self.go(f"#/rank/{assignment}", ".rk-sheet .rk-card")
        self.page.wait_for_function(
            f"document.querySelectorAll('.rk-sheet .rk-card').length >= {min(2, texts)}"
        )

    def answer(self, path: str, status: int, make: Callable[[], Any]) -> None:
        """Answer one path in the server's stead."""

        def reply(route: Route) -> None:
            body = json.dumps(make())
            route.fulfill(status=status, content_type="application/json", body=body)

        self.page.route(f"**{path}", reply)
