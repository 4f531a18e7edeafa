"""What an audit is asked to promise: what the answers support, in words and for the bundle's card.

--promise 0.05         abstaining; the test is in evaluation/audit/risk.py
--sets 0.1             prediction sets; evaluation/audit/sets.py
--none-of-these 0.05   up to which typicality a text is taken for none of the classes. The test is that of prediction sets: a document of a class is missed
                       where its typicality does not pass the threshold
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic

import numpy as np

from selftrain.bundle.promise import NoneOfThese, PredictionSets, Promise, Stated, percent
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.audit.design import Design
from selftrain.evaluation.audit.estimate import LEVEL
from selftrain.evaluation.audit.risk import Grid, Unsupported, choose, explain, fewest, grid, look_at
from selftrain.evaluation.audit.sets import Covering, Uncovered, cover, explain_uncovered, mean_size, misses, score_of
from selftrain.runs.audit_design import AuditDesign

_SHARES = {
    "promise": "wrong answers above 0 and below 1, such as 0.05",
    "sets": "sets without the true class above 0 and below 1, such as 0.1",
    "none_of_these": "texts of a class that are taken for none, above 0 and below 1, such as 0.05",
}


@dataclass(frozen=True)
class Promised(Generic[Stated]):
    """What came of asking for a promise."""

    promise: Stated | None  # None where the answers do not support it
    text: str


def check_shares(asked: Mapping[str, float | None]) -> None:
    """Raise a `ConfigError` unless what is asked for is a share that can be promised, or None.

    Args:
        asked: promise, sets and none_of_these -> the share.
    """
    for parameter, share in asked.items():
        if share is not None and not 0 < share < 1:
            raise ConfigError(f"{parameter} must be a share of {_SHARES[parameter]} (got {share:g}).", parameter=parameter)


def check_plan(design: Design, scores: np.ndarray, asked: Mapping[str, float | None], budget: int) -> None:
    """Raise a `ConfigError` where the planned answers do not support what is asked for even if every prediction is right.

    Args:
        design: the questions.
        scores: of all documents, `[N]`.
        asked: as in `check_shares`.
        budget: questions.
    """
    look, strata = look_at(budget, budget), design.strata[design.order[:budget]]
    assert look is not None
    for parameter, risk in asked.items():
        if risk is None:
            continue
        if parameter == "promise":
            facts = grid(scores, design.strata), strata, scores[design.order[:budget]], np.zeros(budget, dtype=bool)
            supported = choose(*facts, risk=risk, planned=budget) is not None
            named, larger, more = "a promise", "promise", 1.25  # a fifth of the questions goes elsewhere
        else:
            documents = np.bincount(design.strata)
            supported = misses(np.bincount(strata, minlength=len(documents)), documents, risk, look.chance) >= 0
            named, larger, more = parameter, "share", 1.1
        if not supported:
            enough = math.ceil(fewest(risk, 0, look.chance) * more / 10) * 10
            raise ConfigError(
                f"budget must be about {max(enough, budget + 10):,} questions for {named} of {risk:g} even if every prediction is right (got {budget}); "
                f"set it so, or a larger {larger}.",
                parameter="budget",
            )


def promise_of(design: AuditDesign, given: Mapping[int, int], risk: float) -> Promised[Promise]:
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
    asked = design.answered(given)
    scores = np.array([question.score for question in design.questions[: len(asked.strata)]])
    facts = Grid(np.array(design.thresholds), asked.documents, np.array(design.above)), asked.strata, scores, asked.answers != asked.predicted
    found = choose(*facts, risk=risk, planned=design.planned)
    if found is None:
        missing = explain(*facts, risk=risk, planned=design.planned)
        why = _unsupported(missing, len(scores)) if missing else _open("it takes", design, len(scores))
        return Promised(None, f"No promise of {percent(risk)}: {why}")
    promise = Promise(answered=found.answered, answers=found.asked, wrong=found.wrong, **_stated(design, risk, found.threshold, design.backend))
    seen = f"It rests on {found.asked} of the answers, {found.wrong} of them against the prediction, and is kept in the bundle."
    return Promised(promise, f"Promise: {promise.sentence}. {seen}")


def sets_of(design: AuditDesign, given: Mapping[int, int], probabilities: np.ndarray, backend: str, risk: float) -> Promised[PredictionSets]:
    """The prediction sets that the answers support.

    Args:
        design: of the audit.
        given: place of a question -> its answer; a question without one before the last that has one counts as missed, and so does one of no class.
        probabilities: of the documents of all questions up to the last with an answer, `[n, L]`.
        backend: what computed them.
        risk: share of the documents whose set does not hold the true class, at most.
    """
    asked = design.answered(given)
    found = _covered(design, asked.documents, asked.strata, score_of(probabilities, asked.answers), risk)
    if not isinstance(found, Covering):
        why = _uncovered(found) if found else _open("they take", design, len(probabilities))
        return Promised(None, f"No sets of {percent(risk)}: {why}")
    sizes = np.maximum(1, (probabilities >= found.threshold).sum(axis=1))
    sets = PredictionSets(
        size=mean_size(asked.documents, asked.strata, sizes),
        classes=len(design.classes),
        answers=found.asked,
        missed=found.missed,
        **_stated(design, risk, found.threshold, backend),
    )
    seen = f"It rests on {found.asked} answers, {found.missed} of them not in the set, and is kept in the bundle."
    return Promised(sets, f"Sets: {sets.sentence}. {seen}")


def none_of_these_of(design: AuditDesign, given: Mapping[int, int], typicality: np.ndarray, backend: str, risk: float) -> Promised[NoneOfThese]:
    """The threshold that the answers support.

    Args:
        design: of the audit.
        given: place of a question -> its answer; a question without one, or one that was skipped, may be of a class and counts as such.
        typicality: of the documents of all questions up to the last with an answer, `[n]`.
        backend: what computed it.
        risk: share of the documents that are of a class and taken for none, at most.
    """
    asked = design.answered(given)
    none = asked.answers == len(design.classes)
    scores = np.where(none, math.inf, typicality)  # a document of no class is never taken for none by mistake
    found = _covered(design, asked.documents, asked.strata, scores, risk)
    if not isinstance(found, Covering):
        why = _open("it takes", design, len(typicality))
        if found is not None:
            larger = "a larger share may be." if found.risk is None else f"{percent(found.risk)} can be promised now."
            why = f"{found.asked} answers of this audit cannot support it, whatever they are; {larger}"
        return Promised(None, f"No promise of {percent(risk)} for none of these: {why}")
    none, threshold = none[: found.asked], min(found.threshold, 1.0)
    taken = typicality[: found.asked] <= threshold
    promise = NoneOfThese(
        answers=found.asked,
        wrong=int(taken[~none].sum()),
        none=int(none.sum()),
        caught=int(taken[none].sum()),
        **_stated(design, risk, threshold, backend),
    )
    return Promised(promise, f"None of these: {promise.sentence}. It rests on {found.asked} answers, and is kept in the bundle.")


def _stated(design: AuditDesign, risk: float, threshold: float, backend: str) -> dict[str, Any]:
    """What every promise states."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {"risk": risk, "level": LEVEL, "threshold": threshold, "documents": int(np.sum(design.counts)), "backend": backend, "made": made}


def _covered(design: AuditDesign, documents: np.ndarray, strata: np.ndarray, scores: np.ndarray, risk: float) -> Covering | Uncovered | None:
    """What the answers support by the test of prediction sets, or why nothing; None before the planned number of answers."""
    facts = documents, strata, scores
    return cover(*facts, risk=risk, planned=design.planned) or explain_uncovered(*facts, risk=risk, planned=design.planned)


def _open(takes: str, design: AuditDesign, asked: int) -> str:
    return f"{takes} the answers to all {design.planned} planned questions, and {design.planned - asked} are open."


def _unsupported(found: Unsupported, asked: int) -> str:
    if found.allowed < 0:
        said = f"{asked} answers of this audit cannot support it, even if all agree with the prediction"
    else:
        said = f"{found.wrong} of {found.asked} answers about the surest documents are against the prediction, and at most {found.allowed} may be"
    more = [] if found.answers is None else [f"about {found.answers - asked:,} more answers would support it if they are like these"]
    more += [] if found.risk is None else [f"{percent(found.risk)} can be promised now"]
    return f"{said}; {', and '.join(more) if more else 'a larger share may be, with another audit that is planned for it'}."


def _uncovered(found: Uncovered) -> str:
    if found.allowed < 0:
        said = f"{found.asked} answers of this audit cannot support them, even if every prediction is right"
    else:
        said = f"{found.never} of {found.asked} answers are of none of the classes or skipped, which no set holds, and at most {found.allowed} may be missed"
    return f"{said}; {f'{percent(found.risk)} can be promised now' if found.risk is not None else 'no larger share can be promised either'}."
