"""Classes in groups: the probability of a group, and how good a classifier of a tree's leaves is on each level above them.

A group's probability is the sum of those of its classes. The group that a document is put into is that of its most probable class, so that what is said of a
document on all levels fits together; it is not always the most probable group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from selftrain.evaluation.calibration import calibration_error, reliability_bins
from selftrain.evaluation.metrics import ClassScores, class_scores, macro_f1


class LevelScores(TypedDict):
    """How good a classifier is on one level of a tree; all are in [0, 1]."""

    groups: int  # a class without a parent on this level is a group of its own
    accuracy: float
    macro_f1: float
    ece: float
    per_class: list[ClassScores]  # of the groups


@dataclass(frozen=True)
class Level:
    """One level of a tree, above its classes."""

    names: tuple[str, ...]  # of the groups, in the order of their first classes
    group_of: tuple[int, ...]  # of each class, index into `names`

    def sums(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities of the groups, `[N, groups]`, from those of the classes, `[N, classes]`."""
        member = np.zeros((len(self.group_of), len(self.names)))
        member[np.arange(len(self.group_of)), self.group_of] = 1.0
        return np.asarray(probabilities, dtype=np.float64) @ member


def levels_of(names: Sequence[str], parents: Sequence[Sequence[str]]) -> tuple[Level, ...]:
    """The levels of a tree above its classes, the outermost first; none where no class has a parent.

    Args:
        names: of the classes.
        parents: of each, the outermost first; empty where no class has any.
    """
    paths = [(*above, name) for name, above in zip(names, parents, strict=True)] if parents else []
    found = []
    for depth in range(max(map(len, paths), default=1) - 1):
        groups = [path[min(depth, len(path) - 1)] for path in paths]
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        found.append(Level(tuple(places), tuple(places[group] for group in groups)))
    return tuple(found)


def scores_by_level(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], parents: Sequence[Sequence[str]]) -> list[LevelScores]:
    """The scores of every level above the classes, the outermost first.

    Args:
        probabilities: of the classes, `[N, L]`; a row of zeros is a document without an answer: wrong, and in no group.
        labels: true class indices, `[N]`.
        names: of the classes.
        parents: of each class, the outermost first; empty where no class has any.
    """
    found = []
    answered, predicted = probabilities.any(axis=1), probabilities.argmax(axis=1)
    for level in levels_of(names, parents):
        group_of = np.array(level.group_of)
        true, placed = group_of[labels], np.where(answered, group_of[predicted], -1)
        confidence = np.minimum(level.sums(probabilities)[np.arange(len(labels)), group_of[predicted]], 1.0)
        per_class = class_scores(true, placed, level.names)
        found.append(
            LevelScores(
                groups=len(level.names),
                accuracy=float((true == placed).mean()),
                macro_f1=macro_f1(per_class),
                ece=calibration_error(reliability_bins(confidence, true == placed)),
                per_class=list(per_class),
            )
        )
    return found
