"""`selftrain audit`: how good a bundle is on documents without labels, from a few answers by hand.

    questions.csv   the documents that are asked about, with an empty column `label`
    design.json     how they were chosen, without which the answers say nothing; with the fingerprints of bundle and documents
    audit.json      the figures
    audit.md        the same, to be read

The first two are written at once, before the first answer; the others when answers are read. The statistics are in evaluation/audit/.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from selftrain.bundle.checking import hashes_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import checked_card
from selftrain.bundle.predict import BATCH_ROWS
from selftrain.data.cleaning import label_key
from selftrain.data.corpus import Documents
from selftrain.data.records import check_source, open_records
from selftrain.data.text_files import SUFFIXES, suffix_of
from selftrain.errors import BundleError, ConfigError, DataError, OutputError, nearest
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_at
from selftrain.evaluation.audit.design import plan
from selftrain.evaluation.audit.figures import SKIPPED, AuditFigures, figures
from selftrain.evaluation.audit.report import describe
from selftrain.files.durable import check_folder, replacing_folder, whole_file
from selftrain.files.parsing import json_of
from selftrain.runs.labeled import spreadsheet_cell

QUESTIONS, DESIGN, FIGURES, REPORT = "questions.csv", "design.json", "audit.json", "audit.md"
COLUMNS = ("id", "text", "label")
NONE, SKIP = "none of these", "skip"  # answers that are no class; a class of that name goes before
FEWEST = 20  # answers of a budget; with fewer an interval says next to nothing
_REACH = 20  # times the budget: questions that the design keeps, for whoever goes on


class Question(BaseModel):
    """A document that is asked about, or will be."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="of the document")
    stratum: int = Field(ge=0)
    predicted: int = Field(ge=0, description="index of the class")


class AuditDesign(BaseModel):
    """design.json."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    bundle: str = Field(description="fingerprint of the bundle's files")
    documents: str = Field(description="fingerprint of the documents")
    classes: tuple[str, ...] = Field(min_length=2)
    planned: int = Field(ge=1, description="questions that were planned before the first answer")
    seed: int
    counts: tuple[tuple[int, ...], ...] = Field(min_length=1, description="[stratum][predicted class]: documents")
    questions: tuple[Question, ...] = Field(min_length=1, description="in the order in which they are asked; more than were planned")


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
    more: Path | None  # a file with the answers so far and further questions, where they were asked for


def plan_audit(bundle: Path, documents: str, out: Path, *, budget: int = 100, text_column: str = "text", seed: int = 0) -> Planned:
    """Classify documents, choose which of them to ask about, and write questions.csv and design.json, both or neither.

    Args:
        bundle: its folder.
        documents: a file with documents, or a name of the catalogue.
        out: a new or empty folder.
        budget: questions.
        text_column: column of the texts in the file.
        seed: of the draws.

    Raises:
        ConfigError: the budget is too small, or larger than the number of documents.
        DataError, BundleError: as `load_documents`, and `Classifier.load`.
        OutputError: `out` holds something already, or cannot be written.
    """
    if budget < FEWEST:
        raise ConfigError(f"budget must be at least {FEWEST} answers (got {budget}).", parameter="budget")
    _check_new(out)
    card = checked_card(bundle)
    corpus, _ = load_documents(card, documents, text_column=text_column, test_documents=0)
    asked_about = corpus.unlabeled
    if budget > len(asked_about):
        raise ConfigError(f"budget must be at most {len(asked_about)}, the number of different documents (got {budget}).", parameter="budget")
    probabilities = _probabilities(Classifier.load(bundle), asked_about)
    predicted = probabilities.argmax(axis=1)
    error = 1 - confidence_at(probabilities, ASSUMED_ACCURACY)
    chosen = plan(predicted, error, budget=budget, seed=seed)
    counts = np.zeros((int(chosen.strata.max()) + 1, len(card.labels)), dtype=np.int64)
    np.add.at(counts, (chosen.strata, predicted), 1)
    design = AuditDesign(
        bundle=_fingerprint(bundle),
        documents=corpus.fingerprint,
        classes=card.labels,
        planned=budget,
        seed=seed,
        counts=tuple(tuple(row) for row in counts.tolist()),
        questions=tuple(
            Question(id=asked_about.ids[index], stratum=int(chosen.strata[index]), predicted=int(predicted[index]))
            for index in chosen.order[: budget * _REACH].tolist()
        ),
    )
    try:
        with replacing_folder(out) as scratch:
            _write_questions(scratch / QUESTIONS, design.questions[:budget], asked_about, {})
            (scratch / DESIGN).write_text(design.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as problem:
        raise OutputError(f"out cannot be written (got {str(out)!r}): {problem.strerror}; set another folder.", parameter="out") from None
    return Planned(out / QUESTIONS, budget, len(asked_about), card.labels)


def read_audit(bundle: Path, documents: str, out: Path, answers: Path, *, budget: int | None = None, text_column: str = "text") -> Audited:
    """The figures of an audit whose questions were answered, all or the first of them.

    Args:
        bundle: the same bundle as before.
        documents: the same documents as before.
        out: the folder of `plan_audit`.
        answers: the file of questions, with labels.
        budget: with more than there are questions in `answers`, a file with further ones is written.
        text_column: column of the texts in the file of documents.

    Raises:
        ConfigError, DataError, BundleError, OutputError: bundle or documents have changed, the answers are not those of this audit, or a file is wrong.
    """
    design = _read_design(out)
    card = checked_card(bundle)
    if _fingerprint(bundle) != design.bundle:
        raise BundleError(
            f"{bundle} is not the bundle, or no longer the one, that the audit in {out} asks about; start another audit with a new out."
        )
    corpus, _ = load_documents(card, documents, text_column=text_column, test_documents=0)
    if corpus.fingerprint != design.documents:
        raise DataError(
            f"{corpus.name} does not hold the documents that the audit in {out} asks about; pass these, or start another audit with a new out."
        )
    if budget is not None and budget > len(design.questions):
        raise ConfigError(f"budget must be at most {len(design.questions)}, the questions of this design (got {budget}).", parameter="budget")
    given = _read_answers(answers, design)
    found = _figures(design, given)
    text = describe(found)
    report = out / REPORT
    with whole_file(report, "out") as partial:
        partial.write_text(f"# Audit of {card.name}\n\n{text}\n", encoding="utf-8")
    with whole_file(out / FIGURES, "out") as partial:
        partial.write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Audited(found, text, report, _ask_more(out, design, given, budget, corpus.unlabeled))


def _figures(design: AuditDesign, given: Mapping[int, int]) -> AuditFigures:
    """Questions without an answer before the last one with an answer count as skipped: those that were easy may have been chosen."""
    questions = design.questions[: max(given) + 1]
    return figures(
        np.array(design.counts),
        np.array([question.stratum for question in questions]),
        np.array([question.predicted for question in questions]),
        np.array([given.get(place, SKIPPED) for place in range(len(questions))]),
        design.classes,
        planned=design.planned,
    )


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


def _fingerprint(bundle: Path) -> str:
    return hashlib.sha256(json.dumps(hashes_of(bundle)).encode()).hexdigest()[:16]


def _key(place: int, question: Question) -> str:
    """What a row is found by. A spreadsheet would take some ids for numbers, and write others."""
    return f"q{place + 1}-{question.id}"


def _write_questions(file: Path, questions: Sequence[Question], documents: Documents, given: Mapping[int, str]) -> None:
    places = {id_: index for index, id_ in enumerate(documents.ids)}
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        for place, question in enumerate(questions):
            text = documents.contents[places[question.id]]
            writer.writerow([_key(place, question), spreadsheet_cell(text), spreadsheet_cell(given.get(place, ""))])


def _read_design(out: Path) -> AuditDesign:
    file = out / DESIGN
    if not file.is_file():
        raise DataError(f"out {str(out)!r} holds no {DESIGN}; set the folder that the questions were written into.", parameter="out")
    try:
        design = AuditDesign.model_validate(json_of(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:200]
        raise DataError(f"{file} is damaged ({said}); without it the answers say nothing: start another audit with a new out.") from None
    if not _fits(design):
        raise DataError(f"{file} is damaged (its numbers do not fit each other); start another audit with a new out.")
    return design


def _fits(design: AuditDesign) -> bool:
    left = Counter({(stratum, index): count for stratum, row in enumerate(design.counts) for index, count in enumerate(row)})
    left.subtract((question.stratum, question.predicted) for question in design.questions)
    rows = {len(row) for row in design.counts}
    return rows == {len(design.classes)} and min(left.values()) >= 0 and len({question.id for question in design.questions}) == len(design.questions)


def _read_answers(file: Path, design: AuditDesign) -> dict[int, int]:
    """Place of a question in the design's order -> index of the answer: a class, the number of classes for none of them, `SKIPPED`."""
    check_source(file, "answers")
    if suffix_of(file) not in SUFFIXES:
        raise DataError(f"answers must be a {', '.join(SUFFIXES)} file (got {str(file)!r}).", parameter="answers")
    records = open_records(file, "label")
    places = {_key(place, question): place for place, question in enumerate(design.questions)}
    known = {NONE: len(design.classes), SKIP: SKIPPED} | {str(label_key(name)): index for index, name in enumerate(design.classes)}
    given: dict[int, int] = {}
    seen: set[int] = set()
    for record in records.read():
        row = record.value
        if not isinstance(row, dict) or "id" not in row or "label" not in row:
            raise DataError(f"{record.place.capitalize()} of {file} lacks the column id or label; keep the columns {', '.join(COLUMNS)}.")
        place = places.get(str(row["id"]).strip())
        if place is None:
            raise DataError(
                f"{record.place.capitalize()} of {file} has the id {str(row['id'])[:50]!r}, which is none of this audit; pass its own questions."
            )
        if place in seen:
            raise DataError(f"{record.place.capitalize()} of {file} answers {str(row['id'])!r} a second time; keep one of the two.")
        seen.add(place)
        label = label_key(str(row["label"]).removeprefix("'") if row["label"] is not None else None)
        if label is None:
            continue
        if label not in known:
            raise DataError(
                f"{record.place.capitalize()} of {file} has the label {str(row['label'])[:50]!r}, which is no class; {nearest(label, known)}"
            )
        given[place] = known[label]
    if not given:
        raise DataError(f"{file} holds no answer; write one of {', '.join([*design.classes, NONE, SKIP])} into its column label.")
    return given
