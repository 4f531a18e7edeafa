"""The progress bar of text generation, and what it shows once the service is gone."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import ray.exceptions

from selftrain.augment import engine
from selftrain.augment.engine import RemoteTexts
from selftrain.augment.progress import ProgressBar
from selftrain.augment.service import Progress


def test_the_bar_ends_with_the_service(capfd) -> None:
    asked, found = threading.Event(), iter([Progress(wanted=4, done=1), Progress(wanted=4, done=3)])

    def poll() -> Progress | None:
        if (now := next(found, None)) is None:
            asked.set()
        return now

    with ProgressBar(poll, interval=0.01) as bar:
        assert asked.wait(10)
        bar._thread.join(10)
        assert not bar._thread.is_alive()
    shown = capfd.readouterr().err
    assert "language model" in shown and "4 [" in shown and "Traceback" not in shown


def test_a_service_that_was_killed_has_no_progress(monkeypatch) -> None:
    def get(reference):
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(engine.ray, "get", get)
    assert RemoteTexts(SimpleNamespace(progress=SimpleNamespace(remote=object))).progress() is None
