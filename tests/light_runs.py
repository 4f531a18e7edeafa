"""Runs of a head or a BiLSTM on tiny documents: seconds, without Ray."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import tiny_backbone

from selftrain.config import TrackingConfig, parse
from selftrain.tracking import Tracker


def furnish(folder: Path) -> Path:
    """`folder` with a tiny encoder, labeled documents and a database with its tables."""
    tiny_backbone(folder / "parts").save_pretrained(str(folder / "encoder"))
    rows = [("sport", f"the team and its coach won match {n}") for n in range(40)]
    rows += [("business", f"the bank and the market lost profit {n}") for n in range(40)]
    documents = "\n".join(json.dumps({"text": text, "label": label}) for label, text in rows)
    (folder / "documents.jsonl").write_text(documents, encoding="utf-8")
    Tracker(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder, "blank")
    return folder


def described(home: Path, train: str, **changes):
    """Six rounds of training on tiny documents."""
    model = {"encoder": "bilstm", "similarity": "dot", "hidden": 8, "word_dimensions": 8, "vocabulary": 100}
    if train == "head":
        model = {"encoder": str(home / "encoder"), "train": "head", "cache": str(home / "embeddings")}
    document = {
        "name": "tiny",
        "data": {"source": str(home / "documents.jsonl"), "label_column": "label", "classes": ["sport", "business"], "test_documents": 20}
        | {"supervision": "few", "labels_per_class": 3},
        "model": model,
        "method": {"name": "cross_entropy", "rounds": 6},
        "evaluation": {"map": "none"},
        "training": {"threads": 1},
        "tracking": {"uri": f"sqlite:///{home}/mlflow.db"},
        "output": str(home / "runs"),
    }
    return parse(document | changes)
