"""What stands before every route: who may ask (heads.py, the token), the limits of a body, and the count of what was answered. Serve itself has none of them."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selftrain.errors import SelfTrainError
from selftrain.serving.heads import Hosts, Refused, read_head
from selftrain.serving.metrics import Metrics
from selftrain.serving.requests import MAX_BODY_BYTES

TOKEN_VARIABLE = "SELFTRAIN_SERVE_TOKEN"
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})  # nothing of the models and of their answers
BODY_SECONDS = 30.0  # for a client to send its body
HELD_BODY_BYTES = 8 * MAX_BODY_BYTES  # of all requests together
# Of every answer: a browser takes nothing for what it is not, no other site's page may embed it, and nobody in between keeps it.
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-store"))
_log = logging.getLogger("ray.serve")


def read_token(file: str | Path | None) -> bytes | None:
    """The token that requests have to carry: from `file`, else from the environment variable SELFTRAIN_SERVE_TOKEN; None for none.

    Raises:
        SelfTrainError: the file cannot be read, or what it or the variable holds is no token.
    """
    found = read_secret(file, TOKEN_VARIABLE, "--token-file")
    if found is None:
        return None
    if len(found.text) < 16 or not found.printable:
        raise SelfTrainError(
            f"{found.where} holds no token: it takes at least 16 printable ASCII characters without spaces, e.g. of `openssl rand -hex 32`."
        )
    return found.text.encode()


class Secret(NamedTuple):
    """What a file or a variable of the environment holds, without blanks around it."""

    where: str  # it is from, as the first words of a sentence
    text: str

    @property
    def printable(self) -> bool:
        """Whether it is something that a header can carry: printable ASCII without spaces."""
        return bool(self.text) and self.text.isascii() and self.text.isprintable() and " " not in self.text


def read_secret(file: str | Path | None, variable: str, option: str) -> Secret | None:
    """What `file` holds, else the environment's `variable`; None where neither is given. It stands on no command line and in no configuration.

    Raises:
        SelfTrainError: the file, which `option` names, cannot be read.
    """
    if file is None:
        given = os.environ.get(variable)
        return None if given is None else Secret(f"The variable {variable}", given.strip())
    where = f"The {option.strip('-').replace('-', ' ')} {file}"
    try:
        return Secret(where, Path(file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SelfTrainError(
            f"{where} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'}); name another with {option}."
        ) from None


class Gate:
    """ASGI middleware: head, token, body and figures.

    Args:
        app: what stands behind it; it gets every body whole.
        metrics: where requests are counted.
        token: what `authorization: Bearer ...` has to carry, except on `OPEN_PATHS`; None for nothing.
        hosts: that requests may name, on all paths; None for any.
        max_body: bytes of one body.
        held_bodies: bytes of all bodies that are held at the same time; beyond them, 503.
        body_seconds: time for a body to arrive; a slower one gets 408.
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
        self.in_flight = 0  # requests that are being read or answered
        self._metrics = metrics
        self._token = token
        self._hosts = hosts
        self._max_body = max_body
        self._held_bodies = held_bodies
        self._body_seconds = body_seconds
        self._held = 0
        self._routes = {route.path for route in getattr(app, "routes", ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body, or refuse it."""
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
            route = scope["path"] if scope["path"] in self._routes else "other"  # which could be anything, and as many as anybody likes
            self._metrics.requests.labels(route, str(status or "left")).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)

    def _check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self._token is None or path in OPEN_PATHS:
            return
        given = headers.get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        if not (scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)):
            raise Refused(401, "this server wants a token: send the header authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})

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
            # What is too large is read on for a while and thrown away: a client that is cut off while it sends does not see the answer.
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
    """A few compressed bytes can be gigabytes; no text needs that."""
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding not in (b"", b"identity"):
        raise Refused(415, "the body has to come as it is; leave out content-encoding", {"accept-encoding": "identity"})


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
