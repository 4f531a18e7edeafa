"""How much less often a student is right than its teacher, on the same documents: the estimate, and an upper bound.

On each document the teacher alone is right (a loss), the student alone (a win), or neither or both. The bound is the end of Tango's score interval for paired shares
(audit/paired.py), one-sided, and holds for all students that are compared at once with `CONFIDENCE`: each of k has a k-th of the chance of a mistake (Bonferroni),
because the one that is taken is chosen by these very bounds. What the documents are drawn from counts as without end.

Where there are no labels the teacher counts as right everywhere. The loss is then the share of documents on which the two differ, and the accuracy cannot have
fallen by more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from selftrain.evaluation.audit.paired import lead_interval

CONFIDENCE = 0.95
_WITHOUT_END = 1e12  # documents, of which those that were measured on are a sample


@dataclass(frozen=True)
class Loss:
    """What a student loses.

    Attributes:
        estimate: share of right answers of the teacher less that of the student, from -1 to 1.
        at_most: its upper bound.
        differ: share of the documents on which one of them alone is right.
    """

    estimate: float
    at_most: float
    differ: float


def score(students: int) -> float:
    """The bound of the score test, in standard errors, where so many students are compared."""
    return float(norm.ppf(1 - (1 - CONFIDENCE) / max(students, 1)))


def loss(teacher: np.ndarray, student: np.ndarray, students: int) -> Loss:
    """What a student loses.

    Args:
        teacher, student: whether each is right, boolean `[documents]`.
        students: that are compared at once.
    """
    asked, wins, losses = float(len(teacher)), float((student & ~teacher).sum()), float((teacher & ~student).sum())
    documents, unknown = np.array([_WITHOUT_END]), np.zeros(1)
    found = lead_interval(documents, np.array([asked]), np.array([wins]), np.array([losses]), unknown, score(students))
    return Loss((losses - wins) / asked, -float(found.low), (losses + wins) / asked)


def fewest(within: float, students: int) -> int:
    """Documents that show a loss of at most `within` where no two answers differ: with fewer, nothing can be shown."""
    return math.ceil(score(students) ** 2 * (1 - within) / within)


def smallest(documents: int, students: int) -> float:
    """The smallest loss that so many documents can show."""
    return score(students) ** 2 / (documents + score(students) ** 2)


def enough(found: Loss, within: float, students: int) -> int | None:
    """About how many documents would show a loss of at most `within`, if they are like those that were measured on; None where its estimate is not below that."""
    if found.estimate >= within:
        return None
    spread = found.differ - found.estimate**2
    return max(fewest(within, students), math.ceil(score(students) ** 2 * spread / (within - found.estimate) ** 2))
