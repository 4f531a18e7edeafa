"""The endpoint under a client that means harm, before any token is looked at: heads without an end, connections that say nothing, answers that nobody takes.

Each attack has limits of its own, so that it takes a second; 127.0.0.2 and its neighbours are further clients.
"""

from __future__ import annotations

import json
import resource
import socket
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from endpoint import endpoint

from selftrain.serving.headers import MAX_HEAD_BYTES, MAX_HEADERS
from selftrain.serving.listener import ConnectionCount, ConnectionLimits, _network
from selftrain.serving.models import ModelSource

TOKEN = b"0123456789abcdef-token"
LIMITS = ConnectionLimits(connections=120, per_client=50, head_seconds=1, answer_seconds=1, idle_seconds=1)
PATIENCE = 60.0


@pytest.fixture(scope="module")
def served(bundle):
    with endpoint(ModelSource(bundle=str(bundle)), token=TOKEN, limits=LIMITS) as local:
        yield local


def connect(port: int, client: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=(client, 0))


def answer(stream: socket.socket) -> bytes:
    """Whatever comes until the server closes; a connection that it cuts is closed too."""
    found = b""
    with suppress(ConnectionError):
        while part := stream.recv(65536):
            found += part
    return found


def sentence(found: bytes, status: int) -> str:
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), found[:200]
    assert b"connection: close" in head.lower()
    (said,) = json.loads(body).values()
    return said


def asked(port: int, request: bytes) -> bytes:
    with connect(port) as stream:
        with suppress(ConnectionError):
            stream.sendall(request)
        return answer(stream)


def is_well(served) -> None:
    assert httpx.get(f"{served.url}/healthz", timeout=PATIENCE).json() == {"status": "ok"}


@contextmanager
def crowd(port: int, number: int, client: str, words: bytes = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: "):
    """Connections that have said `words` and say no more."""
    with ExitStack() as stack:
        streams = [stack.enter_context(connect(port, client)) for _ in range(number)]
        for stream in streams:
            with suppress(ConnectionError):
                stream.sendall(words)
        yield streams


@pytest.mark.parametrize(
    "start",
    [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ", b"GET /", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", b"\r\n"],
    ids=["one header", "the address", "many headers", "blank lines"],
)
def test_a_head_without_an_end_is_refused_long_before_its_megabytes_are_there(served, start) -> None:
    part = {b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n": b"a: b\r\n" * 4000, b"\r\n": b"\r\n" * 10_000}.get(start, b"x" * 20_000)
    sent = 0
    with connect(served.port) as stream:
        stream.sendall(start)
        stream.settimeout(0.01)
        found = b""
        while sent < 20_000_000 and not found:
            with suppress(ConnectionError):
                sent += stream.send(part)
            with suppress(TimeoutError):
                found = stream.recv(65536)
                break
        stream.settimeout(PATIENCE)
        found += answer(stream)
    assert f"longer than {MAX_HEAD_BYTES} bytes" in sentence(found, 431)
    assert sent < 20_000_000
    is_well(served)


def test_a_head_that_is_complete_and_too_large_is_refused_by_the_routes_gate(served) -> None:
    large = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"
    many = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(MAX_HEADERS)) + b"\r\n"
    long = b"GET /healthz?" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"
    assert "longer than" in sentence(asked(served.port, large), 431)
    assert f"more than {MAX_HEADERS} headers" in sentence(asked(served.port, many), 431)
    assert "longer than" in sentence(asked(served.port, long), 431)
    just_right = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: " + b"x" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n"
    assert asked(served.port, just_right).startswith(b"HTTP/1.1 200 ")


def test_half_a_head_is_closed_in_time_and_keeps_nobody_else_out(served) -> None:
    with crowd(served.port, 300, "127.0.0.2") as streams:
        is_well(served)
        found = [answer(stream) for stream in streams]
    refused = [one for one in found if one.startswith(b"HTTP/1.1 503 ")]
    late = [one for one in found if one.startswith(b"HTTP/1.1 408 ")]
    # A client whose words cross with the refusal sees a connection that is cut.
    assert len(late) == LIMITS.per_client and len(refused) + found.count(b"") == 300 - LIMITS.per_client
    assert "did not arrive within 1 s" in sentence(late[0], 408)


def test_a_connection_that_says_nothing_is_closed(served) -> None:
    with connect(served.port) as stream:
        assert answer(stream) == b""
    with connect(served.port) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answer(stream).startswith(b"HTTP/1.1 200 ")  # and closed, since no second request came


@pytest.mark.parametrize(
    ("before", "drop"),
    [(b"", b"\n"), (b"GET /", b"x"), (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /", b"x")],
    ids=["blank lines", "first request", "second request"],
)
def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_another(served, before, drop) -> None:
    with connect(served.port) as stream:
        stream.sendall(before)
        stream.settimeout(0.1)
        end = time.monotonic() + PATIENCE
        found = b""
        while b" 408 " not in found and time.monotonic() < end:
            with suppress(ConnectionError):
                stream.send(drop)
            with suppress(TimeoutError):
                found += stream.recv(65536)
        assert b"HTTP/1.1 408 " in found


def test_there_are_so_many_connections_of_a_client_and_in_all(served) -> None:
    with ExitStack() as stack:
        for client, number in (("127.0.0.2", 50), ("127.0.0.3", 50), ("127.0.0.4", 19)):
            stack.enter_context(crowd(served.port, number, client, b""))
        with connect(served.port, "127.0.0.2") as one_more:
            assert "too many open connections" in sentence(answer(one_more), 503)
        with connect(served.port) as last:
            last.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert last.recv(65536).startswith(b"HTTP/1.1 200 ")
            with connect(served.port, "127.0.0.5") as one_more:
                assert "too many open connections" in sentence(answer(one_more), 503)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:  # those that are closed make room
        with suppress(httpx.HTTPError):
            if httpx.get(f"{served.url}/healthz", timeout=PATIENCE).status_code == 200:
                return
    pytest.fail("closed connections are counted for ever")


def test_clients_are_told_apart_by_address_and_by_network() -> None:
    assert _network("192.0.2.7") == "192.0.2.7"
    assert _network("::ffff:192.0.2.7") == "192.0.2.7"
    assert _network("2001:db8::1") == _network("2001:db8::ffff:1%eth0") != _network("2001:db8:0:1::1")
    count = ConnectionCount(ConnectionLimits(connections=3, per_client=2))
    assert [count.enter(one) for one in ("a", "a", "a", "b", "c")] == [True, True, False, True, False]
    count.leave("a")
    assert count.enter("c") and not count.enter("a")


def test_a_replica_takes_no_more_connections_than_it_may_open_files(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 258))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: wanted)
    count = ConnectionCount(ConnectionLimits(connections=10))
    assert [count.enter("a") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 1000, b"0\r\nx: " + b"x" * 1000], ids=["chunk extension", "trailer"])
def test_what_is_neither_head_nor_body_is_not_read_for_ever(served, endless) -> None:
    with connect(served.port) as stream:
        stream.sendall(
            b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
            + TOKEN
            + b"\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            + endless
        )
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 20_000_000:
                sent += stream.send(b"x" * 10_000)
    assert sent < 20_000_000
    is_well(served)


def test_a_token_in_a_trailer_is_none(served) -> None:
    body = b"0\r\nauthorization: Bearer " + TOKEN + b"\r\n\r\n"
    found = asked(served.port, b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    assert found.startswith(b"HTTP/1.1 401 ")


def answered(served, path: str) -> float:
    return served.metrics.registry.get_sample_value("selftrain_requests_total", {"route": path, "status": "200"}) or 0.0


def test_requests_that_are_sent_ahead_are_not_queued_without_end(served, caplog) -> None:
    before = answered(served, "/docs")
    with connect(served.port) as stream:
        with suppress(ConnectionError):
            for _ in range(20):
                stream.sendall(b"GET /docs HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)
        answer(stream)
    assert answered(served, "/docs") - before < 1000
    assert not caplog.records
    some = asked(served.port, b"GET /docs HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10)
    assert some.count(b"HTTP/1.1 200 ") == 10


def test_an_answer_that_nobody_takes_does_not_wait_for_ever(served, caplog) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.settimeout(PATIENCE)
        stream.connect(("127.0.0.1", served.port))
        before, sent, stuck = answered(served, "/openapi.json"), 0, False
        while not stuck:  # until what the system holds for the client is full
            stream.sendall(request)
            sent += 1
            end = time.monotonic() + 0.5
            while not stuck and answered(served, "/openapi.json") < before + sent:
                stuck = time.monotonic() > end
                time.sleep(0.001)
        end = time.monotonic() + PATIENCE
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                stream.send(b"G")
                time.sleep(0.1)
    assert not caplog.records
    is_well(served)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx y: z\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n folded: z\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_or_could_be_read_in_two_ways_is_refused_in_a_sentence(served, request_) -> None:
    found = asked(served.port, request_)
    if b"zz" in request_:  # its head was complete, so the gate waits for its body: the connection is closed
        assert found == b"" or found.startswith(b"HTTP/1.1 400 ") or found.startswith(b"HTTP/1.1 401 ")
    else:
        assert "not valid HTTP/1.1" in sentence(found, 400)
    is_well(served)


def test_a_websocket_is_none(served) -> None:
    found = asked(
        served.port,
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )
    assert found.startswith(b"HTTP/1.1 401 ")  # an ordinary request without a token
