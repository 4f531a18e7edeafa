"""Texts that are far from all known ones, in groups: a group that is larger than it should be is probably a topic that the classifier has no class for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import AgglomerativeClustering

FAR = 0.99  # of the reference's texts are nearer to the known ones
SHOWN = 8  # groups at most
MOST = 400  # far texts that are grouped, the latest


@dataclass(frozen=True)
class Topic:
    """A group of texts that are far from all known ones."""

    texts: int
    example: int  # place of the text in its middle
    classes: np.ndarray  # predictions, `[L]`


def far_from_known(distances: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Which texts are farther from the known ones than `FAR` of the reference's other half, `[n]`.

    Args:
        distances: of the texts, `[n]`.
        reference: of that half, `[m]`.
    """
    return distances > np.quantile(reference, FAR)


def topics(points: np.ndarray, predicted: np.ndarray, far: np.ndarray, spread: float, classes: int) -> list[Topic]:
    """The groups, largest first; those of a single text too, where there are no more than `SHOWN` others.

    Args:
        points: of the texts, `[n, D]`.
        predicted: their classes, `[n]`.
        far: of `far_from_known`.
        spread: mean squared distance within a group, at most.
        classes: L.
    """
    places = np.flatnonzero(far)[-MOST:]
    if len(places) < 2:
        return [Topic(1, int(place), np.bincount(predicted[[place]], minlength=classes)) for place in places]
    rows = points[places]
    squared = np.maximum(np.square(rows).sum(axis=1)[:, None] + np.square(rows).sum(axis=1) - 2 * rows @ rows.T, 0)
    np.fill_diagonal(squared, 0)
    groups = AgglomerativeClustering(n_clusters=None, metric="precomputed", linkage="average", distance_threshold=spread).fit_predict(squared)
    found = []
    for group in range(int(groups.max()) + 1):
        own = np.flatnonzero(groups == group)
        middle = int(places[own[squared[np.ix_(own, own)].sum(axis=1).argmin()]])
        found.append(Topic(len(own), middle, np.bincount(predicted[places[own]], minlength=classes)))
    return sorted(found, key=lambda topic: -topic.texts)[:SHOWN]
