"""Continuations in front of the classifier: the equation, the way through the endpoint, and a language model's server that fails in every way."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from completions import USED, WRITTEN, choices, completions, write
from endpoint import LABELS, endpoint, free_port, make_bundle

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_prototypes
from selftrain.bundle.pytorch import open_backbone
from selftrain.bundle.tokens import Continued
from selftrain.config import AugmentConfig
from selftrain.errors import SelfTrainError
from selftrain.models.encoder import TextEncoder
from selftrain.models.student import Student
from selftrain.serving.language_model import (
    MAX_ANSWER_BYTES,
    Augmentation,
    completion_request,
    mean_over_continuations,
    training_settings,
    with_model_name,
)
from selftrain.serving.models import ModelSource, load_model
from selftrain.serving.schemas import FAILED, TextProbabilities
from selftrain.texts.filter import filter_completion

KEY = "a-key-that-nobody-may-see"
TEXTS = ["the team won the match", "a phone and a chip", "the minister lost the vote in the election " * 20, "Zoë's café 中文 naïve", "x"]
CONTINUATIONS = [
    ["The coach of the league said so."],
    ["It has a new chip.", "The company said that the market is open for software.", "Shares of the bank " * 60],
    ["The party lost the law.", "A film with music and an actor."],
    ["Ça va, said the actor of the band."],
    [],
]


def folder_of(tmp_path: Path, similarity: str) -> Path:
    return make_bundle(tmp_path / similarity, similarity=similarity, scale=3.0, max_tokens=16, longest=64)


def of_training(folder: Path, similarity: str) -> np.ndarray:
    """Probabilities as an experiment computes them: `encode_augmented`, then equation 3."""
    backbone = open_backbone(folder, "cpu")
    backbone.max_seq_length = 64
    weights, _ = read_prototypes(folder, Classifier.load(folder, device="cpu").card)
    encoder = TextEncoder(backbone, max_tokens=16, normalize=similarity == "cosine")
    return Student(encoder, weights, scale=3.0).probabilities(encoder.encode_augmented(TEXTS, CONTINUATIONS)).numpy()


def of_serving(folder: Path) -> list[TextProbabilities]:
    """The same by the parts of the endpoint."""
    classifier = Classifier.load(folder, device="cpu")
    found = []
    for text, written in zip(TEXTS, CONTINUATIONS, strict=True):
        rows = classifier.tokenize_continued([Continued(text, one) for one in written]) or classifier.tokenize([text])
        answers = [
            TextProbabilities(row.tolist(), tokens.truncated)
            for row, tokens in zip(classifier.classify([one.ids for one in rows]), rows, strict=True)
        ]
        found.append(mean_over_continuations(answers, len(written)))
    return found


def test_for_a_dot_product_the_answer_is_equation_9(tmp_path) -> None:
    folder = folder_of(tmp_path, "dot")
    found = of_serving(folder)
    np.testing.assert_allclose([one.probabilities for one in found], of_training(folder, "dot"), atol=1e-6)
    assert [one.continuations for one in found] == [1, 3, 2, 1, 0]
    assert [one.truncated for one in found] == [False, False, True, True, False]


def test_for_cosines_the_label_is_the_same_and_several_continuations_are_a_little_less_sure(tmp_path) -> None:
    folder = folder_of(tmp_path, "cosine")
    found, expected = np.stack([one.probabilities for one in of_serving(folder)]), of_training(folder, "cosine")
    assert found.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(found[[0, 3, 4]], expected[[0, 3, 4]], atol=1e-6)
    assert (found[1:3].max(axis=1) < expected[1:3].max(axis=1)).all() and (found[1:3].max(axis=1) > expected[1:3].max(axis=1) - 0.05).all()


def test_a_probability_of_zero_is_no_error_and_a_row_that_failed_is_one() -> None:
    sure = TextProbabilities([1.0, 0.0])
    found = mean_over_continuations([sure, TextProbabilities([0.5, 0.5], True)], 2)
    assert found.probabilities[0] == pytest.approx(1.0) and found.truncated and found.continuations == 2
    assert mean_over_continuations([sure, TextProbabilities([0.0, 1.0])], 2).probabilities == pytest.approx([0.5, 0.5])
    assert mean_over_continuations([sure, TextProbabilities(None)], 2).probabilities is None


def test_the_request_has_the_prompt_and_the_sampling_of_the_training() -> None:
    document = "The company said on Tuesday that its new phone would be on sale"
    settings = AugmentConfig(input_samples=5, temperature=0.7, top_p=0.95, min_tokens=64, max_tokens=16, document_words=5)
    path, body = completion_request(document, "writer", settings)
    assert path == "/completions"
    sampling = {"n": 5, "temperature": 0.7, "top_p": 0.95, "min_tokens": 16, "max_tokens": 16, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert body == {"model": "writer", "prompt": "The company said on Tuesday", **sampling}
    path, body = completion_request(document, "writer", settings.model_copy(update={"style": "instruct", "temperature": 0.0}))
    assert path == "/chat/completions" and body["n"] == 1 and "prompt" not in body
    assert body["messages"] == [{"role": "user", "content": "Elaborate the text in a few sentences.\n\nThe company said on Tuesday"}]


def test_settings_are_the_bundles_own() -> None:
    card = {"name": "a", "labels": ("b", "c"), "method": "genco"}
    assert training_settings(BundleCard(**card)) == AugmentConfig()
    stated = {"augment": {"input_samples": 5, "a key of a later version": 1, "gpus": 1}}
    assert training_settings(BundleCard(**card, experiment=stated)) == AugmentConfig(input_samples=5, gpus=1)
    with pytest.raises(SelfTrainError, match=r"augment\.style"):
        training_settings(BundleCard(**card, experiment={"augment": {"style": "poem"}}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Bundles that were trained with two continuations, in an instruct style, with none, and in a style that nobody knows."""
    folder = tmp_path_factory.mktemp("bundles")
    settings = {"two": {"input_samples": 2}, "chat": {"style": "instruct"}, "none": {"input_samples": 0}, "poem": {"style": "poem"}}
    return {name: make_bundle(folder / name, name=name, augment=augment) for name, augment in settings.items()}


@pytest.fixture
def writer():
    with completions() as server:
        yield server


@pytest.fixture
def served(request, folders, writer):
    """An endpoint with "two" of `folders`, or with those that a test asks for; the first answers requests that name none."""
    sources = [ModelSource(bundle=str(folders[name])) for name in getattr(request, "param", ("two",))]
    with endpoint(*sources, augmentation=Augmentation(url=writer.url, concurrency=4), key=KEY) as local:
        yield local


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def figure(local, name: str, **labels: str) -> float:
    return local.metrics.registry.get_sample_value(name, labels) or 0.0


def ask(client: httpx.Client, *texts: str, **more) -> httpx.Response:
    return client.post("/v1/classify", json={"texts": list(texts), "augment": True, **more})


def test_texts_are_read_with_continuations(client, served, writer, folders) -> None:
    texts = ["a phone", "the match"]
    found = ask(client, *texts, {"id": 7, "text": ""}).json()["results"]
    classifier = Classifier.load(folders["two"], device="cpu")
    for text, result in zip(texts, found, strict=False):
        (row,) = classifier.classify([one.ids for one in classifier.tokenize_continued([Continued(text, USED)])])
        assert result["continuations"] == 2 and result["truncated"] is False
        assert [result["probabilities"][label] for label in LABELS] == pytest.approx(row.tolist(), abs=1e-6)
    assert found[2] == {"id": 7, "error": "the text is empty"}
    (plain,) = client.post("/v1/classify", json={"text": texts[0]}).json()["results"]
    assert "continuations" not in plain and plain["probability"] != pytest.approx(found[0]["probability"], abs=1e-6)
    asked = [(path, body) for path, _, body in writer.asked if body]
    assert sorted(body["prompt"] for _, body in asked) == texts and {path for path, _ in asked} == {"/v1/completions"}
    assert all(body["model"] == "writer" and body["n"] == 2 and "seed" not in body for _, body in asked)
    assert figure(served, "selftrain_continuations_total", model="two", outcome="used") == 4
    assert figure(served, "selftrain_language_model_seconds_count") == 2


@pytest.mark.parametrize("served", [("two", "chat", "none", "poem")], indirect=True)
def test_a_chat_model_is_asked_in_its_own_way(client, writer) -> None:
    (found,) = ask(client, "a phone", model="chat").json()["results"]
    assert found["continuations"] == 1 and found["label"] in LABELS
    path, _, body = writer.asked[-1]
    assert path == "/v1/chat/completions" and body["messages"][0]["content"].startswith("Elaborate the text")


def test_a_text_whose_continuations_are_all_dropped_is_read_by_itself(client, served, writer) -> None:
    writer.reply = lambda body: choices(body, ["so so", "buy it now buy it now buy it now buy it now"], "stop")
    (found,) = ask(client, "a phone").json()["results"]
    (plain,) = client.post("/v1/classify", json={"text": "a phone"}).json()["results"]
    assert found.pop("continuations") == 0
    assert found["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-6) and found["label"] == plain["label"]
    assert [figure(served, "selftrain_continuations_total", model="two", outcome=one) for one in ("empty", "repeated")] == [1, 1]
    assert not filter_completion(WRITTEN, "a phone", cut_off=True).reason  # the good server's text would have passed


def test_the_models_name_is_asked_for_once_and_only_where_there_is_one(client, writer) -> None:
    writer.models = ("one", "two")
    refused = ask(client, "a phone")
    assert refused.status_code == 502 and "lists 2 models; set augmentation.model to one of them" in refused.json()["error"]
    writer.models = ("one",)
    assert ask(client, "a phone").status_code == ask(client, "a phone").status_code == 200
    assert [path for path, _, _ in writer.asked].count("/v1/models") == 2
    assert writer.asked[-1][2]["model"] == "one"


def test_it_is_said_whether_there_is_a_language_model(client, bundle) -> None:
    assert client.get("/v1/models").json()["augment"] is True
    assert "augment" in client.get("/docs").text
    with endpoint(ModelSource(bundle=str(bundle))) as local, httpx.Client(base_url=local.url, timeout=60) as other:
        assert other.get("/v1/models").json()["augment"] is False
        refused = ask(other, "a phone")
        assert refused.status_code == 422 and refused.json()["error"].startswith("augment: this server has no language model")
        assert other.post("/v1/classify", json={"text": "a phone", "augment": False}).status_code == 200


@pytest.mark.parametrize("served", [("two", "chat", "none", "poem")], indirect=True)
def test_a_model_that_was_trained_without_continuations_refuses_them(client, writer) -> None:
    none, poem = ask(client, "a phone", model="none"), ask(client, "a phone", model="poem")
    assert none.status_code == 422 and "was trained without continuations" in none.json()["error"]
    assert poem.status_code == 422 and "augment.style" in poem.json()["error"]
    assert ask(client, "a phone", model="nobody").status_code == 404
    assert not writer.asked
    assert client.post("/v1/classify", json={"text": "a phone", "model": "poem"}).status_code == 200


@pytest.mark.parametrize(
    ("reply", "status", "reason", "words"),
    [
        (lambda body: 500, 502, "status", "failed (500)"),
        (lambda body: (302, {"location": "http://127.0.0.1:9/"}, b""), 502, "status", "failed (302)"),
        (lambda body: 401, 502, "status", "does not accept this server's key (401)"),
        (lambda body: 404, 502, "status", "no model 'writer'"),
        (lambda body: b"<html>", 502, "nonsense", "does not answer as an OpenAI-compatible one does"),
        (lambda body: b"[" * 100_000, 502, "nonsense", "does not answer as"),
        (lambda body: [], 502, "nonsense", "does not answer as"),
        (lambda body: {"choices": None}, 502, "nonsense", "does not answer as"),
        (lambda body: {"choices": [{"text": 1, "finish_reason": "stop"}] * 2}, 502, "nonsense", "does not answer as"),
        (lambda body: {"choices": ["text", "text"]}, 502, "nonsense", "does not answer as"),
        (lambda body: b" " * (MAX_ANSWER_BYTES + 1), 502, "nonsense", "does not answer as"),
        (lambda body: choices(body, ["one text"]), 502, "nonsense", "gave 1 continuations where 2 were asked for"),
        (lambda body: (200, {"content-length": "100"}, b"{}"), 502, "unreachable", "cannot be reached (ClientPayloadError)"),
        (lambda body: (429, {"retry-after": "7"}, b""), 503, "busy", "busy (429); try again in 7 s"),
        (lambda body: 503, 503, "busy", "busy (503); try again in 1 s"),
    ],
)
def test_a_server_that_fails_fails_the_request_in_one_sentence(client, served, writer, reply, status, reason, words) -> None:
    writer.reply = reply
    refused = ask(client, "a phone", "the match")
    assert refused.status_code == status and list(refused.json()) == ["error"] and words in refused.json()["error"]
    assert refused.headers.get("retry-after") == {"7 s": "7", "1 s": "1"}.get(words[-3:])
    assert figure(served, "selftrain_language_model_errors_total", reason=reason) >= 1
    assert client.post("/v1/classify", json={"text": "a phone"}).status_code == 200
    writer.reply = write
    assert ask(client, "a phone").status_code == 200  # nothing of it stays


def test_a_server_that_is_not_there_is_a_502(folders) -> None:
    augmentation = Augmentation(url=f"http://127.0.0.1:{free_port()}/v1", model="writer")
    with (
        endpoint(ModelSource(bundle=str(folders["two"])), augmentation=augmentation) as local,
        httpx.Client(base_url=local.url, timeout=60) as client,
    ):
        refused = ask(client, "a phone")
        assert refused.status_code == 502 and "cannot be reached (ClientConnectorError)" in refused.json()["error"]
        assert "127.0.0.1" not in refused.text


def test_a_text_that_the_language_model_refuses_fails_alone(client, served, writer) -> None:
    long = {"error": {"message": "This model's maximum context length\nis 512 tokens.", "code": 400}}
    writer.reply = lambda body: (400, {}, long) if "poison" in body["prompt"] else write(body)
    good, bad, other = ask(client, "a phone", {"id": 3, "text": "poison"}, "the match").json()["results"]
    assert good["label"] in LABELS and other["label"] in LABELS
    assert bad == {"id": 3, "error": "the language model refuses this text (400: This model's maximum context length is 512 tokens.)"}
    writer.reply = lambda body: (422, {}, b"what?")
    assert ask(client, "a phone").json()["results"] == [{"error": "the language model refuses this text (422)"}]
    assert figure(served, "selftrain_language_model_errors_total", reason="refused") == 2


def test_a_text_that_breaks_the_model_fails_alone(tmp_path, writer) -> None:
    folder = make_bundle(tmp_path / "poisoned", poison="election", augment={"input_samples": 2})
    writer.reply = lambda body: choices(
        body, ["of the league and of others", "of the election and of others"] if body["prompt"] == "b" else [WRITTEN] * 2, "stop"
    )
    with (
        endpoint(ModelSource(bundle=str(folder)), augmentation=Augmentation(url=writer.url)) as local,
        httpx.Client(base_url=local.url, timeout=60) as client,
    ):
        first, second = ask(client, "a", "b").json()["results"]
        assert first["continuations"] == 2 and second == {"error": FAILED}


def test_a_slow_language_model_holds_up_nobody_else_and_too_many_texts_are_refused(client, writer, served) -> None:
    go = threading.Event()
    writer.reply = lambda body: (go.wait(10), write(body))[1]

    async def load() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as many:
            slow = asyncio.create_task(many.post("/v1/classify", json={"texts": ["a phone"] * 4, "augment": True}))
            while sum(body is not None for _, _, body in writer.asked) < 4:
                await asyncio.sleep(0.01)
            plain = [await many.post("/v1/classify", json={"text": "the match"}) for _ in range(5)]
            over = await many.post("/v1/classify", json={"text": "a phone", "augment": True})
            assert not slow.done()
            go.set()
            return [await slow, over, *plain]

    slow, over, *plain = asyncio.run(load())
    assert [one.status_code for one in plain] == [200] * 5
    assert over.status_code == 503 and int(over.headers["retry-after"]) >= 1 and "4 texts in progress already" in over.json()["error"]
    assert slow.status_code == 200 and [one["continuations"] for one in slow.json()["results"]] == [2] * 4
    assert ask(client, "a phone").status_code == 200


def test_no_more_texts_than_allowed_are_with_the_language_model_at_a_time(client, writer) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def count(body: dict) -> dict:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        return write(body)

    writer.reply = count
    found = ask(client, *(f"text {number}" for number in range(12)))
    assert found.status_code == 200 and [one["continuations"] for one in found.json()["results"]] == [2] * 12
    assert 2 <= most <= 4


def test_the_time_of_a_request_covers_its_continuations(folders, writer) -> None:
    go = threading.Event()
    writer.reply = lambda body: (go.wait(30), write(body))[1]
    source, augmentation = ModelSource(bundle=str(folders["two"])), Augmentation(url=writer.url, concurrency=1)
    with endpoint(source, augmentation=augmentation, timeout_seconds=2) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        refused = ask(client, "a phone", "the match")
        assert refused.status_code == 504 and "no answer within 2 s" in refused.json()["error"]
        go.set()
        assert sum(body is not None for _, _, body in writer.asked) == 1  # the second text waited for the first, and both for no longer
        assert ask(client, "a phone").status_code == 200


def test_a_language_model_that_takes_too_long_for_one_text_is_a_504(folders, writer) -> None:
    go = threading.Event()
    writer.reply = lambda body: (go.wait(30), write(body))[1]
    source, augmentation = ModelSource(bundle=str(folders["two"])), Augmentation(url=writer.url, model="writer", timeout_seconds=0.3)
    with endpoint(source, augmentation=augmentation) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        refused = ask(client, "a phone")
        assert refused.status_code == 504 and refused.json()["error"] == "the language model did not answer within 0.3 s"
        assert figure(local, "selftrain_language_model_errors_total", reason="timeout") == 1
        go.set()


def test_a_model_that_is_replaced_while_the_language_model_writes_is_asked_in_its_successors_way(folders, writer) -> None:
    with endpoint(ModelSource(bundle=str(folders["two"])), augmentation=Augmentation(url=writer.url)) as local:
        (place,) = local.models._served
        old = place.live
        new = load_model(ModelSource(bundle=str(folders["chat"])), None, threads=1, max_waiting=100, max_seconds=30, metrics=local.metrics)

        def replace(body: dict) -> dict:
            writer.reply = write
            place.live = new
            old.batcher.close()
            return write(body)

        writer.reply = replace
        with httpx.Client(base_url=local.url, timeout=60) as client:
            found = ask(client, "a phone").json()
        assert found["model"]["name"] == "chat" and found["results"][0]["continuations"] == 1
        assert [path for path, _, body in writer.asked if body] == ["/v1/completions", "/v1/chat/completions"]


def test_the_key_goes_to_the_language_model_and_nowhere_else(client, writer, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    ask(client, "a sentence of no log")
    writer.reply = lambda body: 500
    refused = ask(client, "a sentence of no log")
    assert {headers["authorization"] for _, headers, _ in writer.asked} == {f"Bearer {KEY}"}
    assert KEY not in refused.text + client.get("/metrics").text + client.get("/v1/models").text + caplog.text
    assert "sentence of no log" not in caplog.text


def test_a_language_model_is_looked_at_before_anything_starts(writer, monkeypatch) -> None:
    monkeypatch.delenv("SELFTRAIN_LANGUAGE_MODEL_KEY", raising=False)
    assert with_model_name(Augmentation(url=writer.url + "/")) == Augmentation(url=writer.url, model="writer")
    writer.models = ("writer", "reader")
    assert with_model_name(Augmentation(url=writer.url, model="reader")).model == "reader"
    for url, model, words in (
        (writer.url, None, r"lists 2 models \(reader, writer\); set language_model_name to one of them"),
        (writer.url, "righter", "has no model 'righter'; did you mean 'writer'"),
        (writer.url.removesuffix("/v1"), None, r"no /models at the address"),
        (f"http://127.0.0.1:{free_port()}/v1", None, "cannot be reached"),
    ):
        with pytest.raises(SelfTrainError, match=words):
            with_model_name(Augmentation(url=url, model=model))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "ftp://a/v1", "http://", "http://a:b/v1", "http://a:0/v1", "http://me:secret@a/v1", "http://a/v1?b=c"]
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(url) -> None:
    with pytest.raises(ValueError, match="a key goes into a file") as refused:
        Augmentation(url=url)
    assert json.loads(refused.value.json())[0]["loc"] == ["url"]
