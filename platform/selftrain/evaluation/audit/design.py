"""Which documents an audit asks about, and in which order.

Documents are sorted into strata: by predicted class, and within a class by how likely the prediction is to be wrong. Each stratum has the same sum of
sqrt(e (1 - e)), where e is that likelihood, so that the same number of answers from each is the allocation with the smallest variance (Neyman 1934). Where e is
wrong, as it is where class names mislead the encoder, intervals get wider and stay right: within a stratum documents are drawn at random.

The questions come in rounds of one from every stratum, so that every beginning of the order is a stratified random sample: whoever stops early, or goes on,
needs no other design.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selftrain.evaluation.audit.risk import fewest, look_at

ANSWERS_A_STRATUM = 8  # that the planned answers come to; fewer make the variance within a stratum too uncertain
MOST_STRATA = 24
_SMALLEST_ERROR, _LARGEST_ERROR = 0.05, 0.5  # of e: no confidence is trusted beyond these
_ELSEWHERE = 0.2  # of the answers for a promise: about documents that it will hardly answer, without which the accuracy would stay unknown
_HALF = 0.5  # of the documents: as many get the answers that a promise with one wrong answer takes


@dataclass(frozen=True)
class Design:
    """What an audit asks.

    Attributes:
        strata: of every document, `[N]`, numbered from 0.
        order: documents in the order in which they are asked about, `[N]`.
    """

    strata: np.ndarray
    order: np.ndarray

    def probabilities(self, asked: int) -> np.ndarray:
        """How likely each document was to be among the first `asked` questions, `[N]`: the asked share of its stratum."""
        counts = np.bincount(self.strata)
        return (np.bincount(self.strata[self.order[:asked]], minlength=len(counts)) / counts)[self.strata]


def plan(predicted: np.ndarray, error: np.ndarray, *, budget: int, seed: int) -> Design:
    """Strata and an order of questions.

    Args:
        predicted: class of each document, `[N]`.
        error: how likely it is to be wrong, `[N]`, in [0, 1]; only its order and rough size matter.
        budget: answers that are planned; it decides the number of strata.
        seed: of the draws.

    Raises:
        ValueError: the shapes differ, there are no documents, or `budget` is below 1.
    """
    predicted, error = np.asarray(predicted), np.asarray(error, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != error.shape or not len(predicted):
        raise ValueError(f"predicted and error must be vectors of one length, at least 1 (got {predicted.shape} and {error.shape})")
    if budget < 1:
        raise ValueError(f"budget must be at least 1 (got {budget})")
    count = min(max(1, min(budget, len(predicted)) // ANSWERS_A_STRATUM), MOST_STRATA)
    strata = _strata(predicted, error, count)
    return drawn(strata, seed)


def drawn(strata: np.ndarray, seed: int) -> Design:
    """An order of questions for strata, `[N]`: rounds of one from each, at random."""
    return Design(strata, _rounds(strata, np.random.default_rng(seed)))


def plan_for_promise(scores: np.ndarray, *, risk: float, budget: int, seed: int) -> Design:
    """Strata and an order of questions for a threshold with a promise (risk.py), which rests on answers about the surest documents alone.

    Strata are intervals of the score. From the top down each holds as many documents, so that no part of them is asked about less than another, at the rate at
    which half of all documents get as many answers as a promise with one wrong answer takes. Where the budget does not reach to the end so, the rest of the
    documents shares a fifth of it.

    Args:
        scores: probability of the most probable class of each document, `[N]`.
        risk: share of wrong answers that is to be promised, in (0, 1).
        budget: answers that are planned.
        seed: of the draws.
    """
    scores = np.asarray(scores, dtype=np.float64)
    look = look_at(budget, budget)
    assert look is not None
    count = _intervals(budget, len(scores))
    reach = (1 - _ELSEWHERE) * budget / fewest(risk, 1, look.chance) * _HALF
    if reach >= 1 or count == 1:
        return plan_for_sets(scores, budget=budget, seed=seed)
    top = min(max(1, round((1 - _ELSEWHERE) * count)), count - 1)
    return drawn(_by_score(scores, np.append(np.full(top, reach / top), np.full(count - top, (1 - reach) / (count - top)))), seed)


def plan_for_sets(scores: np.ndarray, *, budget: int, seed: int) -> Design:
    """Strata and an order of questions for prediction sets with a promise (sets.py), which is about all documents: strata are intervals of the score with as many
    documents each, so that all are asked about at one rate, at which the fewest answers do.

    Args:
        scores: probability of the most probable class of each document, `[N]`.
        budget: answers that are planned.
        seed: of the draws.
    """
    count = _intervals(budget, len(scores))
    return drawn(_by_score(np.asarray(scores, dtype=np.float64), np.full(count, 1 / count)), seed)


def _intervals(budget: int, documents: int) -> int:
    """How many intervals of the score there are, if it can be such that as many answers come from each."""
    most = min(max(1, min(budget, documents) // ANSWERS_A_STRATUM), MOST_STRATA)
    return next((number for number in range(most, most // 2, -1) if budget % number == 0), most)


def _by_score(scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Strata, `[N]`: intervals of the score, from the top down, of these shares of the documents."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = (np.arange(len(scores)) + 0.5) / len(scores)
    _, strata = np.unique(np.searchsorted(np.cumsum(sizes)[:-1], ranks), return_inverse=True)
    return np.asarray(strata)


def _strata(predicted: np.ndarray, error: np.ndarray, count: int) -> np.ndarray:
    """At most `count` strata, each within a predicted class; classes that are too small for a stratum of their own are put together."""
    error = error.clip(_SMALLEST_ERROR, _LARGEST_ERROR)
    size = np.sqrt(error * (1 - error))
    groups = _groups(predicted, size, count)
    shares = np.bincount(groups, weights=size) / size.sum()
    strata = np.empty(len(groups), dtype=np.int64)
    first = 0
    for group, parts in enumerate(_apportioned(shares, count)):
        members = np.flatnonzero(groups == group)
        members = members[np.argsort(error[members], kind="stable")]
        middle = np.cumsum(size[members]) - size[members] / 2
        places = np.minimum((middle / size[members].sum() * parts).astype(np.int64), parts - 1)
        _, strata[members] = np.unique(places, return_inverse=True)
        strata[members] += first
        first = int(strata[members].max()) + 1
    return strata


def _groups(predicted: np.ndarray, size: np.ndarray, count: int) -> np.ndarray:
    """The predicted class as a number from 0, with all classes that would get less than half a stratum as one group, which joins the smallest other where it is
    as small itself."""
    _, classes = np.unique(predicted, return_inverse=True)
    shares = np.bincount(classes, weights=size) / size.sum()
    small = shares < 0.5 / count
    if small.all() or not small.any():
        return np.zeros_like(classes) if small.all() else classes
    large = np.flatnonzero(~small)
    home = large[shares[large].argmin()] if shares[small].sum() < 0.5 / count else np.flatnonzero(small)[0]
    _, groups = np.unique(np.where(small[classes], home, classes), return_inverse=True)
    return np.asarray(groups)


def _apportioned(shares: np.ndarray, count: int) -> np.ndarray:
    """`count` parts over groups by their shares, at least one each (largest remainders)."""
    parts = np.maximum(1, np.floor(shares * count)).astype(np.int64)
    while parts.sum() < count:
        parts[(shares * count - parts).argmax()] += 1
    return parts


def _rounds(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Documents by their place in a random order of their stratum, and at random within a round."""
    shuffled = rng.permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    counts = np.bincount(strata)
    rounds = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_stratum[np.lexsort((rng.random(len(strata)), rounds))]
