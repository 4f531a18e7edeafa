"""Whether a server can listen on a port, checked before anything is started that needs it."""

from __future__ import annotations

import socket

from selftrain.errors import ConfigError, ResourceError


def require_free_port(host: str, port: int) -> None:
    """Make sure that a server can listen on `host:port`.

    Raises:
        ConfigError: there is no such port.
        ResourceError: something listens there already, or this user may not.
    """
    if not 0 < port < 2**16:
        raise ConfigError(f"port must be from 1 to 65535 (got {port}).", parameter="port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"port {port} of {host} cannot be used ({reason}); choose another.", parameter="port") from None
