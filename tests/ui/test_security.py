"""What stands before every route: strangers, roles, origins, hosts, bodies, headers, faults.

Routes are not listed by hand: they are read from the application, from Gradio's application and
from the sources of the Gradio that is installed.
"""

import asyncio
import re
from pathlib import Path

import gradio
import pytest
from starlette.routing import Mount, Route
from visitors import CHEAP, HOST, NEVER, PEOPLE, ask, browser, cookie_of, log_in

from labeling_ui.api import ENDPOINTS
from labeling_ui.app import FOR_ALL, create_app
from labeling_ui.bodies import MAX_BODY
from labeling_ui.security import GRADIO_FOLDERS, GRADIO_PATHS, HEADERS, PAGE, PUBLIC
from labeling_ui.site import Site
from rlhf.errors import StoreError
from rlhf.store import RankingStore

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO")
ROLES = ("annotator", "reviewer", "admin")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The whole application, Gradio included, over a store with four people."""
    path = tmp_path_factory.mktemp("whole") / "store.sqlite"
    with RankingStore.open(path) as store:
        for name, role in PEOPLE.items():
            store.people.add(name, role, CHEAP.hash(f"{name} and a long secret"))
        yield create_app(store, passwords=CHEAP)


@pytest.fixture(scope="module")
def sessions(whole):
    """Of each role, the header of a session."""
    found = {}
    for name, role in PEOPLE.items():
        client = browser(whole)
        log_in(client, name)
        found[role] = cookie_of(client)
    return found


def routes_of(app, before=""):
    for route in app.routes:
        if isinstance(route, Mount):
            if hasattr(route.app, "routes"):
                yield from routes_of(route.app, before + route.path)
        else:
            yield before + getattr(route, "path", "")


def routes_in_gradios_sources():
    pattern = re.compile(
        r"(?:app|router)\.(?:get|post|put|delete|head|patch|options|api_route|websocket|mount)"
        r"""\(\s*f?["'](/[^"']*)["']"""
    )
    for file in Path(gradio.__file__).parent.glob("*.py"):
        yield from pattern.findall(file.read_text("utf-8"))


def filled(path):
    """Put something into the places of a route that stand for anything."""
    return re.sub(r"\{[^}]*\}", "x", path)


@pytest.fixture(scope="module")
def every_path(whole):
    known = {filled(path) for path in routes_of(whole)}
    for route in routes_in_gradios_sources():
        for before in ("", PAGE, f"{PAGE}/gradio_api", "/gradio_api"):
            known.add(before + filled(route))
    known |= {f"{PAGE}/assets/x.js", f"{PAGE}/static/img/logo.svg", "/docs", "/redoc", "/x"}
    known |= {"/openapi.json", f"{PAGE}/gradio_api/mcp/sse", f"{PAGE}/gradio_api/mcp/http"}
    return sorted(known)


def test_the_routes_are_found(every_path):
    assert len(every_path) > 250
    assert {"/api/next", f"{PAGE}/gradio_api/queue/join", f"{PAGE}/config"} <= set(every_path)


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_a_stranger_reaches_the_login_page_and_nothing_else(whole, every_path, accept):
    asked = [(method, path) for path in every_path for method in METHODS]
    replies = ask(whole, [(*request, {"accept": accept}, b"") for request in asked])
    answered = set()
    for (method, path), reply in zip(asked, replies, strict=True):
        if reply.status == 303:
            assert (reply.headers["location"], reply.body) == ("/login", b"")
        elif reply.status not in (401, 403, 404, 405):
            answered.add((method, path, reply.status))
        assert "set-cookie" not in reply.headers
    assert answered == {
        ("GET", "/login", 200),
        ("HEAD", "/login", 200),
        ("POST", "/login", 400),  # not a form
        ("GET", "/login.css", 200),
        ("HEAD", "/login.css", 200),
    }


def test_what_exists_looks_to_a_stranger_like_what_does_not(whole, every_path):
    paths = [path for path in every_path if path not in PUBLIC]
    for accept in ("*/*", "text/html"):
        for method in ("GET", "POST"):
            replies = ask(whole, [(method, path, {"accept": accept}, b"") for path in paths])
            by_kind = {
                path.startswith("/api/"): (reply.status, reply.body)
                for path, reply in zip(paths, replies, strict=True)
            }
            for path, reply in zip(paths, replies, strict=True):
                assert (reply.status, reply.body) == by_kind[path.startswith("/api/")]


@pytest.mark.parametrize(
    "cookie",
    [
        "session-7860=" + "A" * 43,
        "session-7860=; session-7860=",
        "session=" + "A" * 43,
        "__Host-session=" + "A" * 43,
        "access-token=x; access-token-unsecure=x",
    ],
)
def test_made_up_cookies_are_strangers(whole, cookie):
    (reply,) = ask(whole, [("GET", "/api/me", {"cookie": cookie}, b"")])
    assert reply.status == 401


def test_a_local_page_shows_a_stranger_even_less(store, clock):
    app = create_app(store, clock=clock)
    paths = ["/", "/rank/", "/login", "/api/me", "/enter", "/enter?key=x", f"{PAGE}/config"]
    replies = ask(app, [("GET", path, {"accept": "text/html"}, b"") for path in paths])
    assert {reply.status for reply in replies} == {401}


def test_of_gradio_only_the_page_and_its_files_answer_people(whole, sessions, every_path):
    paths = [path for path in every_path if path.startswith(PAGE)]
    open_to = [(method, path) for path in paths for method in ("GET", "POST")]
    for role in ROLES:
        replies = ask(whole, [(*request, sessions[role] | JSON, b"{}") for request in open_to])
        for (method, path), reply in zip(open_to, replies, strict=True):
            allowed = path in (PAGE, *GRADIO_PATHS) or path.startswith(GRADIO_FOLDERS)
            if not allowed:
                assert reply.status == 404, (method, path)
            elif method == "POST":
                assert reply.status in (404, 405), path
    (page,) = ask(whole, [("GET", f"{PAGE}/", sessions["annotator"], b"")])
    assert page.status == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_each_role_reaches_its_routes_and_those_of_the_roles_before_it(whole, sessions, endpoint):
    method, path = endpoint.method, endpoint.path
    stranger, *replies = ask(
        whole,
        [(method, path, {**JSON, **sessions.get(role, {})}, b"{}") for role in ("", *ROLES)],
    )
    assert stranger.status == 401
    for role, reply in zip(ROLES, replies, strict=True):
        if ROLES.index(role) < ROLES.index(endpoint.role):
            assert (reply.status, "role" in reply.json()["error"]) == (403, True)
        else:
            assert reply.status not in (401, 403, 404, 405)


def test_every_route_of_ours_has_a_role_or_is_public(whole):
    ours = {route.path for route in whole.routes if isinstance(route, Route)} - set(PUBLIC)
    named = {endpoint.path for endpoint in ENDPOINTS}
    assert ours - named == {*FOR_ALL, "/page/{name}"}


# -- origins, hosts, proxies -----------------------------------------------------------------------

FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://127.0.0.1"},
    {"origin": "http://127.0.0.1:7861"},
    {"origin": "https://127.0.0.1:7860"},
    {"origin": "http://localhost:7860"},
    {"origin": "http://127.0.0.1:7860.evil.example"},
    {"origin": "http://evil.example/http://127.0.0.1:7860"},
    {"origin": "http://127.0.0.1:7860@evil.example"},
    {"origin": "http://127.0.0.1:7860/"},
    {"origin": "http://127.0.0.1:7860?x"},
    {"origin": "http://[::1"},
    {"origin": "file://"},
    {"origin": "127.0.0.1:7860"},
    {"origin": [HOST, "https://evil.example"]},
    {"origin": ["https://evil.example", HOST]},
    {"origin": HOST, "sec-fetch-site": "cross-site"},
    {"origin": HOST, "sec-fetch-site": "same-site"},
    {"origin": HOST, "sec-fetch-site": "none"},
    {"origin": None},
    {"origin": None, "sec-fetch-site": "cross-site"},
    {"origin": None, "referer": f"{HOST}/rank/"},
]
POSTS = ["/login", "/logout", *(end.path for end in ENDPOINTS if end.method == "POST")]
KINDS = ["application/json", "text/plain", "application/x-www-form-urlencoded"]


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
def test_no_other_page_posts_anything(whole, sessions, foreign):
    session = sessions["admin"]
    replies = ask(
        whole,
        [
            ("POST", path, {**session, "content-type": kind, **foreign}, b"{}")
            for path in POSTS
            for kind in KINDS
        ],
    )
    assert {reply.status for reply in replies} == {403}
    assert not any("access-control-allow-origin" in reply.headers for reply in replies)
    (still,) = ask(whole, [("GET", "/api/me", session, b"")])
    assert still.status == 200


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"sec-fetch-site": "same-origin"},
        {"origin": None, "sec-fetch-site": "same-origin"},
        {"host": "localhost:7860", "origin": "http://localhost:7860"},
        {"host": "LOCALHOST:7860", "origin": "http://localhost:7860"},
        {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
    ],
    ids=str,
)
def test_our_own_page_posts(whole, sessions, own):
    (reply,) = ask(whole, [("POST", "/api/next", {**sessions["annotator"], **JSON, **own}, b"{}")])
    assert reply.status == 200


def test_preflights_of_other_pages_are_refused(whole, sessions):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for reply in ask(
        whole, [("OPTIONS", path, {**sessions["admin"], **asked}, b"") for path in POSTS]
    ):
        assert reply.status == 405
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "127.0.0.1:7860.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:7860:80",
        "127.0.0.2",
        "[::2]:7860",
        "0.0.0.0:7860",
        "127.1",
        "",
        " 127.0.0.1",
        ["127.0.0.1:7860", "evil.example"],
        None,
    ],
)
def test_other_names_of_the_server_are_refused(whole, sessions, host):
    asked = [("GET", "/", {}), ("GET", "/login", {}), ("GET", "/rank/", sessions["admin"])]
    replies = ask(whole, [(*one[:2], {**one[2], "host": host}, b"") for one in asked])
    assert {reply.status for reply in replies} == {400}
    assert not any("evil" in str(reply.headers) for reply in replies)


FORWARDED = {
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "9.9.9.9",
    "x-forwarded-prefix": "/evil",
    "x-original-url": "/login",
    "x-rewrite-url": "/login",
    "forwarded": "host=evil.example;proto=https",
}


@pytest.mark.parametrize("name", FORWARDED)
def test_what_anybody_says_of_a_proxy_is_not_believed(whole, sessions, name):
    extra = {name: FORWARDED[name]}
    stranger, page, to_page = ask(
        whole,
        [
            ("GET", "/rank/", {"accept": "text/html", **extra}, b""),
            ("GET", "/rank/", sessions["annotator"] | extra, b""),
            ("GET", "/", sessions["annotator"] | extra, b""),
        ],
    )
    assert (stranger.status, stranger.headers["location"]) == (303, "/login")
    assert (to_page.status, to_page.headers["location"]) == (303, "/rank/")
    assert page.status == 200
    assert b"evil" not in page.body


@pytest.fixture
def proxied(people, clock, no_gradio):
    site = Site(frozenset({"rank.example"}), https=True, proxies=frozenset({"127.0.0.1"}))
    return create_app(people, site=site, passwords=CHEAP, clock=clock)


BY_PROXY = {
    "host": "rank.example",
    "origin": "https://rank.example",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "8.8.8.8",
}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def test_behind_a_proxy_cookies_are_for_https_alone(proxied):
    form = b"name=ann&password=ann+and+a+long+secret"
    (reply,) = ask(proxied, [("POST", "/login", BY_PROXY | FORM, form)])
    assert reply.status == 303
    assert reply.headers["strict-transport-security"] == "max-age=31536000"
    (login,) = ask(proxied, [("GET", "/login", BY_PROXY, b"")])
    assert login.status == 200
    (other,) = ask(proxied, [("POST", "/login", BY_PROXY | FORM, form)])
    assert other.headers["set-cookie"].startswith("__Host-") or "Secure" in str(other.headers)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"x-forwarded-proto": "http"}, 400),
        ({"x-forwarded-proto": None}, 200),
        ({"host": "127.0.0.1:7860"}, 400),
        ({"x-forwarded-host": "rank.example", "host": "evil.example"}, 400),
    ],
)
def test_behind_a_proxy_only_https_under_the_public_name_answers(proxied, change, status):
    (reply,) = ask(proxied, [("GET", "/login", BY_PROXY | change, b"")])
    assert reply.status == status


def test_failures_behind_a_proxy_are_counted_by_who_sent_them(proxied):
    def guesses(forwarded, count):
        headers = BY_PROXY | FORM | {"x-forwarded-for": forwarded}
        return [
            reply.status
            for number in range(count)
            for reply in ask(
                proxied, [("POST", "/login", headers, b"name=n%d&password=x" % number)]
            )
        ]

    assert guesses("8.8.8.8", 11) == [401] * 10 + [429]
    assert guesses("1.1.1.1, 8.8.8.8", 1) == [429]  # what the sender wrote itself counts nothing
    assert guesses("8.8.8.8, 127.0.0.1", 1) == [429]
    assert guesses("9.9.9.9", 1) == [401]


def test_who_goes_past_the_proxy_is_refused(people, clock, no_gradio):
    site = Site(frozenset({"rank.example"}), https=True, proxies=frozenset({"10.0.0.1"}))
    app = create_app(people, site=site, passwords=CHEAP, clock=clock)
    (reply,) = ask(app, [("GET", "/login", BY_PROXY, b"")])
    assert reply.status == 400


# -- bodies ----------------------------------------------------------------------------------------


def post(app, body, headers, path="/api/next"):
    (reply,) = ask(app, [("POST", path, {**JSON, **headers}, body)])
    return reply


def test_large_bodies_are_refused_however_they_come(whole, sessions):
    session = sessions["annotator"]
    assert post(whole, b"x" * (MAX_BODY + 1), session).status == 413
    assert post(whole, [b"x" * 1000] * (MAX_BODY // 1000 + 2), session).status == 413
    assert post(whole, b"{}", session | {"content-length": str(MAX_BODY + 1)}).status == 413
    assert post(whole, b"{}", session | {"content-length": "9" * 5000}).status == 413
    assert post(whole, b"{}", session | {"content-length": "-1"}).status == 413
    assert post(whole, b" " * (MAX_BODY - 2) + b"{}", session).status == 200
    assert post(whole, b"x" * (MAX_BODY + 1), {}, "/login").status == 413


def test_bodies_that_never_end_are_given_up(people, clock, no_gradio):
    app = create_app(people, passwords=CHEAP, clock=clock, body_seconds=0.05)
    for body in ([NEVER], [b"name=", NEVER]):
        assert post(app, body, FORM, "/login").status == 408


def test_who_has_gone_is_not_waited_for(whole, sessions):
    assert post(whole, [], sessions["annotator"]).status == 400


# -- headers and faults ----------------------------------------------------------------------------


def test_every_answer_carries_the_headers(whole, sessions, every_path):
    asked = [
        (method, path, {**session, "accept": accept}, b"")
        for path in every_path
        for method in ("GET", "POST", "PUT")
        for session in ({}, sessions["admin"])
        for accept in ("*/*", "text/html")
        if path != "/logout"  # the session is wanted again
    ]
    asked += [("GET", "/", {"host": "evil.example"}, b""), ("POST", "/", {"origin": None}, b"")]
    for (_, path, _, _), reply in zip(asked, ask(whole, asked), strict=True):
        for name, value in HEADERS.items():
            assert reply.headers[name.lower()] == value
        policy = reply.headers["content-security-policy"]
        for part in ("default-src", "frame-ancestors 'none'", "form-action 'self'"):
            assert part in policy
        by_gradio = path == PAGE or path.startswith(f"{PAGE}/")
        assert ("unsafe" in policy) == by_gradio
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers
        fresh = reply.headers["cache-control"]
        if not path.startswith((f"{PAGE}/assets/", "/page/", "/login.css")):
            assert fresh == "no-store" or f"{PAGE}/" in path


def test_files_of_the_page_are_kept_by_browsers_and_asked_for_again(whole, sessions):
    session = sessions["annotator"]
    (first,) = ask(whole, [("GET", "/page/main.js", session, b"")])
    assert (first.status, first.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert first.headers["cache-control"] == "private, no-cache"
    assert b"export async function start" in first.body
    again = {"if-none-match": first.headers["etag"]}
    small = {"accept-encoding": "gzip"}
    same, packed = ask(
        whole,
        [("GET", "/page/main.js", session | extra, b"") for extra in (again, small)],
    )
    assert (same.status, same.body) == (304, b"")
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(first.body)


TRAVERSALS = [
    "..%2f..%2fetc%2fpasswd",
    "../../../../etc/passwd",
    "%2e%2e/%2e%2e/api.py",
    "..%5c..%5cetc%5cpasswd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "....//....//etc/passwd",
    "x%00.js",
    "login.html",
    "message.html",
    "..",
    "",
    "%252e%252e%252fcli.py",
    "main.js/../../cli.py",
    "file=/etc/passwd",
]
FOLDERS = ["/page/", f"{PAGE}/assets/", f"{PAGE}/static/", f"{PAGE}/svelte/", f"{PAGE}/"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_path_leads_out_of_a_folder(whole, sessions, folder):
    asked = [("GET", folder + part, sessions["admin"], b"") for part in TRAVERSALS]
    for request, reply in zip(asked, ask(whole, asked), strict=True):
        if request[1] == f"{PAGE}/":
            continue
        assert reply.status in (400, 403, 404), request[1]
        assert b"root:" not in reply.body


def test_a_websocket_is_closed(whole):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(whole({"type": "websocket", "path": "/rank/queue/join", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


SECRET = "/srv/secret/store.sqlite: SELECT secret FROM rankings"


@pytest.mark.parametrize(
    ("error", "status"),
    [(StoreError(SECRET), 503), (RuntimeError(SECRET), 500), (RecursionError(SECRET), 500)],
)
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_a_fault_of_ours_tells_a_reference_and_nothing_else(
    app, as_person, people, monkeypatch, caplog, error, status, accept
):
    session = cookie_of(as_person("ann"))

    def fail(*_args, **_rest):
        raise error

    monkeypatch.setattr(people, "claim", fail)
    (reply,) = ask(app, [("POST", "/api/next", {**session, **JSON, "accept": accept}, b"{}")])
    assert reply.status == status
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    reference = re.search(r"reference ([0-9a-f]{8})", reply.json()["error"])[1]
    assert f"reference {reference}" in caplog.text
    assert "secret" in caplog.text


def test_a_store_that_is_gone_is_told_at_the_door(app, as_person, people, monkeypatch):
    session = cookie_of(as_person("ann"))

    def fail(*_args):
        raise StoreError(SECRET)

    monkeypatch.setattr(people.people, "session", fail)
    for path in ("/api/me", "/rank/", "/page/main.js"):
        (reply,) = ask(app, [("GET", path, session, b"")])
        assert (reply.status, b"secret" in reply.body) == (503, False)


def test_pages_that_say_no_are_pages(app, as_person):
    session = cookie_of(as_person("ann"))
    (reply,) = ask(
        app, [("GET", "/<script>fire()</script>", {**session, "accept": "text/html"}, b"")]
    )
    assert (reply.status, reply.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b"<h1>There is no such page</h1>" in reply.body
    assert b"fire" not in reply.body
