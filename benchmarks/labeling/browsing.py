"""A real browser on the page, and what it must never do: ask others, complain, run foreign code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_OWN = ("http", "https", "ws", "wss")


def missing() -> str | None:
    """Say what is missing to open a browser; None when all is there."""
    try:
        import playwright.sync_api  # noqa: F401 - whether it is installed is the question
    except ImportError:
        return "playwright is not installed (pip install playwright)"
    if chromium() is None:
        return "chromium is not installed"
    return None


def chromium() -> str | None:
    """Find the browser that the system has."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def opened() -> Iterator[Browser]:
    """Open the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))
        yield browser
        browser.close()


def context_of(browser: Browser, address: str, cookies: httpx.Cookies) -> BrowserContext:
    """Give a fresh profile, as large as a laptop's window, in which somebody is logged in."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.add_cookies(
        [{"name": one.name, "value": one.value or "", "url": address} for one in cookies.jar]
    )
    return context


@dataclass
class Watch:
    """Notes what a page does; several pages may have one watch."""

    address: str
    foreign: list[str] = field(default_factory=list)
    """Requests to other hosts."""
    errors: list[str] = field(default_factory=list)
    """Errors in the console, uncaught ones included."""
    dialogs: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """Parts of console errors that a test itself causes."""

    def on(self, page: Page) -> Page:
        """Watch a page."""
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("dialog", self._dialog)
        page.on("popup", lambda popup: self.foreign.append(f"popup {popup.url}"))
        return page

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in _OWN and f"{parts.scheme}://{parts.netloc}" != self.address:
            self.foreign.append(request.url[:200])

    def _console(self, message: ConsoleMessage) -> None:
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(part in text for part in self.expected):
            self.errors.append(text[:300])

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message[:200])
        dialog.dismiss()
