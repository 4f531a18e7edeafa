"""The command of a run is killed, and told to stop; its Ray loses the control store. No process is left. Other kills: tests/e2e/test_run.py, `make faults`."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
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


def until_a_round_ends(process: subprocess.Popen, place: Path) -> None:
    """Wait until Ray Train has a checkpoint that is not there yet."""
    before, end = checkpoints(place), time.monotonic() + 600
    while not checkpoints(place) - before:
        assert process.poll() is None and time.monotonic() < end, (place / "log").read_text()[-3000:]
        time.sleep(0.2)


def checkpoints(place: Path) -> set[Path]:
    return set(place.glob("runs/*/checkpoints/*/checkpoint_*"))


def last_line(place: Path) -> str:
    return (place / "log").read_text().strip().splitlines()[-1]


@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_killed_run_leaves_no_process_and_resumed_stops_at_ctrl_c(bench, tmp_path) -> None:
    """Both times Ray Train is in the middle of its rounds; there is no language model."""
    experiment = json.loads((bench.folder / "run.yaml").read_text())
    experiment["method"] |= {"input_augmentation": False, "conditional_augmentation": False, "rounds": 50, "steps_per_round": 15}
    (bench.folder / "train.yaml").write_text(json.dumps(experiment | {"seeds": [0]}))
    process = bench.start([*faults.SELFTRAIN, "run", str(bench.folder / "train.yaml")], tmp_path, "log")
    try:
        until_a_round_ends(process, tmp_path)
        started = faults.family(psutil.Process(process.pid))[1:]
    finally:
        process.kill()
        process.wait()
    assert len(started) > 5 and faults.left_over(started) == 0

    process = bench.start(bench.resumed("run", tmp_path), tmp_path, "log")
    try:
        until_a_round_ends(process, tmp_path)
        family = faults.family(psutil.Process(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
    finally:
        process.kill()
    assert last_line(tmp_path).startswith("selftrain: stopped; `selftrain run --resume FOLDER` continues")
    assert "Traceback" not in (tmp_path / "log").read_text()
    with sqlite3.connect(tmp_path / "tracking.db") as database:
        assert {status for (status,) in database.execute("select status from runs")} == {"KILLED"}
    assert faults.left_over(family) == 0


# Says it and ends as the command line does, and as the watch itself where the main thread is held up within Ray.
SESSION = """
import sys, time
from selftrain.config import Experiment
from selftrain.errors import ProcessDied
from selftrain.runtime.cluster import Needs, session
try:
    with session(Experiment(), Needs(1.0, 0.0, 1.0)):
        print("ready", flush=True)
        time.sleep(600)
except ProcessDied as error:
    print(f"selftrain: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
"""


@pytest.mark.ray
def test_a_session_without_its_control_store_ends_with_one_sentence(bench, tmp_path) -> None:
    process = bench.start([sys.executable, "-c", SESSION], tmp_path, "log")
    end = time.monotonic() + 120
    while "ready" not in (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.2)
    root = psutil.Process(process.pid)
    family, victim = faults.family(root), faults.victim(root, "control store")
    victim.kill()
    assert process.wait(60) == 2
    assert last_line(tmp_path) == "selftrain: Ray's control store (gcs_server) was killed, or crashed."
    assert faults.left_over(family) == 0
