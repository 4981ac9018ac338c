"""A real browser and a served store, for tests of the screens.

Needs playwright and Debian's chromium; tests that import this are skipped with a message without
them. Not in the default run: ``make test-browser``.
"""

import contextlib
import hashlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from importlib import resources

import pytest
import uvicorn
from visitors import CHEAP, password_of

from labeling_ui.app import create_app
from labeling_ui.site import Site
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1400, "height": 900}
PHONE = {"width": 390, "height": 844}
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def make_task(number=0, k=3, **rest):
    """A task whose answers are called by their places: ``answer 0.2`` is the third."""
    texts = rest.pop("texts", [f"answer {number}.{place}" for place in range(k)])
    candidates = tuple(Candidate(text, "secret-model") for text in texts)
    return NewTask(Prompt.parse(rest.pop("prompt", f"prompt {number}")), candidates, **rest)


class Served:
    """A store served by this process; ``stop`` and ``start`` keep the port."""

    def __init__(self, place):
        self.place = place
        self.store = RankingStore.open(place)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"

    def add_person(self, name, role="annotator"):
        self.store.people.add(name, role, CHEAP.hash(password_of(name)))

    def start(self):
        app = create_app(self.store, site=Site(port=self.port), passwords=CHEAP)
        config = uvicorn.Config(
            app, "127.0.0.1", self.port, log_level="error", ws="none", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started, "the page did not come up")

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)

    def close(self):
        self.stop()
        self.store.close()

    def cookie(self, name):
        """Open a session as a login does."""
        token = secrets.token_urlsafe(32)
        person = self.store.people.account(name).annotator_id
        self.store.people.open_session(person, hashlib.sha256(token.encode()).hexdigest())
        return {"name": Site(port=self.port).cookie, "value": token, "url": self.url}

    def rankings(self, name="ann"):
        """Current rankings of a person, skipped tasks included, oldest first."""
        mine = self.store.pseudonym(name)
        return [r for r in self.store.rankings(gold=True) if r.annotator == mine]


class Killable(Served):
    """A store served by a process of its own, as people start it, which can be killed."""

    def start(self):
        command = [sys.executable, "-m", "labeling_ui", "--store", self.place]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "the page did not come up")

    def _answers(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}login"):
            return True
        return False

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.kill()


def wait_until(is_so, otherwise, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.05)


class Visits:
    """Browser windows of people, each checked: no errors, no request to anybody else."""

    def __init__(self, browser, served):
        self.browser, self.served = browser, served
        self.contexts, self.foreign, self.errors = [], [], []
        self.expected = ()
        """Parts of console lines that a test provokes."""

    def open(self, name="ann", path="rank/", ready=".rk-card", clock=False, **options):
        """Open the page as a person, in a browser of their own; give the window.

        With ``clock`` the test moves the time of the page.
        """
        context = self.browser.new_context(**{"viewport": WIDE, **options})
        context.add_cookies([self.served.cookie(name)])
        self.contexts.append(context)
        if clock:
            context.clock.install()
        return self.window(context, path, ready)

    def window(self, context, path="rank/", ready=".rk-card"):
        """Open another window of the same browser."""
        page = context.new_page()
        page.on("request", lambda request: self._check(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        page.on("console", self._listen)
        page.goto(self.served.url + path)
        page.wait_for_selector(ready)
        return page

    def _check(self, url):
        if not url.startswith((self.served.url, "data:", "blob:")):
            self.foreign.append(url)

    def _listen(self, message):
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type in ("error", "warning") and not any(e in text for e in self.expected):
            self.errors.append(text)

    def close(self):
        for context in self.contexts:
            context.close()
        assert not self.errors, self.errors
        assert not self.foreign, self.foreign


def press(page, keys):
    for key in keys.split():
        page.keyboard.press(key)


def texts(page):
    """The answers in shown order."""
    return page.locator(".rk-card > .rk-text").all_inner_texts()


def status(page):
    """What stands beside the letters of the answers."""
    return page.locator(".rk-status").all_inner_texts()


def next_task(page, before):
    """Wait until another task is on the screen than that of these answers."""
    page.wait_for_function(
        """(before) => {
          const shown = [...document.querySelectorAll('.rk-card > .rk-text')];
          return shown.length && shown[0].innerText !== before[0]; }""",
        arg=before,
    )


def given(shown, ranking):
    """The stored ranks in shown order."""
    by_text = dict(zip(ranking.completions, ranking.ranks, strict=True))
    return [by_text[text] for text in shown]


def violations(page):
    """What axe finds on the screen as it is."""
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found = page.evaluate(
        "(tags) => axe.run(document, { runOnly: { type: 'tag', values: tags } })", AXE_TAGS
    )
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]]
