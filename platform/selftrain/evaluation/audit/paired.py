"""How much more accurate one classifier is than another on the documents of an audit: the difference of their accuracies, with a 95 % interval.

The documents that an audit asked about say it of any two classifiers, whichever of them it was planned for: within a stratum they are a random sample. On each of
them the first classifier alone is right (a win), or the second alone (a loss), or neither or both (a tie).

The interval is that of the score test, as in estimate.py: a value is inside where the distance of the estimate, over its standard error *if the value were true*,
is not refused. For one stratum it is Tango's interval for paired shares ("Equivalence test and confidence interval for the difference in proportions for the paired-
sample design", 1998), which is right also where there is no win and no loss, and the usual standard error is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selftrain.evaluation.audit.estimate import Counts, Interval, score_bound, share, share_interval
from selftrain.evaluation.audit.figures import SKIPPED, Figure

_STEPS = 60  # of a bisection


@dataclass(frozen=True)
class Sample:
    """What an audit asked, and the answers.

    Attributes:
        documents: how many there are in each stratum, `[H]`.
        strata: of the questions, `[n]`, from 0.
        answers: true classes, `[n]`; `SKIPPED` for an unknown one, and the number of classes for none of them.
        planned: questions that were planned before the first answer.
    """

    documents: np.ndarray
    strata: np.ndarray
    answers: np.ndarray
    planned: int

    @property
    def answered(self) -> int:
        """Questions with an answer."""
        return int((self.answers != SKIPPED).sum())

    @property
    def weights(self) -> np.ndarray:
        """Share of all documents that each stratum has, `[H]`."""
        return np.asarray(self.documents / self.documents.sum())

    @property
    def bound(self) -> float:
        """Of the score test, for all intervals."""
        return score_bound(len(self.answers), self.planned)

    def counted(self, which: np.ndarray) -> np.ndarray:
        """Questions of each stratum for which `which` holds, `[H]`."""
        return np.bincount(self.strata, weights=which.astype(np.float64), minlength=len(self.documents))


def accuracy(sample: Sample, predicted: np.ndarray) -> Figure:
    """The accuracy of a classifier, as in `figures`; without an estimate where a stratum has no answer.

    Args:
        sample: the audit.
        predicted: its classes of the questions, `[n]`.
    """
    asked = sample.counted(np.ones(len(sample.answers), dtype=bool))
    counts = Counts(sample.documents, asked, sample.counted(sample.answers == predicted), sample.counted(sample.answers == SKIPPED))
    found, (low, high) = float(share(counts, sample.weights)), share_interval(counts, sample.weights, sample.bound)
    return Figure(found if np.isfinite(found) else None, float(low), float(high))


def lead(sample: Sample, first: np.ndarray, second: np.ndarray) -> Figure:
    """The accuracy of the first classifier less that of the second, from -1 to 1; without an estimate where a stratum has no answer.

    Where a question was skipped, and the two differ, it counts as a loss at the lower end and as a win at the upper one.

    Args:
        sample: the audit.
        first, second: classes of the questions, `[n]`.
    """
    differ, open_ = first != second, sample.answers == SKIPPED
    wins, losses = (sample.counted(differ & (sample.answers == one)) for one in (first, second))
    unknown, asked = sample.counted(differ & open_), sample.counted(np.ones(len(first), dtype=bool))
    low, high = lead_interval(sample.documents, asked, wins, losses, unknown, sample.bound)
    known = np.all(sample.counted(~open_) > 0)
    estimate = float(np.sum(sample.weights * (wins - losses) / (asked - unknown))) if known else None
    return Figure(estimate, float(low), float(high))


def lead_interval(
    documents: np.ndarray, asked: np.ndarray, wins: np.ndarray, losses: np.ndarray, unknown: np.ndarray, z: np.ndarray | float
) -> Interval:
    """The interval of the difference, of many audits at once.

    Args:
        documents: in each stratum, `[..., H]`.
        asked: of them, `[..., H]`.
        wins, losses: of them, those that the first classifier alone is right about, and the second alone, `[..., H]`.
        unknown: of them, those that may be either, `[..., H]`.
        z: the bound of the test, `[...]`.
    """
    low = _lowest(documents, asked, wins, losses + unknown, z)
    return Interval(low, -_lowest(documents, asked, losses, wins + unknown, z))


def _lowest(documents: np.ndarray, asked: np.ndarray, wins: np.ndarray, losses: np.ndarray, z: np.ndarray | float) -> np.ndarray:
    """The smallest difference that is not refused; a stratum without a question may have any, and counts as losses alone."""
    weights = documents / documents.sum(axis=-1, keepdims=True)
    known = asked > 0
    missing = np.sum(np.where(known, 0.0, weights), axis=-1)
    weights, number = np.where(known, weights, 0.0), np.maximum(asked, 1)
    scale = (asked.sum(axis=-1) / np.maximum(weights.max(axis=-1), 1e-300))[..., None] * weights
    strata = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    # As in estimate.py: fitting H shares under one constraint takes (H - 1) / H of a question from each, and the population is finite.
    factor = weights**2 * (documents - asked) / np.maximum(documents - 1, 1) / np.maximum(number - (strata - 1) / strata, 0.5)
    found = np.sum(weights * (wins - losses) / number, axis=-1)
    inside, outside = np.zeros(found.shape), np.ones(found.shape)  # steps of the multiplier
    lowest = found
    for _ in range(_STEPS):
        step = (inside + outside) / 2
        win, loss = _likeliest(number, wins, losses, (step / np.maximum(1 - step, 1e-12))[..., None] * scale)
        value = np.sum(weights * (win - loss), axis=-1)
        accepted = found - value <= z * np.sqrt(np.sum(factor * (win + loss - (win - loss) ** 2).clip(0), axis=-1))
        inside, outside = np.where(accepted, step, inside), np.where(accepted, outside, step)
        lowest = np.where(accepted, value, lowest)
    return np.maximum(lowest - missing, -1.0)


def _likeliest(asked: np.ndarray, wins: np.ndarray, losses: np.ndarray, pull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares of wins and losses that maximise the likelihood less `pull` times their difference; all are `[..., H]`.

    With m for the multiplier of "shares add up to 1" they are wins / (m + pull), losses / (m - pull) and ties / m. The sum falls in m, and is 1 between `pull` and
    asked + pull; where it is less at `pull` already, there is no loss among the answers, and losses get what is left.
    """
    ties = asked - wins - losses
    low, high = pull, asked + pull
    for _ in range(_STEPS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            total = wins / (middle + pull) + ties / middle + np.where(losses > 0, losses / (middle - pull), 0.0)
        over = total > 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    win = wins / (high + pull)
    return win, np.maximum(1 - win - ties / high, 0.0)
