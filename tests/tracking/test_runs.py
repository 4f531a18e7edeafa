"""Runs on a real MLflow with a SQLite file of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_store import client, tracker

from selftrain.config import TrackingConfig
from selftrain.errors import ConfigError, ServiceError
from selftrain.tracking import Tracker, finished_metrics


def test_a_run_holds_what_was_logged(uri: str, tmp_path: Path) -> None:
    made = Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path / "runs" / "r", "r")
    params = {
        "method": {"name": "genco", "tau": 0.1},
        "long": "x" * 7000,
        "empty": {},
        "odd+name?": 1,
        **{f"p{index}": index for index in range(150)},
    }
    run_id = made.start("r-1", params, {"git": "abc"})
    made.run.log_metrics({"accuracy": 0.9, "macro_f1": None})
    (tmp_path / "report.html").write_text("<p>")
    made.run.log_artifact(tmp_path / "report.html", "reports")
    below = made.child("full-0", {"seed": 0}, {"variant": "full"})
    below.log_rounds([{"round": index, "figures": {"loss": index / 10, "share": 1.0, "per class/tech": 0.5}} for index in range(400)])
    below.finish()
    made.run.finish()

    run = client(uri).get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "r"
    assert run.data.params["method.tau"] == "0.1" and run.data.params["odd_name_"] == "1" and run.data.params["p149"] == "149"
    assert len(run.data.params["long"]) == 6000 and run.data.params["long"].endswith("…")
    assert run.data.metrics == {"accuracy": 0.9}
    assert run.data.tags["git"] == "abc" and run.data.tags["selftrain.run"] == "r-1" and run.data.tags["selftrain.run_folder"].endswith("runs/r")
    assert [file.path for file in client(uri).list_artifacts(run_id, "reports")] == ["reports/report.html"]
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    child = client(uri).get_run(below.run_id)
    assert child.data.tags["mlflow.parentRunId"] == run_id and child.info.run_name == "full-0" and child.data.params == {"seed": "0"}
    history = client(uri).get_metric_history(below.run_id, "loss")
    assert {metric.step: metric.value for metric in history} == {index: index / 10 for index in range(400)}
    assert child.data.metrics["per class/tech"] == 0.5

    # A driver that was restarted goes on in the same run.
    again = Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path / "runs" / "r", "r")
    assert again.start("r-1", params) == run_id
    assert client(uri).get_run(run_id).info.status == "RUNNING"
    assert again.start("r-2", {}) != run_id


def test_nothing_is_logged_before_the_start(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Tracker\.start"):
        Tracker(TrackingConfig(uri=uri), tmp_path, "r").run.log_metrics({"accuracy": 1.0})


WRITE = """
import sys
from pathlib import Path
from selftrain.config import TrackingConfig
from selftrain.tracking import Tracker
number = sys.argv[1]
tracker = Tracker(TrackingConfig(experiment='together'), Path('runs/r'), 'r')
tracker.start(f'r-{number}', {'number': number})
for child in range(3):
    run = tracker.child(f'{number}-{child}', {'seed': child}, {'selftrain.cell': f'{number}-{child}'})
    for start in range(0, 500, 50):
        run.log_rounds([{'round': step, 'figures': {'loss': int(number) + step / 1000, 'share': 0.5}} for step in range(start, start + 50)])
    run.log_metrics({'accuracy': int(number) / 10})
    run.finish()
"""


def test_four_processes_open_a_fresh_database_at_once_write_thousands_of_points_and_say_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(number)], **options) for number in range(4)]
    try:
        assert [process.communicate(timeout=600)[0] for process in writers] == [""] * 4
    finally:
        for process in writers:
            process.kill()
    assert [process.returncode for process in writers] == [0, 0, 0, 0]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs = client(uri).search_runs([client(uri).get_experiment_by_name("together").experiment_id])
    found = {run.data.tags["selftrain.cell"]: run for run in runs if "selftrain.cell" in run.data.tags}
    assert set(found) == {f"{number}-{child}" for number in range(4) for child in range(3)} and len(runs) == 4 + 12
    for cell, run in found.items():
        number = int(cell[0])
        assert run.info.status == "FINISHED" and run.data.metrics["accuracy"] == number / 10
        losses = client(uri).get_metric_history(run.info.run_id, "loss")
        assert {metric.step: metric.value for metric in losses} == {step: number + step / 1000 for step in range(500)}
    again = Tracker(TrackingConfig(uri=uri, experiment="together"), tmp_path, "r")
    again.start("r-0", {})
    assert again.tags_of_children("selftrain.cell") == {"0-0", "0-1", "0-2"}


def test_finished_runs_are_found_with_their_metrics(uri: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"run": {"id": "r-1"}}')
    for name, tags, finished in (("r-1", {}, True), ("s-1", {"selftrain.kind": "sweep"}, True), ("r-2", {}, False)):
        made = Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path, name)
        made.start(name, {}, tags)
        made.child("seed 0").finish()
        made.run.log_artifact(tmp_path / "metrics.json")
        if finished:
            made.run.finish()
    assert finished_metrics(uri, "mine") == [{"run": {"id": "r-1"}}]
    with pytest.raises(ConfigError, match=r"experiment 'other' is not in .*mine"):
        finished_metrics(uri, "other")
    with pytest.raises(ServiceError, match="There is no MLflow database"):
        finished_metrics(f"sqlite:///{tmp_path}/absent.db")


def test_a_deleted_experiment(uri: str, tmp_path: Path) -> None:
    tracker(uri, tmp_path)
    client(uri).delete_experiment(client(uri).get_experiment_by_name("mine").experiment_id)
    with pytest.raises(ConfigError, match="'mine' was deleted"):
        Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path, "r")
