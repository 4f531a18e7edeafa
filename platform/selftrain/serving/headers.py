"""Checks of a request's headers, before anything else is read: size, host, origin, and headers that must not repeat.

A page of another site can make a browser send requests here. Its scripts cannot read the answers unless its name points at this machine (DNS rebinding), which the
header `host` shows. The headers `sec-fetch-site` and `origin` show every other way; a page cannot set them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from selftrain.serving.schemas import Refused

MAX_HEAD_BYTES = 32 * 2**10  # of the address and all headers of a request
MAX_HEADERS = 100
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# A proxy and this server could disagree about which of two values counts.
_ONCE = frozenset(
    {b"host", b"authorization", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"origin", b"sec-fetch-site"}
)


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Hosts:
    """The hosts that requests may name.

    Args:
        names: as a browser writes them into the header, without a port.
        addresses: whether every IP address is one of them; an address cannot be made to point elsewhere, as a name can.
    """

    def __init__(self, names: Collection[str], *, addresses: bool) -> None:
        self._names = frozenset(names)
        self._addresses = addresses

    @classmethod
    def of(cls, host: str | None, allowed: Sequence[str] = (), *, token: bool) -> Hosts | None:
        """The hosts of a server; None for any.

        Args:
            host: the address that it listens on; None for Serve's proxies.
            allowed: further names.
            token: whether requests carry one. A page that rebinds a name does not know it, so names beyond this machine need no list.
        """
        names = {*_LOOPBACK, *(_written(name) for name in allowed), *([_written(host)] if host else [])}
        if host is not None and is_local(host):
            return cls(names, addresses=False)
        if token and not allowed:
            return None
        return cls({*names, socket.gethostname().lower()}, addresses=True)

    def __contains__(self, host: str) -> bool:
        """Whether the header's value, with or without a port, names one of them."""
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():  # [::1] has colons and no port
            name = host
        name = name.lower()
        return name in self._names or (self._addresses and _is_address(name))


def read_head(scope: Mapping[str, Any], hosts: Hosts | None) -> dict[bytes, bytes]:
    """The headers of a request by name.

    Args:
        scope: the ASGI scope.
        hosts: the hosts that it may name; None for any.

    Raises:
        Refused: it is too large (431), ambiguous (400), for another host (421) or from a page of another site (403).
    """
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise Refused(431, f"the request has more than {MAX_HEADERS} headers")
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    for name, value in headers:
        size += len(name) + len(value)
    if size > MAX_HEAD_BYTES:
        raise Refused(431, f"the address and the headers of the request are longer than {MAX_HEAD_BYTES} bytes")
    found: dict[bytes, bytes] = dict(headers)
    if len(found) != len(headers):
        names = [name for name, _ in headers]
        if (twice := next((name for name in _ONCE if names.count(name) > 1), None)) is not None:
            raise Refused(400, f"the header {twice.decode()} must not repeat")
    host = found.get(b"host", b"").decode("latin-1")
    if b"host" not in found and scope.get("http_version") != "1.0":
        raise Refused(400, "the header host is missing")
    if hosts is not None and b"host" in found and host not in hosts:
        raise Refused(421, f"{host[:100]!r} is not a host of this server; if it should be, add it to allowed_hosts")
    if b"sec-fetch-site" in found or b"origin" in found:
        _check_origin(found, scope["method"], host)
    return found


def _check_origin(found: Mapping[bytes, bytes], method: str, host: str) -> None:
    site = found.get(b"sec-fetch-site")
    if site is None:  # an old browser, or a plain http:// address of another machine
        allowed = found[b"origin"].decode("latin-1").lower().partition("://")[2] == host.lower()
    else:
        # A link to this server is fine: the other page sees nothing of the answer.
        link = method in ("GET", "HEAD") and found.get(b"sec-fetch-mode") == b"navigate" and found.get(b"sec-fetch-dest") == b"document"
        allowed = site in (b"same-origin", b"none") or link
    if not allowed:
        raise Refused(403, "pages of other sites are refused; a proxy in front of this server must pass the header host on unchanged")


def _written(host: str) -> str:
    """As a browser writes it into the header."""
    return f"[{host.lower()}]" if ":" in host and not host.startswith("[") else host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True
