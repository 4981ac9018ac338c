"""What a stranger is told: every route of ours and of Gradio, by every method, without a session.

    python benchmarks/labeling/strangers.py

Paths come from the application's table of routes, from what the installed Gradio's source declares
and from the files that both ship; disguises of them are tried too. A stranger may see the login
page and its style. Everything else must be refused, and with the same answer as a path that does
not exist. The same is asked of a server without accounts, whose link has not been opened.
"""

from __future__ import annotations

import http.client
import re
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figures import REPOSITORY, Figure, note, parser, read_options, report, workplace
from serving import INSIDE, Server, log_in, make_store, some_tasks

from rlhf.store import RankingStore

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PUBLIC = {"/login": ("GET", "HEAD", "POST"), "/login.css": ("GET", "HEAD"), "/enter": ("GET",)}
"""Written down here once more, so that an addition to the server's own list is seen."""
REFUSED = (400, 401, 403, 404, 405)
PREFIXES = ("", "/rank", "/gradio_api", "/rank/gradio_api")
OTHERS = (
    *(
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/robots.txt",
        "/.git/config",
        "/static",
    ),
    *(
        "/rank/config",
        "/rank/theme.css",
        "/rank/manifest.json",
        "/rank/pwa_icon",
        "/health",
        "/admin",
    ),
    *("/rank/gradio_api/file=/etc/passwd", "/rank/gradio_api/proxy=http://127.0.0.1:22/", "/page/"),
    *(
        "/rank/gradio_api/queue/join",
        "/rank/gradio_api/run/predict",
        "/store.sqlite",
        "/login.html",
    ),
)
VALUES = ("main.js", "1", "..%2f..%2fetc%2fpasswd")
_DECLARED = re.compile(
    r"""\.(?:get|post|put|patch|delete|head|options|websocket|route|api_route|mount|add_route
        |add_api_route|add_websocket_route)\(\s*f?["'](/[^"'\n]*)["']""",
    re.VERBOSE,
)


@dataclass
class Asked:
    """What strangers were told."""

    requests: int = 0
    answered: list[str] = field(default_factory=list)
    """Requests beyond the login that were not refused."""
    told_apart: list[str] = field(default_factory=list)
    """Paths that are refused in another way than one that does not exist."""
    inside: list[str] = field(default_factory=list)
    """Answers that tell how the server is built."""
    statuses: Counter[int] = field(default_factory=Counter)


class Stranger:
    """Sends raw requests, so that nothing tidies up the paths."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self.port = port
        self.headers = {"Host": f"127.0.0.1:{port}", **headers}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(self, method: str, path: str) -> tuple[int, str, bytes]:
        """Give the status, where it leads and the body of an answer; status 0 is silence."""
        for _ in range(2):  # the server may have closed the connection after the last answer
            try:
                return self._ask(method, path)
            except (http.client.HTTPException, OSError):
                self._connection.close()
        return 0, "", b""

    def _ask(self, method: str, path: str) -> tuple[int, str, bytes]:
        body = b"{}" if method in ("POST", "PUT", "PATCH", "DELETE") else b""
        self._connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            self._connection.putheader(name, value)
        self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body)
        answer = self._connection.getresponse()
        content = answer.read()
        if "Upgrade" in self.headers:  # a connection that was to change its protocol is spent
            self._connection.close()
        server = answer.headers.get("server", "")
        return answer.status, answer.headers.get("location", ""), content + server.encode()


def kinds(port: int) -> dict[str, dict[str, str]]:
    """Give the headers of the strangers who ask; the first one tries every method."""
    own = f"http://127.0.0.1:{port}"
    made_up = f"session-{port}={secrets.token_urlsafe(32)}; access-token={secrets.token_urlsafe(8)}"
    return {
        "program": {"Origin": own, "Content-Type": "application/json"},
        "browser": {"Origin": own, "Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
        "made-up cookie": {"Origin": own, "Content-Type": "application/json", "Cookie": made_up},
        "websocket": {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
        "claims to be the proxy": {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-User": "admin"},
    }


def routes_of(app: Any, prefix: str = "") -> Iterator[str]:
    """Walk the tables of routes, those of mounted applications included."""
    for route in getattr(app, "routes", None) or ():
        path = prefix + getattr(route, "path", "")
        yield path
        inner = getattr(route, "app", None)
        yield from routes_of(inner if inner is not None else route, path) if inner else ()
        original = getattr(route, "original_router", None)
        yield from routes_of(original, prefix) if original is not None else ()


def every_path(store: Path) -> tuple[list[str], Counter[str]]:
    """Enumerate the paths, and say how many came from where."""
    import gradio

    from labeling_ui.app import create_app

    with RankingStore.open(store) as opened:
        own = list(routes_of(create_app(opened)))
    package = Path(gradio.__file__).parent
    declared = [
        prefix + path
        for source in sorted(package.rglob("*.py"))
        for path in _DECLARED.findall(source.read_text(encoding="utf-8"))
        for prefix in PREFIXES
    ]
    templates = package / "templates" / "frontend"
    shipped = [f"/page/{file.name}" for file in (REPOSITORY / "labeling_ui/static").iterdir()]
    assets = sorted((templates / "assets").iterdir())
    shipped += [f"/rank/assets/{file.name}" for file in assets[:: max(1, len(assets) // 40)]]
    found: Counter[str] = Counter()
    paths: dict[str, None] = {}
    sources = {"routes": own, "gradio's source": declared, "files": shipped, "others": OTHERS}
    for name, templates_of in sources.items():
        for path in filled(templates_of):
            found[name] += path not in paths
            paths.setdefault(path)
    return list(paths), found


def filled(templates: Iterable[str]) -> Iterator[str]:
    """Fill the parameters of paths, and add or take the slash at the end."""
    for template in templates:
        for value in VALUES if "{" in template else ("",):
            path = re.sub(r"\{[^}]*\}", value, template) or "/"
            if path.startswith("/") and path.isascii() and " " not in path:
                yield path
                yield path.rstrip("/") if path.endswith("/") and path != "/" else f"{path}/"


def disguises(path: str) -> Iterator[str]:
    """Spell a path so that a careless check takes it for another."""
    yield from (f"/{path}", f"/.{path}", f"/login/..{path}", f"/login.css/..{path}")
    yield from (
        f"/login/%2e%2e{path}",
        f"/enter/..%2f{path[1:]}",
        f"/login;{path}",
        f"/login{path}",
    )
    yield from (f"{path}?/login", f"{path}#/login", f"{path}%00/login.css", f"{path};/login.css")
    yield from (path.upper(), path.replace("/", "\\"), path.replace("/", "%2f"), f"{path}%20")
    yield f"http://127.0.0.1{path}"


def is_public(method: str, path: str) -> bool:
    """Say whether a stranger may have an answer."""
    return method in PUBLIC.get(path.split("?")[0], ())


def ask_all(port: int, paths: Sequence[str], asked: Asked) -> None:
    """Ask for every path by every method, as every kind of stranger."""
    for kind, headers in kinds(port).items():
        stranger = Stranger(port, headers)
        for method in METHODS if kind == "program" else ("GET", "POST"):
            # Below /api/ a refusal is JSON for browsers too.
            absent = {
                folder: stranger.ask(method, f"{folder}{secrets.token_hex(8)}")
                for folder in ("/api/", "/")
            }
            for path in paths:
                nothing = absent["/api/" if path.startswith("/api/") else "/"]
                known = path.split("?")[0] in PUBLIC  # refusing a method tells nothing new
                answer, line = stranger.ask(method, path), f"{kind}: {method} {path}"
                judge(asked, line, answer, None if known else nothing, is_public(method, path))


def ask_disguised(port: int, paths: Sequence[str], asked: Asked) -> None:
    """Ask for paths in disguise."""
    for headers in (kinds(port)["program"], kinds(port)["browser"]):
        stranger = Stranger(port, headers)
        for path in paths:
            for disguise in disguises(path):
                for method in ("GET", "POST"):
                    line = f"disguised: {method} {disguise}"
                    public = is_public(method, disguise)
                    judge(asked, line, stranger.ask(method, disguise), None, public)


def judge(
    asked: Asked,
    line: str,
    answer: tuple[int, str, bytes],
    nothing: tuple[int, str, bytes] | None,
    public: bool,
) -> None:
    """Count an answer; ``nothing`` is the one for a path that does not exist."""
    status, location, body = answer
    asked.requests += 1
    asked.statuses[status] += 1
    if INSIDE.search(body):
        asked.inside.append(f"{line}: {INSIDE.findall(body)[:3]!r}")
    if public:
        return
    if status not in REFUSED and (status, location) != (303, "/login"):
        asked.answered.append(f"{line}: {status} {location} {body[:80]!r}")
    elif nothing is not None and answer != nothing:
        asked.told_apart.append(f"{line}: {status} {body[:80]!r}, not {nothing[0]}")


def seen_by_admin(server: Server, paths: Sequence[str]) -> int:
    """Count the paths that answer somebody who may see everything: those that a guard is for."""
    cookies = log_in(server.address, "ada")
    cookie = "; ".join(f"{one.name}={one.value}" for one in cookies.jar)
    admin = Stranger(server.port, {"Cookie": cookie})
    return sum(admin.ask("GET", path)[0] == 200 for path in paths)


def figures_of(name: str, asked: Asked) -> list[Figure]:
    """Give the figures of one server, and tell what is wrong."""
    for line in (asked.answered + asked.told_apart + asked.inside)[:15]:
        note(f"{name}: {line}")
    return [
        Figure(f"{name}: requests", asked.requests),
        Figure(f"{name}: answers beyond the login and its style", len(asked.answered), most=0),
        Figure(f"{name}: paths told apart from nothing", len(asked.told_apart), most=0),
        Figure(f"{name}: answers that tell of the inside", len(asked.inside), most=0),
        Figure(f"{name}: requests without an answer", asked.statuses[0]),
    ]


def main() -> int:
    """Ask and print."""
    given = read_options(parser(__doc__))
    with workplace(given) as folder:
        people, own = folder / "people.sqlite", folder / "own.sqlite"
        make_store(people, some_tasks(4, seed=given.seed), {"ada": "admin"})
        make_store(own, some_tasks(4, seed=given.seed), {})
        paths, sources = every_path(people)
        some = [path for path in paths if path.startswith("/api/") and not path.endswith("/")]
        some += ["/page/main.js", "/rank/", "/rank/config", "/rank/gradio_api/info"]
        if given.quick:
            paths, some = paths[::8], some[::4]
        figures = [Figure("paths", len(paths), least=20)]
        with Server(people) as server:
            open_to_admin = seen_by_admin(server, paths)
            figures.append(Figure("paths that answer an admin", open_to_admin, least=10))
            asked = Asked()
            ask_all(server.port, paths, asked)
            ask_disguised(server.port, some, asked)
            figures += figures_of("with accounts", asked)
        with Server(own) as server:
            asked = Asked()
            ask_all(server.port, paths, asked)
            ask_disguised(server.port, some, asked)
            figures += figures_of("without accounts", asked)
    return report(figures, given, paths_from=dict(sources))


if __name__ == "__main__":
    sys.exit(main())
