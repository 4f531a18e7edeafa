"""Whether a port can be listened on, asked before anything is started that would need it."""

from __future__ import annotations

import socket

from selftrain.errors import SelfTrainError


def require_free_port(host: str, port: int) -> None:
    """Make sure that a server can listen on `host:port`.

    Raises:
        SelfTrainError: something listens there already, or it is not ours to take.
    """
    if not 0 < port < 2**16:
        raise SelfTrainError(f"Port {port} does not exist; choose one from 1 to 65535 with --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SelfTrainError(f"Port {port} of {host} cannot be used ({reason}); choose another with --port.") from None
