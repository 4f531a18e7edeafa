"""What a run hands over: the bundle, its version in the registry, and labeled.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selftrain.bundle.documents import accuracy_of
from selftrain.bundle.format import CARD, BundleCard, BundleMetrics
from selftrain.bundle.handover import card_of, reference_of, write_student
from selftrain.bundle.reference import FEWEST, Reference
from selftrain.data.supervision import describe_supervision
from selftrain.files.durable import explained
from selftrain.models.student import Student
from selftrain.runs.context import RunContext
from selftrain.runs.labeled import write_labeled, write_labeled_sets
from selftrain.runtime.devices import device_here
from selftrain.tracking import check_tracking, is_away


def main_scores(context: RunContext, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The scores of what is bundled, with the accuracies on the levels of a tree above its classes; empty without test labels."""
    row = next(row for row in rows if row["variant"] == context.plan.main_name)
    return {**row["scores"], "group_accuracy": tuple(level["accuracy"] for level in row.get("levels", []))} if row["scores"] else {}


def write_run_bundle(context: RunContext, student: Student, found: np.ndarray, scores: Mapping[str, Any], previous: Mapping[str, Any] | None) -> Path:
    """The bundle of a run; one that is there stays, where the run only gets more seeds or variants.

    Args:
        context: of the run.
        student: what is bundled.
        found: its probabilities of the run's documents, `[documents, classes]`.
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
    card, reference = _with_reference(context, student, found, card)
    with explained(folder, f"free some space and resume {context.home.place}, nothing is trained again"):
        return write_student(folder, student, card, reference)


def _with_reference(context: RunContext, student: Student, found: np.ndarray, card: BundleCard) -> tuple[BundleCard, Reference | None]:
    """The card with its reference, and that: of the test documents, which training has not seen; of what was learned from where these are too few.

    Args:
        context: of the run.
        student: what is bundled.
        found: its probabilities of the run's documents.
        card: of the bundle.
    """
    if context.multi_label:  # selftrain watch compares shares of one class a text
        return card, None
    most, test = context.plan.experiment.evaluation.reference, context.corpus.test
    held_out = len(test) >= FEWEST
    documents = test if held_out else context.corpus.unlabeled
    if min(most, len(documents)) < FEWEST:
        return card, None
    with student.encoder.moved(device_here(context.plan.evaluation_gpu)):
        reference = reference_of(student, documents.contents, most)
    described = found if documents is context.documents else reference.probabilities
    return card.model_copy(update={"reference": reference.facts(described, held_out=held_out)}), reference


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
    labels, tracking = context.memberships if context.multi_label else context.labels, context.plan.experiment.tracking

    def accuracy_of_champion(other: Path) -> float:
        assert labels is not None
        return accuracy_of(other, list(context.corpus.test.contents), labels, context.corpus.class_names)

    try:
        with context.stages("registration"):
            check_tracking(context.tracker.uri)  # MLflow itself would try for a minute
            found = context.tracker.log_bundle_and_register(
                bundle,
                context.model_name,
                BundleMetrics.figures(scores),
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
    with explained(file, f"free some space and resume {context.home.place}, nothing is trained again"):
        if context.multi_label:
            write_labeled_sets(file, context.documents, found, context.corpus.class_names)
        else:
            write_labeled(file, context.documents, found, context.corpus.class_names, context.corpus.class_parents)
    return file
