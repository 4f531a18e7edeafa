"""The HTTP server of a replica that listens itself, with limits on connections and on the size and time of a request's head.

uvicorn has no such limits: its fast parser (httptools) keeps a header of any length, silent or half-sent connections stay open for ever, requests sent ahead are
queued without end, and `limit_concurrency` looks at complete heads only and counts silent connections against everybody. So this is uvicorn's protocol class with
limits around it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import resource
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from selftrain.serving.headers import MAX_HEAD_BYTES

STOP_SECONDS = 10
_OTHER_FILES = 256  # open files that a replica needs besides connections
_AHEAD = 16  # requests that a client may send before it gets an earlier answer
_LINGER_SECONDS = 2.0  # that a refused client may go on sending; cut off at once, it would not see the answer


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of one replica.

    Attributes:
        connections: open connections; further ones get 503.
        per_client: open connections from one address (IPv6: from one /64 network).
        head_bytes: bytes of an incomplete head; a longer one gets 431.
        head_seconds: seconds for the whole head, on a new connection from its beginning; a slower one gets 408.
        answer_seconds: seconds for a client to take an answer; then the connection is cut.
        idle_seconds: seconds between two requests of a connection.
    """

    connections: int = 1024
    per_client: int = 256
    head_bytes: int = MAX_HEAD_BYTES
    head_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: int = 60


class ConnectionCount:
    """Counts the open connections of a server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open = 0
        self._of: Counter[str] = Counter()
        self._room = min(limits.connections, _files_for(limits.connections) - _OTHER_FILES)

    def enter(self, client: str) -> bool:
        """Count a connection, unless there are too many."""
        if self._open >= self._room or self._of[client] >= self.limits.per_client:
            return False
        self._open += 1
        self._of[client] += 1
        return True

    def leave(self, client: str) -> None:
        """Stop counting a connection."""
        self._open -= 1
        self._of[client] -= 1
        if not self._of[client]:
            del self._of[client]


class GuardedConnection(HttpToolsProtocol):
    """One connection. Limits cost a request a sum or two; a timer looks at the time."""

    def __init__(self, *args: Any, connections: ConnectionCount, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections
        self._limits = connections.limits
        self._entered: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None  # the request that is answered now; `cycle` is the latest one
        self._head_since: float | None = None  # when the incomplete head began
        self._steps = 0  # heads and parts of bodies that were read
        self._pending = 0  # bytes since the last of them
        self._refused = False
        self._ending_since: float | None = None
        self._answering_since: float | None = None  # since when bytes wait for the client to take them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a client, or refuse it."""
        super().connection_made(transport)
        client = _network(self.client[0]) if self.client else ""
        if not self._connections.enter(client):
            self._refused = True
            transport.write(_answer(503, "the server has too many open connections; try again in 1 s", "retry-after: 1\r\n"))
            transport.close()
            return
        self._entered = client
        self._head_since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection, and tell the running request."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._entered is not None:
            self._connections.leave(self._entered)
            self._entered = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head grows too long."""
        if self._refused:
            return
        if self._head_since is None and self._idle():
            self._head_since = self.loop.time()
        steps = self._steps
        super().data_received(data)
        if self._steps != steps:
            self._pending = 0
            return
        self._pending += len(data)
        if self._pending > self._limits.head_bytes and not self._refused:
            self._refuse(431, f"the address and the headers of the request are longer than {self._limits.head_bytes} bytes")

    def on_headers_complete(self) -> None:
        """Note a complete head; the gate's limits hold from here on."""
        self._steps += 1
        self._head_since = None
        super().on_headers_complete()
        if len(self.pipeline) > _AHEAD:
            raise ValueError("too many requests before an answer")  # ends the parsing: send_400_response
        # Trailers, which follow a body, must not look like headers.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Note a part of the body."""
        self._steps += 1
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: int, text: str) -> None:
        self._refused = True
        if not self._idle():  # a refusal must not be written into another answer
            self.transport.close()
            return
        self.transport.write(_answer(status, text))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _watch(self) -> None:
        self._timer = self.loop.call_later(min(1.0, self._limits.head_seconds / 4), self._watch)
        now = self.loop.time()
        if self._refused or self.transport.is_closing():
            self._ending_since = self._ending_since or now
            if now - self._ending_since > (_LINGER_SECONDS if self._refused else self._limits.answer_seconds):
                self.transport.abort()
            return
        if self._head_since is not None and now - self._head_since > self._limits.head_seconds:
            if self._pending or self._steps:
                self._refuse(408, f"the head of the request did not arrive within {self._limits.head_seconds:g} s")
            else:
                self.transport.close()  # it never sent a byte
        if not self.transport.get_write_buffer_size():
            self._answering_since = None
        elif self._answering_since is None:
            self._answering_since = now
        elif now - self._answering_since > self._limits.answer_seconds:
            self.transport.abort()


class Listener:
    """Serves an ASGI application from a thread; several processes may share the port.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on.
        limits: the limits of connections; default: `ConnectionLimits()`.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, limits: ConnectionLimits | None = None) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self._socket.bind(address)
        self._socket.listen(2048)  # from now on connections wait, even before the thread runs
        limits = limits or ConnectionLimits()
        config = uvicorn.Config(
            app,
            http=cast(type[asyncio.Protocol], partial(GuardedConnection, connections=ConnectionCount(limits))),
            ws="none",
            proxy_headers=False,  # nobody needs the client behind a proxy
            log_config=None,
            log_level="error",  # one line a broken request would let clients fill the disk
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether it still listens."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Accept no more connections; returns when all running requests are answered."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS + 5)
        self._socket.close()


def _network(address: str) -> str:
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address.partition("%")[0])
    return str(whole.ipv4_mapped or ipaddress.IPv6Network((whole, 64), strict=False))


def _files_for(connections: int) -> int:
    """How many files this process may open, after it asked the system for what `connections` need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def _answer(status: int, text: str, header: str = "") -> bytes:
    content = json.dumps({"error": text})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    return f"{head}{header}connection: close\r\n\r\n{content}".encode()
