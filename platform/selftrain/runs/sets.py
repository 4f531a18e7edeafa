"""The prediction sets of an audit, `selftrain audit ... --sets 0.1`: what the answers support, in words and for the bundle's card. The test is in
evaluation/audit/sets.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from selftrain.bundle.promise import PredictionSets, percent
from selftrain.errors import ConfigError
from selftrain.evaluation.audit.design import Design
from selftrain.evaluation.audit.estimate import LEVEL
from selftrain.evaluation.audit.figures import SKIPPED
from selftrain.evaluation.audit.risk import fewest, look_at
from selftrain.evaluation.audit.sets import Uncovered, cover, explain_uncovered, mean_size, misses, score_of

if TYPE_CHECKING:
    from selftrain.runs.audit_design import AuditDesign


@dataclass(frozen=True)
class PromisedSets:
    """What came of asking for prediction sets."""

    promise: PredictionSets | None  # None where the answers do not support it
    text: str


def check_sets(risk: float | None) -> None:
    """Raise a `ConfigError` unless `risk` is a share that can be promised, or None."""
    if risk is not None and not 0 < risk < 1:
        raise ConfigError(f"sets must be a share of sets without the true class above 0 and below 1, such as 0.1 (got {risk:g}).", parameter="sets")


def check_sets_plan(design: Design, risk: float, budget: int, wanted: str = "sets") -> None:
    """Raise a `ConfigError` where the planned answers support no sets even if every prediction is right.

    Args:
        design: the questions.
        risk: share of sets without the true class, or of documents of a class that are taken for none.
        budget: questions.
        wanted: what is to be promised.
    """
    documents = np.bincount(design.strata)
    look = look_at(budget, budget)
    assert look is not None
    if misses(np.bincount(design.strata[design.order[:budget]], minlength=len(documents)), documents, risk, look.chance) < 0:
        enough = math.ceil(fewest(risk, 0, look.chance) * 1.1 / 10) * 10
        raise ConfigError(
            f"budget must be about {max(enough, budget + 10):,} questions for {wanted} of {risk:g} even if every prediction is right (got {budget}); "
            "set it so, or a larger share.",
            parameter="budget",
        )


def sets_of(design: AuditDesign, given: Mapping[int, int], probabilities: np.ndarray, backend: str, risk: float) -> PromisedSets:
    """The prediction sets that the answers support.

    Args:
        design: of the audit.
        given: place of a question -> its answer; a question without one before the last that has one counts as missed, and so does one of no class.
        probabilities: of the documents of all questions up to the last with an answer, `[n, L]`.
        backend: what computed them.
        risk: share of the documents whose set does not hold the true class, at most.
    """
    strata = np.array([question.stratum for question in design.questions[: len(probabilities)]])
    answers = np.array([given.get(place, SKIPPED) for place in range(len(probabilities))])
    documents = np.array(design.counts).sum(axis=1)
    facts = documents, strata, score_of(probabilities, answers)
    found = cover(*facts, risk=risk, planned=design.planned)
    if found is None:
        missing = explain_uncovered(*facts, risk=risk, planned=design.planned)
        left = design.planned - len(answers)
        why = _why(missing) if missing else f"they take the answers to all {design.planned} planned questions, and {left} are open."
        return PromisedSets(None, f"No sets of {percent(risk)}: {why}")
    sizes = np.maximum(1, (probabilities >= found.threshold).sum(axis=1))
    sets = PredictionSets(
        risk=risk,
        level=LEVEL,
        threshold=found.threshold,
        size=mean_size(documents, strata, sizes),
        classes=len(design.classes),
        documents=int(documents.sum()),
        answers=found.asked,
        missed=found.missed,
        backend=backend,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    seen = f"It rests on {found.asked} answers, {found.missed} of them not in the set, and is kept in the bundle."
    return PromisedSets(sets, f"Sets: {sets.sentence}. {seen}")


def _why(found: Uncovered) -> str:
    if found.allowed < 0:
        said = f"{found.asked} answers of this audit cannot support them, even if every prediction is right"
    else:
        said = f"{found.never} of {found.asked} answers are of none of the classes or skipped, which no set holds, and at most {found.allowed} may be missed"
    return f"{said}; {f'{percent(found.risk)} can be promised now' if found.risk is not None else 'no larger share can be promised either'}."
