"""Who may ask: hosts against DNS rebinding, pages of other sites, headers that stand there twice; and what every answer carries."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import socket
from contextlib import suppress

import httpx
import pytest
from endpoint import endpoint

from selftrain.serving.gate import OPEN_PATHS
from selftrain.serving.headers import Hosts, read_head
from selftrain.serving.models import ModelSource
from selftrain.serving.schemas import Refused

TOKEN = "0123456789abcdef-token"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def served(bundle):
    with endpoint(ModelSource(bundle=str(bundle))) as local:
        yield local


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.url, timeout=60, headers=JSON) as client:
        yield client


def status(client: httpx.Client, headers: dict[str, str], method: str = "GET", path: str = "/healthz") -> int:
    return client.request(method, path, headers=headers, json={"text": "a"} if method == "POST" else None).status_code


def test_on_this_machine_only_its_own_names_are_answered(client, served) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert status(client, {"host": host}) == status(client, {"host": f"{host}:{served.port}"}) == 200
        assert status(client, {"host": host}, "POST", "/v1/classify") == 200
    for host in (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "",
        "localhost:evil",
        "[::1].evil",
    ):
        for method, path in (
            ("GET", "/healthz"),
            ("GET", "/"),
            ("HEAD", "/"),
            ("POST", "/v1/classify"),
            ("POST", "/predict"),
            ("OPTIONS", "/nowhere"),
        ):
            assert status(client, {"host": host}, method, path) == 421, host
    assert "add it to allowed_hosts" in client.get("/healthz", headers={"host": "evil.example"}).json()["error"]


def test_which_hosts_are_those_of_a_server() -> None:
    local = Hosts.of("127.0.0.5", ["Mail.example"], token=True)
    assert local is not None and "127.0.0.5:80" in local and "mail.example" in local and "localhost" in local
    assert "other.example" not in local and "192.0.2.1" not in local
    assert Hosts.of("0.0.0.0", token=True) is None and Hosts.of(None, token=True) is None  # the token is what keeps others out
    for host in ("0.0.0.0", "::", "192.0.2.1", None):
        for token, allowed in ((False, ()), (False, ("mail.example",)), (True, ("mail.example",))):
            beyond = Hosts.of(host, allowed, token=token)
            assert beyond is not None and "192.0.2.1:8000" in beyond and "[2001:db8::1]:8000" in beyond and "localhost" in beyond
            assert socket.gethostname().lower() in beyond and "evil.example" not in beyond and "192.0.2.1.evil.example" not in beyond
            assert ("mail.example:443" in beyond) == bool(allowed)
    assert "[::1]:8000" in (Hosts.of("::1", token=False) or ())


def test_a_host_is_named_once(served) -> None:
    for headers, expected in ((b"", 400), (b"host: localhost\r\nhost: localhost\r\n", 400), (b"host: localhost\r\n", 200)):
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as stream:
            stream.sendall(b"GET /healthz HTTP/1.1\r\n" + headers + b"connection: close\r\n\r\n")
            assert stream.recv(65536).startswith(b"HTTP/1.1 %d " % expected)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "http://LOCALHOST:8000"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost:8000"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://a.proxy.that.rewrites.host"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),  # another port of this machine
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(client, headers, expected) -> None:
    own = {"host": "localhost:8000", **headers}
    assert status(client, own, "POST", "/v1/classify") == expected
    assert status(client, own, "GET", "/v1/models") == status(client, own, "GET", "/") == expected


def test_a_link_of_another_site_may_lead_here(client) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert status(client, link, "GET", "/") == 200
    assert status(client, link, "POST", "/v1/classify") == 403


def test_nothing_is_said_to_other_origins(client) -> None:
    """No CORS: a browser asks before it sends JSON across origins, and gets no leave."""
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    before = client.options("/v1/classify", headers=asked)
    assert before.status_code == 403
    own = client.post("/v1/classify", json={"text": "a"}, headers={"origin": f"http://{client.base_url.host}:{client.base_url.port}"})
    assert own.status_code == 200
    for answer in (before, own, client.get("/"), client.get("/v1/models")):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_answer_is_marked(client) -> None:
    answers = [client.get(path) for path in ("/", "/docs", "/openapi.json", "/healthz", "/metrics", "/nowhere")]
    answers += [client.post("/v1/classify", json={"text": "a"}), client.post("/v1/classify", content=b"nonsense")]
    answers += [client.get("/", headers={"host": "evil.example"})]
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin" and answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_its_own_script_alone(client, path) -> None:
    page = client.get(path)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'" and policy["trusted-types"] == "'none'" and policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in page.headers["content-security-policy"] and "http" not in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer" and page.headers["cross-origin-opener-policy"] == "same-origin"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        hashes = ["'sha256-" + base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() + "'" for part in parts]
        assert policy[kind].split() == (hashes or ["'none'"])
        assert len(parts) == page.text.count(f"<{tag}")  # none with attributes, which the policy would stop
    assert not re.search(r"<[^>]*\s(style|on[a-z]+)=", page.text)


def test_a_compressed_body_is_not_opened(client) -> None:
    bomb = gzip.compress(b'{"text": "' + b"x" * 50_000_000 + b'"}')
    for coding in ("gzip", "GZIP", "deflate", "br", "zstd", "gzip, identity"):
        refused = client.post("/v1/classify", content=bomb, headers={"content-encoding": coding})
        assert refused.status_code == 415 and "leave out content-encoding" in refused.json()["error"], coding
        assert refused.headers["accept-encoding"] == "identity"
    assert client.post("/v1/classify", content=b'{"text": "a"}', headers={"content-encoding": "identity"}).status_code == 200


def test_head_is_answered_as_get_without_its_body(client) -> None:
    for path in (*OPEN_PATHS - {"/label"}, "/v1/models", "/metrics"):  # nobody is asked to label here
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code == 200 and head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        if path not in ("/metrics", "/v1/models"):
            assert head.headers["content-length"] == str(len(got.content))
    assert client.head("/nowhere").status_code == 404
    assert client.head("/v1/classify").status_code == 405
    assert client.get("/healthz").json() == {"status": "ok"}  # over the same connection: no byte too many was sent


def test_a_token_is_said_once(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), token=TOKEN.encode()) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        good, bad = ("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer wrong")
        for pair in ([good, bad], [bad, good], [good, good]):
            refused = client.get("/v1/models", headers=pair)
            assert refused.status_code == 400 and refused.json()["error"] == "the header authorization must not repeat"
        assert client.get("/v1/models", headers=[good]).status_code == 200
        assert client.get("/v1/models", headers=[bad]).status_code == 401
        assert client.head("/v1/models").status_code == 401


@pytest.mark.parametrize("name", [b"content-type", b"content-length", b"content-encoding", b"origin", b"sec-fetch-site", b"transfer-encoding"])
def test_what_may_stand_there_once_is_refused_twice(name) -> None:
    scope = {"type": "http", "method": "GET", "headers": [(b"host", b"a"), (name, b"1"), (b"accept", b"a"), (b"accept", b"b")]}
    with suppress(Refused):  # an origin that is none is refused for another reason
        assert read_head(scope, None)[b"accept"] == b"b"
    with pytest.raises(Refused, match=f"the header {name.decode()} must not repeat"):
        read_head({**scope, "headers": [*scope["headers"], (name, b"2")]}, None)


def test_what_serves_proxies_pass_on_is_checked_too() -> None:
    """They hand over no raw path, and have limits of connections of their own."""
    scope = {"type": "http", "method": "POST", "headers": [(b"host", b"evil.example"), (b"x", b"y" * 40_000)]}
    with pytest.raises(Refused, match="longer than") as error:
        read_head(scope, None)
    assert error.value.status == 431
    with pytest.raises(Refused, match=r"'evil\.example' is not a host of this server"):
        read_head({**scope, "headers": scope["headers"][:1]}, Hosts.of(None, token=False))
