"""The promise of an audit, `selftrain audit ... --promise 0.05`: what the answers support, in words and for the bundle's card. The test is in
evaluation/audit/risk.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from selftrain.bundle.promise import Promise, percent
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.audit.design import Design
from selftrain.evaluation.audit.estimate import LEVEL
from selftrain.evaluation.audit.risk import Grid, Unsupported, choose, explain, fewest, grid, look_at

if TYPE_CHECKING:
    from selftrain.runs.audit_design import AuditDesign


@dataclass(frozen=True)
class Promised:
    """What came of asking for a promise."""

    promise: Promise | None  # None where the answers do not support it
    text: str


def check_risk(risk: float | None) -> None:
    """Raise a `ConfigError` unless `risk` is a share that can be promised, or None."""
    if risk is not None and not 0 < risk < 1:
        raise ConfigError(f"promise must be a share of wrong answers above 0 and below 1, such as 0.05 (got {risk:g}).", parameter="promise")


def check_plan(design: Design, scores: np.ndarray, risk: float, budget: int) -> None:
    """Raise a `ConfigError` where the planned answers support no promise even if every prediction is right.

    Args:
        design: the questions.
        scores: of all documents, `[N]`.
        risk: share of wrong answers.
        budget: questions.
    """
    asked = design.order[:budget]
    none_wrong = np.zeros(budget, dtype=bool)
    if choose(grid(scores, design.strata), design.strata[asked], scores[asked], none_wrong, risk=risk, planned=budget) is not None:
        return
    look = look_at(budget, budget)
    assert look is not None
    enough = math.ceil(fewest(risk, 0, look.chance) * 1.25 / 10) * 10  # a fifth of the questions goes elsewhere
    raise ConfigError(
        f"budget must be about {max(enough, budget + 10):,} questions for a promise of {risk:g} even if every prediction is right (got {budget}); "
        "set it so, or a larger promise.",
        parameter="budget",
    )


def promise_of(design: AuditDesign, given: Mapping[int, int], risk: float) -> Promised:
    """The promise that the answers support.

    Args:
        design: of the audit.
        given: place of a question -> its answer; a question without one before the last that has one counts as wrong.
        risk: share of wrong answers among those that are given, at most.

    Raises:
        DataError: the design was made before there were promises.
    """
    if not design.thresholds:
        raise DataError("The audit was planned by a version without promises; start another audit with a new out.")
    questions = design.questions[: max(given) + 1]
    facts = (
        Grid(np.array(design.thresholds), np.array(design.counts).sum(axis=1), np.array(design.above)),
        np.array([question.stratum for question in questions]),
        np.array([question.score for question in questions]),
        np.array([given.get(place) != question.predicted for place, question in enumerate(questions)]),
    )
    found = choose(*facts, risk=risk, planned=design.planned)
    if found is None:
        missing = explain(*facts, risk=risk, planned=design.planned)
        left = design.planned - len(questions)
        why = _why(missing, len(questions)) if missing else f"it takes the answers to all {design.planned} planned questions, and {left} are open."
        return Promised(None, f"No promise of {percent(risk)}: {why}")
    promise = Promise(
        risk=risk,
        level=LEVEL,
        threshold=found.threshold,
        answered=found.answered,
        documents=int(np.array(design.counts).sum()),
        answers=found.asked,
        wrong=found.wrong,
        backend=design.backend,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    seen = f"It rests on {found.asked} of the answers, {found.wrong} of them against the prediction, and is kept in the bundle."
    return Promised(promise, f"Promise: {promise.sentence}. {seen}")


def _why(found: Unsupported, asked: int) -> str:
    if found.allowed < 0:
        said = f"{asked} answers of this audit cannot support it, even if all agree with the prediction"
    else:
        said = f"{found.wrong} of {found.asked} answers about the surest documents are against the prediction, and at most {found.allowed} may be"
    more = [] if found.answers is None else [f"about {found.answers - asked:,} more answers would support it if they are like these"]
    more += [] if found.risk is None else [f"{percent(found.risk)} can be promised now"]
    return f"{said}; {', and '.join(more) if more else 'a larger share may be, with another audit that is planned for it'}."
