"""`selftrain audit`: how good a bundle is on documents without labels, from a few answers by hand.

    questions.csv   the documents that are asked about, with an empty column `label`
    design.json     how they were chosen, without which the answers say nothing; with the fingerprints of bundle and documents
    audit.json      the figures
    audit.md        the same, to be read

The first two are written at once, before the first answer; the others when answers are read. The statistics are in evaluation/audit/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from selftrain.bundle.checking import fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import checked_card, restate
from selftrain.bundle.predict import predict_all
from selftrain.bundle.promise import NoneOfThese, PredictionSets
from selftrain.data.corpus import Documents
from selftrain.errors import BundleError, ConfigError
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_among_neighbours
from selftrain.evaluation.audit.design import Design, plan, plan_for_promise, plan_for_sets
from selftrain.evaluation.audit.figures import Figure, accuracy_alone, figures
from selftrain.evaluation.audit.report import describe
from selftrain.evaluation.audit.risk import grid
from selftrain.runs.audit_design import AuditDesign, Question, keys_of, read_design
from selftrain.runs.audit_files import (
    REACH,
    Audited,
    Planned,
    ask_more,
    audited_corpus,
    check_new,
    check_reach,
    corpus_to_ask_about,
    write_audit,
    write_figures,
)
from selftrain.runs.audit_several import plan_several, read_several
from selftrain.runs.promise import Promised, check_plan, check_shares, none_of_these_of, promise_of, sets_of
from selftrain.runs.questions import NONE, SKIP, read_answers

FEWEST = 20  # answers of a budget; with fewer an interval says next to nothing


def plan_audit(
    bundle: Path,
    documents: str,
    out: Path,
    *,
    budget: int = 100,
    promise: float | None = None,
    sets: float | None = None,
    none_of_these: float | None = None,
    text_column: str = "text",
    seed: int = 0,
) -> Planned:
    """Classify documents, choose which of them to ask about, and write questions.csv and design.json, both or neither.

    Args:
        bundle: its folder.
        documents: a file with documents, or a name of the catalogue.
        out: a new or empty folder.
        budget: questions.
        promise: share of wrong answers that is to be promised; the questions are then chosen for that, and figures get less exact.
        sets: share of prediction sets without the true class that is to be promised; the questions are then chosen for that, unless there is a `promise` too.
        none_of_these: share of documents that are of a class and taken for none that is to be promised; the questions are then chosen as for `sets`.
        text_column: column of the texts in the file.
        seed: of the draws.

    Raises:
        ConfigError: the budget is too small, too small for a promise, or larger than the number of documents; or the bundle gives several labels a text, and
            something is to be promised.
        DataError, BundleError: as `load_documents`, and `Classifier.load`.
        OutputError: `out` holds something already, or cannot be written.
    """
    if budget < FEWEST:
        raise ConfigError(f"budget must be at least {FEWEST} answers (got {budget}).", parameter="budget")
    asked = {"promise": promise, "sets": sets, "none_of_these": none_of_these}
    check_shares(asked)
    check_new(out)
    card = checked_card(bundle)
    if card.multi_label:
        _check_no_promise(asked, card.name)
        return plan_several(bundle, card, documents, out, budget=budget, text_column=text_column, seed=seed)
    corpus = corpus_to_ask_about(card, documents, text_column, budget)
    asked_about = corpus.unlabeled
    classifier = Classifier.load(bundle)
    if none_of_these is not None:
        len(classifier.known)  # or say why there are none, before anything is classified
    probabilities = predict_all(classifier, asked_about.contents, "predict")
    predicted, scores = probabilities.argmax(axis=1), probabilities.max(axis=1).clip(0, 1)
    chosen = _chosen(probabilities, asked_about, asked, budget, seed)
    thresholds = grid(scores, chosen.strata)
    counts = np.zeros((int(chosen.strata.max()) + 1, len(card.labels)), dtype=np.int64)
    np.add.at(counts, (chosen.strata, predicted), 1)
    design = AuditDesign(
        bundle=fingerprint_of(bundle),
        documents=corpus.fingerprint,
        classes=card.labels,
        planned=budget,
        seed=seed,
        counts=tuple(tuple(row) for row in counts.tolist()),
        questions=tuple(
            Question(id=asked_about.ids[index], stratum=int(chosen.strata[index]), predicted=int(predicted[index]), score=float(scores[index]))
            for index in chosen.order[: budget * REACH].tolist()
        ),
        backend=classifier.backend,
        thresholds=tuple(thresholds.thresholds.tolist()),
        above=tuple(tuple(row) for row in thresholds.above.tolist()),
    )
    return Planned(write_audit(out, design, asked_about), budget, len(asked_about), card.labels)


def read_audit(
    bundle: Path,
    documents: str,
    out: Path,
    answers: Path,
    *,
    budget: int | None = None,
    promise: float | None = None,
    sets: float | None = None,
    none_of_these: float | None = None,
    text_column: str = "text",
) -> Audited:
    """The figures of an audit whose questions were answered, all or the first of them.

    What is promised and the answers support is written into the bundle's card, in the place of an earlier one; where they do not, the card stays as it is.

    Args:
        bundle: the same bundle as before.
        documents: the same documents as before.
        out: the folder of `plan_audit`.
        answers: the file of questions, with labels.
        budget: with more than there are questions in `answers`, a file with further ones is written.
        promise: share of wrong answers, among those that are given, that is to be promised; None for none.
        sets: share of documents whose prediction set may lack the true class; None for no sets.
        none_of_these: share of documents that may be of a class and taken for none; None for no such threshold.
        text_column: column of the texts in the file of documents.

    Raises:
        ConfigError, DataError, BundleError, OutputError: bundle or documents have changed, the answers are not those of this audit, or a file is wrong.
    """
    asked = {"promise": promise, "sets": sets, "none_of_these": none_of_these}
    card = checked_card(bundle)
    if card.multi_label:
        _check_no_promise(asked, card.name)
        return read_several(bundle, card, documents, out, answers, budget=budget, text_column=text_column)
    design = read_design(out)
    if fingerprint_of(bundle) != design.bundle:
        raise BundleError(
            f"{bundle} is not the bundle, or no longer the one, that the audit in {out} asks about; start another audit with a new out."
        )
    corpus = audited_corpus(design, card, documents, text_column, out)
    check_reach(design, budget)
    check_shares(asked)
    given = read_answers(answers, keys_of(design), design.classes, "this audit")
    found = figures(*design.answered(given), design.classes, planned=design.planned)
    promised = None if promise is None else promise_of(design, given, promise)
    covered = None if sets is None else _sets(bundle, design, given, corpus.unlabeled, sets)
    none = None if none_of_these is None else _none_of_these(bundle, design, given, corpus.unlabeled, none_of_these)
    promises = {name: one for name, one in (("promise", promised), ("sets", covered), ("none_of_these", none)) if one is not None}
    text = "\n\n".join([describe(found), *(one.text for one in promises.values())])
    report = write_figures(out, card.name, text, found)
    if made := {name: one.promise for name, one in promises.items() if one.promise is not None}:
        restate(bundle, card.model_copy(update=made))
    names = [*design.classes, NONE, SKIP]
    more = ask_more(out, design, {place: names[answer] for place, answer in given.items()}, budget, corpus.unlabeled)
    return Audited(found, text, report, promised, covered, none, more)


def accuracy_so_far(design: AuditDesign, given: Mapping[int, int]) -> tuple[Figure, bool]:
    """The accuracy after some answers, and whether its interval holds at every number of answers at once.

    Args:
        design: of the audit.
        given: place of a question in the design's order -> index of the answer, as in `figures`; at least one.
    """
    return accuracy_alone(*design.answered(given), planned=design.planned)


def _chosen(probabilities: np.ndarray, documents: Documents, asked: Mapping[str, float | None], budget: int, seed: int) -> Design:
    """The questions, for what is to be promised."""
    scores = probabilities.max(axis=1).clip(0, 1)
    if (promise := asked["promise"]) is not None:
        chosen = plan_for_promise(scores, risk=promise, budget=budget, seed=seed)
    elif any(share is not None for share in asked.values()):
        chosen = plan_for_sets(scores, budget=budget, seed=seed)
    else:
        likely = confidence_among_neighbours(probabilities, documents.contents, ASSUMED_ACCURACY)
        chosen = plan(probabilities.argmax(axis=1), 1 - likely, budget=budget, seed=seed)
    check_plan(chosen, scores, asked, budget)
    return chosen


def _sets(bundle: Path, design: AuditDesign, given: Mapping[int, int], documents: Documents, risk: float) -> Promised[PredictionSets]:
    """Prediction sets; the documents that were asked about are classified again, for a design keeps one probability of each."""
    classifier = Classifier.load(bundle)
    return sets_of(design, given, classifier.predict_proba(_asked(design, given, documents)), classifier.backend, risk)


def _none_of_these(bundle: Path, design: AuditDesign, given: Mapping[int, int], documents: Documents, risk: float) -> Promised[NoneOfThese]:
    """What is taken for none of the classes; likewise."""
    classifier = Classifier.load(bundle)
    return none_of_these_of(design, given, classifier.typicality(_asked(design, given, documents))[1], classifier.backend, risk)


def _asked(design: AuditDesign, given: Mapping[int, int], documents: Documents) -> list[str]:
    """The texts of all questions up to the last with an answer."""
    places = {id_: index for index, id_ in enumerate(documents.ids)}
    return [documents.contents[places[question.id]] for question in design.questions[: max(given) + 1]]


def _check_no_promise(asked: Mapping[str, float | None], name: str) -> None:
    """Raise a `ConfigError` where something is to be promised of a bundle that gives several labels a text."""
    if (parameter := next((one for one, share in asked.items() if share is not None), None)) is not None:
        raise ConfigError(
            f"{parameter} is for one label a text, and the bundle {name} gives several; leave it out: `selftrain thresholds` promises by the same answers "
            "how many labels are missed.",
            parameter=parameter,
        )
