"""The command line of the ranking page."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import ConfigError, RlhfError
from rlhf.store import RankingStore
from rlhf.store.checks import annotator_key


def parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    build = argparse.ArgumentParser(
        prog="python -m labeling_ui",
        description="Serve a page on which people rank the completions in a ranking store.",
        epilog="Fill a store with `rlhf sample --store PATH`. Stop the page with Ctrl+C: what "
        "people have submitted is on disk.",
        allow_abbrev=False,
    )
    build.add_argument("--store", required=True, metavar="PATH", help="ranking store to work on")
    build.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; only addresses of this machine, as the page has no accounts "
        "(default: %(default)s)",
    )
    build.add_argument(
        "--port", type=_port, default=7860, help="port to listen on (default: %(default)s)"
    )
    build.add_argument(
        "--annotator",
        metavar="NAME",
        help="whose rankings these are; without it the page asks for a name",
    )
    return build


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; give the exit status."""
    options = parser().parse_args(arguments)
    try:
        _check_host(options.host)
        if options.annotator is not None:
            annotator_key(options.annotator)
        with RankingStore.open(options.store, create=False) as store:
            _serve(store, options)
    except RlhfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _serve(store: RankingStore, options: argparse.Namespace) -> None:
    # Gradio takes seconds to import: not before the arguments are known to be right.
    from labeling_ui.app import create_app, serve

    app = create_app(store, annotator=options.annotator)
    counts = store.progress()
    sys.stderr.write(
        f"{Path(options.store)}: {counts.open} of {counts.tasks} tasks open, "
        f"{counts.rankings} rankings ({counts.simulated} simulated)\n"
        f"ranking page on http://{options.host}:{options.port}/ (Ctrl+C ends it)\n"
    )
    serve(app, host=options.host, port=options.port)


def _check_host(host: str) -> None:
    try:
        local = host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError(
            f"--host {host}: the page has no accounts, so it listens on 127.0.0.1 only; reach it "
            "from elsewhere with `ssh -L 7860:127.0.0.1:7860 THIS_MACHINE`"
        )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)
