"""Processes of a run are killed, by the script of benchmarks/faults.py: everything is noticed, comes to the undisturbed result and leaves no process behind."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from commands import selftrain

from selftrain.texts.cache import TextCache

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import faults


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = faults.Bench(tmp_path_factory.mktemp("bench"))
    experiment = json.loads((made.folder / "run.yaml").read_text())
    experiment["method"] |= {"rounds": 3, "steps_per_round": 15}
    experiment["seeds"] = [0]
    (made.folder / "run.yaml").write_text(json.dumps(experiment))
    return made


def metrics(place: Path) -> dict:
    """Of the run in `place`, which is moved away."""
    (folder,) = (place / "runs").iterdir()
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    folder.rename(place / folder.name)
    return found


def blocks_in(place: Path) -> int:
    """Files of texts in the cache; to open it ten times a second would take a processor's half."""
    return len(list(place.glob(".selftrain/texts/*.parquet")))


def kill(process: subprocess.Popen, place: Path, kind: str, ready: Callable[[], bool]) -> list[psutil.Process]:
    """Kill a process of this kind once `ready`, wait until that is noticed, and return every process that was seen."""
    root, seen, end = psutil.Process(process.pid), [], time.monotonic() + 600
    while not ready() or (victim := faults.victim(root, kind)) is None:
        assert process.poll() is None and time.monotonic() < end, (place / "log").read_text()[-3000:]
        time.sleep(0.1)
    seen += faults.family(root)
    said, since = (place / "log").stat().st_size, time.time()
    victim.kill()
    killed = time.monotonic()
    while not faults.mended("run", kind, place, said, root, victim, since):
        assert process.poll() is None and time.monotonic() < killed + 60, f"{kind}: {(place / 'log').read_text()[-3000:]}"
        time.sleep(0.1)
    return [*seen, *faults.family(root)]


@pytest.mark.engine
@pytest.mark.timeout(3600)
def test_processes_of_a_run_die_and_nothing_is_lost(bench, tmp_path) -> None:
    """One after the other in one run, each after a step forward from the last; `make faults` kills each alone. tests/e2e/test_run.py kills the command itself.

    The same again, undisturbed, finds every text in the cache, so that it starts no engine, and comes to the same figures.
    """
    process = bench.start(bench.command("run", tmp_path), tmp_path, "log")
    seen = kill(process, tmp_path, "engine", lambda: blocks_in(tmp_path) > 0)
    before = blocks_in(tmp_path)
    seen += kill(process, tmp_path, "text service", lambda: blocks_in(tmp_path) > before)
    seen += kill(process, tmp_path, "Train worker", lambda: bool(list(tmp_path.glob("runs/*/checkpoints/*/checkpoint_*"))))
    assert process.wait(faults.PATIENCE) == 0, (tmp_path / "log").read_text()[-3000:]
    assert faults.left_over(list(set(seen))) == 0
    disturbed, texts = metrics(tmp_path), list(TextCache(tmp_path / ".selftrain" / "texts").completions())
    assert len({one.key for one in texts}) == len(texts) >= 200 and all(0 < one.generated_tokens <= 24 for one in texts)

    environment = {**bench.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/tracking.db"}
    ended = selftrain(tmp_path, *bench.command("run", tmp_path)[len(faults.SELFTRAIN) :], environment=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    again = metrics(tmp_path)
    assert again["texts"]["generated"] == 0 and again["texts"]["cached"] == again["texts"]["requested"] == len(texts) == faults.texts_in(tmp_path)
    assert [row["scores"] for row in again["rows"]] == [row["scores"] for row in disturbed["rows"]]
    assert [entry["figures"] for entry in again["rounds"]] == [entry["figures"] for entry in disturbed["rounds"]] and len(again["rounds"]) == 3
    assert disturbed["registered"]["champion"] and not again["registered"]["champion"]  # as good as the champion is not better


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
def test_without_ray_a_run_ends_with_one_sentence(training) -> None:
    process, place = training
    root = psutil.Process(process.pid)
    family, victim = faults.family(root), faults.victim(root, "raylet")
    victim.kill()
    killed = time.monotonic()
    assert process.wait(300) == 2
    assert time.monotonic() - killed < 60
    (folder,) = place.glob("runs/*")
    assert last_line(place) == (
        f"selftrain: Ray's node process (raylet) was killed, or crashed. Continue with selftrain run --resume runs/{folder.name}."
    )
    assert "Traceback" not in (place / "log").read_text()
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
