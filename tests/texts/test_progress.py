"""The progress bar of text generation, and what it shows once the service is gone."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import ray.exceptions

from selftrain.texts import actor
from selftrain.texts.actor import RemoteTexts
from selftrain.texts.progress import ProgressBar
from selftrain.texts.service import Progress


def drawn(*polls: Progress, notify=None) -> None:
    """Draw a bar for what the service says poll by poll, until it is gone."""
    asked, found = threading.Event(), iter(polls)

    def poll() -> Progress | None:
        if (now := next(found, None)) is None:
            asked.set()
        return now

    with ProgressBar(poll, interval=0.01, notify=notify) as bar:
        assert asked.wait(10)
        bar._thread.join(10)
        assert not bar._thread.is_alive()


def test_the_bar_ends_with_the_service(capfd) -> None:
    drawn(Progress(total=4, done=1, done_so_far=1), Progress(total=4, done=3, done_so_far=3))
    shown = capfd.readouterr().err
    assert "language model" in shown and "3/4 [" in shown and "Traceback" not in shown


def test_a_batch_that_got_nothing_is_not_drawn_as_done(capfd) -> None:
    drawn(Progress(total=4, starting=True, done_so_far=7), Progress(done_so_far=7))
    shown = capfd.readouterr().err
    assert "0/4 [" in shown and "100%" not in shown and "4/4" not in shown


def test_each_batch_has_a_bar_of_its_own_even_where_no_poll_fell_between(capfd) -> None:
    drawn(Progress(total=4, done=3, done_so_far=3), Progress(total=8, done=1, done_so_far=5), Progress(done_so_far=12))
    shown = capfd.readouterr().err
    assert "4/4 [" in shown and "8/8 [" in shown


def test_the_bar_says_whether_the_engine_starts(capfd) -> None:
    drawn(Progress(total=4, done=1, done_so_far=1, starting=True))
    assert "starting the engine" in capfd.readouterr().err
    drawn(Progress(total=4, done=1, done_so_far=1))
    assert "starting" not in capfd.readouterr().err


def test_what_was_repaired_is_reported_once() -> None:
    reported: list[str] = []
    drawn(Progress(notices=("one",)), Progress(total=2, notices=("one", "two")), Progress(notices=("one", "two")), notify=reported.append)
    assert reported == ["one", "two"]


def test_a_service_that_was_killed_has_no_progress(monkeypatch) -> None:
    def get(reference):
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(actor.ray, "get", get)
    assert RemoteTexts(SimpleNamespace(ask=SimpleNamespace(remote=str))).progress() is None
