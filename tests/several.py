"""A bundle that gives several labels a text, its documents, and an audit of it (`several_made`, once, and `several_here`, a copy to work on)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from audits import answered, write
from tiny import tiny_backbone

from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.cli import main

CLASSES = ("sport", "business", "film")
WORDS = {"sport": "the team and its coach won match", "business": "the bank and the market lost profit", "film": "film music actor"}
KINDS = (("sport",), ("business",), ("sport", "business"), ("film",), ())


def text_of(classes: Iterable[str], number: int) -> str:
    """A document of these classes."""
    return f"{' '.join(WORDS[name] for name in classes) or 'a phone of the'} {number}"


def truth_of(text: str) -> list[str]:
    """The classes of a document."""
    return [name for name in CLASSES if WORDS[name] in text]


def answered_sets(count: int = 24, **other: str) -> list[dict[str, str]]:
    """The questions, with the truth as the answer of the first `count`; `other` is q3="skip"."""
    return answered(count, lambda text: ", ".join(truth_of(text)) or ",", **other)


@pytest.fixture(scope="session")
def several_made(tmp_path_factory) -> Path:
    """A folder with a bundle, 150 documents, and the questions of an audit with a budget of 24."""
    folder = tmp_path_factory.mktemp("several")
    backbone = tiny_backbone(folder / "encoder")
    texts = [text_of(kind, number) for number in range(30) for kind in KINDS]
    # Least squares on a few of them: right more often than not.
    rows = backbone.encode(texts[::9], convert_to_tensor=True)
    targets = torch.tensor([[1.0 if name in truth_of(text) else -1.0 for name in CLASSES] for text in texts[::9]])
    design = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    weights = torch.linalg.solve(design.T @ design + 0.3 * torch.eye(design.shape[1]), design.T @ targets).T
    card = BundleCard(name="several", labels=CLASSES, method="x", similarity="dot", thresholds=(0.5, 0.5, 0.5))
    write_bundle(folder / "bundle", backbone=backbone, prototypes=weights[:, :-1], bias=weights[:, -1], card=card)
    write(folder / "documents.csv", [{"text": text} for text in texts])
    assert main(["audit", str(folder / "bundle"), "--documents", str(folder / "documents.csv"), "--budget", "24"]) == 0
    return folder


@pytest.fixture
def several_here(several_made, tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, with a copy of what is `several_made`."""
    monkeypatch.chdir(tmp_path)
    for name in ("bundle", "audit"):
        shutil.copytree(several_made / name, tmp_path / name)
    shutil.copy(several_made / "documents.csv", tmp_path)
    return tmp_path
