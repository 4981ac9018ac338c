"""The page in a real browser: keyboard only, hostile texts, a server that dies.

Needs `pip install playwright` and Debian's chromium; skipped with a message without them.
Not in the default run: `pytest -m slow tests/ui/test_browser.py`.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore

pytestmark = pytest.mark.slow

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
HOSTILE = [
    "<script>document.title='fired'</script>",
    "<img src=x onerror=\"document.title='fired'\">",
    "<svg onload=\"document.title='fired'\">",
    "${document.title='fired'} `${document.title='fired'}`",
    "{{document.title='fired'}} {{{value}}} {{#each value}}x{{/each}}",
    "</div></template></script><script>document.title='fired'</script>",
    "<iframe src=\"javascript:parent.document.title='fired'\"></iframe>",
    "<img src=http://192.0.2.1/pixel.png><link rel=stylesheet href=//192.0.2.1/x.css>",
    "\u202ereversed \u0000 \u2028 ']});document.title='fired';//",
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Server:
    """The page as people start it, in a process that tests may kill."""

    def __init__(self, store):
        self.store = store
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "labeling_ui", "--store", self.store]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url):
                return
            time.sleep(0.1)
        raise TimeoutError("the page did not come up in a minute")

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    served = Server(tmp_path_factory.mktemp("browser") / "store.sqlite")
    with RankingStore.open(served.store) as store:
        hostile = tuple(Candidate(text, "secret-model") for text in HOSTILE)
        plain = tuple(Candidate(f"answer {n}", "secret-model") for n in range(3))
        store.add_tasks(
            [
                NewTask(Prompt.parse(HOSTILE[0]), hostile, overlap=99),
                NewTask(Prompt.parse("prompt"), plain, overlap=99),
            ]
        )
    served.start()
    yield served
    served.kill()


@pytest.fixture
def page(browser, server):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    opened = context.new_page()
    opened.foreign, opened.errors = [], []
    opened.on(
        "request",
        lambda request: (
            request.url.startswith((server.url, "data:", "blob:"))
            or opened.foreign.append(request.url)
        ),
    )
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on("dialog", lambda dialog: opened.errors.append(dialog.message))
    opened.goto(server.url)
    yield opened
    assert opened.errors == []
    assert opened.foreign == []
    context.close()


def begin(page, name):
    page.wait_for_selector("#rk-name")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector(".rk-card")


def shown(page):
    return page.locator(".rk-card .rk-text").all_text_contents()


def press(page, keys):
    for key in keys.split():
        page.keyboard.press(key)


def cards(page, count):
    page.wait_for_function(f"document.querySelectorAll('.rk-card').length === {count}")


def rankings(server, name):
    with RankingStore.open(server.store, create=False) as store:
        mine = store.pseudonym(name)
        return [ranking for ranking in store.rankings() if ranking.annotator == mine]


def test_nine_hostile_answers_ranked_by_keyboard_alone(page, server):
    """Two keys an answer and one to submit; texts come out as they went in and run nowhere."""
    begin(page, "keys")
    texts = shown(page)
    assert sorted(texts) == sorted(HOSTILE)
    assert page.title() == "Rank the answers"
    press(page, "a 9 b 8 c 7 d 6 e 5 f 4 g 3 h 2 i 2 Control+Enter")
    cards(page, 3)
    (ranking,) = rankings(server, "keys")
    given = dict(zip(texts, [8, 7, 6, 5, 4, 3, 2, 1, 1], strict=True))
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == given
    assert not ranking.simulated
    # The order on the screen is the one that is stored.
    assert [ranking.completions[place] for place in ranking.meta["shown_order"]] == texts


def test_nothing_is_ranked_until_somebody_ranks_it(page, server):
    begin(page, "idle")
    assert page.locator(".rk-card input:checked").count() == 0
    page.keyboard.press("Control+Enter")
    assert "Nothing is ranked yet" in page.locator(".rk-error").text_content()
    assert rankings(server, "idle") == []


def test_leaving_answers_out_must_say_what_it_means(page, server):
    begin(page, "partial")
    texts = shown(page)
    press(page, "c 4 Control+Enter")
    assert "Not ranked yet: A, B, D" in page.locator(".rk-error").text_content()
    press(page, "w Control+Enter")
    cards(page, 3)
    (ranking,) = rankings(server, "partial")
    assert ranking.others_worse
    assert dict(zip(ranking.completions, ranking.ranks, strict=True))[texts[2]] == 1
    assert ranking.ranks.count(None) == 8


def test_mouse_undo_clear_and_comment(page, server):
    begin(page, "mouse")
    first = page.locator(".rk-card").first
    first.get_by_text("3", exact=True).click()
    assert first.locator(".rk-status").text_content() == "rank 3"
    first.get_by_text("5", exact=True).click()
    page.get_by_role("button", name="Undo").click()
    assert first.locator(".rk-status").text_content() == "rank 3"
    first.get_by_role("button", name="Clear").click()
    assert first.locator(".rk-status").text_content() == "not ranked yet"
    page.get_by_text("Comment", exact=True).first.click()
    page.locator("#rk-comment").fill("a 1 b 2")  # letters and digits typed here rank nothing
    page.get_by_role("button", name="All bad").click()
    page.locator(".rk-panel .rk-primary").click()
    cards(page, 3)
    (ranking,) = rankings(server, "mouse")
    assert (ranking.action, ranking.meta["comment"]) == ("all_bad", "a 1 b 2")
    assert ranking.ranks == (None,) * 9


def test_skip_and_cannot_judge_ask_for_a_reason_then_thanks(page, server):
    begin(page, "skipper")
    press(page, "s Control+Enter")
    assert rankings(server, "skipper") == []
    press(page, "Space Control+Enter")
    cards(page, 3)
    press(page, "j ArrowDown Control+Enter")
    page.wait_for_selector("text=Thank you")
    assert "You have ranked 1 task." in page.locator(".rk-box").text_content()
    found = [(ranking.action, ranking.meta["reason"]) for ranking in rankings(server, "skipper")]
    assert found == [("skip", "too_long"), ("cannot_judge", "unclear_prompt")]


def test_a_double_press_stores_once(page, server):
    begin(page, "double")
    press(page, "a 1 b 2 Control+Enter n")
    page.evaluate(
        """() => { for (let i = 0; i < 5; i += 1) document.dispatchEvent(
            new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true, bubbles: true })); }"""
    )
    cards(page, 3)
    assert len(rankings(server, "double")) == 1


def test_a_reload_keeps_what_is_on_the_screen(page, server):
    begin(page, "reload")
    texts = shown(page)
    press(page, "b 2 e 1")
    page.reload()
    page.wait_for_selector(".rk-card.rk-ranked")
    assert shown(page) == texts
    status = page.locator(".rk-status").all_text_contents()
    assert (status[1], status[4], status[0]) == ("rank 2", "rank 1", "not ranked yet")


def test_two_windows_one_ranking(page, server):
    begin(page, "two windows")
    other = page.context.new_page()
    other.goto(server.url)
    other.wait_for_selector(".rk-card")
    press(page, "a 1 Control+Enter w Control+Enter")
    cards(page, 3)
    press(other, "b 1 Control+Enter w Control+Enter")
    other.wait_for_selector("text=You had ranked that task already")
    assert len(rankings(server, "two windows")) == 1


def test_a_server_that_dies_loses_and_doubles_nothing(page, server):
    """Submitted into the void, window closed; the next window delivers it when all is back."""
    begin(page, "patient")
    texts = shown(page)
    server.kill()
    press(page, "d 1 Control+Enter w Control+Enter")
    page.wait_for_selector("text=kept in this browser")
    context = page.context
    page.close()
    server.start()
    again = context.new_page()
    again.goto(server.url)
    cards(again, 3)
    (ranking,) = rankings(server, "patient")
    assert dict(zip(ranking.completions, ranking.ranks, strict=True))[texts[3]] == 1


def test_the_same_window_delivers_when_the_server_is_back(page, server):
    begin(page, "waiting")
    server.kill()
    press(page, "d 1 Control+Enter w Control+Enter")
    page.wait_for_selector("text=kept in this browser")
    server.start()
    cards(page, 3)
    assert len(rankings(server, "waiting")) == 1


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_sideways_scrolling(page, server, width):
    page.set_viewport_size({"width": width, "height": 800})
    begin(page, f"phone {width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        """() => [...document.querySelectorAll('.rk button, .rk label:has(input)')]
          .filter((node) => node.offsetParent)
          .map((node) => node.getBoundingClientRect())
          .filter((box) => box.width < 24 || box.height < 24).length"""
    )
    assert small == 0
