"""The ranking page: one Gradio component inside our own FastAPI application.

The only module that imports Gradio. The component's template is empty and static: texts of a
model come as JSON and enter the page by ``textContent``, so they can't run. Rankings go to the
routes of ``labeling_ui.api``, not through Gradio events.
"""

from __future__ import annotations

import contextlib
import os
import socket

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import: no call home

from importlib import resources

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from labeling_ui.api import Api
from labeling_ui.security import PAGE, Guard
from rlhf.errors import ConfigError
from rlhf.store import RankingStore

TRUSTED_HOSTS = ("127.0.0.1", "localhost")


def create_app(store: RankingStore, *, annotator: str | None = None) -> FastAPI:
    """Build the application over an open store.

    Args:
        store: Where tasks come from and rankings go.
        annotator: Whose rankings these are; None lets the page ask for a name.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.extend(Api(store, annotator).routes())
    app.add_route("/", _to_page)
    app.add_route("/favicon.ico", _nothing)
    app.add_route("/manifest.json", _nothing)
    # With a CORS layer of the host Gradio leaves its own out, which would reflect any origin.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    gr.mount_gradio_app(
        app,
        page(),
        PAGE,
        css=_static("ranking.css"),
        theme=gr.themes.Base(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        show_error=False,
        max_file_size="1kb",
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*TRUSTED_HOSTS])
    app.add_middleware(Guard)  # added last: outermost
    return app


def page() -> gr.Blocks:
    """Build the Gradio page: one component that draws itself in the browser."""
    with gr.Blocks(title="Rank the answers", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            html_template="<div class='rk'></div>",  # static: nothing is ever filled in
            js_on_load=_static("ranking.js"),
            apply_default_css=False,
            elem_id="ranking",
        )
    return blocks


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        ConfigError: If the port can't be had.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; give another") from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _static(name: str) -> str:
    return (resources.files("labeling_ui") / "static" / name).read_text(encoding="utf-8")


async def _to_page(_request: Request) -> Response:
    return RedirectResponse(f"{PAGE}/", status_code=307)


async def _nothing(_request: Request) -> Response:
    return Response(status_code=204)
