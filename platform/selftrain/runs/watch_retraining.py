"""The training run that `selftrain watch` proposes after an alarm: the experiment of the bundle with the texts that were seen, and the commands."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

from pydantic import ValidationError

from selftrain.bundle.format import BundleCard
from selftrain.config import Experiment
from selftrain.files.durable import explained, replacing, write_whole
from selftrain.runs.seen import Rows

EXPERIMENT, DOCUMENTS, OWN = "retrain.yaml", "documents.csv", "new_documents.csv"


def propose(card: BundleCard, bundle: Path, home: Path, recent: Rows) -> tuple[str, ...]:
    """The commands, after writing what they read.

    Where texts are kept, those since the change are the documents; else the caller's own file is (`OWN`), which has to hold such texts. Where training needs
    labels, or nobody knows what it was, labels are asked for first.

    Args:
        card: of the bundle.
        bundle: its folder.
        home: folder of what it has seen.
        recent: texts since the change.

    Raises:
        OutputError: `home` cannot be written.
    """
    documents = OWN
    if recent.texts is not None:
        documents = str(home / DOCUMENTS)
        with explained(home), replacing(home / DOCUMENTS) as scratch, scratch.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["text"])
            writer.writerows([text] for text in dict.fromkeys(recent.texts))
    experiment = _experiment(card, documents)
    if experiment is None or experiment.data.supervision != "none":
        folder = str(home / "training")
        return (shlex.join(["selftrain", "label", folder, "--training", str(bundle), "--documents", documents]),)
    with explained(home):
        write_whole(home / EXPERIMENT, experiment.to_yaml())
    return (shlex.join(["selftrain", "run", str(home / EXPERIMENT), "--data", documents]),)


def _experiment(card: BundleCard, documents: str) -> Experiment | None:
    """The bundle's experiment with other documents and its own classes; None where it is of another version, or there is none."""
    if not card.experiment:
        return None
    try:
        before = Experiment.model_validate(card.experiment)
        kept = before.data.model_dump(include={"descriptions", "prompts", "min_documents", "supervision"})
        data = {"source": documents, "classes": card.labels, "test_documents": 0, **kept}
        return Experiment.model_validate({**before.model_dump(), "data": data, "variants": {}})
    except (ValidationError, ValueError):
        return None
