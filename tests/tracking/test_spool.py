"""Tracking that goes away in the middle: a real MLflow server on loopback that is killed, started again, or never comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from light_runs import described

from selftrain.config import TrackingConfig
from selftrain.runs import run as story
from selftrain.runs.resume import resumed_experiment
from selftrain.tracking import Tracker
from selftrain.tracking import spool as spooling
from selftrain.tracking.spool import SPOOL, Spool, waiting
from selftrain.training import fit as fitting


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    """`mlflow server` on a port of its own; what it holds outlives it."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.port, self.process = folder, free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"
        (folder / "server.db").write_bytes(database.read_bytes())  # with its tables, which take seconds to make

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "server.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory, blank):
    made = Server(tmp_path_factory.mktemp("server"), blank / "mlflow.db")
    yield made
    made.kill()


def client(server: Server):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=server.uri)


def until(condition, why: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def rounds(count: int) -> list[dict]:
    return [{"round": number, "figures": {"loss": 1 / number}} for number in range(1, count + 1)]


@pytest.fixture(autouse=True)
def _no_other_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(spooling, "_LONGEST_WAIT", 1.0)


def test_what_is_told_while_the_server_is_away_arrives_afterwards_complete_and_in_order(server, tmp_path, monkeypatch):
    server.start()
    said = []
    tracker = Tracker(TrackingConfig(uri=server.uri, experiment="away"), tmp_path, "run")
    parent = tracker.start("run-1", {})
    spool = Spool(tracker, tmp_path, lambda event, **facts: said.append(event))
    spool.child("before", key="before", params={"seed": 0}, rounds=rounds(3), metrics={"accuracy": 0.5})
    until(lambda: waiting(tmp_path / SPOOL) == 0, "the first child was not sent")
    server.kill()
    now = time.time()
    for number in range(5):
        monkeypatch.setattr("selftrain.tracking.spool.time.time", lambda back=number: now - 3600 * back)  # the clock is set back again and again
        spool.metrics({"accuracy": number / 10})
        history = rounds(1200 if number == 3 else 20)  # MLflow takes a thousand points at a time
        spool.child(f"it's {number}", key=f"it's {number}", params={"seed": number}, rounds=history, metrics={"accuracy": number / 10})
    until(lambda: "tracking is away" in said, "nobody noticed that the server is gone")
    assert waiting(tmp_path / SPOOL) == 10 and said.count("tracking is away") == 1
    server.start()
    assert spool.close(300) is None
    assert said == ["tracking is away", "tracking is back"] and waiting(tmp_path / SPOOL) == 0

    found = {run.info.run_name: run for run in client(server).search_runs([client(server).get_experiment_by_name("away").experiment_id])}
    assert set(found) == {"run", "before", *(f"it's {number}" for number in range(5))}
    for number in range(5):
        history = client(server).get_metric_history(found[f"it's {number}"].info.run_id, "loss")
        assert sorted((entry.step, entry.value) for entry in history) == [(step, 1 / step) for step in range(1, 1201 if number == 3 else 21)]
        assert found[f"it's {number}"].info.status == "FINISHED"
    # The last value is the one that was told last, although the clock said that it was the earliest.
    assert client(server).get_run(parent).data.metrics["accuracy"] == 0.4
    values = sorted((entry.timestamp, entry.value) for entry in client(server).get_metric_history(parent, "accuracy"))
    assert [value for _, value in values] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_what_a_run_could_not_send_is_sent_by_the_next_start_and_once(server, tmp_path):
    if server.process is None:
        server.start()
    tracker = Tracker(TrackingConfig(uri=server.uri, experiment="never"), tmp_path, "run")
    tracker.start("run-2", {})
    server.kill()
    spool = Spool(tracker, tmp_path, lambda event, **facts: None)
    spool.child("one", key="one", params={"seed": 0}, rounds=rounds(3), metrics={"accuracy": 0.5})
    reason = spool.close(2.0)
    assert reason is not None and "does not answer" in reason and waiting(tmp_path / SPOOL) == 1
    server.start()
    for _ in range(2):  # the second start finds it sent, although its note was lost
        tracker = Tracker(TrackingConfig(uri=server.uri, experiment="never"), tmp_path, "run")
        tracker.start("run-2", {})
        assert Spool(tracker, tmp_path, lambda event, **facts: None).close(300) is None
        lines = (tmp_path / SPOOL).read_text(encoding="utf-8").splitlines()
        (tmp_path / SPOOL).write_text("\n".join(line for line in lines if "sent" not in line) + "\n", encoding="utf-8")
    runs = client(server).search_runs([client(server).get_experiment_by_name("never").experiment_id], filter_string="attributes.run_name = 'one'")
    assert len(runs) == 1
    assert len(client(server).get_metric_history(runs[0].info.run_id, "loss")) == 3


def test_what_mlflow_refuses_is_said_and_holds_up_nothing(server, tmp_path):
    if server.process is None:
        server.start()
    said = []
    tracker = Tracker(TrackingConfig(uri=server.uri, experiment="refused"), tmp_path, "run")
    run_id = tracker.start("run-3", {"name": "first"})
    spool = Spool(tracker, tmp_path, lambda event, **facts: said.append(event))
    spool.child("one", key="one", params={"seed": 0})
    until(lambda: waiting(tmp_path / SPOOL) == 0, "the child was not sent")
    spool.child("one", key="one", params={"seed": 1})  # MLflow never changes a parameter
    spool.metrics({"accuracy": 0.5})
    assert spool.close(300) is None and said == ["refused by tracking"]
    assert client(server).get_run(run_id).data.metrics == {"accuracy": 0.5}


def test_a_run_whose_server_dies_is_complete_on_disk_says_so_and_sends_the_rest_when_it_is_resumed(server, home, tmp_path, monkeypatch):
    if server.process is None:
        server.start()
    monkeypatch.setattr(spooling, "_PATIENCE", 2.0)
    seeds = {"seeds": [0, 1], "tracking": {"uri": server.uri, "experiment": "dies"}, "output": str(tmp_path / "runs")}
    experiment = described(home, "head", **seeds)
    train = fitting.train

    def killing(method, **rest):
        if rest["seed"] == 1:
            server.kill()
        return train(method, **rest)

    monkeypatch.setattr(fitting, "train", killing)
    result = story.run(experiment)
    assert result.unsent.startswith(f"The results are complete in {result.folder}, but the tracking store {server.uri} did not take all")
    assert f"selftrain run --resume {result.folder}" in result.unsent
    assert (result.folder / "report.html").is_file() and len(result.metrics["rows"]) == 2 and result.metrics["registered"] is None

    server.start()
    monkeypatch.setattr(spooling, "_PATIENCE", 120.0)  # a server on a busy machine is no dead one
    monkeypatch.setattr(fitting, "train", lambda method, **rest: train(method, **rest) if rest["resume"] else pytest.fail("trained again"))
    again = story.run(resumed_experiment(result.folder), resume=result.folder)
    assert again.unsent is None and again.metrics["rows"] == result.metrics["rows"]
    assert again.metrics["registered"]["champion"] and waiting(result.folder / SPOOL) == 0
    names = {run.info.run_name: run for run in client(server).search_runs([client(server).get_experiment_by_name("dies").experiment_id])}
    assert set(names) == {"tiny", "cross_entropy seed 0", "cross_entropy seed 1"}
    assert all(run.info.status == "FINISHED" for run in names.values())
    assert names["tiny"].data.metrics["accuracy"] == again.metrics["summary"][0]["accuracy"]["mean"]
    assert any(file.path == "metrics.json" for file in client(server).list_artifacts(names["tiny"].info.run_id))


def test_a_file_that_an_earlier_start_could_not_send_is_found_where_the_folder_lies_now(tmp_path, monkeypatch):
    """A run at an address is continued in another folder, maybe on another machine."""
    away, sent = [True], []

    def check(uri):
        if away:
            raise ConnectionError("away")

    monkeypatch.setattr(spooling, "check_tracking", check)
    run = SimpleNamespace(log_artifact=lambda path, folder: sent.append((path, path.read_text(), folder)))
    tracker = SimpleNamespace(uri="http://mlflow", run=run)
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "pictures").mkdir(parents=True)
    (first / "report.html").write_text("a report")
    spool = Spool(tracker, first, lambda event, **facts: None)
    spool.artifact(first / "report.html", "there")
    assert spool.close(0.2) is not None and sent == []
    first.rename(second)
    away.clear()
    assert Spool(tracker, second, lambda event, **facts: None).close(30) is None
    assert sent == [(second / "report.html", "a report", "there")]
