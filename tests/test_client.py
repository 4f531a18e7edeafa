"""The client, against the real endpoint."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from completions import completions
from endpoint import VERSION, endpoint, free_port, known_texts, make_bundle

from selftrain import Client
from selftrain.bundle.classifier import Classifier
from selftrain.client import ServingError
from selftrain.errors import ConfigError, DataError
from selftrain.serving.language_model import Augmentation
from selftrain.serving.models import ModelSource
from selftrain.serving.schemas import MAX_CHARACTERS

TOKEN = "0123456789abcdef-token"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "news")


@pytest.fixture(scope="module")
def served(bundle):
    with endpoint(ModelSource(bundle=str(bundle)), ModelSource(bundle=str(bundle), version="old"), token=TOKEN.encode()) as local:
        yield local


def test_texts_beyond_one_request_are_answered_in_order(served, bundle) -> None:
    texts = [f"text {index} of a {word}" for index in range(100) for word in ("match", "phone", "bank")]
    with Client(served.url, token=TOKEN, batch_size=1000) as client:  # above the server's limit
        found = client.classify(texts)
        assert [one.label for one in found] == Classifier.load(bundle, device="cpu").predict(texts).tolist()
        assert {one.model for one in found} == {f"news@{VERSION}"}
        assert client.classify([]) == []
        assert [one["version"] for one in client.models()] == [VERSION, "old"]
    assert 'selftrain_requests_total{route="/v1/classify",status="200"} 2.0' in served.metrics.text().decode()


def test_a_bad_text_has_an_error_and_large_ones_are_split_and_cut(served) -> None:
    with Client(served.url, token=TOKEN, model="news@old") as client:
        good, empty, long = client.classify(["a phone", "", "é" * 2 * MAX_CHARACTERS], top_k=1)
        assert good.label and len(good.probabilities) == 1 and good.error is None and good.model == "news@old"
        assert empty.label is None and empty.error == "the text is empty" and empty.probabilities == {}
        assert long.label and long.truncated
        (unsure,) = client.classify(["a phone"], threshold=1.0)
        assert unsure.label is None and unsure.abstain and unsure.probability == pytest.approx(good.probability, abs=1e-5)
        # 100 of these are more bytes than one request may have.
        assert len(client.classify(["é" * MAX_CHARACTERS] * 100)) == 100


def test_a_tree_of_classes_is_said_by_the_endpoint_and_read_by_the_client(tmp_path) -> None:
    parents = [["free time"], ["work"], ["work"]]
    with endpoint(ModelSource(bundle=str(make_bundle(tmp_path / "tree", parents=parents)))) as local, Client(local.url) as client:
        assert client.models()[0]["parents"] == parents
        good, empty = client.classify(["a phone", ""])
        own = {"sport": ("free time", ["sport"])}.get(good.label, ("work", ["tech", "politics"]))
        assert good.parents == {own[0]: pytest.approx(sum(good.probabilities[name] for name in own[1]))} and empty.parents == {}


def test_texts_are_read_with_continuations_where_the_server_has_a_language_model(served, bundle) -> None:
    with (
        completions() as writer,
        endpoint(ModelSource(bundle=str(bundle)), augmentation=Augmentation(url=writer.url)) as local,
        Client(local.url) as client,
    ):
        alone, augmented = client.classify(["a phone"]), client.classify(["a phone"], augment=True)
        assert alone[0].continuations is None and augmented[0].continuations == 1 and augmented[0].label
        assert alone[0].probability != pytest.approx(augmented[0].probability, abs=1e-6)
    with Client(served.url, token=TOKEN) as client, pytest.raises(ServingError, match="has no language model") as refused:
        client.classify(["a phone"], augment=True)
    assert refused.value.status == 422


def test_texts_are_abstained_from_as_the_bundle_promises(served, tmp_path) -> None:
    promise = {
        "risk": 0.1,
        "level": 0.95,
        "threshold": 1.0,
        "answered": 0.4,
        "documents": 10,
        "answers": 30,
        "wrong": 0,
        "backend": "torch",
        "made": VERSION,
    }
    with endpoint(ModelSource(bundle=str(make_bundle(tmp_path / "sure", promise=promise)))) as local, Client(local.url) as client:
        (told,) = client.models()
        assert told["promise"]["risk"] == 0.1 and "10 % of the answers" in told["promise"]["sentence"]
        (unsure,), (plain,) = client.classify(["a phone"], abstain=True), client.classify(["a phone"])
        assert unsure.label is None and unsure.abstain and plain.label and not plain.abstain
        assert told["sets"] is None and plain.set is None
        with pytest.raises(ServingError, match="sets need a promise of their own") as refused:
            client.classify(["a phone"], sets=True)
        assert refused.value.status == 422
        with pytest.raises(ServingError, match='pass either "sets" or "augment"'):
            client.classify(["a phone"], sets=True, augment=True)
    with Client(served.url, token=TOKEN) as client, pytest.raises(ServingError, match="abstain needs a promise") as refused:
        client.classify(["a phone"], abstain=True)
    assert refused.value.status == 422


def test_a_text_that_fits_no_class_gets_no_label_where_the_bundle_keeps_documents(served, tmp_path) -> None:
    with endpoint(ModelSource(bundle=str(make_bundle(tmp_path / "known", known=known_texts())))) as local, Client(local.url) as client:
        assert client.models()[0]["none_of_these"] == {"documents": 240, "promise": None}
        texts = [known_texts(1)[0], "<script>alert(9)</script>", ""]
        good, none, empty = client.classify(texts, none_of_these=0.01)
        assert good.label and not good.abstain and good.none_of_these is False and (good.typicality or 0) > 0.01
        assert none.label is None and none.abstain and none.none_of_these and none.typicality == pytest.approx(1 / 241) and none.probabilities
        assert empty.error == "the text is empty" and empty.none_of_these is None
        plain = client.classify(texts[:2])
        assert plain[1].label and plain[1].typicality is None and plain[1].none_of_these is None
        for wanted, said in ((0.001, "share of the 240 known documents"), ("promise", "none_of_these has no promise")):
            with pytest.raises(ServingError, match=said) as refused:
                client.classify(texts, none_of_these=wanted)
            assert refused.value.status == 422
    with Client(served.url, token=TOKEN) as client:
        assert client.models()[0]["none_of_these"] is None
        with pytest.raises(ServingError, match="this bundle keeps none") as refused:
            client.classify(["a phone"], none_of_these=0.01)
        assert refused.value.status == 422


def test_a_refusal_is_said_at_once(served, monkeypatch) -> None:
    monkeypatch.setenv("SELFTRAIN_SERVE_TOKEN", TOKEN)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: pytest.fail("the client waits to ask again"))
    monkeypatch.setattr("selftrain.client.time", clock)
    for client, status, words in (
        (Client(served.url, token="wrong"), 401, "needs a token"),
        (Client(served.url, model="none"), 404, "no model 'none'"),
        (Client(f"{served.url}/nowhere"), 404, "no such route"),
    ):
        with client, pytest.raises(ServingError, match=words) as refused:
            client.classify(["a"])
        assert refused.value.status == status
    with Client(served.url) as client:
        for texts in ("one text", ["a", 3]):
            with pytest.raises(DataError, match=r"[Tt]ext"):
                client.classify(texts)
    for url in ("127.0.0.1:8000", "ftp://a", "http://", "http://a:b"):
        with pytest.raises(ConfigError, match=r"^url must be"):
            Client(url)
    with pytest.raises(ConfigError, match=r"^batch_size must be at least 1 \(got 0\)"):
        Client(served.url, batch_size=0)


def test_a_server_that_is_not_there_yet_is_waited_for(bundle) -> None:
    port = free_port()
    with Client(f"http://127.0.0.1:{port}", patience_seconds=0.3) as client, pytest.raises(ServingError, match="check that it is running") as missing:
        client.classify(["a"])
    assert missing.value.status is None
    found = []
    with Client(f"http://127.0.0.1:{port}", patience_seconds=60) as client:
        waiting = threading.Thread(target=lambda: found.extend(client.classify(["a phone"])))
        waiting.start()
        time.sleep(0.5)
        with endpoint(ModelSource(bundle=str(bundle)), port=port):
            waiting.join(60)
            assert found[0].label
        # Gone and back: the connection that was kept open is of no use any more.
        with endpoint(ModelSource(bundle=str(bundle)), port=port):
            assert client.classify(["a phone"]) == found


def test_a_busy_server_is_asked_again_until_all_is_answered(bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), max_waiting=16) as local:

        def ask(number: int) -> int:
            with Client(local.url, batch_size=16, patience_seconds=120) as client:
                return sum(one.label is not None for one in client.classify([f"a match of {number} " * 20] * 32))

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(ask, range(6))) == [32] * 6
        assert 'status="503"' in local.metrics.text().decode()


def test_the_client_needs_neither_torch_nor_ray() -> None:
    code = "import sys; from selftrain import Client; print([name for name in ('torch', 'ray', 'numpy', 'fastapi', 'mlflow') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
