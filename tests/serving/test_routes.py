"""The routes over real sockets and a real model, without Ray: answers, refusals, the token, and a fuzz of the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from endpoint import VERSION, endpoint, make_bundle
from hypothesis import HealthCheck, given, settings

from selftrain.bundle.classifier import Classifier
from selftrain.errors import SelfTrainError
from selftrain.passwords import read_token
from selftrain.serving.gate import OPEN_PATHS
from selftrain.serving.models import ModelSource
from selftrain.serving.schemas import FAILED, MAX_BODY_BYTES, MAX_CHARACTERS, MAX_TEXTS

JSON = {"content-type": "application/json"}
TOKEN = "0123456789abcdef-token"


@pytest.fixture(scope="module")
def served(bundle, other_bundle):
    """An endpoint with two models and three entries."""
    with endpoint(
        ModelSource(bundle=str(bundle)), ModelSource(bundle=str(other_bundle), version="2"), ModelSource(bundle=str(bundle), version="old")
    ) as local:
        yield local


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.url, timeout=60, headers=JSON) as client:
        yield client


def figure(client: httpx.Client, start: str) -> float:
    """The sum of the figures in /metrics whose lines start so."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def test_answers_are_the_classifiers(client, bundle) -> None:
    classifier = Classifier.load(bundle, device="cpu")
    texts = ["the team won the match", "a phone", "the minister lost the vote"]
    answer = client.post("/v1/classify", json={"texts": texts}).json()
    assert answer["model"] == {"name": "news", "version": VERSION}
    for found, row, label in zip(answer["results"], classifier.predict_proba(texts), classifier.predict(texts), strict=True):
        assert found["label"] == label and found["probability"] == pytest.approx(row.max(), abs=1e-5)
        assert [found["probabilities"][name] for name in classifier.classes_] == pytest.approx(row.tolist(), abs=1e-5)
        assert found["truncated"] is False and found["abstain"] is False
    (single,) = client.post("/v1/classify", json={"text": texts[1], "top_k": 1}).json()["results"]
    assert list(single["probabilities"]) == [answer["results"][1]["label"]]
    (unsure,) = client.post("/v1/classify", json={"text": texts[1], "threshold": 1}).json()["results"]
    assert unsure["label"] is None and unsure["abstain"] is True and unsure["probability"] == pytest.approx(single["probability"], abs=1e-5)


def test_a_bad_item_fails_alone_and_ids_are_echoed(client) -> None:
    body = (
        b'{"texts": ["a phone", {"id": 7, "text": "a phone"}, "", 7, null, "\\ud800", {"id": "\\ud800", "text": 1}, {"a": 1}, "'
        + b"x " * MAX_CHARACTERS
        + b'"]}'
    )
    answer = client.post("/v1/classify", content=body)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert results[1] == {"id": 7, **results[0]} and results[0]["label"] is not None
    assert [list(one) for one in results[2:8]] == [["error"]] * 4 + [["id", "error"], ["error"]]
    assert results[2]["error"] == "the text is empty" and results[3]["error"] == "the text is not a string but int"
    assert results[6]["id"] == "\ud800"
    assert results[8]["truncated"] is True and results[8]["label"] is not None


def test_a_text_of_more_tokens_than_the_model_reads_is_said_to_be_truncated(client) -> None:
    results = client.post("/v1/classify", json={"texts": ["the " * 62, "the " * 63]}).json()["results"]
    assert [one["truncated"] for one in results] == [False, True]  # 64 tokens with the two that mark begin and end


def test_models_are_asked_for_by_name_and_version(client) -> None:
    described = client.get("/v1/models").json()
    assert [(one["name"], one["version"]) for one in described["models"]] == [("news", VERSION), ("other", "2"), ("news", "old")]
    assert described["models"][1]["labels"] == ["bank", "music"] and described["models"][0]["problem"] is None
    assert described["limits"] == {"texts": MAX_TEXTS, "characters": MAX_CHARACTERS, "body_bytes": MAX_BODY_BYTES, "seconds": 30.0}
    for wanted, name, version in (("news", "news", VERSION), ("other", "other", "2"), ("news@old", "news", "old"), ("other@2", "other", "2")):
        assert client.post("/v1/classify", json={"text": "a", "model": wanted}).json()["model"] == {"name": name, "version": version}
    for wanted in ("nws", "news@3", "@", "other@" + VERSION):
        refused = client.post("/v1/classify", json={"text": "a", "model": wanted})
        assert refused.status_code == 404 and "there is no model" in refused.json()["error"]
    assert "did you mean 'news'?" in client.post("/v1/classify", json={"text": "a", "model": "nws"}).json()["error"]


def test_predict_answers_as_text_embeddings_inference_does(client) -> None:
    texts = ["a phone", "the match"]
    expected = [list(one["probabilities"].items()) for one in client.post("/v1/classify", json={"texts": texts}).json()["results"]]
    lists = client.post("/predict", json={"inputs": texts}).json()
    assert [[one["label"] for one in scores] for scores in lists] == [[label for label, _ in one] for one in expected]
    assert [[one["score"] for one in scores] for scores in lists] == [pytest.approx([value for _, value in one], abs=1e-5) for one in expected]
    assert [one["label"] for one in client.post("/predict", json={"inputs": "a phone"}).json()] == [label for label, _ in expected[0]]
    assert [one[0]["label"] for one in client.post("/predict", json={"inputs": [[text] for text in texts]}).json()] == [one[0][0] for one in expected]
    refused = client.post("/predict", json={"inputs": ["a", " "]})
    assert refused.status_code == 422 and refused.json()["error"] == "inputs.1: the text is empty"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"nonsense", 422, "not JSON: Expecting value at character 0"),
        (b"", 422, "not JSON"),
        (b"[]", 422, "valid dictionary"),
        (b'{"text": "a"', 422, "not JSON: Expecting ',' delimiter at character 12"),
        (b"{}", 422, 'either "text"'),
        (b'{"texts": []}', 422, "texts: List should have at least 1 item"),
        (json.dumps({"texts": ["a"] * (MAX_TEXTS + 1)}).encode(), 422, "texts: List should have at most 256 items"),
        (b'{"text": "a", "typo": 1}', 422, "typo: "),
        (b'{"text": "a", "top_k": "many"}', 422, "top_k: Input should be a valid integer"),
        (b'{"text": "a", "threshold": 2}', 422, "threshold: "),
        (b'{"text": "\xff"}', 400, "not UTF-8: byte 10 of 13"),
        (b"[" * 100_000, 400, "cannot be read as JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", 400, "cannot be read as JSON"),
        (b'{"text": "' + b"x" * MAX_BODY_BYTES + b'"}', 413, "larger than 8388608 bytes"),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_one_sentence(client, body, status, words) -> None:
    refused = client.post("/v1/classify", content=body)
    assert refused.status_code == status and list(refused.json()) == ["error"] and words in refused.json()["error"]
    assert len(refused.text) < 300


def test_a_body_without_a_stated_length_is_limited_too(client) -> None:
    large = b'{"text": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert client.post("/v1/classify", content=(large[start : start + 2**20] for start in range(0, len(large), 2**20))).status_code == 413
    assert client.post("/v1/classify", content=(part for part in (b'{"text"', b': "a"}'))).status_code == 200


def test_what_is_no_json_route_or_method_is_refused_as_json(client) -> None:
    form = client.post("/v1/classify", content=b'{"text": "a"}', headers={"content-type": "application/x-www-form-urlencoded"})
    assert form.status_code == 422 and "content-type: application/json" in form.json()["error"]
    assert client.post("/v1/classify", content=b'{"text": "a"}', headers={"content-type": ""}).status_code == 422
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/ld+json"):
        assert client.post("/v1/classify", content=b'{"text": "a"}', headers={"content-type": kind}).status_code == 200
    missing, wrong = client.get("/v2/classify"), client.delete("/v1/classify")
    assert missing.status_code == 404 and "no such route" in missing.json()["error"]
    assert wrong.status_code == 405 and "DELETE" in wrong.json()["error"] and wrong.headers["allow"] == "POST"


def test_pages_load_nothing_from_elsewhere(client) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "http://" not in page.text and "https://" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    documented = client.get("/openapi.json").json()["paths"]
    assert set(documented) == {"/v1/classify", "/predict", "/v1/models", "/metrics", "/healthz", "/readyz"}
    assert all(path in client.get("/docs").text for path in documented)


def test_metrics_count_what_was_answered(client) -> None:
    names = (
        'selftrain_requests_total{route="/v1/classify",status="200"}',
        'selftrain_requests_total{route="other",status="404"}',
        'selftrain_texts_total{model="news",outcome="label"}',
        'selftrain_texts_total{model="news",outcome="abstain"}',
        'selftrain_texts_total{model="news",outcome="error"}',
        'selftrain_request_seconds_count{route="/v1/classify"}',
        'selftrain_batch_texts_sum{model="news"}',
    )
    before = [figure(client, name) for name in names]
    client.post("/v1/classify", json={"texts": ["a", "b", 3]})
    client.post("/v1/classify", json={"texts": ["a"], "threshold": 1})
    client.get("/secret-path")
    assert [figure(client, name) - old for name, old in zip(names, before, strict=True)] == [2, 1, 2, 1, 1, 2, 3]
    text = client.get("/metrics").text
    assert f'selftrain_model_info{{method="genco",model="news",version="{VERSION}"}} 1.0' in text
    assert "selftrain_waiting_texts" in text and "process_resident_memory_bytes" in text and "secret-path" not in text


def test_many_clients_share_batches_and_each_gets_its_own_answer(client, bundle) -> None:
    many = [f"text number {index} about a {word}" for index in range(40) for word in ("match", "phone")]
    expected = Classifier.load(bundle, device="cpu").predict(many).tolist()
    batches = figure(client, 'selftrain_batch_texts_count{model="news"}')
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: client.post("/v1/classify", json={"text": text}).json()["results"][0]["label"], many))
    assert found == expected
    assert figure(client, 'selftrain_batch_texts_count{model="news"}') - batches < len(many)


def test_a_text_that_breaks_the_model_fails_alone(tmp_path) -> None:
    folder = make_bundle(tmp_path / "poisoned", poison="election")
    with endpoint(ModelSource(bundle=str(folder))) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        answer = client.post("/v1/classify", json={"texts": ["a match", {"id": 1, "text": "the election"}, "a phone"]})
        results = answer.json()["results"]
        assert results[1] == {"id": 1, "error": FAILED} and results[0]["label"] and results[2]["label"]
        refused = client.post("/predict", json={"inputs": ["a match", "the election"]})
        assert refused.status_code == 424 and refused.json()["error"] == f"inputs.1: {FAILED}"


def test_too_much_at_once_is_refused_until_it_is_answered(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), max_waiting=100) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        refused = client.post("/v1/classify", json={"texts": ["a match"] * 101})
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1 and "waiting" in refused.json()["error"]
        assert client.post("/v1/classify", json={"texts": ["a match"] * 100}).status_code == 200


def test_bodies_that_are_held_are_limited_together(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), held_bodies=1000) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        with socket.create_connection(("127.0.0.1", local.port)) as slow:
            slow.sendall(
                b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n" + b" " * 899
            )
            end = time.monotonic() + 10
            while (answer := client.post("/v1/classify", json={"text": "x" * 200})).status_code == 200 and time.monotonic() < end:
                time.sleep(0.05)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        end = time.monotonic() + 10
        while client.post("/v1/classify", json={"text": "x" * 200}).status_code == 503 and time.monotonic() < end:
            time.sleep(0.05)
        assert client.post("/v1/classify", json={"text": "x" * 200}).status_code == 200  # the slow client has left


def test_a_body_that_comes_too_slowly_is_refused(bundle) -> None:
    with (
        endpoint(ModelSource(bundle=str(bundle)), body_seconds=0.2) as local,
        socket.create_connection(("127.0.0.1", local.port), timeout=10) as slow,
    ):
        slow.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_takes_too_long_is_refused(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), timeout_seconds=0.001) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        refused = client.post("/v1/classify", json={"texts": ["a match " * 100] * MAX_TEXTS})
        assert refused.status_code == 504 and "no answer within 0.001 s" in refused.json()["error"]
        assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}


def test_health_is_answered_while_the_model_works(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle))) as local:

        async def ask() -> None:
            async with httpx.AsyncClient(base_url=local.url, timeout=60) as client:
                work = [asyncio.create_task(client.post("/v1/classify", json={"texts": ["a match " * 100] * MAX_TEXTS})) for _ in range(8)]
                await asyncio.sleep(0.05)
                assert (await client.get("/healthz")).status_code == 200
                busy = not all(one.done() for one in work)
                assert [one.status_code for one in await asyncio.gather(*work)] == [200] * 8
                assert busy  # health was answered before the texts were

        asyncio.run(ask())


def test_replicas_share_a_port_and_one_that_stops_leaves_the_others(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle))) as first:
        with endpoint(ModelSource(bundle=str(bundle)), port=first.port) as second:
            for _ in range(64):
                assert httpx.post(f"{first.url}/v1/classify", json={"text": "a phone"}, timeout=60).status_code == 200
            counts = [
                one.metrics.registry.get_sample_value("selftrain_texts_total", {"model": "news", "outcome": "label"}) for one in (first, second)
            ]
            assert sum(counts) == 64 and min(counts) > 8
        for _ in range(8):
            assert httpx.post(f"{first.url}/v1/classify", json={"text": "a phone"}, timeout=60).status_code == 200


def test_a_token_is_wanted_everywhere_but_on_the_open_routes(bundle, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        endpoint(ModelSource(bundle=str(bundle)), token=TOKEN.encode()) as local,
        httpx.Client(base_url=local.url, timeout=60, headers=JSON) as client,
    ):
        # nobody is asked to label here
        assert {path: client.get(path).status_code for path in OPEN_PATHS} == dict.fromkeys(OPEN_PATHS, 200) | {"/label": 404}
        for path in ("/v1/models", "/metrics", "/nowhere"):
            assert client.get(path).status_code == 401
        for given in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer"):
            refused = client.post("/v1/classify", json={"text": "a"}, headers={"authorization": given})
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer" and "Bearer TOKEN" in refused.json()["error"]
        client.headers["authorization"] = f"Bearer {TOKEN}"
        assert client.post("/v1/classify", json={"text": "a sentence of no log"}).status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert TOKEN not in client.get("/metrics").text + client.get("/v1/models").text
    assert TOKEN not in caplog.text and "sentence of no log" not in caplog.text


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SELFTRAIN_SERVE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("SELFTRAIN_SERVE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN.encode()
    file = tmp_path / "token"
    file.write_text("another-token-of-a-file\n")
    assert read_token(file) == b"another-token-of-a-file"
    for wrong in ("", "short", "with spaces in between", "nön-ascii-characters-here"):
        file.write_text(wrong)
        with pytest.raises(SelfTrainError, match="is not a token"):
            read_token(file)
    with pytest.raises(SelfTrainError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_no_request_of_the_openapi_document_or_beyond_it_gets_a_500(served) -> None:
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    statuses: dict[str, set[int]] = {}

    def fuzz(operation, mode) -> None:
        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case) -> None:
            answer = case.call()
            statuses.setdefault(operation.path, set()).add(answer.status_code)
            checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
            case.validate_response(answer, checks=checks)

        one()

    for found in document.get_all_operations():
        operation = found.ok()
        fuzz(operation, schemathesis.GenerationMode.POSITIVE)
        if operation.method.lower() == "post":
            fuzz(operation, schemathesis.GenerationMode.NEGATIVE)
    assert statuses["/v1/classify"] >= {200, 404, 422} and statuses["/predict"] >= {200, 422}
    assert statuses["/healthz"] == {200}


PROMISE = {
    "risk": 0.05, "level": 0.95, "threshold": 0.5, "answered": 0.4, "documents": 4000, "answers": 80, "wrong": 0, "backend": "torch", "made": VERSION
}  # fmt: skip
SETS = {
    "risk": 0.1, "level": 0.95, "size": 1.5, "classes": 3, "documents": 4000, "answers": 100, "missed": 4, "backend": "torch", "made": VERSION
}  # fmt: skip


def test_a_request_may_abstain_where_the_model_states_a_promise(client, tmp_path) -> None:
    texts = ["the team won the match", "a phone", "the minister lost the vote", "music and film", "x"]
    found = client.post("/v1/classify", json={"texts": texts}).json()["results"]
    threshold = sorted(one["probability"] for one in found)[2]
    second = sorted(sorted(one["probabilities"].values())[1] for one in found)[2] - 1e-6
    folder = make_bundle(tmp_path / "promised", promise=PROMISE | {"threshold": threshold - 1e-6}, sets=SETS | {"threshold": second})
    other = make_bundle(tmp_path / "in8bits", promise=PROMISE | {"backend": "onnx-int8"}, name="other")
    below = [one["probability"] < threshold - 1e-6 for one in found]
    assert sum(below) == 2
    with (
        endpoint(ModelSource(bundle=str(folder)), ModelSource(bundle=str(other))) as local,
        httpx.Client(base_url=local.url, timeout=60, headers=JSON) as promised,
    ):
        stated, unkept = promised.get("/v1/models").json()["models"]
        assert (
            stated["promise"]["risk"] == 0.05 and stated["promise"]["threshold"] == pytest.approx(threshold, abs=1e-5) and unkept["promise"] is None
        )
        assert stated["promise"]["sentence"].startswith("at most 5 % of the answers are wrong (with 95 % confidence), where texts")
        *answer, empty = promised.post("/v1/classify", json={"texts": [*texts, ""], "abstain": True}).json()["results"]
        assert [one["abstain"] for one in answer] == below and empty == {"error": "the text is empty"}
        assert [one["label"] for one in answer] == [None if gone else one["label"] for one, gone in zip(found, below, strict=True)]
        assert not any(one["abstain"] for one in promised.post("/v1/classify", json={"texts": texts}).json()["results"])
        assert stated["sets"]["sentence"].startswith("the sets of at least 90 % of the texts hold the true class") and unkept["sets"] is None
        *answer, empty = promised.post("/v1/classify", json={"texts": [*texts, ""], "sets": True, "top_k": 1}).json()["results"]
        wanted = [[name for place, (name, of) in enumerate(one["probabilities"].items()) if not place or of >= second] for one in found]
        assert [one["set"] for one in answer] == wanted and {len(one) for one in wanted} >= {1, 2} and empty == {"error": "the text is empty"}
        for body, said in (
            ({"sets": True, "model": "other"}, "sets need a promise of their own, and this bundle states none"),
            ({"abstain": True, "threshold": 0.5}, 'pass either "abstain" or a "threshold" of your own'),
            ({"abstain": True, "augment": True}, 'pass either "abstain" or "augment": a promise is about texts that are read alone'),
            ({"abstain": True, "model": "other"}, "the bundle's promise was made with onnx-int8, whose probabilities differ"),
        ):
            refused = promised.post("/v1/classify", json={"texts": texts, **body})
            assert refused.status_code == 422 and said in refused.json()["error"]


def test_a_bundle_without_a_promise_refuses_to_abstain(client) -> None:
    assert [one["promise"] for one in client.get("/v1/models").json()["models"]] == [None] * 3
    refused = client.post("/v1/classify", json={"text": "a phone", "abstain": True})
    assert refused.status_code == 422
    assert refused.json() == {
        "error": f"model news@{VERSION}: abstain needs a promise, and this bundle states none; audit the bundle with a promise first."
    }
