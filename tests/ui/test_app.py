"""The whole application: headers, origins, hosts, what is open, what is imported."""

import re
import socket
import subprocess
import sys
from importlib import resources

import pytest
from starlette.testclient import TestClient

from labeling_ui import cli
from labeling_ui.app import create_app
from labeling_ui.security import HEADERS, MAX_BODY
from rlhf.store import RankingStore

HOST = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with RankingStore.open(tmp_path_factory.mktemp("app") / "store.sqlite") as store:
        yield TestClient(create_app(store), base_url=HOST)


def post(client, path="/api/next", content=b'{"annotator": "ann"}', **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(path, content=content, headers={"content-type": "application/json", **named})


def test_the_page_comes_with_nothing_of_the_store_in_it(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.url.path == "/rank/"
    empty = r'"html_template":"\u003cdiv class=\u0027rk\u0027\u003e\u003c/div\u003e"'
    assert empty in page.text
    assert not re.search(r'(src|href)="(https?:)?//', page.text)


def test_every_answer_carries_the_headers(client):
    answers = [
        client.get("/"),
        client.get("/nowhere"),
        client.get("/favicon.ico"),
        post(client),
        post(client, content=b"x" * (MAX_BODY + 1)),
        post(client, origin="https://evil.example"),
        client.get("/", headers={"host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 204, 200, 413, 403, 400]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": HOST}, 200),
        ({"origin": HOST, "sec_fetch_site": "same-origin"}, 200),
        ({"origin": "http://localhost:7860", "host": "localhost:7860"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:7861"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "none"}, 403),
        ({"host": "evil.example"}, 400),
        ({"host": "evil.example", "origin": "http://evil.example"}, 400),
    ],
)
def test_only_our_own_page_may_post(client, headers, status):
    assert post(client, **headers).status_code == status


def test_a_preflight_of_another_page_is_refused(client):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert client.options("/api/submit", headers=asked).status_code == 403


CLOSED = """
    /openapi.json /docs /redoc /config /rank/config /rank/login /rank/logout /rank/monitoring
    /rank/gradio_api/info /rank/gradio_api/token /rank/gradio_api/heartbeat/x
    /rank/gradio_api/file=/etc/passwd /rank/gradio_api/startup-events /rank/static/../config
"""


@pytest.mark.parametrize("path", CLOSED.split())
def test_what_the_page_does_not_need_does_not_answer(client, path):
    assert client.get(path).status_code == 404
    assert post(client, path).status_code == 404


@pytest.mark.parametrize("path", ["/rank/", "/rank/static/x", "/rank/assets/x"])
def test_gradio_takes_no_posts(client, path):
    assert post(client, path).status_code in (404, 405)


def test_large_bodies_are_refused_however_they_come(client):
    chunks = (b"x" * 1000 for _ in range(MAX_BODY // 1000 + 2))
    assert post(client, content=chunks).status_code == 413
    assert post(client, content=b" " * (MAX_BODY - 20) + b"{}").status_code == 200


def test_the_script_never_makes_html_of_text():
    """Every way from a string to markup or code, and both template syntaxes of Gradio."""
    script = (resources.files("labeling_ui") / "static" / "ranking.js").read_text("utf-8")
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
        "DOMParser",
        "{{",
        "${",
        "createContextual",
    ):
        assert forbidden not in script
    style = (resources.files("labeling_ui") / "static" / "ranking.css").read_text("utf-8")
    assert "url(" not in style
    assert "@import" not in style


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "none.sqlite"], "none.sqlite: no such store"),
        (["--store", "no/folder/s.sqlite"], "no such folder"),
        (["--store", "notes.txt"], "is not a ranking store"),
        (["--store", "good.sqlite", "--host", "0.0.0.0"], "no accounts"),
        (["--store", "good.sqlite", "--host", "example.com"], "no accounts"),
        (["--store", "good.sqlite", "--annotator", "a\nb"], "annotator name"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    RankingStore.open("good.sqlite").close()
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "\u0663"])
def test_a_bad_port_exits_2(port, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--store", "x", "--port", port])
    assert caught.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_a_taken_port_is_told(tmp_path, capsys):
    store = tmp_path / "store.sqlite"
    RankingStore.open(store).close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["--store", str(store), "--port", port]) == 2
    assert f"error: --port {port}" in capsys.readouterr().err
