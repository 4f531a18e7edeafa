"""The documents of a run without test documents, as it labeled them: labeled.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selftrain.data.corpus import Documents
from selftrain.files.durable import replacing

COLUMNS = ("id", "text", "label", "confidence")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_labeled(
    file: Path, documents: Documents, probabilities: np.ndarray, class_names: Sequence[str], parents: Sequence[Sequence[str]] = ()
) -> None:
    """Write every document with its most probable class and that class's probability, whole or not at all.

    A spreadsheet would take a cell that begins with =, +, -, @ or a control character for a formula; such a cell gets an apostrophe in front.

    Args:
        file: a .csv, in UTF-8 with a header.
        documents: in the order of the rows of `probabilities`.
        probabilities: `[documents, classes]`.
        class_names: in index order.
        parents: of each class of a tree, the outermost first: a last column `parents` then has them, separated by " / ".
    """
    best, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    with replacing(file) as scratch, scratch.open("w", encoding="utf-8", errors="replace", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow([*COLUMNS, *(["parents"] if parents else [])])
        for id_, text, label, sure in zip(documents.ids, documents.contents, best, confidence, strict=True):
            above = [spreadsheet_cell(" / ".join(parents[int(label)]))] if parents else []
            writer.writerow([id_, spreadsheet_cell(text), spreadsheet_cell(class_names[int(label)]), f"{sure:.4f}", *above])


def write_labeled_sets(file: Path, documents: Documents, probabilities: np.ndarray, class_names: Sequence[str]) -> None:
    """`write_labeled` where a document may have several classes: those with a probability of at least 1/2, as a JSON list, the most probable first.

    Args:
        file: a .csv, in UTF-8 with a header.
        documents: in the order of the rows of `probabilities`.
        probabilities: of each class by itself, `[documents, classes]`.
        class_names: in index order.
    """
    with replacing(file) as scratch, scratch.open("w", encoding="utf-8", errors="replace", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "text", "labels"])
        for id_, text, row in zip(documents.ids, documents.contents, probabilities, strict=True):
            named = [class_names[index] for index in np.argsort(-row, kind="stable") if row[index] >= 0.5]
            writer.writerow([id_, spreadsheet_cell(text), json.dumps(named, ensure_ascii=False)])


def spreadsheet_cell(text: str) -> str:
    """`text`, as a spreadsheet shows it and takes for no formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
