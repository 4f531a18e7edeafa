"""A toy sweep: forty short documents of two classes, the tiny encoder, a head that is trained for some steps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_backbone

WORDS = {
    "sport": ["match", "goal", "team", "player", "coach", "league", "sports", "win"],
    "business": ["bank", "market", "profit", "shares", "economy", "price", "company", "cash"],
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with documents.csv and an encoder."""
    folder = tmp_path_factory.mktemp("parts")
    with (folder / "documents.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "topic"])
        for number in range(40):
            for name, words in WORDS.items():
                writer.writerow([f"{words[number % 8]} {words[(number * 3 + 1) % 8]} of the {words[(number // 8) % 8]} {number}", name])
    tiny_backbone(folder / "transformer").save(str(folder / "encoder"))
    return folder


@pytest.fixture
def document(parts: Path, tmp_path: Path) -> dict[str, Any]:
    """A sweep of two learning rates and two seeds, as a plain mapping."""
    return {
        "name": "toy",
        "title": "A toy sweep",
        "base": {
            "data": {
                "source": str(parts / "documents.csv"),
                "label_column": "topic",
                "classes": list(WORDS),
                "test_documents": 20,
                "supervision": "few",
                "labels_per_class": 5,
            },
            "model": {"encoder": str(parts / "encoder"), "train": "head", "max_tokens": 16, "cache": str(tmp_path / "embeddings")},
            "method": {"name": "cross_entropy", "rounds": 2, "steps_per_round": 3, "batch_size": 8, "unlabeled_ratio": 1},
            "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "sweeps"},
            "output": str(tmp_path / "runs"),
        },
        "axes": {"method.learning_rate": [0.0001, 0.1]},
        "seeds": [0, 1],
    }
