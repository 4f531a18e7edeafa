"""The files of an audit, of one label a document (audit.py) or of several (audit_several.py), and what both make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import BundleCard
from selftrain.bundle.promise import NoneOfThese, PredictionSets, Promise
from selftrain.data.corpus import Corpus, Documents
from selftrain.errors import ConfigError, DataError, OutputError
from selftrain.evaluation.audit.figures import AuditFigures
from selftrain.evaluation.audit.several import SeveralFigures
from selftrain.files.durable import check_folder, replacing_folder, whole_file
from selftrain.runs.audit_design import DESIGN, AuditDesign, SeveralDesign, keys_of
from selftrain.runs.promise import Promised
from selftrain.runs.questions import write_questions

QUESTIONS, FIGURES, REPORT = "questions.csv", "audit.json", "audit.md"
REACH = 20  # times the budget: questions that a design keeps, for whoever goes on


@dataclass(frozen=True)
class Planned:
    """A new audit."""

    file: Path  # questions.csv
    questions: int
    documents: int
    classes: tuple[str, ...]
    separator: str = ""  # between the labels of an answer, where a document may have several


@dataclass(frozen=True)
class Audited:
    """An audit with answers."""

    figures: AuditFigures | SeveralFigures
    text: str
    report: Path
    promised: Promised[Promise] | None  # where a promise was asked for
    sets: Promised[PredictionSets] | None  # where prediction sets were asked for
    none_of_these: Promised[NoneOfThese] | None  # where that was asked for
    more: Path | None  # a file with the answers so far and further questions, where they were asked for


def check_new(out: Path) -> None:
    """Raise an `OutputError` unless `out` is a new or empty folder."""
    if (out / DESIGN).exists():
        raise OutputError(f"out {str(out)!r} holds an audit already; pass its answers, or set another folder for a new one.", parameter="out")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"out {str(out)!r} is not an empty folder; set a new one, so that nothing of yours is overwritten.", parameter="out")
    check_folder(out, "out")


def corpus_to_ask_about(card: BundleCard, documents: str, text_column: str, budget: int) -> Corpus:
    """The documents of a new audit.

    Raises:
        ConfigError: there are fewer than `budget`.
        DataError: as `load_documents`.
    """
    corpus, _ = load_documents(card, documents, text_column=text_column, test_documents=0)
    if budget > len(corpus.unlabeled):
        raise ConfigError(f"budget must be at most {len(corpus.unlabeled)}, the number of different documents (got {budget}).", parameter="budget")
    return corpus


def audited_corpus(design: AuditDesign | SeveralDesign, card: BundleCard, documents: str, text_column: str, out: Path) -> Corpus:
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


def write_audit(out: Path, design: AuditDesign | SeveralDesign, documents: Documents) -> Path:
    """Write questions.csv and design.json, both or neither; the first is returned.

    Raises:
        OutputError: `out` cannot be written.
    """
    try:
        with replacing_folder(out) as scratch:
            _write_questions(scratch / QUESTIONS, design, design.planned, documents, {})
            (scratch / DESIGN).write_text(design.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as problem:
        raise OutputError(f"out cannot be written (got {str(out)!r}): {problem.strerror}; set another folder.", parameter="out") from None
    return out / QUESTIONS


def check_reach(design: AuditDesign | SeveralDesign, budget: int | None) -> None:
    """Raise a `ConfigError` where a design has fewer questions than `budget`."""
    if budget is not None and budget > len(design.questions):
        raise ConfigError(f"budget must be at most {len(design.questions)}, the questions of this design (got {budget}).", parameter="budget")


def write_figures(out: Path, name: str, text: str, found: AuditFigures | SeveralFigures) -> Path:
    """Write audit.md and audit.json, each whole or not at all; the first is returned.

    Args:
        out: the folder.
        name: of the bundle.
        text: of the report.
        found: the figures.
    """
    with whole_file(out / REPORT, "out") as partial:
        partial.write_text(f"# Audit of {name}\n\n{text}\n", encoding="utf-8")
    with whole_file(out / FIGURES, "out") as partial:
        partial.write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return out / REPORT


def ask_more(out: Path, design: AuditDesign | SeveralDesign, given: Mapping[int, str], budget: int | None, documents: Documents) -> Path | None:
    """Write a file with the answers so far and further questions; None where `budget` asks for none.

    Args:
        out: the folder.
        design: of the audit.
        given: place of a question -> its answer, as it is written.
        budget: questions in the file.
        documents: of the audit.
    """
    if budget is None or budget <= max(design.planned, max(given) + 1):
        return None
    file = out / f"questions-{budget}.csv"
    with whole_file(file, "out") as partial:
        _write_questions(partial, design, budget, documents, given)
    return file


def _write_questions(file: Path, design: AuditDesign | SeveralDesign, count: int, documents: Documents, given: Mapping[int, str]) -> None:
    places = {id_: index for index, id_ in enumerate(documents.ids)}
    asked = enumerate(zip(keys_of(design), design.questions[:count], strict=False))
    write_questions(file, ((key, documents.contents[places[question.id]], given.get(place, "")) for place, (key, question) in asked))
