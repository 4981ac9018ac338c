"""The application: our routes, and one Gradio page that loads our script.

The only module that imports Gradio. The component's template is empty and static; texts come as
JSON and rankings go to the routes of ``labeling_ui.api``, not through Gradio events.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import: no call home

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from labeling_ui import pages
from labeling_ui.answers import refuse
from labeling_ui.api import ENDPOINTS
from labeling_ui.api.wire import Server
from labeling_ui.bodies import BODY_SECONDS, Refused
from labeling_ui.login import LocalEntrance, Login, ways_out
from labeling_ui.passwords import Passwords
from labeling_ui.security import GRADIO_FOLDERS, PAGE, Guard, Rules
from labeling_ui.sessions import LocalSessions, StoredSessions
from labeling_ui.site import Site
from labeling_ui.workers import Workers
from rlhf.errors import ConfigError
from rlhf.store import RankingStore

FOR_ALL = ("/", PAGE, "/logout", "/favicon.ico", "/manifest.json")
"""Paths beside the API's that everybody with a session reaches."""
# FastAPI can send traces and logs to whom the environment names: not from here.
_NO_TELEMETRY: dict[str, Any] = {
    "telemetry": dict.fromkeys(
        ("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False
    )
}
_START = (
    "import('/page/main.js').then((page) => page.start(element)).catch((error) => {"
    " console.error(error);"
    " element.textContent = 'The page can\\u2019t be shown. Load it again.'; });"
)


def create_app(
    store: RankingStore,
    *,
    site: Site | None = None,
    annotator: str | None = None,
    passwords: Passwords | None = None,
    clock: Callable[[], float] = time.time,
    body_seconds: float = BODY_SECONDS,
) -> FastAPI:
    """Build the application over an open store.

    Without accounts in the store it is for one person, who opens ``app.state.link`` once.

    Args:
        store: Where tasks come from and rankings go.
        site: Under which names it is reached.
        annotator: Who the one person is.
        passwords: How passwords are checked.
        clock: Gives Unix time in seconds.
        body_seconds: How long a request may take to arrive.
    """
    site, workers = site or Site(), Workers()

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        workers.close()

    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        **_NO_TELEMETRY,
    )
    sessions: LocalSessions | StoredSessions
    if store.people.accounts():
        sessions = StoredSessions(site, store, workers)
        login = Login(site, store, workers, sessions, passwords or Passwords(), clock)
        entrance, app.state.link = login.routes(), "/login"
    else:
        sessions = LocalSessions(site, annotator or "me")
        entrance, app.state.link = LocalEntrance(sessions).routes(), sessions.path
    server = Server(store, workers, sessions, clock)
    app.router.redirect_slashes = False  # it would name the host
    app.router.routes += [*entrance, *ways_out(sessions), *pages.routes()]
    app.router.routes += [endpoint.route(server) for endpoint in ENDPOINTS]
    for path in ("/", PAGE):
        app.add_route(path, _to_page, methods=["GET"])
    for path in ("/favicon.ico", "/manifest.json"):  # browsers and Gradio's page ask for them
        app.add_route(path, _nothing, methods=["GET"])
    app.add_exception_handler(HTTPException, _refuse)
    # With a CORS layer of the host Gradio leaves its own out, which would reflect any origin.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    _mount(app)
    roles = dict.fromkeys(FOR_ALL, "annotator") | {
        endpoint.path: endpoint.role for endpoint in ENDPOINTS
    }
    folders = dict.fromkeys((pages.FOLDER, *GRADIO_FOLDERS), "annotator")
    # Added last: outermost.
    app.add_middleware(Guard, rules=Rules(site, sessions, roles, folders, body_seconds))
    return app


def page() -> gr.Blocks:
    """Build the Gradio page: one component that draws itself in the browser."""
    with gr.Blocks(title="Rank the answers", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            html_template="<div class='rk'></div>",  # static: nothing is ever filled in
            js_on_load=_START,
            apply_default_css=False,
            elem_id="ranking",
        )
    return blocks


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises:
        ConfigError: If it can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        number = error.errno or 0  # looking up a name fails with a negative one
        why = os.strerror(number) if number > 0 else "no such address"
        raise ConfigError(f"--port {port} of {host}: {why}; give another") from error


def serve(
    app: FastAPI, listening: socket.socket, *, certificate: tuple[Path, Path] | None = None
) -> None:
    """Serve until interrupted.

    Args:
        app: What is served.
        listening: The port.
        certificate: Files of the TLS certificate and of its key.
    """
    files = {}
    if certificate is not None:
        files = {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])}
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
        **files,  # type: ignore[arg-type]
    )
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _mount(app: FastAPI) -> None:
    blocks = page()
    # No event ever comes: without this the empty queue wakes the processor 1,000 times a second.
    blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = 1.0
    gr.mount_gradio_app(
        app,
        blocks,
        PAGE,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        app_kwargs=dict(_NO_TELEMETRY),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        show_error=False,
        max_file_size="1kb",
    )


async def _to_page(_request: Request) -> Response:
    return RedirectResponse(f"{PAGE}/", status_code=303)


async def _nothing(_request: Request) -> Response:
    return Response(status_code=204)


async def _refuse(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    line = "this method is not used here" if status == 405 else "there is nothing at this address"
    return refuse(request.scope, Refused(status, line))
