"""Under which names the page is reached and by which way: what a request may claim of itself."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_FORWARDING = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-original-", b"x-rewrite-")


@dataclass(frozen=True, slots=True)
class Site:
    """The names of this server and what stands in front of it."""

    hosts: frozenset[str] = LOOPBACK
    """Names that a request may come under, without the port."""
    https: bool = False
    """Whether browsers reach it by https: by a certificate of its own or through a proxy."""
    proxies: frozenset[str] = frozenset()
    """Addresses whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""
    port: int = 7860

    @property
    def cookie(self) -> str:
        """Name of the session cookie.

        Browsers keep ``__Host-`` cookies to this very host; by plain http, where one name may
        serve several ports, the port tells the cookies of two servers apart.
        """
        return "__Host-session" if self.https else f"session-{self.port}"

    def admit(self, scope: Scope) -> Scope:
        """Give the request as it was before the proxies; claims of anybody else are dropped."""
        headers = Headers(scope=scope)
        client = scope.get("client")
        scheme = scope["scheme"]
        if client is not None and client[0] in self.proxies:
            scheme = headers.get("x-forwarded-proto", "https").split(",")[-1].strip().lower()
            client = (self._sender(headers.getlist("x-forwarded-for")) or client[0], 0)
        kept = [item for item in scope["headers"] if not item[0].lower().startswith(_FORWARDING)]
        return {**scope, "headers": kept, "client": client, "scheme": scheme}

    def knows_host(self, scope: Scope) -> bool:
        """Say whether the request was sent to one of our names, and by the way that we offer."""
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or scope["scheme"] != ("https" if self.https else "http"):
            return False
        name, _, port = hosts[0].rpartition(":")
        if not name or not port.isdigit():
            name = hosts[0]
        return name.lower() in self.hosts

    @staticmethod
    def is_own_page(scope: Scope) -> bool:
        """Say whether a browser sent this from a page of ours.

        Browsers name the origin of every POST; a request that names none is refused, unless
        the browser says that it comes from the same origin.
        """
        headers = Headers(scope=scope)
        sites = headers.getlist("sec-fetch-site")
        if any(site != "same-origin" for site in sites):
            return False
        origins = headers.getlist("origin")
        if not origins:
            return bool(sites)
        own = (scope["scheme"], headers.get("host", "").lower())
        return len(origins) == 1 and _origin(origins[0]) == own

    def _sender(self, forwarded: list[str]) -> str:
        """Find who sent a request: the last address in the list that is no proxy of ours."""
        addresses = [part.strip() for line in forwarded for part in line.split(",")]
        others = [address for address in addresses if address and address not in self.proxies]
        return others[-1][:64] if others else ""


def _origin(text: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or not parts.netloc:
        return None
    return parts.scheme, parts.netloc.lower()
