"""Tracking in a real PostgreSQL, which is started here. Where there is none, root installs Debian's; else these tests are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from debian import install
from endpoint import free_port, make_bundle
from mlflow import MlflowClient

from selftrain.bundle.format import read_card
from selftrain.config import TrackingConfig
from selftrain.errors import SelfTrainError
from selftrain.tracking import Champions, Tracker, champion_bundle, check_tracking

USER = "postgres"  # the server refuses to run as root


def programs() -> Path | None:
    """The folder of Debian's newest initdb and postgres, or that of the search path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    found = shutil.which("initdb")
    return debian[-1].parent if debian else Path(found).parent if found else None


@pytest.fixture(scope="module")
def uri():
    found = programs()
    if found is None:
        install("postgresql")
        found = programs()
    if found is None:
        pytest.skip("no PostgreSQL: install it with `apt-get install postgresql`")
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="st-pg-"))  # pytest's own folders are closed to the server's user, and too deep for its socket
    if root:
        shutil.chown(folder, USER)
    who = ["runuser", "-u", USER, "--"] if root else []
    port = free_port()
    make = [*who, str(found / "initdb"), "-D", str(folder / "data"), "-U", "me", "--auth=trust", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, timeout=120)
    run = [*who, str(found / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    server = subprocess.Popen(run, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        # It listens before it answers: pg_isready asks for more than a connection.
        ready = [str(found / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, timeout=60).returncode != 0:
            assert server.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        yield f"postgresql://me:secret@127.0.0.1:{port}/postgres"
    finally:
        stop = [*who, str(found / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "stop"]
        subprocess.run(stop, capture_output=True, timeout=60, check=False, cwd=folder)
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


WRITE = """
import sys
from pathlib import Path
from selftrain.config import TrackingConfig
from selftrain.tracking import Tracker
number = int(sys.argv[1])
tracker = Tracker(TrackingConfig(uri=sys.argv[2], experiment='together'), Path('runs/r'), 'r')
tracker.start('r', {})
run = tracker.child(f'{number}', {'seed': number}, {'selftrain.cell': str(number)})
for start in range(0, 500, 50):
    run.log_rounds([{'round': step, 'figures': {'loss': number + step / 1000}} for step in range(start, start + 50)])
run.finish()
"""


def test_several_processes_write_at_once_and_nothing_is_lost(uri: str, tmp_path: Path) -> None:
    Tracker(TrackingConfig(uri=uri, experiment="together"), tmp_path, "r").start("r", {})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", WRITE]
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    writers = [subprocess.Popen([*command, str(number), uri], **options) for number in range(4)]
    try:
        assert [process.communicate(timeout=300)[0] for process in writers] == [""] * 4
    finally:
        for process in writers:
            process.kill()
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("together")
    found = {run.data.tags["selftrain.cell"]: run for run in client.search_runs([experiment.experiment_id]) if "selftrain.cell" in run.data.tags}
    assert set(found) == {"0", "1", "2", "3"}
    for cell, run in found.items():
        losses = client.get_metric_history(run.info.run_id, "loss")
        assert {metric.step: metric.value for metric in losses} == {step: int(cell) + step / 1000 for step in range(500)}


def test_a_champion_is_found_from_any_folder(uri: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # its files go below the working directory, and have to be found from elsewhere
    tracker = Tracker(TrackingConfig(uri=uri), tmp_path, "run")
    tracker.start("run", {})
    registered = tracker.log_bundle_and_register(make_bundle(tmp_path / "bundle"), "news", {"accuracy": 0.5}, labeled=True)
    assert registered.champion
    monkeypatch.chdir("/")
    assert read_card(champion_bundle("news", uri).folder).name == "news" and Champions(uri).version("news") == "1"


def test_what_is_wrong_with_the_database_is_one_sentence(uri: str, tmp_path: Path, monkeypatch) -> None:
    check_tracking(uri)
    port = free_port()
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: pytest.fail("MLflow, which would try for minutes, was asked"))
    with pytest.raises(SelfTrainError, match=rf"127\.0\.0\.1:{port}/runs does not answer") as error:
        Tracker(TrackingConfig(uri=f"postgresql://me:secret@127.0.0.1:{port}/runs"), tmp_path, "r")
    assert "secret" not in str(error.value)
    with pytest.raises(SelfTrainError, match=r'database "absent" does not exist'):
        check_tracking(uri.replace("/postgres", "/absent"))
    with pytest.raises(SelfTrainError, match="needs the package psycopg2"):
        check_tracking(uri.replace("postgresql://", "postgresql+psycopg2://"))
