"""Batches of texts: which go together, and what becomes of those that break, wait too long or are not waited for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selftrain_serve.batching import FREE_PADDING_TOKENS, PADDING_SHARE, Batcher, Busy, Closed, Ticket, Waiting, answer_each, take

NOBODY = Ticket([])


def queue_of(lengths: list[int]) -> list[Waiting]:
    """Texts that came in the order of `lengths`, as the batcher sorts them."""
    return sorted(Waiting(length, order, f"{order}", NOBODY, 0, False) for order, length in enumerate(lengths))


def test_a_batch_holds_the_first_text_and_its_neighbours_in_length() -> None:
    queue = queue_of([200, 10, 12, 400, 11, 205])
    assert [one.length for one in take(queue)] == [200, 205]
    assert [one.length for one in take(queue)] == [10, 11, 12]
    assert [one.length for one in take(queue)] == [400] and queue == []


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300))
def test_every_text_is_taken_once_and_padding_is_bounded(lengths: list[int]) -> None:
    queue, taken = queue_of(lengths), []
    while queue:
        oldest = min(one.order for one in queue)
        batch = take(queue, max_texts=16, max_tokens=2048)
        sizes = [one.length for one in batch]
        assert oldest in [one.order for one in batch] and len(batch) <= 16 and queue == sorted(queue)
        padded = len(sizes) * max(sizes)
        assert len(sizes) == 1 or padded <= 2048
        assert padded - sum(sizes) <= max(FREE_PADDING_TOKENS, PADDING_SHARE * sum(sizes))
        taken += [one.order for one in batch]
    assert sorted(taken) == list(range(len(lengths)))


class Fragile:
    """Breaks on "poison", and answers NaN to "not a number"; else a text's number of letters."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.batches.append(list(texts))
        if "poison" in texts:
            raise RuntimeError("the model broke on poison")
        return np.array([[np.nan, np.nan] if text == "not a number" else [len(text), 0.0] for text in texts])


def test_a_text_that_breaks_the_model_fails_alone_and_is_not_logged(caplog) -> None:
    model = Fragile()
    found = answer_each(model, ["a", "poison", "not a number", "bb"])
    assert [one if one is None else one.tolist() for one in found] == [[1, 0], None, None, [2, 0]]
    assert "6 characters" in caplog.text and "poison" not in caplog.text
    model.batches.clear()
    assert len(answer_each(model, ["a", "b"])) == 2 and model.batches == [["a", "b"]]


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def test_many_requests_share_batches_and_each_gets_its_own_answers_in_order() -> None:
    model = Fragile()
    batcher = Batcher(model, words, max_tokens=3, max_waiting=10_000, max_seconds=60)
    requests = [["x" * (1 + (7 * one + two) % 23) + " y" * (two % 5) for two in range(1 + one % 9)] for one in range(100)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda texts: batcher.submit(texts).done.result(30), requests))
    for texts, answers in zip(requests, found, strict=True):
        assert [one.probabilities[0] for one in answers] == [len(text) for text in texts]
        assert [one.truncated for one in answers] == [len(text.split()) > 3 for text in texts]
    assert len(model.batches) < sum(map(len, requests)) and batcher.waiting == 0
    batcher.close()
    with pytest.raises(Closed):
        batcher.submit(["a"])
    assert not batcher.healthy


def test_a_full_queue_refuses_whole_requests_and_forgets_those_that_nobody_waits_for() -> None:
    go, seen = threading.Event(), []

    def held(texts: list[str]) -> np.ndarray:
        go.wait(30)
        seen.extend(texts)
        return np.zeros((len(texts), 2))

    batcher = Batcher(held, words, max_tokens=10, max_waiting=4, max_seconds=60)
    first = batcher.submit(["first"])
    while batcher.waiting:  # until it is in the model
        pass
    left, kept = batcher.submit(["left", "left"]), batcher.submit(["kept"])
    with pytest.raises(Busy, match="3 texts are waiting") as busy:
        batcher.submit(["a", "b"])
    assert busy.value.retry_after >= 1 and batcher.waiting == 3
    left.cancelled = True
    go.set()
    assert len(first.done.result(30)) == 1 and len(kept.done.result(30)) == 1
    batcher.close()
    assert seen == ["first", "kept"] and not left.done.done()


def test_a_request_that_would_wait_too_long_is_refused_at_once() -> None:
    go = threading.Event()

    def held(texts: list[str]) -> np.ndarray:
        go.wait(30)
        return np.zeros((len(texts), 2))

    batcher = Batcher(held, words, max_tokens=10, max_waiting=10_000, max_seconds=0.5)
    first = batcher.submit(["first"])
    while batcher.waiting:
        pass
    batcher.submit(["a"] * 1000)  # of which each is taken to need some milliseconds
    with pytest.raises(Busy, match="1000 texts are waiting"):
        batcher.submit(["b"])
    go.set()
    assert len(first.done.result(30)) == 1
    batcher.close()
