"""Runs on documents without labels, and one that is told to stop: a head on a tiny real encoder, MLflow, no language model."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from commands import selftrain
from mlflow import MlflowClient
from tiny import tiny_backbone

SELFTRAIN = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())"]
PLAIN = ["--set", "method.input_augmentation=false", "--set", "method.conditional_augmentation=false"]


@pytest.fixture
def home(tmp_path):
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "encoder"))
    rows = [f"the team and its coach won match {n}" for n in range(30)] + [f"the bank and the market lost profit {n}" for n in range(30)]
    (tmp_path / "documents.jsonl").write_text("\n".join(json.dumps({"body": row}) for row in [*rows, "", rows[0]]), encoding="utf-8")
    return tmp_path, {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/tracking.db"}


def words(*extra):
    """That of a run; the last of two `--set` for one key counts."""
    arguments = ["run", "--data", "documents.jsonl", "--text-column", "body", "--classes", "sport,business", *PLAIN]
    arguments += ["--set", "model.encoder=./encoder", "--set", "model.train=head", "--set", "name=mail", "--set", "method.rounds=2"]
    arguments += ["--set", "method.steps_per_round=2"]
    return [*arguments, *extra]


def run(home, *extra):
    folder, environment = home
    result = selftrain(folder, *words(*extra), environment=environment)
    assert result.returncode == 0, result.stderr[-4000:]
    newest = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    return newest, json.loads((newest / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.ray
def test_without_labels_there_are_no_scores_and_only_promote_makes_a_champion(home):
    first, metrics = run(home)
    assert metrics["rows"][0]["scores"] is None
    # Without test documents the unlabeled ones are what the report is about, and they are written out labeled.
    assert metrics["data"]["test"] == 0 and metrics["rows"][0]["documents"] == 60 and sum(metrics["rows"][0]["predicted"].values()) == 60
    report = (first / "report.html").read_text(encoding="utf-8")
    assert "sorted 60 unlabeled documents into 2 classes" in report and "There are no test documents" in report
    with (first / "labeled.csv").open(encoding="utf-8", newline="") as file:
        labeled = list(csv.DictReader(file))
    assert len(labeled) == 60 and Counter(row["label"] for row in labeled) == {
        name: count for name, count in metrics["rows"][0]["predicted"].items() if count
    }
    assert metrics["data"]["skipped"] == {"empty": 1, "duplicate": 1}
    assert not metrics["registered"]["champion"]
    assert "--bundle" in metrics["serve"][0]
    folder, metrics = run(home, "--promote")
    assert metrics["registered"]["champion"]
    assert "--model mail" in metrics["serve"][0]
    assert "accuracy of" not in (folder / "report.html").read_text(encoding="utf-8")
    assert len(metrics["rounds"]) == 2


def test_a_run_that_is_told_to_stop_says_how_to_go_on(home):
    """One that trains in the driver; tests/e2e/test_faults.py stops one that Ray Train is in the middle of."""
    folder, environment = home
    endless = [*SELFTRAIN, *words("--set", "method.steps_per_round=1000000")]
    process = subprocess.Popen(endless, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not list(folder.glob("runs/*/events.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors[-4000:]
    assert "selftrain: stopped; `selftrain run --resume FOLDER` continues the run." in errors
    assert "Traceback" not in errors and "SIGTERM" not in errors
    (events,) = folder.glob("runs/*/events.jsonl")
    last = json.loads(events.read_text(encoding="utf-8").splitlines()[-1])
    assert (last["event"], last["reason"]) == ("run stopped", "told to")
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert found and all(one.info.status == "KILLED" for one in found)
