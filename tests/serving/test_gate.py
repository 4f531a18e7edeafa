"""The gate by itself: an application behind it that says what it was given, and messages by hand in place of a server."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.serving.gate import OPEN_PATHS, Gate
from selftrain.serving.metrics import Metrics

TOKEN = b"0123456789abcdef"
PATH = "/v1/classify"


class Echo:
    """Answers 200 with the body; `status` and what goes wrong can be set."""

    def __init__(self, *, before: Exception | None = None, after: Exception | None = None) -> None:
        self.routes = [SimpleNamespace(path=PATH), SimpleNamespace(path="/healthz")]
        self.bodies: list[bytes] = []
        self.scopes: list[Any] = []
        self._before, self._after = before, after

    async def __call__(self, scope, receive, send) -> None:
        self.scopes.append(scope)
        if scope["type"] != "http":
            return
        first = await receive()
        assert first["type"] == "http.request" and first["more_body"] is False
        self.bodies.append(first["body"])
        if self._before:
            raise self._before
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-echo", b"yes")]})
        if self._after:
            raise self._after
        await send({"type": "http.response.body", "body": first["body"]})
        assert (await receive())["type"] == "http.disconnect"  # what comes behind the body is passed on


def parts(*bodies: bytes) -> list[dict[str, Any]]:
    """A body in pieces; the last is its end."""
    return [{"type": "http.request", "body": body, "more_body": place < len(bodies) - 1} for place, body in enumerate(bodies)]


def ask(
    gate: Gate, messages: list[dict[str, Any]], *, path: str = PATH, headers: dict[str, str] | None = None, method: str = "POST"
) -> SimpleNamespace:
    """What the gate sends back: `status`, `headers`, `body` (None where nothing came), and `read`, how many messages it took."""
    sent: list[dict[str, Any]] = []
    given = {"host": "localhost:8000", **(headers or {})}
    scope = {"type": "http", "method": method, "path": path, "headers": [(name.encode(), value.encode()) for name, value in given.items()]}
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    start = sent[0] if sent else {"status": None, "headers": []}
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    body = b"".join(message["body"] for message in sent[1:]) if sent else None
    return SimpleNamespace(status=start["status"], headers=named, body=body, read=len(messages) - len(waiting))


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """(route, status) -> requests."""
    return {
        (one.labels["route"], one.labels["status"]): one.value
        for family in metrics.requests.collect()
        for one in family.samples
        if one.name.endswith("_total")
    }


def timed(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """route -> requests, seconds."""
    found: dict[str, dict[str, float]] = {}
    for family in metrics.request_seconds.collect():
        for one in family.samples:
            found.setdefault(one.labels["route"], {})[one.name.rpartition("_")[2]] = one.value
    return {route: (one["count"], one["sum"]) for route, one in found.items()}


def gate(app: Echo | None = None, **options) -> tuple[Gate, Echo, Metrics]:
    app, metrics = app or Echo(), Metrics()
    return Gate(app, metrics=metrics, **options), app, metrics


def refusal(answer: SimpleNamespace) -> str:
    """The sentence of a refusal, whose form is checked."""
    assert answer.headers["content-type"] == "application/json" and answer.headers["connection"] == "close"
    assert answer.headers["content-length"] == str(len(answer.body))
    return json.loads(answer.body)["error"]


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=5))
def test_a_body_in_any_pieces_comes_whole_or_is_no_utf8(pieces: list[bytes]) -> None:
    made, app, _ = gate()
    answer = ask(made, parts(*pieces))
    whole = b"".join(pieces)
    try:
        whole.decode()
    except UnicodeDecodeError as error:
        assert answer.status == 400 and refusal(answer) == f"the body is not UTF-8: byte {error.start} of {len(whole)}" and app.bodies == []
    else:
        assert (answer.status, answer.body, app.bodies) == (200, whole, [whole])
        assert answer.headers["x-echo"] == "yes"
    assert made.in_flight == 0 and made._held == 0


def test_messages_may_leave_out_what_has_a_default() -> None:
    made, app, _ = gate()
    assert ask(made, [{"type": "http.request"}]).status == 200 and app.bodies == [b""]
    assert ask(made, [{"type": "http.request", "more_body": True}, {"type": "http.request", "body": b"a"}]).status == 200 and app.bodies[1] == b"a"


def test_every_request_is_counted_once_by_route_and_status() -> None:
    made, _, metrics = gate()
    for path in (PATH, PATH, "/healthz", "/whatever", "/anything"):
        ask(made, parts(b"a"), path=path)
    ask(made, parts(b"\xff"))
    ask(made, [{"type": "http.disconnect"}])
    assert counted(metrics) == {(PATH, "200"): 2, ("/healthz", "200"): 1, ("other", "200"): 2, (PATH, "400"): 1, (PATH, "left"): 1}
    assert {route: count for route, (count, _) in timed(metrics).items()} == {PATH: 4, "/healthz": 1, "other": 2}
    assert all(0 < seconds < 600 for _, seconds in timed(metrics).values())


def test_a_client_that_leaves_in_the_middle_gets_nothing_and_holds_nothing() -> None:
    made, app, _ = gate()
    answer = ask(made, [*parts(b"abc", b"")[:1], {"type": "http.disconnect"}])
    assert answer.body is None and app.scopes == [] and (made.in_flight, made._held) == (0, 0)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer 0123456789abcdef", 200),
        ("bearer   0123456789abcdef ", 200),
        ("Bearer 0123456789abcdeF", 401),
        ("Bearer 0123456789abcde", 401),
        ("Basic 0123456789abcdef", 401),
        ("0123456789abcdef", 401),
        ("Bearer0123456789abcdef", 401),
        ("Bearer", 401),
    ],
)
def test_the_token_is_wanted_whole_and_as_a_bearer_token(given, status) -> None:
    made, app, _ = gate(token=TOKEN)
    answer = ask(made, parts(b"a"), headers={} if given is None else {"authorization": given})
    assert answer.status == status and len(app.bodies) == (status == 200)
    if status == 401:
        assert (
            answer.headers["www-authenticate"] == "Bearer"
            and refusal(answer) == "this server needs a token: send the header authorization: Bearer TOKEN"
            and answer.read == 0
        )


def test_open_paths_and_a_gate_without_a_token_want_none() -> None:
    made, _, _ = gate(token=TOKEN)
    assert {"/", "/label", "/docs", "/openapi.json", "/healthz", "/readyz"} == OPEN_PATHS
    assert [ask(made, parts(b""), path=path).status for path in sorted(OPEN_PATHS)] == [200] * 6
    assert [ask(made, parts(b""), path=path).status for path in ("/metrics", "/predict", "/docs/", "//")] == [401] * 4
    assert ask(gate()[0], parts(b"")).status == 200


def test_a_body_may_have_as_many_bytes_as_are_allowed_and_no_more() -> None:
    made, app, _ = gate(max_body=10)
    assert ask(made, parts(b"12345", b"67890")).status == 200
    for pieces in ([b"12345", b"67890", b"1"], [b"12345678901"], [b"x" * 20, b"x" * 20]):
        answer = ask(made, parts(*pieces))
        assert answer.status == 413 and refusal(answer) == "the body is larger than 10 bytes; send fewer or shorter texts"
        assert answer.read == len(pieces)  # read to its end: a client that is cut off while it sends does not see the answer
    assert made._held == 0 and app.bodies == [b"1234567890"]


def test_what_is_far_too_large_is_not_read_to_its_end() -> None:
    made, _, _ = gate(max_body=10)
    answer = ask(made, parts(*[b"x" * 10] * 20))
    assert answer.status == 413 and answer.read == 5  # 50 bytes are the first beyond four times as many
    assert ask(made, parts(b"x" * 40)).status == 413 and ask(made, parts(b"x" * 41, b"more")).read == 1


def test_a_stated_length_that_is_too_large_is_believed() -> None:
    made, app, _ = gate(max_body=10)
    assert ask(made, parts(b"12345"), headers={"content-length": "11"}).status == 413
    assert ask(made, parts(b"12345"), headers={"content-length": "10"}).status == 200
    assert ask(made, parts(b"12345"), headers={"content-length": "many"}).status == 200
    asking = {"content-length": "11", "expect": "100-Continue"}
    answer = ask(made, parts(b"12345"), headers=asking)
    assert (answer.status, answer.read) == (413, 0)  # it asks before it sends
    assert ask(made, parts(b"12345"), headers={**asking, "content-length": "5"}).status == 200
    assert ask(made, parts(b"1", b"2"), headers={**asking, "expect": "something"}).read == 2
    assert app.bodies == [b"12345"] * 3


def test_bodies_that_are_held_together_are_limited() -> None:
    made, app, _ = gate(max_body=10, held_bodies=15)
    made._held = 5  # of other requests
    assert ask(made, parts(b"12345", b"67890")).status == 200 and made._held == 5
    made._held = 6
    answer = ask(made, parts(b"12345", b"67890"))
    assert answer.status == 503 and answer.headers["retry-after"] == "1" and "too many large requests" in refusal(answer)
    assert made._held == 6 and len(app.bodies) == 1
    assert ask(made, parts(b"x" * 11)).status == 413 and made._held == 6  # what is too large itself is no matter of the others


def test_a_body_is_held_until_its_answer_has_gone() -> None:
    seen = []

    class Looks(Echo):
        async def __call__(self, scope, receive, send) -> None:
            seen.append((made._held, made.in_flight))
            await super().__call__(scope, receive, send)

    made, _, _ = gate(Looks())
    ask(made, parts(b"123", b"45"))
    assert seen == [(5, 1)] and (made._held, made.in_flight) == (0, 0)


def test_a_body_that_does_not_come_is_waited_for_as_long_as_is_said() -> None:
    made, app, metrics = gate(body_seconds=0.05)
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(600)
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": PATH, "headers": [(b"host", b"localhost")]}
    asyncio.run(asyncio.wait_for(made(scope, receive, send), 60))
    assert sent[0]["status"] == 408 and json.loads(sent[1]["body"])["error"] == "the body did not arrive within 0.05 s"
    assert app.scopes == [] and counted(metrics) == {(PATH, "408"): 1}


def test_an_answer_may_take_longer_than_a_body() -> None:
    class Slow(Echo):
        async def __call__(self, scope, receive, send) -> None:
            await asyncio.sleep(0.2)
            await super().__call__(scope, receive, send)

    assert ask(gate(Slow(), body_seconds=0.1)[0], parts(b"a")).status == 200


def test_what_breaks_is_500_where_nothing_was_sent_and_is_logged(caplog) -> None:
    made, _, metrics = gate(Echo(before=RuntimeError("secret text")))
    answer = ask(made, parts(b"a"))
    assert answer.status == 500 and refusal(answer) == "the server failed on this request" and "a request failed" in caplog.text
    late, _, _ = gate(Echo(after=RuntimeError("too late")))
    answer = ask(late, parts(b"a"))
    assert (answer.status, answer.body) == (200, b"") and late.in_flight == 0  # an answer that has begun gets no second one
    assert counted(metrics) == {(PATH, "500"): 1}


def test_what_is_no_http_is_not_the_gates() -> None:
    made, app, metrics = gate(token=TOKEN)
    asyncio.run(made({"type": "lifespan"}, None, None))
    assert [scope["type"] for scope in app.scopes] == ["lifespan"] and counted(metrics) == {}


def test_head_is_answered_as_get_without_the_body():
    asked, echo, _ = gate()
    found = ask(asked, parts(b"a body"), path="/healthz", method="HEAD")
    assert found.status == 200 and found.body == b"" and found.headers["x-echo"] == "yes"
    assert echo.scopes[0]["method"] == "GET"


def test_a_compressed_body_is_refused_before_it_is_read():
    asked, echo, _ = gate()
    found = ask(asked, parts(b"a body"), headers={"content-encoding": "gzip"})
    assert found.status == 415 and found.headers["accept-encoding"] == "identity" and "leave out content-encoding" in refusal(found)
    assert not echo.bodies and found.read == 0


@pytest.mark.parametrize(
    ("kind", "headers", "sent"),
    [
        ("websocket", {}, [{"type": "websocket.close", "code": 1008}]),
        ("http", {"host": "localhost", "content-encoding": "gzip"}, ["http.response.start", "http.response.body"]),
    ],
)
def test_what_is_refused_is_said_in_asgis_words(kind, headers, sent) -> None:
    found: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        found.append(message)

    scope = {"type": kind, "method": "POST", "path": PATH, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(Gate(Echo(), metrics=Metrics())(scope, None, send))
    assert [message if isinstance(wanted, dict) else message["type"] for message, wanted in zip(found, sent, strict=True)] == sent


def test_the_lifespan_of_the_application_is_none_of_the_gates_business() -> None:
    given: list[Any] = []

    async def application(*parts: Any) -> None:
        given.extend(parts)

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: dict[str, Any]) -> None:
        return

    asyncio.run(Gate(application, metrics=Metrics())({"type": "lifespan"}, receive, send))
    assert given == [{"type": "lifespan"}, receive, send]
