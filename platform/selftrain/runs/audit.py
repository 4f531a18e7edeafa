"""`selftrain audit`: how good a bundle is on documents without labels, from a few answers by hand.

    questions.csv   the documents that are asked about, with an empty column `label`
    design.json     how they were chosen, without which the answers say nothing; with the fingerprints of bundle and documents
    audit.json      the figures
    audit.md        the same, to be read

The first two are written at once, before the first answer; the others when answers are read. The statistics are in evaluation/audit/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from selftrain.bundle.checking import fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import BundleCard, checked_card, restate
from selftrain.bundle.predict import BATCH_ROWS
from selftrain.bundle.promise import NoneOfThese, PredictionSets, Promise
from selftrain.data.corpus import Corpus, Documents
from selftrain.errors import BundleError, ConfigError, DataError, OutputError
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_at
from selftrain.evaluation.audit.design import Design, plan, plan_for_promise, plan_for_sets
from selftrain.evaluation.audit.figures import AuditFigures, Figure, accuracy_alone, figures
from selftrain.evaluation.audit.report import describe
from selftrain.evaluation.audit.risk import grid
from selftrain.files.durable import check_folder, replacing_folder, whole_file
from selftrain.runs.audit_design import DESIGN, AuditDesign, Question, read_design
from selftrain.runs.promise import Promised, check_plan, check_shares, none_of_these_of, promise_of, sets_of
from selftrain.runs.questions import NONE, SKIP, question_key, read_answers, write_questions

QUESTIONS, FIGURES, REPORT = "questions.csv", "audit.json", "audit.md"
FEWEST = 20  # answers of a budget; with fewer an interval says next to nothing
_REACH = 20  # times the budget: questions that the design keeps, for whoever goes on


@dataclass(frozen=True)
class Planned:
    """A new audit."""

    file: Path  # questions.csv
    questions: int
    documents: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Audited:
    """An audit with answers."""

    figures: AuditFigures
    text: str
    report: Path
    promised: Promised[Promise] | None  # where a promise was asked for
    sets: Promised[PredictionSets] | None  # where prediction sets were asked for
    none_of_these: Promised[NoneOfThese] | None  # where that was asked for
    more: Path | None  # a file with the answers so far and further questions, where they were asked for


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
        ConfigError: the budget is too small, too small for a promise, or larger than the number of documents.
        DataError, BundleError: as `load_documents`, and `Classifier.load`.
        OutputError: `out` holds something already, or cannot be written.
    """
    if budget < FEWEST:
        raise ConfigError(f"budget must be at least {FEWEST} answers (got {budget}).", parameter="budget")
    asked = {"promise": promise, "sets": sets, "none_of_these": none_of_these}
    check_shares(asked)
    _check_new(out)
    card = checked_card(bundle)
    card.check_one_label("audits")
    corpus, _ = load_documents(card, documents, text_column=text_column, test_documents=0)
    asked_about = corpus.unlabeled
    if budget > len(asked_about):
        raise ConfigError(f"budget must be at most {len(asked_about)}, the number of different documents (got {budget}).", parameter="budget")
    classifier = Classifier.load(bundle)
    if none_of_these is not None:
        len(classifier.known)  # or say why there are none, before anything is classified
    probabilities = _probabilities(classifier, asked_about)
    predicted, scores = probabilities.argmax(axis=1), probabilities.max(axis=1).clip(0, 1)
    chosen = _chosen(probabilities, asked, budget, seed)
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
            for index in chosen.order[: budget * _REACH].tolist()
        ),
        backend=classifier.backend,
        thresholds=tuple(thresholds.thresholds.tolist()),
        above=tuple(tuple(row) for row in thresholds.above.tolist()),
    )
    try:
        with replacing_folder(out) as scratch:
            _write_questions(scratch / QUESTIONS, design.questions[:budget], asked_about, {})
            (scratch / DESIGN).write_text(design.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as problem:
        raise OutputError(f"out cannot be written (got {str(out)!r}): {problem.strerror}; set another folder.", parameter="out") from None
    return Planned(out / QUESTIONS, budget, len(asked_about), card.labels)


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
    design = read_design(out)
    card = checked_card(bundle)
    card.check_one_label("audits")
    if fingerprint_of(bundle) != design.bundle:
        raise BundleError(
            f"{bundle} is not the bundle, or no longer the one, that the audit in {out} asks about; start another audit with a new out."
        )
    corpus = audited_corpus(design, card, documents, text_column, out)
    if budget is not None and budget > len(design.questions):
        raise ConfigError(f"budget must be at most {len(design.questions)}, the questions of this design (got {budget}).", parameter="budget")
    check_shares({"promise": promise, "sets": sets, "none_of_these": none_of_these})
    keys = [question_key(place, question.id) for place, question in enumerate(design.questions)]
    given = read_answers(answers, keys, design.classes, "this audit")
    found = figures(*design.answered(given), design.classes, planned=design.planned)
    promised = None if promise is None else promise_of(design, given, promise)
    covered = None if sets is None else _sets(bundle, design, given, corpus.unlabeled, sets)
    none = None if none_of_these is None else _none_of_these(bundle, design, given, corpus.unlabeled, none_of_these)
    promises = {name: one for name, one in (("promise", promised), ("sets", covered), ("none_of_these", none)) if one is not None}
    text = "\n\n".join([describe(found), *(one.text for one in promises.values())])
    report = out / REPORT
    with whole_file(report, "out") as partial:
        partial.write_text(f"# Audit of {card.name}\n\n{text}\n", encoding="utf-8")
    with whole_file(out / FIGURES, "out") as partial:
        partial.write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if made := {name: one.promise for name, one in promises.items() if one.promise is not None}:
        restate(bundle, card.model_copy(update=made))
    return Audited(found, text, report, promised, covered, none, _ask_more(out, design, given, budget, corpus.unlabeled))


def audited_corpus(design: AuditDesign, card: BundleCard, documents: str, text_column: str, out: Path) -> Corpus:
    """The documents of an audit.

    Args:
        design: of the audit.
        card: of a bundle of its classes.
        documents: a file with documents, or a name of the catalogue.
        text_column: column of the texts in the file.
        out: the audit's folder.

    Raises:
        DataError: as `load_documents`, or these are other documents.
    """
    corpus, _ = load_documents(card, documents, text_column=text_column, test_documents=0)
    if corpus.fingerprint != design.documents:
        raise DataError(
            f"{corpus.name} does not hold the documents that the audit in {out} asks about; pass these, or start another audit in a new folder."
        )
    return corpus


def accuracy_so_far(design: AuditDesign, given: Mapping[int, int]) -> tuple[Figure, bool]:
    """The accuracy after some answers, and whether its interval holds at every number of answers at once.

    Args:
        design: of the audit.
        given: place of a question in the design's order -> index of the answer, as in `figures`; at least one.
    """
    return accuracy_alone(*design.answered(given), planned=design.planned)


def _chosen(probabilities: np.ndarray, asked: Mapping[str, float | None], budget: int, seed: int) -> Design:
    """The questions, for what is to be promised."""
    scores = probabilities.max(axis=1).clip(0, 1)
    if (promise := asked["promise"]) is not None:
        chosen = plan_for_promise(scores, risk=promise, budget=budget, seed=seed)
    elif any(share is not None for share in asked.values()):
        chosen = plan_for_sets(scores, budget=budget, seed=seed)
    else:
        chosen = plan(probabilities.argmax(axis=1), 1 - confidence_at(probabilities, ASSUMED_ACCURACY), budget=budget, seed=seed)
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


def _ask_more(out: Path, design: AuditDesign, given: Mapping[int, int], budget: int | None, documents: Documents) -> Path | None:
    if budget is None or budget <= max(design.planned, max(given) + 1):
        return None
    file = out / f"questions-{budget}.csv"
    with whole_file(file, "out") as partial:
        names = [*design.classes, NONE, SKIP]
        _write_questions(partial, design.questions[:budget], documents, {place: names[answer] for place, answer in given.items()})
    return file


def _check_new(out: Path) -> None:
    if (out / DESIGN).exists():
        raise OutputError(f"out {str(out)!r} holds an audit already; pass its answers, or set another folder for a new one.", parameter="out")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"out {str(out)!r} is not an empty folder; set a new one, so that nothing of yours is overwritten.", parameter="out")
    check_folder(out, "out")


def _probabilities(classifier: Classifier, documents: Documents) -> np.ndarray:
    """`[documents, classes]`."""
    parts = []
    with tqdm(total=len(documents), unit=" texts", file=sys.stderr, disable=None) as bar:
        for start in range(0, len(documents), BATCH_ROWS):
            texts = list(documents.contents[start : start + BATCH_ROWS])
            parts.append(classifier.predict_proba(texts))
            bar.update(len(texts))
    return np.concatenate(parts)


def _write_questions(file: Path, questions: Sequence[Question], documents: Documents, given: Mapping[int, str]) -> None:
    places = {id_: index for index, id_ in enumerate(documents.ids)}
    write_questions(
        file,
        (
            (question_key(place, question.id), documents.contents[places[question.id]], given.get(place, ""))
            for place, question in enumerate(questions)
        ),
    )
