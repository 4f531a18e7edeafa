"""`selftrain audit` of a bundle that gives several labels a text. Files as in audit.py; the statistics are in evaluation/audit/several.py.

The questions are a simple random sample, so the same answers set the bundle's thresholds: `selftrain thresholds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from selftrain.bundle.checking import fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.bundle.predict import predict_all
from selftrain.data.label_sets import cell_of, separator_for
from selftrain.errors import BundleError, DataError
from selftrain.evaluation.audit.design import drawn
from selftrain.evaluation.audit.figures import Figure
from selftrain.evaluation.audit.report import describe
from selftrain.evaluation.audit.several import exact_match_alone, several_figures
from selftrain.runs.audit_design import SeveralDesign, SeveralQuestion, keys_of, read_any_design
from selftrain.runs.audit_files import (
    REACH,
    Audited,
    Planned,
    ask_more,
    audited_corpus,
    check_reach,
    corpus_to_ask_about,
    write_audit,
    write_figures,
)
from selftrain.runs.questions import SKIP, read_label_sets


def plan_several(bundle: Path, card: BundleCard, documents: str, out: Path, *, budget: int, text_column: str, seed: int) -> Planned:
    """Classify documents, draw which of them to ask about, and write questions.csv and design.json, both or neither.

    Args:
        bundle: its folder.
        card: of it.
        documents, out, budget, text_column, seed: as in `plan_audit`.

    Raises:
        ConfigError: the budget is larger than the number of documents.
        DataError, BundleError, OutputError: as `plan_audit`.
    """
    corpus = corpus_to_ask_about(card, documents, text_column, budget)
    asked_about = corpus.unlabeled
    found = predict_all(Classifier.load(bundle), asked_about.contents, "predict") >= np.array(card.thresholds)
    order = drawn(np.zeros(len(found), dtype=np.int64), seed).order
    design = SeveralDesign(
        bundle=fingerprint_of(bundle),
        documents=corpus.fingerprint,
        classes=card.labels,
        thresholds=card.thresholds,
        separator=separator_for(card.labels),
        planned=budget,
        seed=seed,
        population=len(found),
        predicted=tuple(found.sum(axis=0).tolist()),
        questions=tuple(
            SeveralQuestion(id=asked_about.ids[place], labels=tuple(np.flatnonzero(found[place]).tolist()))
            for place in order[: budget * REACH].tolist()
        ),
    )
    return Planned(write_audit(out, design, asked_about), budget, len(asked_about), card.labels, design.separator)


def read_several(
    bundle: Path, card: BundleCard, documents: str, out: Path, answers: Path, *, budget: int | None = None, text_column: str = "text"
) -> Audited:
    """The figures of an audit whose questions were answered, all or the first of them.

    Args:
        bundle: its folder.
        card: of it.
        documents, out, answers, budget, text_column: as in `read_audit`.

    Raises:
        ConfigError, DataError, BundleError, OutputError: as `read_audit`; or the bundle's thresholds have changed.
    """
    design = read_any_design(out)
    if not isinstance(design, SeveralDesign):
        raise DataError(f"out {str(out)!r} holds an audit of one label a document, and the bundle {card.name} gives several.", parameter="out")
    if fingerprint_of(bundle) != design.bundle:
        raise BundleError(
            f"{bundle} is not the bundle, or no longer the one, that the audit in {out} asks about; start another audit with a new out."
        )
    if card.thresholds != design.thresholds:  # perhaps by these answers, which would then measure too much
        raise BundleError(f"{bundle} has other thresholds than when the audit in {out} was planned; start another audit with a new out.")
    corpus = audited_corpus(design, card, documents, text_column, out)
    check_reach(design, budget)
    given = read_label_sets(answers, keys_of(design), design.classes, design.separator, "this audit")
    predicted_as = np.array(design.predicted)
    found = several_figures(design.population, predicted_as, *_sample(design, given), design.classes, planned=design.planned)
    text = describe(found)
    report = write_figures(out, card.name, text, found)
    cells = {place: written(design, labels) for place, labels in given.items()}
    return Audited(found, text, report, None, None, None, ask_more(out, design, cells, budget, corpus.unlabeled))


def exact_match_so_far(design: SeveralDesign, given: Mapping[int, tuple[int, ...] | None]) -> tuple[Figure, bool]:
    """The share of documents whose set of classes is right after some answers, and whether its interval holds at every number of answers at once.

    Args:
        design: of the audit.
        given: place of a question in the design's order -> its classes, None for a skipped one, as of `read_label_sets`; at least one.
    """
    return exact_match_alone(design.population, *_sample(design, given), planned=design.planned)


def written(design: SeveralDesign, labels: tuple[int, ...] | None) -> str:
    """The cell of an answer."""
    return SKIP if labels is None else cell_of([design.classes[label] for label in labels], design.separator)


def _sample(design: SeveralDesign, given: Mapping[int, tuple[int, ...] | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was predicted, what was answered, `[n, L]`, and what was skipped, `[n]`. Questions without an answer before the last one with an answer count as
    skipped: those that were easy may have been chosen."""
    questions = design.questions[: max(given) + 1]
    answers = [given.get(place) for place in range(len(questions))]
    return (
        _memberships([question.labels for question in questions], len(design.classes)),
        _memberships([labels or () for labels in answers], len(design.classes)),
        np.array([labels is None for labels in answers]),
    )


def _memberships(sets: list[tuple[int, ...]], classes: int) -> np.ndarray:
    found = np.zeros((len(sets), classes), dtype=bool)
    for row, labels in enumerate(sets):
        found[row, list(labels)] = True
    return found
