"""Who comes to the page in tests: people with accounts, browsers, a clock that tests move."""

import asyncio
import json
from urllib.parse import unquote

from starlette.testclient import TestClient

from labeling_ui.passwords import Passwords

HOST = "http://127.0.0.1:7860"
PEOPLE = {"ann": "annotator", "bob": "annotator", "rev": "reviewer", "adm": "admin"}
NEVER = b"never sent"
CHEAP = Passwords(memory_kib=8, passes=1)


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


def password_of(name):
    return f"{name} and a long secret"


def browser(app, address="127.0.0.1", **headers):
    """A client that names its origin, as browsers do."""
    return TestClient(
        app, base_url=HOST, headers={"origin": HOST, **headers}, client=(address, 50000)
    )


def log_in(client, name, password=None):
    form = {"name": name, "password": password_of(name) if password is None else password}
    return client.post("/login", data=form, follow_redirects=False)


class Reply:
    """What an application sent back."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.decode().lower(): value.decode() for name, value in headers}
        self.body = body

    def json(self):
        return json.loads(self.body)


def ask(app, requests):
    """Send (method, path, headers, body) to an application, in one event loop; give replies.

    Many times faster than a client, and it can say what no client would: header names and values
    go as they are, a body may come in pieces or never.
    """

    async def one(method, path, headers, body):
        parts = [body] if isinstance(body, bytes) else list(body)
        sent = []
        messages = [
            {"type": "http.request", "body": part, "more_body": place + 1 < len(parts)}
            for place, part in enumerate(parts)
        ]

        async def receive():
            if not messages:
                return {"type": "http.disconnect"}
            if messages[0]["body"] is NEVER:
                await asyncio.sleep(3600)
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        path, _, query = path.partition("?")
        given = {"host": "127.0.0.1:7860", "origin": HOST, **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.encode(), value.encode())
                for name, values in given.items()
                for value in ([values] if isinstance(values, str) else values or [])
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 7860),
            "state": {},
        }
        await app(scope, receive, send)
        start = sent[0]
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Reply(start["status"], start["headers"], content)

    async def all_of_them():
        return [await one(*request) for request in requests]

    return asyncio.run(all_of_them())


def cookie_of(client):
    """The session of a browser, as a header."""
    return {"cookie": f"session-7860={client.cookies['session-7860']}"}
