"""Texts of no class by an audit, `selftrain audit ... --none-of-these 0.05`: up to which typicality a text is taken for none of the classes, in words and for the
bundle's card. The test is that of prediction sets, evaluation/audit/sets.py: a document of a class is missed where its typicality does not pass the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from selftrain.bundle.promise import NoneOfThese, percent
from selftrain.errors import ConfigError
from selftrain.evaluation.audit.estimate import LEVEL
from selftrain.evaluation.audit.figures import SKIPPED
from selftrain.evaluation.audit.sets import cover, explain_uncovered

if TYPE_CHECKING:
    from selftrain.runs.audit_design import AuditDesign


@dataclass(frozen=True)
class PromisedNone:
    """What came of asking for a threshold."""

    promise: NoneOfThese | None  # None where the answers do not support it
    text: str


def check_none_of_these(risk: float | None) -> None:
    """Raise a `ConfigError` unless `risk` is a share that can be promised, or None."""
    if risk is not None and not 0 < risk < 1:
        raise ConfigError(
            f"none_of_these must be a share of texts of a class that are taken for none, above 0 and below 1, such as 0.05 (got {risk:g}).",
            parameter="none_of_these",
        )


def none_of_these_of(design: AuditDesign, given: Mapping[int, int], typicality: np.ndarray, backend: str, risk: float) -> PromisedNone:
    """The threshold that the answers support.

    Args:
        design: of the audit.
        given: place of a question -> its answer; a question without one, or one that was skipped, may be of a class and counts as such.
        typicality: of the documents of all questions up to the last with an answer, `[n]`.
        backend: what computed it.
        risk: share of the documents that are of a class and taken for none, at most.
    """
    strata = np.array([question.stratum for question in design.questions[: len(typicality)]])
    answers = np.array([given.get(place, SKIPPED) for place in range(len(typicality))])
    none = answers == len(design.classes)
    documents = np.array(design.counts).sum(axis=1)
    facts = documents, strata, np.where(none, math.inf, typicality)  # a document of no class is never taken for none by mistake
    found = cover(*facts, risk=risk, planned=design.planned)
    if found is None:
        missing = explain_uncovered(*facts, risk=risk, planned=design.planned)
        left = design.planned - len(answers)
        why = (
            f"it takes the answers to all {design.planned} planned questions, and {left} are open."
            if missing is None
            else f"{missing.asked} answers of this audit cannot support it, whatever they are; "
            + ("a larger share may be." if missing.risk is None else f"{percent(missing.risk)} can be promised now.")
        )
        return PromisedNone(None, f"No promise of {percent(risk)} for none of these: {why}")
    none, typicality = none[: found.asked], typicality[: found.asked]
    threshold = min(found.threshold, 1.0)
    promise = NoneOfThese(
        risk=risk,
        level=LEVEL,
        threshold=threshold,
        documents=int(documents.sum()),
        answers=found.asked,
        wrong=int((typicality[~none] <= threshold).sum()),
        none=int(none.sum()),
        caught=int((typicality[none] <= threshold).sum()),
        backend=backend,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return PromisedNone(promise, f"None of these: {promise.sentence}. It rests on {found.asked} answers, and is kept in the bundle.")
