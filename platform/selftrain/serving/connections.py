"""The server of a replica that listens itself: how many connections there may be, and how large and how slow the head of a request.

uvicorn has no such limits: its fast parser (httptools) keeps a header of any length, no connection that says nothing or half of something is ever closed, requests
sent ahead are queued without end, and `limit_concurrency` looks only where a head is complete, and counts the silent connections against everybody. So this is its
protocol class with limits around it.
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

from selftrain.serving.heads import MAX_HEAD_BYTES

STOP_SECONDS = 10
_OTHER_FILES = 256  # open files that a replica needs for anything else
_AHEAD = 16  # requests that a client may send before the answer to an earlier one
_LINGER_SECONDS = 2.0  # a refused client may go on sending for so long: where it is cut off at once, it does not see the answer


@dataclass(frozen=True)
class ConnectionLimits:
    """Of one replica.

    Attributes:
        connections: open ones in all; further ones get 503.
        per_client: of them from one address (IPv6: from one /64 network).
        head_bytes: of a head before it is complete; a longer one gets 431.
        head_seconds: for the whole head to arrive, on a new connection from its beginning; a slower one gets 408.
        answer_seconds: for an answer to be taken; then the connection is cut.
        idle_seconds: between two requests of a connection.
    """

    connections: int = 1024
    per_client: int = 256
    head_bytes: int = MAX_HEAD_BYTES
    head_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: int = 60


class Door:
    """The count of open connections; one a server."""

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
        """Count it no more."""
        self._open -= 1
        self._of[client] -= 1
        if not self._of[client]:
            del self._of[client]


class GuardedConnection(HttpToolsProtocol):
    """One connection. What a request costs more is a sum or two: time is looked at by a timer of its own."""

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._limits = door.limits
        self._entered: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None  # what is being answered; `cycle` is what came last
        self._head_since: float | None = None  # when a head began that is not complete
        self._steps = 0  # heads, and parts of bodies, that were read
        self._pending = 0  # bytes since the last of them
        self._refused = False
        self._ending_since: float | None = None
        self._answering_since: float | None = None  # since when bytes wait for the client to take them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let a client in, or send it away."""
        super().connection_made(transport)
        client = _network(self.client[0]) if self.client else ""
        if not self._door.enter(client):
            self._refused = True
            transport.write(_answer(503, "the server has too many open connections; try again in 1 s", "retry-after: 1\r\n"))
            transport.close()
            return
        self._entered = client
        self._head_since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more, and tell what is being answered."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._entered is not None:
            self._door.leave(self._entered)
            self._entered = None

    def data_received(self, data: bytes) -> None:
        """Parse, as long as it leads to something."""
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
        """A head is there: the routes' own limits hold from here on."""
        self._steps += 1
        self._head_since = None
        super().on_headers_complete()
        if len(self.pipeline) > _AHEAD:
            raise ValueError("too many requests before an answer")  # ends the parsing: send_400_response
        # What comes behind a body (trailers) must not look like headers.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """A part of the body is there."""
        self._steps += 1
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP."""
        self._refuse(400, "this is no HTTP/1.1 that can be read")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: int, text: str) -> None:
        self._refused = True
        if not self._idle():  # nothing may be written into the answer that is under way
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
                self.transport.close()  # it never said anything
        if not self.transport.get_write_buffer_size():
            self._answering_since = None
        elif self._answering_since is None:
            self._answering_since = now
        elif now - self._answering_since > self._limits.answer_seconds:
            self.transport.abort()


class Listener:
    """A server for an ASGI application, in a thread of its own; several processes may share the port."""

    def __init__(self, app: ASGIApp, host: str, port: int, limits: ConnectionLimits | None = None) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self._socket.bind(address)
        self._socket.listen(2048)  # connections wait from now on, not only when the thread has come to it
        limits = limits or ConnectionLimits()
        config = uvicorn.Config(
            app,
            http=cast(type[asyncio.Protocol], partial(GuardedConnection, door=Door(limits))),
            ws="none",
            proxy_headers=False,  # nothing here asks who the client of a proxy is
            log_config=None,
            log_level="error",  # a line for every broken request would let anybody fill the disk
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
        """Take no more connections, and return when the requests under way are answered."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS + 5)
        self._socket.close()


def _network(address: str) -> str:
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address.partition("%")[0])
    return str(whole.ipv4_mapped or ipaddress.IPv6Network((whole, 64), strict=False))


def _files_for(connections: int) -> int:
    """How many files this process may have open, after it has asked for as many as `connections` need."""
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
