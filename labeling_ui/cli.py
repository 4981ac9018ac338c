"""The command line of the ranking page: serving it, and the accounts of who may use it."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import ssl
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from labeling_ui import accounts
from labeling_ui.site import LOOPBACK, Site
from rlhf.errors import ConfigError, RlhfError
from rlhf.store import RankingStore
from rlhf.store.checks import annotator_key

PROG = "python -m labeling_ui"


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of ``serve``, the command that needs no name."""
    listed = "\n".join(
        f"  {name:<14} {command.about}" for name, command in accounts.COMMANDS.items()
    )
    build = argparse.ArgumentParser(
        prog=PROG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"{PROG} [serve] --store PATH [options]\n       {PROG} COMMAND ... --store PATH",
        description="Serve a page on which people rank the completions in a ranking store.\n\n"
        "A store without accounts is for one person on this machine: the start prints a link\n"
        "that opens the page once. With accounts, people log in.",
        epilog=f"commands ({PROG} COMMAND --help explains each):\n{listed}\n\n"
        "Fill a store with `rlhf sample --store PATH`. Stop the page with Ctrl+C: what people\n"
        "have submitted is on disk.",
        allow_abbrev=False,
    )
    _add_store(build)
    build.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; one that other machines reach needs accounts, and "
        "--tls-cert or --behind-proxy (default: %(default)s)",
    )
    build.add_argument(
        "--port", type=_port, default=7860, help="port to listen on (default: %(default)s)"
    )
    build.add_argument(
        "--annotator",
        metavar="NAME",
        help="whose rankings these are, in a store without accounts (default: who starts it)",
    )
    build.add_argument(
        "--public-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name under which browsers reach the page, such as rank.example.org; "
        "give the option again for another",
    )
    build.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate chain, PEM")
    build.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key, PEM")
    build.add_argument(
        "--behind-proxy",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="address of the proxy that speaks https with browsers; what it says of who asks "
        "is believed, and nobody else's",
    )
    return build


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, or run one of the account commands; give the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given and given[0] == "serve":
            return _serve(parser().parse_args(given[1:]))
        if given and not given[0].startswith("-"):
            return _command(given[0], given[1:])
        return _serve(parser().parse_args(given))
    except RlhfError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def _command(name: str, arguments: Sequence[str]) -> int:
    command = accounts.COMMANDS.get(name)
    if command is None:
        close = get_close_matches(name, accounts.COMMANDS, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "--help lists them"
        raise ConfigError(f"unknown command {name!r}; {remedy}")
    build = argparse.ArgumentParser(
        prog=f"{PROG} {name}", description=command.run.__doc__, allow_abbrev=False
    )
    for names, settings in command.options:
        build.add_argument(*names, **settings)
    _add_store(build)
    options = build.parse_args(arguments)
    if "name" in options:
        annotator_key(options.name)
    with RankingStore.open(options.store, create=False) as store:
        sys.stdout.write(command.run(store, options))
    return 0


def _serve(options: argparse.Namespace) -> int:
    if options.annotator is not None:
        annotator_key(options.annotator)
    site = _site(options)
    with RankingStore.open(options.store, create=False) as store:
        _check_people(store, options)
        # Gradio takes seconds to import: not before the arguments are known to be right.
        from labeling_ui.app import create_app, listen, serve

        app = create_app(store, site=site, annotator=options.annotator or _user())
        listening = listen(options.host, options.port)
        counts = store.progress()
        if store.warning is not None:
            sys.stderr.write(f"note: {store.warning}\n")
        sys.stderr.write(
            f"{store.place}: {counts.open} of {counts.tasks} tasks open, "
            f"{counts.rankings} rankings ({counts.simulated} simulated)\n"
            f"{_where(options, app.state.link)} (Ctrl+C ends it)\n"
        )
        sys.stderr.flush()
        serve(app, listening, certificate=_certificate(options))
    return 0


def _site(options: argparse.Namespace) -> Site:
    """Say under which names the page is reached.

    Raises:
        ConfigError: If that would be unsafe or can't be.
    """
    tls = _certificate(options) is not None
    https = tls or bool(options.behind_proxy)
    if tls and options.behind_proxy:
        raise ConfigError("--behind-proxy and --tls-cert: give one, for whoever speaks https")
    if options.public_host and not https:
        raise ConfigError(
            "--public-host needs https: give --tls-cert and --tls-key, or --behind-proxy"
        )
    if not _is_loopback(options.host):
        if not https:
            raise ConfigError(
                f"--host {options.host}: other machines reach it, so it needs --tls-cert and "
                "--tls-key, or --behind-proxy; or reach this machine with `ssh -L "
                f"{options.port}:127.0.0.1:{options.port} THIS_MACHINE`"
            )
        if not options.public_host:
            raise ConfigError(
                f"--host {options.host}: give --public-host NAME, as browsers call it"
            )
    elif options.behind_proxy and not options.public_host:
        raise ConfigError("--behind-proxy: give --public-host NAME, as browsers call it")
    names = {_public_name(name) for name in options.public_host}
    proxies = frozenset(map(_address, options.behind_proxy))
    hosts = frozenset(names) | (frozenset() if proxies else LOOPBACK)
    return Site(hosts, https=https, proxies=proxies, port=options.port)


def _check_people(store: RankingStore, options: argparse.Namespace) -> None:
    """Refuse to show a store without accounts to other machines, or to guess who a person is."""
    people = store.people.accounts()
    if people and options.annotator is not None:
        raise ConfigError("--annotator: this store has accounts, so people log in; leave it out")
    if people and not any(person.role == "admin" for person in people):
        sys.stderr.write(f"note: no account is admin; `{PROG} set-role` makes one\n")
    if not people and (options.behind_proxy or not _is_loopback(options.host)):
        raise ConfigError(
            f"--host {options.host}: other machines reach it, and the store has no accounts; "
            f"make one first with `{PROG} add-user NAME --role admin --store {store.place}`"
        )


def _certificate(options: argparse.Namespace) -> tuple[Path, Path] | None:
    """Give the files of the certificate, if there is one.

    Raises:
        ConfigError: If one of the two is missing, or they don't fit.
    """
    cert, key = options.tls_cert, options.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("--tls-cert and --tls-key: give both")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"--tls-cert {cert}, --tls-key {key}: can't be used ({why})") from error
    return cert, key


def _where(options: argparse.Namespace, link: str) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "http" if options.tls_cert is None else "https"
    address = f"{scheme}://{host}:{options.port}"
    if options.public_host:
        address = f"https://{options.public_host[0]}" + (
            f":{options.port}" if options.tls_cert is not None and options.port != 443 else ""
        )
    if link == "/login":
        return f"ranking page on {address}/"
    return f"open once, in your browser: {address}{link}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _public_name(name: str) -> str:
    shown = name.strip().lower()
    if not shown or not all(letter.isalnum() or letter in ".-" for letter in shown):
        raise ConfigError(f"--public-host {name!r}: give a name such as rank.example.org, no port")
    return shown


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"--behind-proxy {text!r}: give the address of the proxy") from None


def _user() -> str:
    """Name the person at this machine."""
    try:
        name = getpass.getuser()
        annotator_key(name)
    except (OSError, KeyError, RlhfError):
        return "me"
    return name


def _add_store(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "--store",
        required=True,
        metavar="PATH",
        help="ranking store to work on: a file, or the URL of a PostgreSQL database",
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)
