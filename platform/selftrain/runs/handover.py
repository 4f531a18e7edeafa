"""What a run hands over: the bundle, its version in the registry, and labeled.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selftrain.bundle.documents import accuracy_of
from selftrain.bundle.format import CARD, BundleMetrics
from selftrain.bundle.handover import card_of, write_student
from selftrain.data.supervision import describe_supervision
from selftrain.files.durable import explained
from selftrain.models.student import Student
from selftrain.runs.context import RunContext
from selftrain.runs.labeled import write_labeled
from selftrain.tracking import check_tracking, is_away


def main_scores(context: RunContext, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The scores of what is bundled; empty without test labels."""
    return next(row["scores"] for row in rows if row["variant"] == context.plan.main_name) or {}


def write_run_bundle(context: RunContext, student: Student, scores: Mapping[str, Any], previous: Mapping[str, Any] | None) -> Path:
    """The bundle of a run; one that is there stays, where the run only gets more seeds or variants.

    Args:
        context: of the run.
        student: what is bundled.
        scores: on the test documents; empty without labels.
        previous: metrics.json of the run before it got more seeds or variants.
    """
    folder, main = context.folder / "bundle", context.plan.main
    if previous is not None and (folder / CARD).is_file():
        return folder
    card = card_of(
        student,
        name=context.model_name,
        recipe=main.recipe,
        corpus=context.corpus,
        experiment=context.plan.experiment,
        supervision=describe_supervision(context.plan.experiment.data),
        llm_fingerprint=context.llm_fingerprint,
        metrics=BundleMetrics.model_validate(scores) if scores else None,
    )
    with explained(folder, f"free some space and resume {context.folder}, nothing is trained again"):
        return write_student(folder, student, card)


def register_run_bundle(
    context: RunContext, bundle: Path, scores: Mapping[str, Any], previous: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, str | None]:
    """Make the bundle a version of the registered model.

    Args:
        context: of the run.
        bundle: its folder.
        scores: on the test documents; empty without labels.
        previous: metrics.json of the run before it got more seeds or variants; what it has registered is the same bundle.

    Returns:
        (the version, as metrics.json has it, None); or (None, why the registry has none), where it is away: the next start of the run tries again.
    """
    if previous is not None and previous["registered"] is not None:
        return dict(previous["registered"]), None
    labels, tracking = context.labels, context.plan.experiment.tracking

    def accuracy_of_champion(other: Path) -> float:
        assert labels is not None
        return accuracy_of(other, list(context.corpus.test.contents), labels, context.corpus.class_names)

    try:
        with context.stages("registration"):
            check_tracking(context.tracker.uri)  # MLflow itself would try for a minute
            found = context.tracker.log_bundle_and_register(
                bundle,
                context.model_name,
                {key: scores.get(key) for key in BundleMetrics.model_fields},
                labeled=labels is not None,
                promote=tracking.promote,
                evaluate=accuracy_of_champion,
                tags={"data_fingerprint": context.corpus.fingerprint, "run": context.folder.name},
            )
    except Exception as error:
        if not is_away(error):
            raise
        reason = " ".join(str(error).split())[:300]
        context.spool.owe("registration")
        context.events("model not registered", reason=reason)
        return None, reason
    context.spool.settle("registration")
    context.events("model registered", model=found.model, version=found.version, champion=str(found.champion).lower(), reason=found.reason)
    return {"model": found.model, "version": found.version, "champion": found.champion, "reason": found.reason}, None


def write_labeled_documents(context: RunContext, found: np.ndarray) -> Path:
    """labeled.csv of a run without test documents.

    Args:
        context: of the run.
        found: probabilities of its documents, `[documents, classes]`.
    """
    file = context.folder / "labeled.csv"
    with explained(file, f"free some space and resume {context.folder}, nothing is trained again"):
        write_labeled(file, context.documents, found, context.corpus.class_names)
    return file
