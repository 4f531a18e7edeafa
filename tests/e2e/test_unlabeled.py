"""A run on documents without labels, and one whose training worker is killed: no language model, a tiny real encoder, real Ray Train and MLflow."""

import json
import os
import subprocess
import sys

import pytest
from tiny import tiny_backbone

SELFTRAIN = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())"]
PLAIN = ["--set", "method.input_augmentation=false", "--set", "method.conditional_augmentation=false"]


@pytest.fixture
def home(tmp_path):
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "encoder"))
    rows = [f"the team and its coach won match {n}" for n in range(30)] + [f"the bank and the market lost profit {n}" for n in range(30)]
    (tmp_path / "documents.jsonl").write_text("\n".join(json.dumps({"body": row}) for row in [*rows, "", rows[0]]), encoding="utf-8")
    return tmp_path, {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/tracking.db"}


def run(home, *extra):
    folder, environment = home
    arguments = ["run", "--data", "documents.jsonl", "--text-column", "body", "--classes", "sport,business", *PLAIN, *extra]
    arguments += ["--set", "model.encoder=./encoder", "--set", "name=mail", "--set", "method.rounds=2", "--set", "method.steps_per_round=2"]
    result = subprocess.run([*SELFTRAIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert result.returncode == 0, result.stderr[-4000:]
    newest = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    return newest, json.loads((newest / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.ray
def test_without_labels_there_are_no_scores_and_only_promote_makes_a_champion(home):
    _, metrics = run(home)
    assert metrics["rows"][0]["scores"] is None
    assert metrics["data"]["skipped"] == {"empty": 1, "duplicate": 1}
    assert not metrics["registered"]["champion"]
    assert "--bundle" in metrics["serve"][0]
    folder, metrics = run(home, "--promote", "--set", "training.workers=2")
    assert metrics["registered"]["champion"]
    assert "--model mail" in metrics["serve"][0]
    assert "accuracy of" not in (folder / "report.html").read_text(encoding="utf-8")
    assert len(metrics["rounds"]) == 2
