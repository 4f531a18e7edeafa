"""Abstaining with a promise: from which score on at most a given share of the answers is wrong, with 95 % confidence, by the answers of an audit.

A text whose score, the probability of its most probable class, is below a threshold gets no answer. The risk of a threshold is the share of wrong answers among
those that are given. This is selective classification with guaranteed risk (Geifman and El-Yaniv, arXiv:1705.08500) as Learn then Test does it (Angelopoulos,
Bates, Candès, Jordan and Lei, arXiv:2110.01052): thresholds are tested one after the other, in an order that was fixed before the first answer, each against the
hypothesis that its risk is too high, until the first that is not refused. So all of them share one level (their fixed-sequence testing).

The test is ours, since an audit draws from strata at different rates. It counts wrong answers among the questions whose score reaches the threshold. If E of
the documents were answered wrongly, the count would be a sum of one hypergeometric number a stratum; how the E lie over the strata is not known, so the p-value
is the largest probability of such a small count over all ways. Binomial numbers stand for the hypergeometric ones, which makes it larger: a hypergeometric
number is a sum of independent Bernoulli numbers (Vatutin and Mikhailov 1982), and equal chances of the same sum have the heavier lower tail (Hoeffding 1956,
Gleser 1975; from two below the mean on, where every test that refuses is). It holds at every number of answers, not only at many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import gammaln, xlog1py, xlogy

from selftrain.evaluation.audit.estimate import LEVEL

FIRST_LOOK = 0.8  # of the chance of a wrong promise, spent on the planned answers; the rest on all later looks together
STEPS = 40  # thresholds, each of which answers 1 / STEPS of the documents more
RISKS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of which the smallest that is supported is named
_LATER_LOOKS = 6  # that are tried to say how many more answers would do
_ROUNDS, _PRECISION = 40, 1e-6  # of the search for the worst case


class Look(NamedTuple):
    """When a promise may be asked for."""

    answers: int  # the first so many count
    chance: float  # of a wrong promise, at most


@dataclass(frozen=True)
class Grid:
    """Thresholds that may be promised, and what is known of them before the first answer.

    Attributes:
        thresholds: of the score, falling, `[J]`; a document is answered where its score is at least the threshold.
        documents: in each stratum, `[H]`.
        above: those that each threshold answers, `[H, J]`.
    """

    thresholds: np.ndarray
    documents: np.ndarray
    above: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """What the answers support."""

    threshold: float
    answered: float  # share of the documents
    asked: int  # answers by hand about documents that are answered
    wrong: int  # of them


@dataclass(frozen=True)
class Unsupported:
    """Why there is no promise, and what there could be.

    Attributes:
        asked: answers by hand about documents above the threshold that was tested first; 0 where no threshold could have passed.
        wrong: of them.
        allowed: wrong ones with which it had passed.
        answers: with so many answers in all it is expected to pass, if wrong answers go on as they did; None: not to be seen.
        risk: the smallest of `RISKS` that the present answers support; None where they support none.
    """

    asked: int
    wrong: int
    allowed: int
    answers: int | None
    risk: float | None


def look_at(asked: int, planned: int) -> Look | None:
    """The look that so many answers allow: at the planned number, and at twice, four times, ... as many; None before the planned number.

    Looking again and again until a promise appears would break it too often, so every look has its own share of the chance: `FIRST_LOOK`, then the rest in
    parts that sum to it, 1/2, 1/6, 1/12, ...

    Args:
        asked: answers so far.
        planned: before the first answer.
    """
    if asked < planned:
        return None
    number = int(math.log2(asked / planned) + 1e-12)
    share = FIRST_LOOK if not number else (1 - FIRST_LOOK) / (number * (number + 1))
    return Look(planned * 2**number, (1 - LEVEL) * share)


def grid(scores: np.ndarray, strata: np.ndarray) -> Grid:
    """The thresholds of a population: midway between two scores, so that rounding moves no document across.

    Args:
        scores: the highest probability of every document, `[N]`.
        strata: of every document, `[N]`, numbered from 0.
    """
    scores, strata = np.asarray(scores, dtype=np.float64), np.asarray(strata)
    values, counts = np.unique(scores, return_counts=True)
    values, reached = values[::-1], np.cumsum(counts[::-1])
    wanted = np.ceil(np.arange(1, STEPS + 1) * len(scores) / STEPS)
    places = np.unique(np.searchsorted(reached, wanted))
    below = np.append(values[1:], 0.0)
    thresholds = (values[places] + below[places]) / 2
    documents = np.bincount(strata)
    above = np.stack([np.bincount(strata[scores >= threshold], minlength=len(documents)) for threshold in thresholds], axis=1)
    return Grid(thresholds, documents, above)


def choose(grid: Grid, strata: np.ndarray, scores: np.ndarray, wrong: np.ndarray, *, risk: float, planned: int) -> Chosen | None:
    """The threshold that answers the most documents among those whose promise the answers support; None where they support none.

    Args:
        grid: of the audit.
        strata: of the questions that were asked, in their order, `[n]`; those that `look_at` counts are used.
        scores: of these documents, `[n]`.
        wrong: whether the prediction is wrong, `[n]`; a skipped question counts as wrong.
        risk: share of wrong answers among those that are given, at most, in (0, 1).
        planned: questions that were planned before the first answer.

    Raises:
        ValueError: the shapes do not fit, or `risk` is out of range.
    """
    look = look_at(len(np.asarray(strata)), planned)
    return None if look is None else _Answers.of(grid, strata, scores, wrong, risk, look).chosen(risk, look.chance)


def explain(grid: Grid, strata: np.ndarray, scores: np.ndarray, wrong: np.ndarray, *, risk: float, planned: int) -> Unsupported | None:
    """Why `choose`, of which the arguments are, finds nothing; None before the planned number of answers."""
    look = look_at(len(np.asarray(strata)), planned)
    return None if look is None else _Answers.of(grid, strata, scores, wrong, risk, look).unsupported(risk, look.chance, planned)


def fewest(risk: float, wrong: int, chance: float) -> int:
    """Answers drawn at random of which `wrong` may be wrong to show a risk, with a chance of a mistake."""
    most = 128
    while True:
        numbers = np.arange(wrong + 1, wrong + most)
        enough = np.flatnonzero(stats.binom.cdf(wrong, numbers, risk) <= chance)
        if len(enough):
            return int(numbers[enough[0]])
        most *= 4


def supported(asked: np.ndarray, documents: np.ndarray, above: np.ndarray, *, wrong: int, errors: float, chance: float) -> bool:
    """Whether answers show that fewer than `errors` of the documents above a threshold are wrong.

    Args:
        asked: of each stratum, `[H]`.
        documents: in each stratum, `[H]`.
        above: those whose score reaches the threshold, `[H]`.
        wrong: answers about documents above the threshold that are against the prediction.
        errors: documents.
        chance: of a mistake, at most.
    """
    return _supported(*(tuple(np.asarray(values).tolist()) for values in (asked, documents, above)), wrong, float(errors), chance)


@lru_cache(maxsize=1 << 14)  # audits of one bundle ask the same, and so does one audit about several risks
def _supported(asked_: tuple[int, ...], documents_: tuple[int, ...], above_: tuple[int, ...], wrong: int, errors: float, chance: float) -> bool:
    asked, documents, above = (np.array(values, dtype=np.float64) for values in (asked_, documents_, above_))
    errors = errors - above[asked == 0].sum()  # where nobody asks, all may be wrong
    known = (asked > 0) & (above > 0)
    if errors <= 0:
        return False
    if above[known].sum() < errors:
        return True  # there are not so many documents
    return largest_tail(asked[known], documents[known], (above / documents)[known], errors, wrong, chance) <= chance


class _Answers:
    """The answers that count, above each threshold."""

    def __init__(self, grid: Grid, strata: np.ndarray, scores: np.ndarray, wrong: np.ndarray) -> None:
        self.grid = grid
        self.asked = np.bincount(strata, minlength=len(grid.documents))
        reached = scores[:, None] >= grid.thresholds
        self.above, self.wrong = reached.sum(axis=0), (reached & wrong[:, None]).sum(axis=0)
        self.answered = grid.above.sum(axis=0)

    @classmethod
    def of(cls, grid: Grid, strata: np.ndarray, scores: np.ndarray, wrong: np.ndarray, risk: float, look: Look) -> _Answers:
        """The answers that a look counts, checked."""
        strata, scores, wrong = np.asarray(strata, dtype=np.int64), np.asarray(scores, dtype=np.float64), np.asarray(wrong, dtype=bool)
        if not strata.shape == scores.shape == wrong.shape == (len(strata),):
            raise ValueError(f"strata {strata.shape}, scores {scores.shape} and wrong {wrong.shape} must be vectors of one length")
        if not 0 < risk < 1:
            raise ValueError(f"risk must be above 0 and below 1 (got {risk})")
        return cls(grid, *(values[: look.answers] for values in (strata, scores, wrong)))

    def passes(self, step: int, wrong: int, risk: float, chance: float) -> bool:
        """Whether a threshold with so many wrong answers is shown to have the risk."""
        errors = risk * self.answered[step]
        return supported(self.asked, self.grid.documents, self.grid.above[:, step], wrong=wrong, errors=errors, chance=chance)

    def first(self, risk: float, chance: float) -> int | None:
        """The threshold that is tested first: the highest that may have one wrong answer, so that a single slip decides nothing, else the highest that may
        have none. It depends on the strata and on how many were asked of each, and on no answer."""
        steps = range(len(self.answered))
        passing = (step for wrong in (1, 0) for step in steps if self.passes(step, wrong, risk, chance))
        return next(passing, None)

    def chosen(self, risk: float, chance: float) -> Chosen | None:
        """From the first threshold on, the last before one that has too many wrong answers."""
        step = self.first(risk, chance)
        passed = None
        while step is not None and step < len(self.answered) and self.passes(step, int(self.wrong[step]), risk, chance):
            passed, step = step, step + 1
        if passed is None:
            return None
        share = self.answered[passed] / self.grid.documents.sum()
        return Chosen(float(self.grid.thresholds[passed]), float(share), int(self.above[passed]), int(self.wrong[passed]))

    def unsupported(self, risk: float, chance: float, planned: int) -> Unsupported:
        """What there could be instead."""
        first = self.first(risk, chance)
        asked, wrong, allowed = (0, 0, -1) if first is None else (int(self.above[first]), int(self.wrong[first]), 0)
        while first is not None and self.passes(first, allowed + 1, risk, chance):
            allowed += 1
        larger = (other for other in RISKS if other > risk and self.chosen(other, chance) is not None)
        return Unsupported(asked, wrong, allowed, self._answers_that_would_do(risk, planned), next(larger, None))

    def _answers_that_would_do(self, risk: float, planned: int) -> int | None:
        total = int(self.asked.sum())
        for later in range(1, _LATER_LOOKS + 1):
            factor = 2**later
            if factor * total > self.grid.documents.sum():
                return None
            look = look_at(factor * total, planned)
            assert look is not None
            more = _Answers.__new__(_Answers)
            more.grid, more.answered = self.grid, self.answered
            more.asked = np.minimum(factor * self.asked, self.grid.documents)
            more.above, more.wrong = factor * self.above, factor * self.wrong
            if more.chosen(risk, look.chance) is not None:
                return factor * total
        return None


def largest_tail(asked: np.ndarray, documents: np.ndarray, most: np.ndarray, errors: float, count: int, enough: float = 1.0) -> float:
    """The largest probability of at most `count` wrong answers, over all shares p_h <= most_h of wrong documents with sum_h documents_h p_h = errors.

    At the maximum every stratum with 0 < p_h < most_h has the same (asked_h / documents_h) P(W - one answer of h = count), by Lagrange. With r_h the ratio of
    the probabilities of `count` - 1 and `count` of that smaller sum, this says (asked_h / documents_h) / (1 - p_h (1 - r_h)) = const, which is solved for p
    with the r of the last round; for `count` = 0 all r are 0, and it is exact at once.

    Args:
        asked: of each stratum, `[H]`, above 0.
        documents: in each stratum, `[H]`.
        most: the largest share of them that may be wrong, `[H]`, above 0.
        errors: wrong documents.
        count: wrong answers.
        enough: a larger probability need not be the largest.

    Returns:
        The probability; 1 where `count` is less than two below the smallest mean, for no test refuses there, and the maximum may be another.
    """
    if count and count + 2 > _smallest_mean(asked, documents, most, errors):
        return 1.0
    rate, ratios = asked / documents, np.zeros(len(asked))
    shares = _of_sum(rate, documents, most, ratios, errors)
    found = float(tail(asked, shares, count).sum())
    for _ in range(_ROUNDS if count else 0):
        if found > enough:
            break
        ratios = _ratios(asked, shares, count)
        before, shares = shares, _of_sum(rate, documents, most, ratios, errors)
        found = max(found, float(tail(asked, shares, count).sum()))
        if np.abs(shares - before).max() < _PRECISION:
            break
    return found


def _of_sum(rate: np.ndarray, documents: np.ndarray, most: np.ndarray, ratios: np.ndarray, errors: float) -> np.ndarray:
    """The shares (1 - rate u) / (1 - ratios), between 0 and `most`, for the u with the wanted sum, which is piecewise linear in u."""
    slope = 1 - ratios
    ends = np.sort(np.concatenate([(1 - most * slope) / rate, 1 / rate]))
    sums = ((1 - rate * ends[:, None]) / slope).clip(0, most) @ documents  # falls with u
    u = np.interp(-errors, -sums, ends)
    return np.asarray(((1 - rate * u) / slope).clip(0, most))


def _smallest_mean(asked: np.ndarray, documents: np.ndarray, most: np.ndarray, errors: float) -> float:
    """The fewest wrong answers that are expected: all errors where the fewest are asked."""
    order = np.argsort(asked / documents)
    room = np.minimum(np.cumsum((documents * most)[order]), errors)
    return float(np.diff(room, prepend=0.0) @ (asked / documents)[order])


def tail(asked: np.ndarray, shares: np.ndarray, count: int) -> np.ndarray:
    """The probabilities of 0, 1, ..., `count` wrong answers, `[count + 1]`.

    Args:
        asked: of each stratum, `[H]`.
        shares: of wrong documents in each, `[H]`.
        count: wrong answers.
    """
    numbers, asked, shares = np.arange(count + 1.0), np.asarray(asked, dtype=np.float64)[:, None], np.asarray(shares)[:, None]
    inside = numbers <= asked
    rest = np.where(inside, asked - numbers, 0.0)
    ways = gammaln(asked + 1) - gammaln(numbers + 1) - gammaln(rest + 1)
    found = np.zeros(count + 1)
    found[0] = 1.0
    for of_stratum in np.where(inside, np.exp(ways + xlogy(numbers, shares) + xlog1py(rest, -shares)), 0.0):
        found = np.convolve(found, of_stratum)[: count + 1]
    return found


def _ratios(asked: np.ndarray, shares: np.ndarray, count: int) -> np.ndarray:
    """For each stratum, if one answer of it were left out: the probability of `count` - 1 wrong answers over that of `count`, below 1 in the lower tail."""
    whole = tail(asked, shares, count)
    before, without = np.zeros(len(shares)), np.zeros(len(shares))
    inside = np.minimum(shares, 1 - 1e-9)
    for number in range(count + 1):
        before, without = without, (whole[number] - inside * without) / (1 - inside)
    return np.asarray(np.clip(before / np.maximum(without, 1e-300), 0.0, 1 - 1e-6))
