"""Processes of a run are killed, by the script of benchmarks/faults.py: everything is noticed, comes to the undisturbed result and leaves no process behind."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import faults


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return faults.Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def undisturbed(bench):
    faults.undisturbed(bench, "run")
    return bench


@pytest.mark.engine
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("number", "kind", "moment"), [(0, "engine", 0.3), (1, "Train worker", 0.6), (2, "text service", 0.4), (3, "driver", 0.5)])
def test_a_killed_process_of_a_run_is_noticed_and_nothing_is_lost(undisturbed, number, kind, moment) -> None:
    case = faults.disturbed(undisturbed, "run", kind, moment, number)
    assert case.ended != "had ended before"
    assert case.right, case
    assert case.orphans == 0, case
    assert case.noticed_seconds is not None and case.noticed_seconds < 60, case
    if kind != "driver":
        assert case.ended == "recovered", case


@pytest.fixture
def training(bench, tmp_path):
    """A run that Ray Train is in the middle of, without a language model."""
    experiment = json.loads((bench.folder / "run.yaml").read_text())
    experiment["method"] |= {"input_augmentation": False, "conditional_augmentation": False, "rounds": 50}
    experiment["seeds"] = [0]
    (bench.folder / "train.yaml").write_text(json.dumps(experiment))
    process = bench.start([*faults.SELFTRAIN, "run", str(bench.folder / "train.yaml")], tmp_path, "log")
    end = time.monotonic() + 600
    while not list(tmp_path.glob("runs/*/checkpoints/*/checkpoint_*")):
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.2)
    yield process, tmp_path
    process.kill()
    process.wait()


def last_line(place: Path) -> str:
    return (place / "log").read_text().strip().splitlines()[-1]


@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_ctrl_c_while_training_is_a_stop_that_can_be_resumed(training) -> None:
    process, place = training
    family = faults.family(psutil.Process(process.pid))
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert last_line(place).startswith("selftrain: stopped; `selftrain run --resume FOLDER` continues")
    assert "Traceback" not in (place / "log").read_text()
    with sqlite3.connect(place / "tracking.db") as database:
        assert {status for (status,) in database.execute("select status from runs")} == {"KILLED"}
    assert faults.left_over(family) == 0


@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "name"), [("raylet", r"Ray's node process (raylet)"), ("control store", r"Ray's control store (gcs_server)")])
def test_without_ray_a_run_ends_with_one_sentence(training, kind, name) -> None:
    process, place = training
    root = psutil.Process(process.pid)
    family, victim = faults.family(root), faults.victim(root, kind)
    victim.kill()
    killed = time.monotonic()
    assert process.wait(300) == 2
    assert time.monotonic() - killed < 60
    (folder,) = place.glob("runs/*")
    assert last_line(place) == f"selftrain: {name} was killed, or crashed. Continue with selftrain run --resume runs/{folder.name}."
    assert "Traceback" not in (place / "log").read_text()
    assert faults.left_over(family) == 0
