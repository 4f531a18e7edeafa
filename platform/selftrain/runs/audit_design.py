"""design.json of an audit: how its questions were chosen, without which the answers say nothing. There are two kinds: of one label a document, and of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selftrain.errors import DataError
from selftrain.evaluation.audit.figures import SKIPPED
from selftrain.files.parsing import json_of
from selftrain.runs.questions import question_key

DESIGN = "design.json"


class Asked(BaseModel):
    """A document that is asked about, or will be."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="of the document")


class Question(Asked):
    """Of a document that has one class."""

    stratum: int = Field(ge=0)
    predicted: int = Field(ge=0, description="index of the class")
    score: float | None = Field(default=None, ge=0, le=1, description="its probability; None in designs of before promises")


class Answered(NamedTuple):
    """The questions up to the last with an answer, as `evaluation.audit.figures.figures` takes them."""

    counts: np.ndarray  # [stratum, predicted class]: documents
    strata: np.ndarray  # [n]
    predicted: np.ndarray  # [n]
    answers: np.ndarray  # [n]

    @property
    def documents(self) -> np.ndarray:
        """Documents in each stratum, `[H]`."""
        return np.asarray(self.counts.sum(axis=1))


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
    backend: str = Field(default="", description="what computed the probabilities")
    thresholds: tuple[float, ...] = Field(default=(), description="that a promise may be made of, falling (evaluation/audit/risk.py)")
    above: tuple[tuple[int, ...], ...] = Field(default=(), description="[stratum][threshold]: documents whose score reaches it")

    def answered(self, given: Mapping[int, int]) -> Answered:
        """The questions that count. Those without an answer before the last one with an answer are skipped: those that were easy may have been chosen.

        Args:
            given: place of a question -> index of the answer, as in `figures`; at least one.
        """
        questions = self.questions[: max(given) + 1]
        return Answered(
            np.array(self.counts),
            np.array([question.stratum for question in questions]),
            np.array([question.predicted for question in questions]),
            np.array([given.get(place, SKIPPED) for place in range(len(questions))]),
        )


class SeveralQuestion(Asked):
    """Of a document that may have several."""

    labels: tuple[int, ...] = Field(description="indices of the classes that are predicted for it, ascending")


class SeveralDesign(BaseModel):
    """design.json of several labels a document: the questions are a simple random sample (evaluation/audit/several.py)."""

    model_config = ConfigDict(frozen=True)

    format: Literal[2] = 2
    several: Literal[True] = True
    bundle: str = Field(description="fingerprint of the bundle's files")
    documents: str = Field(description="fingerprint of the documents")
    classes: tuple[str, ...] = Field(min_length=2)
    thresholds: tuple[float, ...] = Field(description="[class]: of the bundle, from which on a class was predicted")
    separator: str = Field(min_length=1, description="between the labels of an answer")
    planned: int = Field(ge=1, description="questions that were planned before the first answer")
    seed: int
    population: int = Field(ge=1, description="documents that there are")
    predicted: tuple[int, ...] = Field(description="[class]: how many of them it is predicted for")
    questions: tuple[SeveralQuestion, ...] = Field(min_length=1, description="in the order in which they are asked; more than were planned")


def asked_in(out: Path, parameter: str = "out") -> tuple[AuditDesign, tuple[str, ...]]:
    """The design of the audit in a folder, and the ids that its questions have in files, in the order in which they are asked.

    Args:
        out: the folder.
        parameter: that it was passed as.

    Raises:
        DataError: there is none, or it is damaged.
    """
    design = read_design(out, parameter)
    return design, keys_of(design)


def keys_of(design: AuditDesign | SeveralDesign) -> tuple[str, ...]:
    """The ids that the questions of a design have in files, in the order in which they are asked."""
    return tuple(question_key(place, question.id) for place, question in enumerate(design.questions))


def read_design(out: Path, parameter: str = "out") -> AuditDesign:
    """The design of the audit of one label a document in a folder.

    Args:
        out: the folder.
        parameter: that it was passed as.

    Raises:
        DataError: there is none, it is damaged, or it asks for several labels.
    """
    design = read_any_design(out, parameter)
    if isinstance(design, SeveralDesign):
        raise DataError(
            f"{parameter} {str(out)!r} holds an audit of several labels a document; set the folder of one of a single label.", parameter=parameter
        )
    return design


def read_any_design(out: Path, parameter: str = "out") -> AuditDesign | SeveralDesign:
    """The design of the audit in a folder, of either kind.

    Args:
        out: the folder.
        parameter: that it was passed as.

    Raises:
        DataError: there is none, or it is damaged.
    """
    file = out / DESIGN
    if not file.is_file():
        raise DataError(f"{parameter} {str(out)!r} holds no {DESIGN}; set the folder that the questions were written into.", parameter=parameter)
    try:
        found = json_of(file.read_text(encoding="utf-8"))
        kind = SeveralDesign if isinstance(found, dict) and found.get("several") else AuditDesign
        design = kind.model_validate(found)
    except (OSError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:200]
        raise DataError(f"{file} is damaged ({said}); without it the answers say nothing: start another audit with a new out.") from None
    if not (_several_fit(design) if isinstance(design, SeveralDesign) else _fits(design)):
        raise DataError(f"{file} is damaged (its numbers do not fit each other); start another audit with a new out.")
    return design


def _fits(design: AuditDesign) -> bool:
    left = Counter({(stratum, index): count for stratum, row in enumerate(design.counts) for index, count in enumerate(row)})
    left.subtract((question.stratum, question.predicted) for question in design.questions)
    rows, above = {len(row) for row in design.counts}, {len(row) for row in design.above}
    if design.thresholds and (
        above != {len(design.thresholds)} or len(design.above) != len(design.counts) or any(one.score is None for one in design.questions)
    ):
        return False
    return rows == {len(design.classes)} and min(left.values()) >= 0 and len({question.id for question in design.questions}) == len(design.questions)


def _several_fit(design: SeveralDesign) -> bool:
    classes, asked = len(design.classes), Counter(label for question in design.questions for label in question.labels)
    if {len(design.thresholds), len(design.predicted)} != {classes} or not set(asked) <= set(range(classes)):
        return False
    # No more questions about the documents of a class than there are, nor about the others.
    left = [(count - asked[label], design.population - count - len(design.questions) + asked[label]) for label, count in enumerate(design.predicted)]
    return min(min(pair) for pair in left) >= 0 and len({question.id for question in design.questions}) == len(design.questions)
