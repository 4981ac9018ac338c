"""A labeling server to measure: a store with tasks and accounts, the process, logged-in people."""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from figures import REPOSITORY

from labeling_ui.passwords import Passwords
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore

PASSWORD = "one long secret for everybody"
START_SECONDS = 60.0
INSIDE = re.compile(
    rb"Traceback|site-packages|sqlite|starlette|uvicorn|gradio|\.py\b|/home/|/tmp/", re.IGNORECASE
)
"""What no answer to a refused request may hold."""
_WORDS = (
    "answer time water people other number part sound place years work back give most very after "
    "thing name good sentence man think great where help through much before line right too mean"
)


class ServerDied(Exception):  # noqa: N818 - what happened
    """The server ended, or never began to answer."""


def some_text(rng: random.Random, words: int) -> str:
    """Write Markdown of so many words, as a model would: paragraphs, a list, code."""
    parts: list[str] = []
    vocabulary, left = _WORDS.split(), words
    while left > 0:
        run = [rng.choice(vocabulary) for _ in range(min(left, rng.randint(8, 24)))]
        left -= len(run)
        line = " ".join(run).capitalize() + "."
        style = rng.random()
        if style < 0.15:
            line = f"- {line}\n- **{rng.choice(vocabulary)}** {line.lower()}"
        elif style < 0.2:
            line = f"```python\n{run[0]} = {rng.randint(1, 99)}\n```"
        elif style < 0.25:
            line += f" Here `{run[0]}` is \\(x^{{{rng.randint(2, 9)}}}\\)."
        parts.append(line)
    return "\n\n".join(parts)


def some_tasks(count: int, *, seed: int, k: int = 4, words: int = 80, **rest: Any) -> list[NewTask]:
    """Make tasks that differ from one another; ``rest`` goes to each."""
    rng = random.Random(f"tasks {seed}")
    return [
        NewTask(
            Prompt.parse(f"Question {seed}.{number}: {some_text(rng, 20)}"),
            tuple(Candidate(some_text(rng, words), f"model-{place}") for place in range(k)),
            **rest,
        )
        for number in range(count)
    ]


def make_store(path: Path, tasks: Sequence[NewTask], people: dict[str, str]) -> None:
    """Make a store with tasks, and accounts by name and role with the password ``PASSWORD``."""
    stored = Passwords().hash(PASSWORD)
    with RankingStore.open(path) as store:
        store.add_tasks(tasks)
        for name, role in people.items():
            store.people.add(name, role, stored)


def names(count: int) -> list[str]:
    """Name so many annotators."""
    return [f"person-{number:02}" for number in range(1, count + 1)]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """``python -m labeling_ui`` as people start it, in a process that may be killed."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.port = free_port()
        self.log = store.with_suffix(".log")
        self.log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where browsers find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> float:
        """Start it and wait until it answers; give the seconds that took.

        Raises:
            ServerDied: If it does not, with the end of its log.
        """
        begun = time.perf_counter()
        command = [sys.executable, "-m", "labeling_ui", "--store", str(self.store)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)], cwd=REPOSITORY, stdout=log, stderr=log
            )
        while time.perf_counter() - begun < START_SECONDS:
            if not self.is_alive:
                break
            try:
                httpx.get(f"{self.address}/login.css", timeout=5)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return time.perf_counter() - begun
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        self.stop()
        raise ServerDied(f"the server does not answer; the end of its log:\n{tail}")

    def kill(self) -> None:
        """SIGKILL: no cleaning up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as Ctrl+C would; kill it when it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def cpu_seconds(self) -> float:
        """Give the processor time of all its threads; nan where Linux doesn't tell."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> tuple[float, float]:
        """Give resident memory now and at its highest, in MB; nan where Linux doesn't tell."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return float("nan"), float("nan")
        fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
        now, most = (int(fields[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
        return now, most


def log_in(address: str, name: str) -> httpx.Cookies:
    """Log in with the password; give the cookies.

    Raises:
        ServerDied: If the login is refused.
    """
    with httpx.Client(base_url=address, headers={"origin": address}, timeout=30) as client:
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        if answer.status_code != 303:
            raise ServerDied(f"{name} can't log in: {answer.status_code} {answer.text[:200]}")
        return client.cookies


def session_of(store: RankingStore, name: str, port: int) -> httpx.Cookies:
    """Open a session without a password, for tests that need hundreds of people."""
    account = store.people.account(name)
    assert account is not None
    token = secrets.token_urlsafe(32)
    store.people.open_session(
        account.annotator_id, hashlib.sha256(token.encode()).hexdigest(), hours=1
    )
    cookies = httpx.Cookies()
    cookies.set(f"session-{port}", token, domain="127.0.0.1")
    return cookies


def browser_of(address: str, cookies: httpx.Cookies, **rest: Any) -> httpx.AsyncClient:
    """Give a client that sends what a browser on our page sends."""
    limits = httpx.Limits(max_connections=4, max_keepalive_connections=4)
    return httpx.AsyncClient(
        base_url=address,
        cookies=cookies,
        headers={"origin": address},
        timeout=30,
        limits=limits,
        **rest,
    )


def some_ranks(rng: random.Random, k: int) -> list[int | None]:
    """Rank k answers at random; some tie, some stay unranked."""
    ranks: list[int | None] = [rng.randint(1, k) for _ in range(k)]
    if rng.random() < 0.1:
        ranks[rng.randrange(k)] = None
    return ranks


def batches(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cut into runs of ``size``; the last may be shorter."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
