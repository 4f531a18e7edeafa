"""An audit of a few invented documents: bundle, documents and questions (`made`, once, and `here`, a copy to work on), and answers with the truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone

from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.cli import main

SPORT, BUSINESS = "the team and its coach won match", "the bank and the market lost profit"


def write(file: Path, rows: list[dict]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def questions(file: Path | str = "audit/questions.csv") -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file's text."""
    return list(csv.DictReader(io.StringIO(text)))


def truth(text: str) -> str:
    """The class of a document."""
    return "sport" if text.startswith(SPORT) else "business"


def answered(count: int = 24, truth: Callable[[str], str] = truth, **other: str) -> list[dict[str, str]]:
    """The questions, with the truth as the answer of the first `count`; `other` is q3="skip"."""
    rows = questions()
    for place, row in enumerate(rows):
        row["label"] = other.get(f"q{place + 1}", truth(row["text"]) if place < count else "")
    return rows


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with a bundle, 120 documents, and the questions of an audit with a budget of 24."""
    folder = tmp_path_factory.mktemp("audit")
    backbone = tiny_backbone(folder / "encoder")
    prototypes = torch.nn.functional.normalize(
        torch.stack([backbone.encode([f"{text} {n}" for n in range(60)], convert_to_tensor=True).mean(dim=0) for text in (SPORT, BUSINESS)]), dim=-1
    )
    write_bundle(folder / "bundle", backbone=backbone, prototypes=prototypes, card=BundleCard(name="toy", labels=("sport", "business"), method="x"))
    write(folder / "documents.csv", [{"text": f"{text} {n}", "n": n} for n in range(60) for text in (SPORT, BUSINESS)])
    assert main(["audit", str(folder / "bundle"), "--documents", str(folder / "documents.csv"), "--budget", "24"]) == 0
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, with links to what is `made` and a copy of the audit."""
    monkeypatch.chdir(tmp_path)
    for name in ("bundle", "documents.csv"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "audit").mkdir()
    for name in ("questions.csv", "design.json"):
        (tmp_path / "audit" / name).write_bytes((made / "audit" / name).read_bytes())
    return tmp_path
