"""The bar of steps, and the file by which a worker's steps reach it."""

from __future__ import annotations

import json

import pytest

from selftrain.runtime import progress
from selftrain.training import steps as module
from selftrain.training.steps import FollowedSteps, StepBar, StepFile


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.0)


def test_the_bar_counts_all_rounds(capfd) -> None:
    bar = StepBar("genco seed 0")
    for round_ in (1, 2):
        for step in (1, 2, 3):
            bar(round_, 2, step, 3)
    bar.close()
    shown = capfd.readouterr().err
    assert "genco seed 0" in shown and "6/6" in shown and "round 2 of 2" in shown and "3/6" in shown


def test_a_training_that_failed_is_not_drawn_as_done(capfd) -> None:
    bar = StepBar("x")
    bar(1, 2, 1, 3)
    bar.close()
    shown = capfd.readouterr().err
    assert "1/6" in shown and "100%" not in shown


def test_a_worker_writes_whole_files_and_not_too_often(tmp_path, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    tell = StepFile(tmp_path / "steps")
    for step, later in ((1, 0.0), (2, 0.1), (3, 0.6)):
        now[0] += later
        tell(1, 5, step, 10)
        if step == 2:
            assert json.loads((tmp_path / "steps").read_text()) == [1, 5, 1, 10]
    assert json.loads((tmp_path / "steps").read_text()) == [1, 5, 3, 10]
    StepFile(tmp_path / "no folder" / "steps")(1, 5, 1, 10)  # no reason to fail


def test_the_driver_shows_what_a_worker_wrote(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    shown = []
    monkeypatch.setattr(module.StepBar, "__call__", lambda self, *place: shown.append(place))
    file = tmp_path / "steps"
    with FollowedSteps("x", file) as followed:
        for content in ("", "[1, 2", "[1, 2, 3, 4]"):
            file.write_text(content)
            for _ in range(1000):
                followed._thread.join(0.01)
                if shown or content != "[1, 2, 3, 4]":
                    break
    assert shown[0] == (1, 2, 3, 4) and not file.exists()
