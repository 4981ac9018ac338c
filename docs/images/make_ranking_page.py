"""Draw docs/images/ranking_page.png: four replies to a customer, half ranked.

Run from the root of a clone: ``python docs/images/make_ranking_page.py``. Needs
``pip install playwright`` and a chromium (Debian: ``apt install chromium``).
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("ranking_page.png")
SIZE = {"width": 1400, "height": 915}

CUSTOMER = """Write a reply to this customer.

"I ordered the blue kettle (order 4471) on 3 March. Today a red one arrived, and the lid does \
not close. I need a working kettle before Saturday: my parents are visiting." """
REPLIES = [
    """Hello Ms Arden,

I am sorry: the wrong kettle, and a faulty one at that. A blue kettle for order 4471 leaves our \
warehouse today by express and reaches you by Friday, so it is there before your parents are. \
A prepaid label for sending the red one back is in this mail.

Kind regards
Mira, customer care""",
    """Dear customer, thank you for your message. We take all complaints seriously, and your \
satisfaction matters to us. Please fill in the form on our website; a member of the team will \
come back to you within 14 working days.""",
    """Sorry about the mix-up! We will send you a blue kettle. You can keep or return the red \
one.""",
    """Hi, our kettles come in many colours, and red is the most popular one. The lid closes when \
you press it hard enough. Enjoy your tea with your parents on Saturday!""",
]


def main() -> int:
    """Serve an example store, rank with the keyboard, take the picture."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return skip("playwright is not installed (pip install playwright)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return skip("chromium is not installed (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store.sqlite"
        fill(store)
        server, url = serve(store)
        try:
            with sync_playwright() as playwright:
                flags = ["--headless", "--no-sandbox", "--disable-gpu"]
                browser = playwright.chromium.launch(executable_path=chromium, args=flags)
                page = browser.new_page(viewport=SIZE, color_scheme="light")
                page.goto(url)
                page.wait_for_selector(".rk-card")
                rank(page)
                page.wait_for_timeout(500)  # colours fade in
                page.screenshot(path=PICTURE)
                browser.close()
        finally:
            server.terminate()
            server.wait()
    sys.stdout.write(f"{PICTURE} ({PICTURE.stat().st_size / 1024:.0f} kB)\n")
    return 0


def fill(store: Path) -> None:
    """Put the example and a queue of others into a store."""
    sys.path.insert(0, str(ROOT))
    from rlhf.records import Candidate, Prompt
    from rlhf.store import NewTask, RankingStore, Submission

    replies = tuple(map(Candidate, REPLIES))
    with RankingStore.open(store) as opened:
        opened.add_annotator("Jonas", "annotator-1")  # the same blind order every time
        done = NewTask(Prompt.parse("Already ranked."), replies)
        opened.add_tasks([done, NewTask(Prompt.parse(CUSTOMER), replies)])
        held = opened.claim("Jonas")
        assert held is not None
        opened.submit(held.id, "Jonas", Submission("request-1", (1, 2, 3, 4)))
        opened.add_tasks(NewTask(Prompt.parse(f"Prompt {n}"), replies) for n in range(119))


def serve(store: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the page and wait until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "labeling_ui", "--store", str(store), "--port", str(port)]
    server = subprocess.Popen([*command, "--annotator", "Jonas"], cwd=ROOT)
    url = f"http://127.0.0.1:{port}/"
    for _ in range(300):
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.2)
        else:
            return server, url
    server.kill()
    raise TimeoutError("the page did not come up in a minute")


def rank(page) -> None:  # type: ignore[no-untyped-def]  # playwright's Page, imported late
    """Rank all but the last answer by keyboard: the best first, two of them tied."""
    texts = page.locator(".rk-card .rk-text").all_text_contents()
    for place, text in enumerate(texts[:-1]):
        page.keyboard.press("abcd"[place])
        page.keyboard.press("1223"[REPLIES.index(text)])


def skip(why: str) -> int:
    """Say why there is no picture; not an error."""
    sys.stdout.write(f"skipped: {why}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
