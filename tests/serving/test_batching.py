"""Batches of texts: which go together, and what becomes of those that break, wait too long or are not waited for."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.bundle.tokens import BATCH_START_TOKENS, Tokens
from selftrain.serving import batching
from selftrain.serving.batching import Batcher, BatcherClosed, Busy, QueuedText, Ticket, isolated, next_batch

NOBODY = Ticket([])


def queue_of(lengths: list[int]) -> list[QueuedText]:
    """Texts that came in the order of `lengths`, as the batcher sorts them."""
    waiting = (QueuedText(order, length, [7] * length, Tokens([7] * length, False), NOBODY, 0) for order, length in enumerate(lengths))
    return sorted(waiting, key=lambda one: one.length)


def test_a_batch_holds_the_first_text_and_its_neighbours_in_length() -> None:
    queue = queue_of([200, 10, 12, 400, 11, 205])
    assert [one.length for one in next_batch(queue)] == [200, 205]
    assert [one.length for one in next_batch(queue)] == [10, 11, 12]
    assert [one.length for one in next_batch(queue)] == [400] and queue == []


def test_where_padding_costs_nothing_a_batch_is_full() -> None:
    queue = queue_of([200, 10, 12, 400, 11, 205])
    assert [one.length for one in next_batch(queue, max_texts=5, most_padding=math.inf)] == [10, 11, 12, 200, 205]
    assert [one.length for one in next_batch(queue, max_texts=5, most_padding=math.inf)] == [400] and queue == []


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300))
def test_every_text_is_taken_once_and_padding_is_bounded(lengths: list[int]) -> None:
    queue, taken = queue_of(lengths), []
    while queue:
        oldest = min(one.order for one in queue)
        batch = next_batch(queue, max_texts=16, most_tokens=2048)
        sizes = [one.length for one in batch]
        assert oldest in [one.order for one in batch] and len(batch) <= 16 and [one.length for one in queue] == sorted(one.length for one in queue)
        padded = len(sizes) * max(sizes)
        assert len(sizes) == 1 or padded <= 2048
        assert padded - sum(sizes) <= BATCH_START_TOKENS
        taken += [one.order for one in batch]
    assert sorted(taken) == list(range(len(lengths)))


POISON, NOT_A_NUMBER = 13, 14


def letters(texts: list[str]) -> list[Tokens]:
    """A token a letter; five are read; "?" cannot be."""
    if any("?" in text for text in texts):
        raise ValueError("what is ?")
    return [Tokens([ord(letter) for letter in text[:5]], len(text) > 5) for text in texts]


def number(row: list[int]) -> float:
    """Another one for every row of up to five letters."""
    return float(int.from_bytes(bytes(row), "big"))


class Fragile:
    """Breaks on one token, and answers NaN to another; else the number of a row."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []

    def __call__(self, rows: list[list[int]]) -> np.ndarray:
        self.batches.append(list(rows))
        if any(POISON in row for row in rows):
            raise RuntimeError("the model broke on poison")
        return np.array([[np.nan, np.nan] if NOT_A_NUMBER in row else [number(row), 0.0] for row in rows])


def test_an_item_that_breaks_a_list_fails_alone_and_is_not_logged(caplog) -> None:
    model = Fragile()
    found = isolated(model, [[1], [POISON, POISON], [1, 1]])
    assert [one if one is None else one.tolist() for one in found] == [[1, 0], None, [257, 0]]
    assert "length 2" in caplog.text and "poison" not in caplog.text
    model.batches.clear()
    assert len(isolated(model, [[1], [2]])) == 2 and model.batches == [[[1], [2]]]
    assert isolated(lambda rows: [1] * (len(rows) - 1), [[1], [2]]) == [None, None]


def test_a_text_that_cannot_be_read_or_classified_does_not_take_its_neighbours_with_it() -> None:
    batcher = Batcher(letters, Fragile(), max_waiting=100, max_seconds=60)
    found = batcher.submit(["a", "b?", chr(POISON), chr(NOT_A_NUMBER), "c"]).done.result(30)
    assert [None if one.probabilities is None else one.probabilities[0] for one in found] == [ord("a"), None, None, None, ord("c")]
    assert batcher.waiting == 0 and batcher.healthy
    batcher.close()


def test_batches_hold_no_more_tokens_than_the_model_wants_at_a_time():
    model = Fragile()
    batcher = Batcher(letters, model, max_waiting=100, max_seconds=60, most_tokens=6)
    found = batcher.submit(["a", "bb", "ccc", "ddd", "e"] * 8).done.result(30)
    assert all(one.probabilities is not None for one in found)
    assert max(len(batch) * max(map(len, batch)) for batch in model.batches) <= 6
    assert max(map(len, model.batches)) > 1
    batcher.close()


def test_where_padding_costs_nothing_texts_go_by_arrival_whatever_their_length():
    model, told = Fragile(), []
    batcher = Batcher(
        letters,
        model,
        max_waiting=100,
        max_seconds=60,
        most_padding=math.inf,
        most_tokens=math.inf,
        observe=lambda *figures: told.append(figures[:2]),
    )
    texts = ["abcde"[: 1 + (3 * place) % 5] for place in range(100)]
    found = batcher.submit(texts).done.result(30)
    batcher.close()
    assert model.batches == [[[ord(letter) for letter in text] for text in part] for part in (texts[:64], texts[64:])]
    assert [one.probabilities[0] for one in found] == [number([ord(letter) for letter in text]) for text in texts]
    assert told == [(64, 0.0), (36, 0.0)] and batcher.waiting == 0  # nothing is padded


def in_windows(texts: list[str]) -> list[Tokens]:
    """A window a word, a token a letter."""
    split = [[[ord(letter) for letter in word] for word in text.split(" ")] for text in texts]
    return [Tokens(first, len(further) > 2, tuple(further)) for first, *further in split]


def test_a_text_of_several_windows_has_the_geometric_mean_of_their_probabilities() -> None:
    seen: list[list[list[int]]] = []

    def by_length(rows: list[list[int]]) -> np.ndarray:
        seen.append(list(rows))
        if any(POISON in row for row in rows):
            raise RuntimeError("the model broke on poison")
        return np.array([[1 / len(row), 1 - 1 / len(row)] for row in rows])

    batcher = Batcher(in_windows, by_length, max_waiting=4, max_seconds=60, most_tokens=5)
    found = batcher.submit(["bb ccccc", "ddddd", f"ee {chr(POISON) * 3} f", "gg gg gg gg"]).done.result(30)
    first, second = (0.5 * 0.2) ** 0.5, (0.5 * 0.8) ** 0.5
    assert found[0].probabilities == pytest.approx([first / (first + second), second / (first + second)])
    assert found[1].probabilities == [0.2, 0.8] and found[2].probabilities is None and found[3].probabilities == pytest.approx([0.5, 0.5])
    assert [one.truncated for one in found] == [False, False, False, True]
    assert max(len(batch) for batch in seen) > 1 and batcher.waiting == 0
    batcher.close()


def test_many_requests_share_batches_and_each_gets_its_own_answers_in_order() -> None:
    model = Fragile()
    batcher = Batcher(letters, model, max_waiting=10_000, max_seconds=60)
    requests = [[f"{two}{chr(97 + one % 26)}{one}"[: 1 + (7 * one + two) % 5] + "y" * (two % 5) for two in range(1 + one % 9)] for one in range(100)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda texts: batcher.submit(texts).done.result(30), requests))
    for texts, answers in zip(requests, found, strict=True):
        assert [one.probabilities[0] for one in answers] == [number([ord(letter) for letter in text[:5]]) for text in texts]
        assert [one.truncated for one in answers] == [len(text) > 5 for text in texts]
    assert len(model.batches) < sum(map(len, requests)) and batcher.waiting == 0
    batcher.close()
    with pytest.raises(BatcherClosed):
        batcher.submit(["a"])
    assert not batcher.healthy


def test_a_full_queue_refuses_whole_requests_and_forgets_those_that_nobody_waits_for() -> None:
    go, seen = threading.Event(), []

    def held(rows: list[list[int]]) -> np.ndarray:
        go.wait(30)
        seen.extend("".join(map(chr, row)) for row in rows)
        return np.zeros((len(rows), 2))

    batcher = Batcher(letters, held, max_waiting=4, max_seconds=60)
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

    def held(rows: list[list[int]]) -> np.ndarray:
        go.wait(30)
        return np.zeros((len(rows), 2))

    batcher = Batcher(letters, held, max_waiting=10_000, max_seconds=0.5)
    first = batcher.submit(["first"])
    while batcher.waiting:
        pass
    batcher.submit(["a"] * 1000)  # of which each is taken to need some milliseconds
    with pytest.raises(Busy, match="1000 texts are waiting"):
        batcher.submit(["b"])
    go.set()
    assert len(first.done.result(30)) == 1
    batcher.close()


@given(
    st.lists(st.lists(st.text("abcdefg", min_size=1, max_size=7), max_size=6), min_size=1, max_size=8),
    st.integers(1, 60),
    st.integers(1, 12),
)
def test_every_text_is_answered_once_in_order_within_the_limits(requests, most_tokens, most_padding):
    model, told = Fragile(), []
    batcher = Batcher(
        letters,
        model,
        max_waiting=100,
        max_seconds=60,
        most_tokens=most_tokens,
        most_padding=most_padding,
        observe=lambda *figures: told.append(figures),
    )
    tickets = [batcher.submit(texts) for texts in requests]
    found = [ticket.done.result(60) for ticket in tickets]
    batcher.close()
    assert [[one.probabilities[0] for one in answers] for answers in found] == [
        [number([ord(letter) for letter in text[:5]]) for text in texts] for texts in requests
    ]
    assert [[one.truncated for one in answers] for answers in found] == [[len(text) > 5 for text in texts] for texts in requests]
    asked = sorted(bytes(row) for batch in model.batches for row in batch)
    assert asked == sorted(text[:5].encode() for texts in requests for text in texts)  # each once
    for batch, (texts, padding, seconds) in zip(model.batches, told, strict=True):
        lengths = [len(row) for row in batch]
        padded = len(batch) * max(lengths)
        assert len(batch) == 1 or (padded <= most_tokens and padded - sum(lengths) <= most_padding)
        assert texts == len(batch) <= 64 and padding == pytest.approx(1 - sum(lengths) / padded) and seconds >= 0
    assert batcher.waiting == 0


def test_one_slow_batch_moves_the_estimate_by_a_tenth_alone(monkeypatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: clock.now))
    go, running = threading.Event(), threading.Event()

    def slow(rows: list[list[int]]) -> np.ndarray:
        clock.now += 100.0
        return np.zeros((len(rows), 2))

    def held(rows: list[list[int]]) -> np.ndarray:
        running.set()
        go.wait(30)
        return np.zeros((len(rows), 2))

    models = iter((slow, held))
    batcher = Batcher(letters, lambda rows: next(models, held)(rows), max_waiting=3, max_seconds=1000)
    batcher.submit(["a"]).done.result(30)
    batcher.submit(["b"])
    assert running.wait(30)
    batcher.submit(["c"] * 3)
    with pytest.raises(Busy) as busy:
        batcher.submit(["d"])
    assert busy.value.retry_after == 31  # of three texts at 0.9 * 0.01 + 0.1 * 100 seconds
    go.set()
    batcher.close()
