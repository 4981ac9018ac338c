"""The scripts and styles of our pages: read once, sent small, asked for again by their hash."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from labeling_ui.bodies import Refused

FOLDER = "/page/"
_TYPES = {".js": "text/javascript", ".css": "text/css"}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    small: bytes
    etag: str
    media_type: str


def routes() -> list[Route]:
    """Give the route to the files that lie in ``static``."""
    files = {}
    for entry in (resources.files("labeling_ui") / "static").iterdir():
        media_type = _TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            small = gzip.compress(content, mtime=0)
            files[entry.name] = _File(content, small, etag, media_type)

    async def show(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None:
            raise Refused(404, "there is nothing under this address")
        # Asked for at each load, so that a page never mixes two versions.
        headers = {"ETag": file.etag, "Cache-Control": "private, no-cache"}
        headers["Vary"] = "Accept-Encoding, Cookie"
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(file.content, headers=headers, media_type=file.media_type)
        headers["Content-Encoding"] = "gzip"
        return Response(file.small, headers=headers, media_type=file.media_type)

    return [Route(FOLDER + "{name}", show, methods=["GET"])]
