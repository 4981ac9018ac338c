"""How long a person waits for the page: its first load, and the next task after a submit.

    python benchmarks/labeling/page.py

In Debian's chromium with an empty cache, on this machine's loopback: time and bytes until the first
task is painted, and from Ctrl+Enter until the next task is painted, for 4 and for 9 answers. Also
counts requests to other hosts and errors in the console.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from browsing import Watch, context_of, missing, opened
from figures import (
    Figure,
    Load,
    parser,
    percentile,
    read_options,
    report,
    skip,
    use_cores,
    workplace,
)
from serving import Server, log_in, make_store, some_tasks

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Browser, Page

NAME = "ann"
SHEET = ".rk-sheet"
# Runs before the page's scripts. A sheet counts as painted in the second frame after it was put
# into the page: the first one has then reached the screen.
CLOCK = """
window.bench = { shown: [], sent: [] };
let last = null;
const look = () => {
  const sheet = document.querySelector('.rk-sheet');
  if (!sheet || sheet === last) return;
  last = sheet;
  requestAnimationFrame(() => requestAnimationFrame(() => bench.shown.push(performance.now())));
};
new MutationObserver(look).observe(document, { childList: true, subtree: true });
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && event.ctrlKey) bench.sent.push(event.timeStamp);
}, true);
"""


@dataclass
class Loads:
    """What first loads took."""

    millis: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


@contextmanager
def fresh_page(
    browser: Browser, address: str, cookies: httpx.Cookies, watch: Watch
) -> Iterator[tuple[Page, list[float]]]:
    """Open a page in a fresh profile, with the sizes of what it gets over the network."""
    context = context_of(browser, address, cookies)
    context.add_init_script(CLOCK)
    page = watch.on(context.new_page())
    sizes: list[float] = []
    network = context.new_cdp_session(page)
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    network.send("Network.enable")
    yield page, sizes
    context.close()


def first_loads(
    browser: Browser, address: str, cookies: httpx.Cookies, watch: Watch, count: int
) -> Loads:
    """Load the page with an empty cache, so many times."""
    found = Loads()
    for _ in range(count):
        with fresh_page(browser, address, cookies, watch) as (page, sizes):
            page.goto(f"{address}/rank/")
            page.wait_for_function("window.bench.shown.length > 0", timeout=30_000)
            page.wait_for_load_state("networkidle")
            found.millis.append(page.evaluate("bench.shown[0]"))
            found.bytes.append(sum(sizes))
            found.files.append(len(sizes))
    return found


def next_tasks(
    browser: Browser, address: str, cookies: httpx.Cookies, watch: Watch, count: int
) -> list[float]:
    """Rank tasks by the keyboard; give the milliseconds from each submit to the next task."""
    millis: list[float] = []
    with fresh_page(browser, address, cookies, watch) as (page, _):
        page.goto(f"{address}/rank/")
        page.wait_for_function("window.bench.shown.length > 0", timeout=30_000)
        for number in range(count):
            for place in range(page.locator(f"{SHEET} .rk-card").count()):
                page.keyboard.press(str(place + 1))
            page.keyboard.press("Control+Enter")
            page.wait_for_function(f"window.bench.shown.length > {number + 1}", timeout=30_000)
            sent, shown = page.evaluate("[bench.sent.at(-1), bench.shown.at(-1)]")
            millis.append(shown - sent)
    return millis


def measure(
    browser: Browser, folder: Path, k: int, submits: int, loads: int, seed: int
) -> list[Figure]:
    """Measure tasks of k answers."""
    path = folder / f"page{k}.sqlite"
    make_store(path, some_tasks(submits + 20, seed=seed, k=k, words=120), {NAME: "annotator"})
    with Server(path) as server:
        cookies, watch = log_in(server.address, NAME), Watch(server.address)
        found = first_loads(browser, server.address, cookies, watch, loads)
        millis = next_tasks(browser, server.address, cookies, watch, submits)
    for line in (watch.foreign + watch.errors + watch.dialogs)[:10]:
        sys.stderr.write(f"{k} answers: {line}\n")
    name = f"{k} answers"
    return [
        Figure(f"{name}: first load, median", statistics.median(found.millis), "ms", most=2000),
        Figure(f"{name}: first load, slowest", max(found.millis), "ms"),
        Figure(f"{name}: first load, transferred", max(found.bytes) / 1000, "kB", most=600),
        Figure(f"{name}: first load, files", max(found.files)),
        Figure(f"{name}: next task painted, p50", percentile(millis, 0.5), "ms"),
        Figure(f"{name}: next task painted, p95", percentile(millis, 0.95), "ms", most=200),
        Figure(f"{name}: requests to other hosts", len(watch.foreign), most=0),
        Figure(f"{name}: errors in the console", len(watch.errors + watch.dialogs), most=0),
    ]


def main() -> int:
    """Measure and print."""
    build = parser(__doc__)
    build.add_argument("--answers", type=int, nargs="+", default=[4, 9])
    build.add_argument("--submits", type=int, default=30)
    build.add_argument("--loads", type=int, default=5)
    build.add_argument("--cores", type=int, default=2)
    given = read_options(build, submits=5, loads=1)
    if why := missing():
        return skip(why)
    cores, figures = use_cores(given.cores), []
    load = Load()
    with workplace(given) as folder, opened() as browser:
        version = browser.version
        for k in given.answers:
            figures += measure(browser, folder, k, given.submits, given.loads, given.seed)
    busy = f"{load.others():.2f} of a core, the browser included"
    return report(figures, given, chromium=version, cores=cores, others_used=busy)


if __name__ == "__main__":
    sys.exit(main())
