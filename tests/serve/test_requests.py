"""What a request may look like, by hand and without Ray."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from pydantic import ValidationError
from selftrain_serve.requests import FAILED, MAX_CHARACTERS, MAX_TEXTS, BodyLimit, ClassifyRequest, Item, answer_each, check, result


def test_one_of_text_and_texts() -> None:
    assert ClassifyRequest.model_validate({"text": "a"}).items() == ["a"]
    assert ClassifyRequest.model_validate({"text": None}).items() == [None]
    assert ClassifyRequest.model_validate({"texts": ["a", 3, None]}).items() == ["a", 3, None]
    wrong = [
        {},
        {"text": "a", "texts": ["b"]},
        {"texts": None},
        {"texts": []},
        {"texts": "a"},
        {"texts": ["a"] * (MAX_TEXTS + 1)},
        {"text": "a", "top_k": 0},
    ]
    for body in [*wrong, {"text": "a", "tpo_k": 1}]:
        with pytest.raises(ValidationError):
            ClassifyRequest.model_validate(body)


def test_a_text_is_cut_and_checked() -> None:
    assert check("x" * MAX_CHARACTERS) == Item("x" * MAX_CHARACTERS, None, False)
    assert check("x" * (MAX_CHARACTERS + 1)) == Item("x" * MAX_CHARACTERS, None, True)
    assert check(["a"]).problem == "not a string but list"
    assert check(None).problem == "not a string but NoneType"
    assert check(" ").problem == "empty"
    assert check("\ud800").problem == "not valid Unicode"


def test_a_result_lists_the_most_probable_classes_first() -> None:
    item = Item("a", None, True)
    found = result(item, np.array([0.25, 0.125, 0.625]), ["a", "b", "c"], 2)
    assert found == {"label": "c", "probability": 0.625, "probabilities": {"c": 0.625, "a": 0.25}, "truncated": True}
    assert list(found["probabilities"]) == ["c", "a"]
    assert list(result(item, np.array([0.25, 0.125, 0.625]), ["a", "b", "c"], None)["probabilities"]) == ["c", "a", "b"]
    assert result(item, "no", ["a"], None) == {"error": "no"}


def exchange(headers: list[tuple[bytes, bytes]], parts: list[bytes], limit: int) -> tuple[int, bytes, int]:
    """Status, body and the number of parts that were read."""
    sent: list[dict] = []
    left = [{"type": "http.request", "body": part, "more_body": index + 1 < len(parts)} for index, part in enumerate(parts)]

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    async def echo(scope, receive, send):
        message = await receive()
        assert not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    asyncio.run(BodyLimit(echo, limit)({"type": "http", "headers": headers}, receive, send))
    return sent[0]["status"], sent[1]["body"], len(parts) - len(left)


def test_the_body_is_limited_by_what_it_says_and_by_what_comes() -> None:
    assert exchange([(b"content-length", b"6")], [b"abc", b"def"], 6) == (200, b"abcdef", 2)
    status, body, read = exchange([(b"content-length", b"7")], [b"abc", b"defg"], 6)
    assert (status, read) == (413, 0) and "larger than 6 bytes" in json.loads(body)["error"]
    # A lie about the length, or none at all as in chunked transfer, helps nobody, and nothing beyond the limit is read.
    for headers in ([(b"content-length", b"3")], [], [(b"content-length", b"many")]):
        status, _, read = exchange(headers, [b"abc", b"defg", b"h" * 100], 6)
        assert (status, read) == (413, 2)


class Fragile:
    """Breaks on "poison", and answers NaN to "not a number"."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def predict_proba(self, texts):
        self.batches.append(list(texts))
        if "poison" in texts:
            raise RuntimeError("the model broke")
        return np.array([[np.nan, np.nan] if text == "not a number" else [0.25, 0.75] for text in texts])


def test_a_text_that_breaks_the_model_fails_alone() -> None:
    model = Fragile()
    found = answer_each(model, ["a", "poison", "not a number", "b"])
    assert [one if isinstance(one, str) else one.tolist() for one in found] == [[0.25, 0.75], FAILED, FAILED, [0.25, 0.75]]
    model.batches.clear()
    assert len(answer_each(model, ["a", "b"])) == 2 and model.batches == [["a", "b"]]
