"""Calls in other threads: in order, so many at the same time, and the main thread hears signals."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest

from selftrain.runtime.background import Call, in_order
from selftrain.runtime.signals import interruptible


def test_results_come_in_order_whichever_ends_first_and_so_many_at_the_same_time() -> None:
    lock, running, most = threading.Lock(), [], []
    ended = [threading.Event() for _ in range(5)]

    def work(number: int) -> int:
        with lock:
            running.append(number)
            most.append(len(running))
        if number % 2 == 0 and number < 4:
            assert ended[number + 1].wait(60)  # the later one ends first
        with lock:
            running.remove(number)
        ended[number].set()
        return number

    assert list(in_order((partial(work, number) for number in range(5)), 2, "test")) == [0, 1, 2, 3, 4]
    assert max(most) == 2


def test_with_one_at_a_time_nothing_is_started_before_it_is_asked_for() -> None:
    begun: list[int] = []
    results = in_order((partial(begun.append, number) for number in range(3)), 1, "test")
    next(results)
    assert begun == [0]
    assert list(in_order([threading.get_ident], 1, "test")) == [threading.get_ident()]
    assert list(in_order([threading.get_ident], 2, "test")) != [threading.get_ident()]


def test_an_error_is_raised_when_its_turn_comes() -> None:
    def wrong() -> int:
        raise ValueError("the second")

    results = in_order([lambda: 1, wrong, lambda: 3], 3, "test")
    assert next(results) == 1
    with pytest.raises(ValueError, match="the second"):
        next(results)


def test_a_signal_ends_the_wait() -> None:
    forever = threading.Event()
    call = Call(forever.wait, "test")
    with pytest.raises(KeyboardInterrupt), interruptible():  # a shell's background process is started with SIGINT ignored
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        call.result()
    forever.set()
