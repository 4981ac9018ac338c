"""The page, the imports behind it, and the command line that starts it."""

import io
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib import resources

import pytest
from starlette.routing import Mount
from visitors import browser

from labeling_ui import cli
from labeling_ui.app import create_app
from labeling_ui.passwords import Passwords
from rlhf.store import RankingStore

CHEAP = Passwords(memory_kib=8, passes=1)


@pytest.fixture
def local(store):
    client = browser(create_app(store))
    client.get(client.app.state.link)
    return client


def test_the_page_comes_with_nothing_of_the_store_in_it(local, store, new_task):
    store.add_tasks([new_task(1)])
    page = local.get("/")
    assert (page.status_code, page.url.path) == (200, "/rank/")
    empty = r'"html_template":"\u003cdiv class=\u0027rk\u0027\u003e\u003c/div\u003e"'
    assert empty in page.text
    assert "import(\\u0027/page/main.js\\u0027)" in page.text
    assert "answer 1" not in page.text
    assert "secret-model" not in page.text
    assert not re.search(r'(src|href)="(https?:)?//', page.text)


def test_the_files_that_the_page_names_are_there(local):
    page = local.get("/rank/").text
    named = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page)
    assert len(named) >= 2
    for name in named:
        reply = local.get(f"/rank/{name}")
        assert reply.status_code == 200
        assert reply.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert local.get("/rank/assets/none.js").headers["cache-control"] == "no-store"
    assert local.get("/rank/theme.css").status_code == 200
    assert [local.get(path).status_code for path in ("/favicon.ico", "/manifest.json")] == [
        204,
        204,
    ]
    assert local.get("/rank", follow_redirects=False).headers["location"] == "/rank/"


def test_every_script_and_style_of_ours_is_served(local):
    folder = resources.files("labeling_ui") / "static"
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith((".js", ".css"))]
    assert "main.js" in names
    for name in names:
        reply = local.get(f"/page/{name}")
        assert (reply.status_code, reply.content) == (200, (folder / name).read_bytes())


def test_the_serving_process_loads_no_training_library(tmp_path):
    RankingStore.open(tmp_path / "store.sqlite").close()
    script = (
        "import sys, os\n"
        "from labeling_ui.app import create_app\n"
        "from rlhf.store import RankingStore\n"
        "create_app(RankingStore.open(sys.argv[1]))\n"
        "names = ('torch', 'transformers', 'datasets', 'peft', 'trl', 'accelerate')\n"
        "print([name for name in names if name in sys.modules], "
        "os.environ['GRADIO_ANALYTICS_ENABLED'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store.sqlite")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[] False\n"


def test_nothing_is_told_to_anybody_whatever_the_environment_says(store, monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    app = create_app(store)
    mounted = [route.app for route in app.routes if isinstance(route, Mount)]
    assert len(mounted) == 1
    for one in (app, *mounted):
        wanted = getattr(one, "_telemetry", {})  # older versions of FastAPI have none
        switches = ("tracing", "metrics", "logs", "operation_spans", "auto_configure")
        assert not any(wanted.get(name) for name in switches)


# -- starting --------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch, empty_store):
    """A folder with a store without people, one with an admin, and something else."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, "local.sqlite")
    shutil.copy(empty_store, "team.sqlite")
    with RankingStore.open("team.sqlite") as store:
        store.people.add("adm", "admin", CHEAP.hash("a long enough secret"))
    (tmp_path / "notes.txt").write_text("notes")
    return tmp_path


@pytest.fixture
def served(monkeypatch):
    """Keep ``serve`` from serving; give what it was called with."""
    calls = []
    monkeypatch.setattr("labeling_ui.app._mount", lambda app: None)
    monkeypatch.setattr("labeling_ui.app.listen", lambda host, port: (host, port))
    monkeypatch.setattr("labeling_ui.app.serve", lambda *call, **rest: calls.append((call, rest)))
    return calls


def run(capsys, line, *more):
    status = cli.main([*line.split(), *more])
    return status, capsys.readouterr()


LOCAL, TEAM = "--store local.sqlite", "--store team.sqlite"
TLS = "--tls-cert cert.pem --tls-key key.pem"
PROXY = "--behind-proxy 10.0.0.1 --public-host rank.example"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--store none.sqlite", "none.sqlite"),
        ("--store no/folder/s.sqlite", "no such folder"),
        ("--store notes.txt", "is not a ranking store"),
        (f"{LOCAL} --host 0.0.0.0", "other machines reach it"),
        (f"{LOCAL} --host ::", "other machines reach it"),
        (f"{LOCAL} --host 192.168.1.1", "other machines reach it"),
        (f"{LOCAL} --host example.com", "other machines reach it"),
        (f"{LOCAL} --host 0.0.0.0 {PROXY}", "no accounts"),
        (f"{LOCAL} {PROXY}", "no accounts"),
        (f"{LOCAL} --public-host rank.example", "needs https"),
        (f"{TEAM} --host 0.0.0.0", "other machines reach it"),
        (f"{TEAM} --host 0.0.0.0 --public-host rank.example", "needs https"),
        (f"{TEAM} --host 0.0.0.0 --behind-proxy 10.0.0.1", "--public-host"),
        (f"{TEAM} --behind-proxy 10.0.0.1", "--public-host"),
        (f"{TEAM} --behind-proxy everybody --public-host x", "address of the proxy"),
        (f"{TEAM} --behind-proxy 10.0.0.0/8 --public-host x", "address of the proxy"),
        (f"{TEAM} --behind-proxy 10.0.0.1 --public-host *", "--public-host"),
        (f"{TEAM} --behind-proxy 10.0.0.1 --public-host https://x", "--public-host"),
        (f"{TEAM} --tls-cert notes.txt", "give both"),
        (f"{TEAM} --tls-key notes.txt", "give both"),
        (f"{TEAM} {TLS}", "can't be used"),
        (f"{TEAM} --tls-cert notes.txt --tls-key notes.txt", "can't be used"),
        (f"{TEAM} --annotator ann", "has accounts"),
        ("adduser ann", "did you mean 'add-user'"),
        ("serf --store local.sqlite", "unknown command"),
    ],
)
def test_unsafe_starts_and_mistakes_are_one_line_and_exit_2(files, served, capsys, line, message):
    status, told = run(capsys, line)
    assert (status, served) == (2, [])
    assert told.err.startswith("error: ")
    assert message in told.err
    assert told.err.count("\n") == 1


def test_a_name_that_cant_be_is_refused(files, served, capsys):
    status, told = run(capsys, LOCAL, "--annotator", "a\nb")
    assert (status, served, "annotator name" in told.err) == (2, [], True)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "\u0663"])
def test_a_bad_port_exits_2(port, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--store", "x", "--port", port])
    assert caught.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_a_taken_port_is_told_before_any_link(files, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, told = run(capsys, f"{LOCAL} --port {port}")
    assert (status, f"error: --port {port}" in told.err, "enter?key" in told.err) == (
        2,
        True,
        False,
    )


@pytest.mark.parametrize("serve", ["", "serve "])
def test_a_local_start_prints_its_link(files, served, capsys, serve):
    status, told = run(capsys, f"{serve}{LOCAL} --annotator Ann --port 7999")
    assert (status, len(served)) == (0, 1)
    link = re.search(r"http://127\.0\.0\.1:7999(/enter\?key=[A-Za-z0-9_-]{43}) ", told.err)[1]
    app = served[0][0][0]
    assert app.state.link == link
    assert "0 of 0 tasks open" in told.err


@pytest.mark.parametrize(("version", "warned"), [((3, 51, 2), True), ((3, 51, 3), False)])
@pytest.mark.usefixtures("files", "served")
def test_an_old_sqlite_is_told_of(capsys, monkeypatch, version, warned):
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)
    _, told = run(capsys, f"{LOCAL} --annotator Ann")
    assert ("use PostgreSQL" in told.err) is warned


@pytest.mark.parametrize(
    ("line", "address", "https", "hosts"),
    [
        (TEAM, "http://127.0.0.1:7860/", False, {"127.0.0.1", "localhost", "[::1]"}),
        (f"{TEAM} --host ::1", "http://[::1]:7860/", False, {"127.0.0.1", "localhost", "[::1]"}),
        (f"{TEAM} {PROXY}", "https://rank.example/", True, {"rank.example"}),
        (f"{TEAM} --host 0.0.0.0 {PROXY}", "https://rank.example/", True, {"rank.example"}),
    ],
)
def test_a_start_with_accounts_prints_where_to_log_in(
    files, served, capsys, line, address, https, hosts
):
    status, told = run(capsys, line)
    assert (status, len(served)) == (0, 1)
    assert f"ranking page on {address} " in told.err
    assert "key=" not in told.err
    rules = served[0][0][0].user_middleware[0].kwargs["rules"]
    assert (rules.site.https, rules.site.hosts) == (https, hosts)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for command in ("add-user", "erase-user", "guidelines", "settings", "--behind-proxy"):
        assert command in told


# -- accounts --------------------------------------------------------------------------------------


def account(store="team.sqlite", name="ann"):
    with RankingStore.open(store) as opened:
        return opened.people.account(name), opened.people.password_hash(name)


def test_an_account_from_first_to_last(files, capsys):
    status, told = run(capsys, f"add-user ann --role annotator {TEAM} --generate")
    password = re.search(r"password: (\S+)\n", told.out)[1]
    made, stored = account()
    assert (status, made.role, made.state) == (0, "annotator", "active")
    assert len(password) == 23
    assert Passwords().check(password, stored)
    assert run(capsys, f"set-role ANN --role reviewer {TEAM}")[1].out == "ann is reviewer\n"
    assert "gets no more tasks" in run(capsys, f"pause-user ann {TEAM}")[1].out
    assert account()[0].state == "paused"
    run(capsys, f"disable-user ann {TEAM}")
    assert account()[0].state == "disabled"
    run(capsys, f"resume-user ann {TEAM}")
    assert account()[0].state == "active"
    listed = run(capsys, f"list-users {TEAM}")[1].out.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["name", "role", "state"],
        ["adm", "admin", "active"],
        ["ann", "reviewer", "active"],
    ]
    pseudonym = account()[0].pseudonym
    assert pseudonym in run(capsys, f"erase-user ann --yes {TEAM}")[1].out
    assert account() == (None, None)


def test_a_password_by_a_pipe(files, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", open_text("a long enough secret\nmore\n"))
    assert run(capsys, f"set-password adm --password-stdin {TEAM}")[0] == 0
    assert Passwords().check("a long enough secret", account(name="adm")[1])


def open_text(text, encoding="utf-8"):
    return open_bytes(text.encode(), encoding)


def open_bytes(content, encoding="utf-8", errors="strict"):
    """Standard input as a locale of that encoding opens it."""
    return io.TextIOWrapper(io.BytesIO(content), encoding, errors)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_password_by_a_pipe_is_utf_8_in_every_locale(files, capsys, monkeypatch, encoding):
    monkeypatch.setattr("sys.stdin", open_text("ein großes Geheimnis\r\n", encoding))
    assert run(capsys, f"set-password adm --password-stdin {TEAM}")[0] == 0
    assert Passwords().check("ein großes Geheimnis", account(name="adm")[1])


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_password_that_is_not_utf_8_is_one_line_and_exit_2(files, capsys, monkeypatch, errors):
    before = account(name="adm")
    monkeypatch.setattr("sys.stdin", open_bytes(b"ein gro\xdfes Geheimnis\n", "utf-8", errors))
    status, told = run(capsys, f"set-password adm --password-stdin {TEAM}")
    assert (status, told.out) == (2, "")
    assert told.err == "error: --password-stdin: is not UTF-8; send it as UTF-8\n"
    assert account(name="adm") == before


def test_a_password_at_the_terminal_is_asked_for_twice(files, capsys, monkeypatch):
    typed = iter(["a long enough secret", "a long enough secrex"] + ["a long enough secret"] * 2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    status, told = run(capsys, f"add-user ann --role annotator {TEAM}")
    assert (status, "differ" in told.err, account()[0]) == (2, True, None)
    assert run(capsys, f"add-user ann --role annotator {TEAM}")[0] == 0


@pytest.mark.parametrize(
    ("line", "typed", "message"),
    [
        ("add-user ann --role annotator --password-stdin", "too short", "10 to 256"),
        ("add-user ann --role annotator --password-stdin", "", "10 to 256"),
        ("add-user ann --role annotator --password-stdin", "x" * 257, "10 to 256"),
        ("add-user ann --role annotator --password-stdin", "ababababababab", "easy to guess"),
        ("add-user annotators --role annotator --password-stdin", "Annotators", "easy to guess"),
        ("add-user ann --role annotator", "", "no terminal"),
        ("add-user adm --role annotator --generate", "", "account already"),
        ("set-password ann --generate", "", "no account"),
        ("set-role ann --role admin", "", "no account"),
        ("pause-user ann", "", "no account"),
        ("erase-user nobody --yes", "", "nobody is called"),
        ("erase-user adm", "", "--yes"),
        ("set-role adm --role annotator", "", "only admin"),
        ("disable-user adm", "", "only admin"),
        ("guidelines none.md", "", "can't be read"),
        ("settings gold_every", "", "NAME=VALUE"),
        ("settings speed=1", "", "NAME=VALUE"),
        ("settings guidelines=x", "", "NAME=VALUE"),
        ("settings gold_every=x", "", "is no number"),
        ("settings gold_every=true", "", "not of its kind"),
        ("settings strengths=1", "", "not of its kind"),
        ("settings gold_every=-1", "", "gold_every"),
        ("settings random_share=2", "", "random_share"),
        ("settings flags=Not-A-Label", "", "flags"),
    ],
)
def test_account_mistakes_are_one_line_and_exit_2(files, capsys, monkeypatch, line, typed, message):
    monkeypatch.setattr("sys.stdin", open_text(typed))
    before = account(name="adm")
    status, told = run(capsys, f"{line} {TEAM}")
    assert (status, told.out) == (2, "")
    assert told.err.startswith("error: ")
    assert message in told.err
    assert told.err.count("\n") == 1
    assert account(name="adm") == before


def test_settings_and_guidelines_are_changed_and_shown(files, capsys):
    shown = run(capsys, f"settings gold_every=20 random_share=0.3 strengths=true {TEAM}")[1].out
    assert re.search(r"^gold_every +20$", shown, re.MULTILINE)
    run(capsys, f"settings flags=wrong,rude training_pass=1 {TEAM}")
    (files / "how.md").write_text("# Be fair", encoding="utf-8")
    assert run(capsys, f"guidelines how.md {TEAM}")[1].out == "guidelines version 1\n"
    with RankingStore.open("team.sqlite") as store:
        settings = store.settings()
    assert (settings.gold_every, settings.random_share, settings.strengths) == (20, 0.3, True)
    assert (settings.flags, settings.training_pass) == (("wrong", "rude"), 1)
    assert (settings.guidelines, settings.guidelines_version) == ("# Be fair", 1)
    assert run(capsys, f"settings {TEAM}")[1].out.count("\n") == 9


# -- a real server ---------------------------------------------------------------------------------


def start(*arguments):
    server = subprocess.Popen(
        [sys.executable, "-m", "labeling_ui", *map(str, arguments)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told, until = b"", time.monotonic() + 60
    while b"Ctrl+C" not in told and time.monotonic() < until:
        if select.select([server.stderr], [], [], 1)[0]:
            piece = os.read(server.stderr.fileno(), 4096)
            if not piece:
                break
            told += piece
    return server, told.decode()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_a_server_starts_is_entered_and_ends_by_ctrl_c(files):
    port = free_port()
    server, told = start("--store", "local.sqlite", "--port", port, "--annotator", "Ann")
    try:
        link = re.search(r"(http://127\.0\.0\.1:\d+/enter\?key=\S+)", told)[1]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = opener.open(link, timeout=10)
        assert (page.status, page.url) == (200, f"http://127.0.0.1:{port}/rank/")
        assert b'"name": "Ann"' in opener.open(f"http://127.0.0.1:{port}/api/me").read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/me", timeout=10)
    finally:
        server.send_signal(signal.SIGINT)
        status = server.wait(20)
    assert (status, server.stderr.read()) == (0, b"")
