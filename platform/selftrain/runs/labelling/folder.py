"""A folder of questions: documents, and the classes that they may be of. Its purpose decides what the answers may be used for.

    audit      design.json and questions.csv of `selftrain audit`: a random sample, which says how good a bundle is, and from which nothing is learned
    training   training.json and questions.csv of `training.py`: documents chosen to be useful, which are learned from, and which say nothing about accuracy

A folder has one of the two, and its answers are written into a file that the other's command refuses.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selftrain.data.cleaning import label_key
from selftrain.data.label_sets import cell_of, labels_in
from selftrain.data.records import Record, check_source, open_records
from selftrain.errors import DataError, nearest
from selftrain.evaluation.audit.figures import SKIPPED, Figure
from selftrain.files.durable import whole_file
from selftrain.files.parsing import json_of
from selftrain.runs.audit import accuracy_so_far
from selftrain.runs.audit_design import DESIGN, AuditDesign, SeveralDesign, keys_of, read_any_design
from selftrain.runs.audit_files import QUESTIONS
from selftrain.runs.audit_several import exact_match_so_far
from selftrain.runs.labeled import spreadsheet_cell
from selftrain.runs.questions import COLUMNS, NONE, SKIP

Purpose = Literal["audit", "training"]
CHOICE = "training.json"
EXPORTS: dict[Purpose, str] = {"audit": "answers.csv", "training": "training.csv"}


class Choice(BaseModel):
    """training.json."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    classes: tuple[str, ...] = Field(min_length=2)
    parents: tuple[tuple[str, ...], ...] = Field(default=(), description="[class]: the groups that it is in, the outermost first; empty: no tree")
    questions: tuple[str, ...] = Field(min_length=1, description="ids of the rows of questions.csv that are asked about, in this order")
    model: dict[str, Any] = Field(default_factory=dict, description="what the successor's model has in common with the bundle's: keys of `model`")
    audit: str = Field(default="", description="folder of the audit whose documents are not asked about; empty for none")


class Question(NamedTuple):
    """A document that is asked about."""

    key: str  # id of its row
    text: str


@dataclass(frozen=True)
class Folder:
    """What a folder asks.

    Attributes:
        path: of the folder.
        purpose: what the answers are for.
        classes: names, in index order.
        file: the questions.
        questions: in the order in which they are asked.
        given: answers that stand in the file already, key -> answer.
        design: of an audit.
        choice: of training.
    """

    path: Path
    purpose: Purpose
    classes: tuple[str, ...]
    file: Path
    questions: tuple[Question, ...]
    given: Mapping[str, str]
    design: AuditDesign | SeveralDesign | None = None
    choice: Choice | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        """Every possible answer, as it is written; where a document may have several classes, what answers are made of."""
        return (*self.classes, NONE, SKIP)

    @property
    def separator(self) -> str:
        """Between the classes of an answer; empty where a document has one."""
        return self.design.separator if isinstance(self.design, SeveralDesign) else ""

    def parts(self, answer: str) -> list[str]:
        """The classes of an answer, `NONE` or `SKIP`; of what is no answer anything else."""
        return [answer] if not self.separator or answer in (NONE, SKIP) else [part.strip() for part in answer.split(self.separator)]

    def knows(self, answer: str) -> bool:
        """Whether this is an answer as it is kept."""
        return answer in self.answers or (bool(self.separator) and set(self.parts(answer)) <= set(self.classes))

    def answer_of(self, given: str | Sequence[str]) -> str:
        """An answer as it is kept.

        Args:
            given: one of `answers`; where a document may have several classes a list of them, `NONE` or `SKIP`.

        Raises:
            DataError: it is not.
        """
        if not self.separator:
            if given in self.answers:
                return str(given)
            raise DataError(f"answer must be one of {', '.join(self.answers)} (got {_said(given)}).")
        if isinstance(given, str) and given in (NONE, SKIP):
            return given
        if isinstance(given, str) or not set(given) <= set(self.classes):
            raise DataError(f"answer must be a list of {', '.join(self.classes)}; or one of {NONE}, {SKIP} (got {_said(given)}).")
        return cell_of([name for name in self.classes if name in given], self.separator) if given else NONE

    @property
    def export(self) -> Path:
        """The file that `write` makes."""
        return self.path / EXPORTS[self.purpose]

    def accuracy(self, answers: Mapping[str, str]) -> tuple[Figure, bool] | None:
        """What the answers of an audit say of the bundle's accuracy (of several labels: of exact match), and whether that holds at every number of answers; None
        without one, and in training."""
        if self.design is None:
            return None
        index = {name: place for place, name in enumerate(self.classes)} | {NONE: len(self.classes), SKIP: SKIPPED}
        given = {place: [index[part] for part in self.parts(answers[one.key])] for place, one in enumerate(self.questions) if one.key in answers}
        if not given:
            return None
        if isinstance(self.design, AuditDesign):
            return accuracy_so_far(self.design, {place: answer for place, (answer,) in given.items()})
        sets = {place: tuple(one for one in answer if one < len(self.classes)) for place, answer in given.items()}
        return exact_match_so_far(self.design, {place: None if SKIPPED in answer else answer for place, answer in sets.items()})

    def csv(self, answers: Mapping[str, str]) -> str:
        """The questions with their answers: what `selftrain audit --answers` reads, of several labels also `selftrain thresholds`, or in training `selftrain run`.

        A run takes a document without a label for an unlabeled one, which one of no class is not: it is left out. Of several labels it has its own sign.
        """
        written = io.StringIO(newline="")
        writer = csv.writer(written)
        writer.writerow(COLUMNS)
        for row in rows_of(self.file):
            key = row["id"].strip()
            answer = answers.get(key, "")
            if self.purpose == "audit":
                writer.writerow([key, row["text"], spreadsheet_cell(self.separator if self.separator and answer == NONE else answer)])
            elif answer != NONE:
                writer.writerow([key, row["text"], "" if answer == SKIP else answer])
        return written.getvalue()

    def write(self, answers: Mapping[str, str]) -> Path:
        """Write `csv` into the folder, whole or not at all.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        with whole_file(self.export, "folder") as partial:
            partial.write_text(self.csv(answers), encoding="utf-8", newline="")
        return self.export


def open_folder(path: Path) -> Folder:
    """Read the questions of a folder, of either purpose.

    Raises:
        DataError: it holds no questions, or they do not fit their design.
    """
    audit, training = (path / DESIGN).is_file(), (path / CHOICE).is_file()
    if audit and training:
        raise DataError(f"{path} holds both {DESIGN} and {CHOICE}; answers have one purpose: move one of the two into a folder of its own.")
    if audit:
        return _open_audit(path)
    if training:
        return _open_training(path, _read_choice(path / CHOICE))
    raise DataError(f"folder {str(path)!r} holds no questions: neither {DESIGN}, of an audit, nor {CHOICE}; set another.", parameter="folder")


def _open_audit(path: Path) -> Folder:
    file = _longest(path)
    design = read_any_design(path)
    keys = keys_of(design)
    separator = design.separator if isinstance(design, SeveralDesign) else ""
    places = {key: place for place, key in enumerate(keys)}
    found: dict[int, Question] = {}
    given: dict[str, str] = {}
    for row in rows_of(file):
        key = row["id"].strip()
        place = places.get(key)
        if place is None or place in found:
            why = "which is none of this audit" if place is None else "a second time"
            raise DataError(f"{file} has the id {key[:50]!r}, {why}; start another audit.")
        found[place] = Question(key, _shown(row["text"]))
        if (answer := _answer(row["label"], design.classes, file, separator)) is not None:
            given[key] = answer
    missing = next((place for place in range(max(1, len(found))) if place not in found), None)
    if missing is not None:
        raise DataError(f"{file} lacks question {missing + 1}; start another audit.")
    return Folder(path, "audit", design.classes, file, tuple(found[place] for place in range(len(found))), given, design)


def _open_training(path: Path, choice: Choice) -> Folder:
    file = path / QUESTIONS
    asked = dict.fromkeys(choice.questions, "")
    given: dict[str, str] = {}
    for row in rows_of(file):
        key = row["id"].strip()
        if key in asked:
            asked[key] = row["text"]
        if (answer := _answer(row["label"], choice.classes, file)) is not None:
            given[key] = answer
    if missing := [key for key, text in asked.items() if not text]:
        raise DataError(f"{file} lacks the row {missing[0]!r}, which {CHOICE} asks about; start another folder.")
    return Folder(path, "training", choice.classes, file, tuple(Question(key, text) for key, text in asked.items()), given, choice=choice)


def _longest(path: Path) -> Path:
    """questions.csv, or the questions-N.csv with which the audit went on furthest."""
    more = [(int(number), file) for file in path.glob("questions-*.csv") if (number := file.stem.removeprefix("questions-")).isdigit()]
    return max(more)[1] if more else path / QUESTIONS


def rows_of(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a file of questions, with a text in each column.

    Raises:
        DataError: it cannot be read, or a row lacks a column.
    """
    check_source(file, "folder")
    for record in open_records(file, "label").read():
        yield _row(record, file)


def _row(record: Record, file: Path) -> dict[str, str]:
    row = record.value
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in COLUMNS[:2]) or record.slipped:
        raise DataError(f"{record.place.capitalize()} of {file} lacks the column id or text; keep the columns {', '.join(COLUMNS)}.")
    return {name: str(row.get(name) or "") for name in COLUMNS}


def _shown(cell: str) -> str:
    """The text of a cell, without the apostrophe that `spreadsheet_cell` put in front."""
    return cell[1:] if cell.startswith("'") and spreadsheet_cell(cell[1:]) == cell else cell


def _answer(cell: str, classes: tuple[str, ...], file: Path, separator: str = "") -> str | None:
    """The answer of a cell as it is written here; None for none."""
    named = {str(label_key(name)): name for name in classes}
    known = {NONE: NONE, SKIP: SKIP} | named
    key = label_key(cell.removeprefix("'"))
    if key is None or key in known:
        return known.get(key or "")
    parts = labels_in(key, separator) or [] if separator else [key]
    if (wrong := next((part for part in parts if part not in named), None)) is not None:
        raise DataError(f"{file} has the label {cell[:50]!r}, which is no class; {nearest(wrong, known)}")
    return cell_of([name for key, name in named.items() if key in parts], separator) if parts else NONE


def _said(given: str | Sequence[str]) -> str:
    return repr((given if isinstance(given, str) else ", ".join(given))[:50])


def _read_choice(file: Path) -> Choice:
    try:
        return Choice.model_validate(json_of(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:200]
        raise DataError(f"{file} is damaged ({said}); start another folder.") from None
