"""What is looked at of a text: numbers whose distribution says whether the stream has changed, and in which way.

kind        scores
classes     the probability of every class
confidence  the highest probability
topics      the squared distance to the tenth-nearest known text: of what no known text is about it is large (Sun et al. 2022, arXiv:2204.06507)
domain      the first principal components of the known texts

Distances and components are those of the classifier's embeddings, of length one; where a backend gives none (a graph), of the logarithms of the probabilities.

The reference is divided: scores are made from its first half, and the second half is what the ranks of bets.py begin with. So a text of the second half is to the
first half what a new text is to it, which the exactness of these ranks rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from selftrain.evaluation.drift.bets import BINS

KINDS = ("classes", "confidence", "topics", "domain")
NEIGHBOUR = 10
COMPONENTS = 8
_CHUNK = 4096


@dataclass(frozen=True)
class Sample:
    """Texts as a classifier sees them."""

    probabilities: np.ndarray  # [n, L]
    embeddings: np.ndarray | None = None  # [n, D]; None where the backend gives none

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, places: slice | np.ndarray) -> Sample:
        return Sample(self.probabilities[places], None if self.embeddings is None else self.embeddings[places])


class Score(NamedTuple):
    """One number of a text."""

    kind: str  # of KINDS
    what: str  # the class, or the number of the component


class Scores:
    """The scores of texts, made from known ones.

    Args:
        known: the first half of a reference, at least `NEIGHBOUR` + 2 texts.
        classes: names of the L classes.

    Attributes:
        scores: what they are, `[K]`.
        embedded: whether they see embeddings.
    """

    def __init__(self, known: Sample, classes: tuple[str, ...]) -> None:
        self.embedded = known.embeddings is not None
        self._known = self._points(known)
        self._center = self._known.mean(axis=0)
        _, lengths, axes = np.linalg.svd(self._known - self._center, full_matrices=False)
        self._axes = axes[: min(COMPONENTS, int((lengths > 1e-6 * max(lengths[0], 1e-300)).sum()))]
        shown = classes if len(classes) > 2 else classes[:1]  # of two classes one probability says both
        self.scores = (
            *(Score("classes", name) for name in shown),
            Score("confidence", "highest probability"),
            Score("topics", "distance to known texts"),
            *(Score("domain", f"component {number}") for number in range(1, len(self._axes) + 1)),
        )
        values = self._values(known, own=True)
        self._edges = np.quantile(values, np.arange(1, BINS) / BINS, axis=0)

    @property
    def kinds(self) -> list[str]:
        """The kind of every score, `[K]`."""
        return [score.kind for score in self.scores]

    def bins(self, sample: Sample) -> np.ndarray:
        """Of every text and score the bin, `[n, K]`: how many of the known texts' quantiles are smaller."""
        values = self._values(sample)
        columns = [np.searchsorted(self._edges[:, column], values[:, column]) for column in range(values.shape[1])]
        return np.stack(columns, axis=1)

    def distances(self, sample: Sample) -> np.ndarray:
        """The score of topics, `[n]`."""
        return self._far(self._points(sample), own=False)

    def places(self, sample: Sample) -> np.ndarray:
        """The first two components of texts, `[n, 2]`, for a picture."""
        found = (self._points(sample) - self._center) @ self._axes[:2].T
        return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))

    def points(self, sample: Sample) -> np.ndarray:
        """Where texts lie, `[n, D]`: what distances are between."""
        return self._points(sample)

    def _points(self, sample: Sample) -> np.ndarray:
        if self.embedded:
            assert sample.embeddings is not None
            rows = sample.embeddings.astype(np.float64)
            return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        logarithms = np.log(np.maximum(sample.probabilities.astype(np.float64), 1e-12))
        return logarithms - logarithms.mean(axis=1, keepdims=True)

    def _values(self, sample: Sample, *, own: bool = False) -> np.ndarray:
        points = self._points(sample)
        shown = sample.probabilities[:, : len(self.scores) - 2 - len(self._axes)]
        columns = (shown, sample.probabilities.max(axis=1)[:, None], self._far(points, own=own)[:, None], (points - self._center) @ self._axes.T)
        return np.concatenate([column.astype(np.float64) for column in columns], axis=1)

    def _far(self, points: np.ndarray, *, own: bool) -> np.ndarray:
        """Squared distance to the tenth-nearest known text, `[n]`; own: `points` are the known ones, and none is its own neighbour."""
        found = np.empty(len(points))
        squares = np.square(self._known).sum(axis=1)
        for start in range(0, len(points), _CHUNK):
            rows = points[start : start + _CHUNK]
            squared = np.square(rows).sum(axis=1)[:, None] + squares - 2 * rows @ self._known.T
            if own:
                squared[np.arange(len(rows)), start + np.arange(len(rows))] = np.inf
            found[start : start + _CHUNK] = np.partition(squared, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1]
        return found
