"""The gate in front of every route: it checks hosts and headers, the token and the body, and counts the answers.

It is ASGI middleware and not FastAPI's `HTTPBearer`: a dependency of FastAPI runs after the body was read, so anybody could send bodies without a token. Unknown
paths need the token too, and Ray Serve limits none of this.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selftrain.serving.headers import Hosts, read_head
from selftrain.serving.metrics import Metrics
from selftrain.serving.schemas import MAX_BODY_BYTES, Refused

OPEN_PATHS = frozenset({"/", "/label", "/docs", "/openapi.json", "/healthz", "/readyz"})  # they show no model, answer or document, and need no token
BODY_SECONDS = 30.0  # that a client may take to send its body
HELD_BODY_BYTES = 8 * MAX_BODY_BYTES  # of all requests together
# In every answer: browsers guess no content type, pages of other sites cannot embed it, and no cache keeps it.
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-store"))
_log = logging.getLogger("ray.serve")


class Gate:
    """ASGI middleware that checks a request and hands it on with its whole body.

    Args:
        app: the application behind the gate.
        metrics: the metrics that count requests.
        token: the token of `authorization: Bearer ...`, required on all paths but `OPEN_PATHS`; None for no token.
        hosts: the hosts that requests may name, on all paths; None for any.
        max_body: bytes that one body may have; a larger one gets 413.
        held_bodies: bytes that all bodies may have at the same time; beyond them, 503.
        body_seconds: seconds for a body to arrive; a slower one gets 408.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        token: bytes | None = None,
        hosts: Hosts | None = None,
        max_body: int = MAX_BODY_BYTES,
        held_bodies: int = HELD_BODY_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self.app = app
        self.in_flight = 0  # requests that are read or answered at this moment
        self._metrics = metrics
        self._token = token
        self._hosts = hosts
        self._max_body = max_body
        self._held_bodies = held_bodies
        self._body_seconds = body_seconds
        self._held = 0
        routes = getattr(app, "routes", ())
        self._routes = {route.path for route in routes}
        self._direct = {route.path: route.answer_body for route in routes if getattr(route, "answer_body", None) is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with its whole body, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        head_alone = scope["method"] == "HEAD"
        start = time.perf_counter()
        status = 0
        held = bytearray()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            elif head_alone:
                message["body"] = b""
            await send(message)

        self.in_flight += 1
        try:
            headers = read_head(scope, self._hosts)
            self._check_token(scope["path"], headers)
            _check_encoding(headers)
            async with asyncio.timeout(self._body_seconds):
                complete = await self._read(headers, receive, held)
            if not complete:  # the client has left
                return
            _check_utf8(held)
            if scope["method"] == "POST" and (direct := self._direct.get(scope["path"])) is not None:
                response = await direct(bytes(held), headers.get(b"content-type", b"").decode("latin-1"))
                await response(scope, receive, counted)
                return
            whole: list[Message] = [{"type": "http.request", "body": bytes(held), "more_body": False}]

            async def replay() -> Message:
                return whole.pop() if whole else await receive()

            await self.app({**scope, "method": "GET"} if head_alone else scope, replay, counted)
        except Refused as refusal:
            await _answer(counted, refusal)
        except TimeoutError:
            await _answer(counted, Refused(408, f"the body did not arrive within {self._body_seconds:g} s"))
        except Exception:
            _log.exception("a request failed")
            if status == 0:
                await _answer(counted, Refused(500, "the server failed on this request"))
        finally:
            self.in_flight -= 1
            self._held -= len(held)
            route = scope["path"] if scope["path"] in self._routes else "other"  # a label for each would let clients fill memory
            self._metrics.requests.labels(route, str(status or "left")).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)

    def _check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self._token is None or path in OPEN_PATHS:
            return
        given = headers.get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        if not (scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)):
            raise Refused(401, "this server needs a token: send the header authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive, held: bytearray) -> bool:
        stated = headers.get(b"content-length", b"0")
        large = stated.isdigit() and int(stated) > self._max_body
        if large and headers.get(b"expect", b"").lower() == b"100-continue":  # the client asks before it sends
            raise self._too_large()
        arrived, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            more = message.get("more_body", False)
            arrived += len(part)
            # A body that is too large is read on for a while and dropped: a client that is cut off while it sends never sees the answer.
            if large or arrived > self._max_body:
                self._held -= len(held)
                held.clear()
                large = True
                if arrived > 4 * self._max_body:
                    raise self._too_large()
                continue
            if self._held + len(part) > self._held_bodies:
                raise Refused(503, "the server holds too many large requests already; try again in 1 s", {"retry-after": "1"})
            held += part
            self._held += len(part)
        if large:
            raise self._too_large()
        return True

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self._max_body} bytes; send fewer or shorter texts")


def _check_encoding(headers: Mapping[bytes, bytes]) -> None:
    """Refuse compressed bodies: a few bytes can expand to gigabytes, and texts do not need it."""
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding not in (b"", b"identity"):
        raise Refused(415, "the body must not be compressed; leave out content-encoding", {"accept-encoding": "identity"})


def _check_utf8(body: bytearray) -> None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8: byte {error.start} of {len(body)}") from None


async def _answer(send: Send, refusal: Refused) -> None:
    content = json.dumps({"error": str(refusal)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close", **refusal.headers}
    await send(
        {"type": "http.response.start", "status": refusal.status, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    )
    await send({"type": "http.response.body", "body": content})
