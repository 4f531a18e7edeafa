"""SIGTERM ends what runs in order, as Ctrl-C does, with Ray and without."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from selftrain.runtime.signals import interrupted_when, interruptible, own_handlers_kept


@pytest.fixture
def handlers():
    """Those of pytest, whatever a test leaves."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_both_signals_interrupt_inside_and_do_what_they_did_outside(handlers) -> None:
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    for number in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(KeyboardInterrupt), interruptible():
            os.kill(os.getpid(), number)
            time.sleep(10)
    assert not heard
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_handlers_that_a_library_puts_in_place_stay_only_where_there_were_none(handlers) -> None:
    def of_library(number, frame) -> None:
        raise AssertionError

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with own_handlers_kept():
        signal.signal(signal.SIGTERM, of_library)
    assert signal.getsignal(signal.SIGTERM) is of_library
    with interruptible():
        with own_handlers_kept():
            signal.signal(signal.SIGTERM, of_library)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_a_process_that_ignores_sigint_is_interrupted_by_itself_alone(handlers) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lost = False
    with pytest.raises(KeyboardInterrupt), interrupted_when(lambda: lost), interrupted_when(lambda: False):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        lost = True
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    assert lost and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_where_sigint_interrupts_it_goes_on_doing_so(handlers) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interrupted_when(lambda: False):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


def test_a_thread_that_may_not_handle_signals_is_left_alone() -> None:
    seen = []

    def work() -> None:
        with interruptible(), own_handlers_kept(), interrupted_when(lambda: True):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
