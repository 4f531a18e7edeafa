"""What a static student answers without a queue: the same as with one, whatever is asked at the same moment, and nothing that the queue should see."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from endpoint import LABELS, endpoint
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.bundle.tokens import Tokens
from selftrain.serving.models import ModelSource
from selftrain.serving.schemas import MAX_TEXTS
from selftrain.serving.together import MOST_CHARACTERS, Together


def letters(texts: list[str]) -> list[Tokens]:
    """A token a letter; five are read; "?" cannot be."""
    if any("?" in text for text in texts):
        raise ValueError("what is ?")
    return [Tokens([ord(letter) for letter in text[:5]], len(text) > 5) for text in texts]


class Model:
    """Answers the first token; not a number for "!"."""

    def __init__(self) -> None:
        self.turns: list[int] = []

    def __call__(self, rows: list[list[int]]) -> np.ndarray:
        self.turns.append(len(rows))
        return np.array([[np.nan if row[0] == ord("!") else float(row[0]), 0.0] for row in rows])

    def together(self, max_waiting: int = 10_000, told: list | None = None) -> Together:
        return Together(letters, self, max_waiting=max_waiting, observe=lambda *figures: None if told is None else told.append(figures[:2]))


async def gathered(together: Together, *requests: list[str]) -> list:
    return await asyncio.gather(*(together.answers(texts) for texts in requests))


def test_requests_of_one_moment_share_a_turn_and_get_their_own_answers() -> None:
    model, told = Model(), []
    found = asyncio.run(gathered(model.together(told=told), ["a", "bcdefg"], ["c"], ["d"] * 3))
    assert [[(one.probabilities, one.truncated) for one in answers] for answers in found] == [
        [([97.0, 0.0], False), ([98.0, 0.0], True)],
        [([99.0, 0.0], False)],
        [([100.0, 0.0], False)] * 3,
    ]
    assert model.turns == [6] and told == [(6, 0.0)]


def test_a_turn_takes_no_more_texts_and_characters_than_milliseconds_allow() -> None:
    model = Model()
    together = model.together()
    found = asyncio.run(gathered(together, *[["a"] * 100] * 5))
    assert [len(answers) for answers in found] == [100] * 5 and model.turns == [200, 200, 100] and together.waiting == 0
    model.turns.clear()
    found = asyncio.run(gathered(together, ["a" * MOST_CHARACTERS], ["b"], ["c"]))
    assert [answers[0].probabilities[0] for answers in found] == [97.0, 98.0, 99.0] and model.turns == [1, 2]


def test_what_is_too_much_is_left_to_the_queue() -> None:
    model = Model()
    together = model.together(max_waiting=300)
    assert asyncio.run(gathered(together, [], ["a"] * (MAX_TEXTS + 1), ["a" * (MOST_CHARACTERS + 1)])) == [None] * 3 and model.turns == []
    found = asyncio.run(gathered(together, ["a"] * 200, ["a"] * 101, ["a"] * 100))
    assert [None if answers is None else len(answers) for answers in found] == [200, None, 100] and together.waiting == 0


@pytest.mark.parametrize("bad", ["?", "!"])
def test_what_fails_is_left_to_the_queue_with_all_of_its_turn(bad: str) -> None:
    together = Model().together()
    assert asyncio.run(gathered(together, ["a"], [bad])) == [None, None] and together.waiting == 0
    assert asyncio.run(gathered(together, ["a"])) != [None]


def test_a_request_that_gave_up_is_not_computed() -> None:
    model = Model()

    async def given_up() -> list:
        together = model.together()
        first = asyncio.ensure_future(together.answers(["a"] * 7))
        second = asyncio.ensure_future(together.answers(["b"]))
        await asyncio.sleep(0)  # both wait; the turn is next
        first.cancel()
        return [await asyncio.wait_for(second, 30), together.waiting]

    answers, waiting = asyncio.run(given_up())
    assert answers[0].probabilities == [98.0, 0.0] and waiting == 0 and model.turns in ([1], [8])


@pytest.fixture(scope="module")
def static(tmp_path_factory) -> Path:
    """A bundle of one vector a token, random ones."""
    folder = tmp_path_factory.mktemp("static")
    torch.manual_seed(0)
    tokenizer = tiny_backbone(folder / "tiny").tokenizer.backend_tokenizer
    vectors = torch.randn(tokenizer.get_vocab_size(), 8)
    backbone = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")
    card = BundleCard(name="static", labels=LABELS, method="genco", similarity="dot", max_tokens=16)
    return write_bundle(folder / "bundle", backbone=backbone, prototypes=torch.randn(len(LABELS), 8), card=card)


def test_the_endpoint_answers_as_the_classifier_does_without_the_queue(static) -> None:
    texts = [f"the team won {'match ' * (place % 20)}number {place}" for place in range(MAX_TEXTS)]
    expected = Classifier.load(static, device="cpu").predict_proba(texts)
    with endpoint(ModelSource(bundle=str(static))) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        loaded = local.models.get(None)
        assert loaded.together is not None
        loaded.batcher.submit = lambda texts: pytest.fail("nothing here needs the queue")
        found = client.post("/v1/classify", json={"texts": [*texts[:200], " ", *texts[200:-1]]}).json()["results"]
        assert found.pop(200) == {"error": "the text is empty"}
        given = np.array([[one["probabilities"][label] for label in LABELS] for one in found])
        np.testing.assert_allclose(given, expected[:-1], atol=1e-9)
        assert [one["truncated"] for one in found] == [one.truncated for one in Classifier.load(static, device="cpu").tokenize(texts[:-1])]
        assert client.post("/predict", json={"inputs": texts[0]}).json()[0]["score"] == pytest.approx(expected[0].max())
        refused = client.post("/v1/classify", content=b"{", headers={"content-type": "application/json"})
        assert (
            refused.status_code == 422 and refused.headers.get("connection") != "close"
        )  # as FastAPI's handler has it; the gate's own refusals end it
        assert "selftrain_batch_texts_count" in client.get("/metrics").text


def test_a_text_that_breaks_the_model_fails_alone(static) -> None:
    with endpoint(ModelSource(bundle=str(static))) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        real = local.models.get(None).classifier

        def fragile(rows: list[list[int]]) -> np.ndarray:
            if any(len(row) == 1 for row in rows):
                raise RuntimeError
            return real.classify(rows)

        local.models.get(None).together._classify = local.models.get(None).batcher._classify = fragile
        found = client.post("/v1/classify", json={"texts": ["the team", "team", "the match"]}).json()["results"]
        assert ["label" in one for one in found] == [True, False, True] and found[1] == {"error": "the model failed on this text"}
