"""Prediction sets with a promise: for at least a given share of the documents the set holds the true class, with 95 % confidence, by the answers of an audit.

A set holds the most probable class, and every other whose probability reaches a threshold. So a class of a document has a score (`score_of`), the set of a threshold
are the classes that reach it, and a document is missed where the score of its true class does not. This is split conformal prediction (Papadopoulos, Proedrou, Vovk
and Gammerman 2002) in the form that holds with the answers given: of a level that most audits reach, and not of one that they reach on average (Vovk,
arXiv:1209.2673; Park, Bastani, Matni and Lee, arXiv:2001.00106).

The usual quantile takes answers for as good as drawn at random from all documents. An audit asks about some strata more than about others, so the number of answers
that may be missed is ours: the largest that the test of risk.py refuses "more than the share is missed" with, however the missed documents lie over the strata.
With one rate for all that is the binomial test. The share that is missed falls with the threshold, so the threshold may be chosen after the answers were seen: where
the promise is broken, so few answers are missed at a lower threshold too, the highest that is too high, and that is as unlikely as the test says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selftrain.evaluation.audit.risk import RISKS, look_at, supported

NEVER = -math.inf  # the score of a true class that no set can hold: the document is of none of the classes, or nobody knows its class
_ROUNDING = 1e-4  # of a threshold: so much lower than the score that it comes from, that another backend's rounding leaves no class out


@dataclass(frozen=True)
class Covering:
    """What the answers support.

    Attributes:
        threshold: of a class's probability.
        asked: answers that it rests on.
        missed: of them, those whose set does not hold the true class.
    """

    threshold: float
    asked: int
    missed: int


@dataclass(frozen=True)
class Uncovered:
    """Why there is no promise of sets, and what there could be.

    Attributes:
        asked: answers that count.
        never: of them, those whose true class no set can hold.
        allowed: answers that may be missed; -1 where the answers are too few even if none is.
        risk: the smallest of `RISKS` that the present answers support; None where they support none.
    """

    asked: int
    never: int
    allowed: int
    risk: float | None


def score_of(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The highest threshold whose set holds a class, of each document, `[n]`: its probability, and 1 for the most probable class, which every set holds.

    Args:
        probabilities: of the documents, `[n, L]`.
        classes: of each, `[n]`; an index that is no class (-1, L) gets `NEVER`.
    """
    classes = np.asarray(classes, dtype=np.int64)
    known = (classes >= 0) & (classes < probabilities.shape[1])
    found = np.full(len(classes), NEVER)
    found[known] = probabilities[known, classes[known]]
    found[classes == probabilities.argmax(axis=1)] = 1.0
    return found


def cover(documents: np.ndarray, strata: np.ndarray, scores: np.ndarray, *, risk: float, planned: int) -> Covering | None:
    """The highest threshold, and so the smallest sets, whose promise the answers support; None where they support none.

    Args:
        documents: in each stratum, `[H]`.
        strata: of the questions that were asked, in their order, `[n]`; those that `look_at` counts are used.
        scores: of their true classes, of `score_of`, `[n]`.
        risk: share of the documents whose set does not hold the true class, at most, in (0, 1).
        planned: questions that were planned before the first answer.

    Raises:
        ValueError: the shapes do not fit, or `risk` is out of range.
    """
    look = look_at(len(np.asarray(strata)), planned)
    if look is None:
        return None
    strata, scores = _checked(strata, scores, risk, look.answers)
    allowed = misses(np.bincount(strata, minlength=len(documents)), documents, risk, look.chance)
    if allowed < 0 or (score := np.sort(scores)[allowed]) == NEVER:
        return None
    threshold = float(score * (1 - _ROUNDING))
    return Covering(threshold, len(scores), int((scores < threshold).sum()))


def explain_uncovered(documents: np.ndarray, strata: np.ndarray, scores: np.ndarray, *, risk: float, planned: int) -> Uncovered | None:
    """Why `cover`, of which the arguments are, finds nothing; None before the planned number of answers."""
    look = look_at(len(np.asarray(strata)), planned)
    if look is None:
        return None
    larger = (other for other in RISKS if other > risk and cover(documents, strata, scores, risk=other, planned=planned) is not None)
    strata, scores = _checked(strata, scores, risk, look.answers)
    allowed = misses(np.bincount(strata, minlength=len(documents)), documents, risk, look.chance)
    return Uncovered(len(scores), int((scores == NEVER).sum()), allowed, next(larger, None))


def misses(asked: np.ndarray, documents: np.ndarray, risk: float, chance: float) -> int:
    """How many of the answers may be missed; -1 where there are too few answers even if none is.

    Args:
        asked: of each stratum, `[H]`.
        documents: in each stratum, `[H]`.
        risk: share of the documents that are missed, at most.
        chance: of a mistake, at most.
    """
    allowed, errors = -1, risk * float(np.sum(documents))
    while allowed + 1 < np.sum(asked) and supported(asked, documents, documents, wrong=allowed + 1, errors=errors, chance=chance):
        allowed += 1
    return allowed


def mean_size(documents: np.ndarray, strata: np.ndarray, sizes: np.ndarray) -> float:
    """Classes in a set, on average over the documents: every stratum that was asked about counts by its documents.

    Args:
        documents: in each stratum, `[H]`.
        strata: of the questions that were asked, `[n]`.
        sizes: of the sets of their documents, `[n]`.
    """
    asked = np.bincount(strata, minlength=len(documents))
    known = asked > 0
    means = np.bincount(strata, weights=sizes, minlength=len(documents))[known] / asked[known]
    return float(np.average(means, weights=np.asarray(documents)[known]))


def _checked(strata: np.ndarray, scores: np.ndarray, risk: float, answers: int) -> tuple[np.ndarray, np.ndarray]:
    strata, scores = np.asarray(strata, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if strata.ndim != 1 or strata.shape != scores.shape:
        raise ValueError(f"strata {strata.shape} and scores {scores.shape} must be vectors of one length")
    if not 0 < risk < 1:
        raise ValueError(f"risk must be above 0 and below 1 (got {risk})")
    return strata[:answers], scores[:answers]
