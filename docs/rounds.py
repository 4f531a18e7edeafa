"""Accuracy and AUC after every round of an experiment's trainings, kept in docs/results/experiments/rounds/ by docs/experiments.py and shown by it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from selftrain.errors import DataError

Followed = dict[str, dict[int, list[tuple[float, float | None]]]]  # variant -> seed -> (accuracy, AUC) of every round, in order


def _beside(file: Path) -> Path:
    return file.parent / "rounds" / file.name


def write(file: Path, followed: Sequence[Mapping[str, Any]]) -> None:
    """Keep the figures of every round beside those of an experiment.

    Args:
        file: CSV of the experiment.
        followed: entries of metrics.json's `rounds`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("variant", "seed", "round", "accuracy", "auc"))
    for entry in followed:
        figures = entry["figures"]
        writer.writerow([entry["variant"], entry["seed"], entry["round"], figures["test_accuracy"], figures.get("test_auc", "")])
    target = _beside(file)
    target.parent.mkdir(exist_ok=True)
    target.write_text(stream.getvalue(), encoding="utf-8")


def read(file: Path) -> Followed:
    """Variant -> seed -> (accuracy, AUC) of every round, in order."""
    found: Followed = {}
    source = _beside(file)
    if not source.exists():
        raise DataError(
            f"There is no {source.name} in {source.parent.name}/; record a run with evaluation.every_round, or correct the page's comment."
        )
    with source.open(newline="", encoding="utf-8") as stream:
        for row in sorted(csv.DictReader(stream), key=lambda row: int(row["round"])):
            figures = float(row["accuracy"]), float(row["auc"]) if row["auc"] else None
            found.setdefault(row["variant"], {}).setdefault(int(row["seed"]), []).append(figures)
    return found


def table(names: Mapping[str, str], followed: Followed) -> str:
    """The mean accuracy over the seeds after each round.

    Args:
        names: variant -> its name on the page.
        followed: of `read`.
    """
    most = max((len(entries) for name in names for entries in followed.get(name, {}).values()), default=0)
    lines = [["variant", "n", *(str(number + 1) for number in range(most))], ["---"] * (most + 2)]
    for name, title in names.items():
        seeds = list(followed.get(name, {}).values())
        means = [
            fmean(entries[number][0] for entries in seeds) if all(number < len(entries) for entries in seeds) and seeds else None
            for number in range(most)
        ]
        lines.append([title, str(len(seeds)), *("" if mean is None else f"{mean:.3f}" for mean in means)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
