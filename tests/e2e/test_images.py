"""A run on images through the command: real Ray Train, MLflow and report, and no bundle."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from commands import selftrain
from tiny import encoded_image, toy_images

SETTINGS = {
    **{"name": "toys", "model.encoder": "small-cnn", "data.supervision": "few", "data.labels_per_class": 4, "data.test_documents": 20},
    **{"method.name": "fixmatch", "method.rounds": 2, "method.steps_per_round": 6, "method.batch_size": 6, "evaluation.map": "pca"},
}


@pytest.mark.ray
def test_a_run_on_images_trains_two_seeds_at_once_leaves_scores_and_says_why_there_is_no_bundle(tmp_path):
    pixels, labels = toy_images(80)
    table = pyarrow.table({"image": [encoded_image(one) for one in pixels], "label": labels.tolist()})
    pyarrow.parquet.write_table(table, tmp_path / "toys.parquet")
    arguments = ["run", "--data", "toys.parquet", "--label-column", "label", "--classes", "red,blue"]
    arguments += [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    arguments += ["--set", "seeds=[1, 0]", "--at-once", "2"]
    result = selftrain(tmp_path, *arguments, environment={"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/tracking.db"})
    assert result.returncode == 0, result.stderr[-4000:]
    assert "bundle      none: a bundle reads texts, and the documents are images" in result.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["bundle"] is None and metrics["registered"] is None and metrics["serve"] == []
    assert [row["seed"] for row in metrics["rows"]] == [1, 0]
    assert all(row["scores"]["accuracy"] > 0.8 and row["documents"] == 20 for row in metrics["rows"])
    assert [entry["figures"]["labeled"] for entry in metrics["rounds"]] == [8.0] * 4
    steps = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["seed"] for event in steps if event["event"] == "variant done"] == [1, 0]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "There is no bundle: prediction and serving read texts" in page and "hardest documents" not in page
    assert (folder / "pictures" / "embedding_map.png").exists() or (folder / "pictures" / "embedding_map.svg").exists()
