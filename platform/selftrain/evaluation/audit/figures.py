"""What the answers of an audit say: accuracy, precision, recall and share of every class, with 95 % intervals, and what a narrower interval costs.

Where the planned questions have been answered, intervals are those of a sample of that size. Before, and where more were asked afterwards, they are valid at every
number of answers at once, and therefore wider: one may stop whenever one is content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selftrain.evaluation.audit.estimate import Counts, Interval, anytime_z, ratio, ratio_interval, score_bound, share, share_interval

SKIPPED = -1  # an answer: asked, and nobody knows
HALF_WIDTHS = (0.1, 0.075, 0.05, 0.04, 0.03, 0.02, 0.01)  # that a price is given for
_PRICES = 3


@dataclass(frozen=True)
class Figure:
    """An estimate with its interval; the estimate is None where there is no answer to make one of."""

    estimate: float | None
    low: float
    high: float


@dataclass(frozen=True)
class ClassFigures:
    """One class."""

    name: str
    predicted: float  # share of the documents that are predicted as the class; known
    precision: Figure | None  # of them, the share that is of the class; None where none are predicted
    recall: Figure  # of the documents of the class, the share that is predicted as it
    share: Figure  # of the documents that are of the class


@dataclass(frozen=True)
class Price:
    """How many more answers an interval of `accuracy` of this half-width takes."""

    half_width: float
    answers: int


@dataclass(frozen=True)
class AuditFigures:
    """The result of an audit."""

    documents: int
    asked: int  # answers, skipped questions included
    skipped: int
    planned: int
    anytime: bool  # whether the intervals hold at every number of answers at once
    accuracy: Figure
    none_of_these: Figure  # share of the documents that are of no class
    classes: tuple[ClassFigures, ...]
    prices: tuple[Price, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures as lists, dictionaries and numbers."""
        document = asdict(self)
        return document | {"classes": list(document["classes"]), "prices": list(document["prices"])}


def figures(
    documents: np.ndarray, strata: np.ndarray, predicted: np.ndarray, answers: np.ndarray, class_names: Sequence[str], *, planned: int
) -> AuditFigures:
    """The figures of an audit.

    Args:
        documents: how many there are in each stratum that are predicted as each class, `[H, L]`.
        strata: of the questions that were answered or skipped, `[n]`, the first n of the design's order.
        predicted: their predicted classes, `[n]`.
        answers: their true classes, `[n]`; L for none of the classes, `SKIPPED` for an unknown one.
        class_names: the L names.
        planned: questions that were planned before the first answer.

    Raises:
        ValueError: the shapes do not fit, or an answer is out of range.
    """
    cells, z = _checked(documents, strata, predicted, answers, len(class_names), planned)
    documents, answers, asked = cells.documents, cells.answers, len(cells.answers)
    accuracy = cells.accuracy(z)
    return AuditFigures(
        documents=int(documents.sum()),
        asked=asked,
        skipped=int((answers == SKIPPED).sum()),
        planned=planned,
        anytime=asked != planned,
        accuracy=accuracy,
        none_of_these=cells.share(answers == len(class_names), z),
        classes=tuple(_class(cells, name, index, z) for index, name in enumerate(class_names)),
        prices=prices_of(accuracy, z, asked, int(documents.sum()), planned),
    )


def accuracy_alone(documents: np.ndarray, strata: np.ndarray, predicted: np.ndarray, answers: np.ndarray, *, planned: int) -> tuple[Figure, bool]:
    """`accuracy` and `anytime` of `figures`, in a small part of its time.

    Args:
        documents, strata, predicted, answers, planned: as in `figures`.

    Raises:
        ValueError: as `figures`.
    """
    cells, z = _checked(documents, strata, predicted, answers, np.shape(documents)[-1], planned)
    return cells.accuracy(z), len(cells.answers) != planned


def _checked(
    documents: np.ndarray, strata: np.ndarray, predicted: np.ndarray, answers: np.ndarray, classes: int, planned: int
) -> tuple[_Cells, float]:
    """The cells, and z of their intervals."""
    documents = np.asarray(documents)
    strata, predicted, answers = (np.asarray(values, dtype=np.int64) for values in (strata, predicted, answers))
    _check(documents, strata, predicted, answers, classes, planned)
    return _Cells(documents, strata, predicted, answers), score_bound(len(answers), planned)


def _check(documents: np.ndarray, strata: np.ndarray, predicted: np.ndarray, answers: np.ndarray, classes: int, planned: int) -> None:
    if documents.ndim != 2 or documents.shape[1] != classes or not strata.shape == predicted.shape == answers.shape == (len(answers),):
        raise ValueError(
            f"{classes} classes, documents {documents.shape}, strata {strata.shape}, predicted {predicted.shape} and answers {answers.shape} do not fit"
        )
    if len(answers) and (answers.min() < SKIPPED or answers.max() > classes):
        raise ValueError(f"answers must be from {SKIPPED} to {classes} (got {answers.min()} to {answers.max()})")
    if planned < 1:
        raise ValueError(f"planned must be at least 1 (got {planned})")
    asked = np.zeros_like(documents)
    np.add.at(asked, (strata, predicted), 1)
    if np.any(asked > documents):
        raise ValueError("more questions of a stratum and a predicted class than it has documents")


class _Cells:
    """Strata, whole or split by whether a class is predicted: given how many questions fell on either side, each side was drawn at random too."""

    def __init__(self, documents: np.ndarray, strata: np.ndarray, predicted: np.ndarray, answers: np.ndarray) -> None:
        self.documents, self.strata, self.predicted, self.answers = documents, strata, predicted, answers

    def _counts(self, inside: np.ndarray, documents: np.ndarray, hits: np.ndarray) -> Counts:
        """Counts by stratum of the questions that are `inside`."""
        strata, skipped = self.strata[inside], (self.answers == SKIPPED)[inside]
        of = [
            np.bincount(strata, weights=values.astype(np.float64), minlength=len(documents))
            for values in (np.ones(len(strata)), hits[inside], skipped)
        ]
        return Counts(documents.astype(np.float64), *of)

    def share(self, hits: np.ndarray, z: float) -> Figure:
        """Share of all documents that are `hits`."""
        counts = self._counts(np.ones(len(hits), dtype=bool), self.documents.sum(axis=1), hits)
        return _share(counts, z)

    def accuracy(self, z: float) -> Figure:
        """Share of all documents that are predicted as what they are."""
        return self.share(self.answers == self.predicted, z)

    def precision(self, index: int, z: float) -> Figure:
        """Share of hits among the documents that are predicted as a class."""
        return _share(self._counts(self.predicted == index, self.documents[:, index], self.answers == index), z)

    def recall(self, index: int, z: float) -> Figure:
        """Share of the documents of a class that are predicted as it."""
        hits, as_it = self.answers == index, self.predicted == index
        own = self._counts(as_it, self.documents[:, index], hits)
        others = self._counts(~as_it, self.documents.sum(axis=1) - self.documents[:, index], hits)
        counts = Counts(*(np.concatenate([getattr(own, name), getattr(others, name)]) for name in ("documents", "asked", "hits", "skipped")))
        top = np.arange(len(counts.documents)) < len(own.documents)
        weights = counts.documents / counts.documents.sum()
        return figure_of(ratio(counts, weights, top), ratio_interval(counts, weights, top, z))


def _share(counts: Counts, z: float) -> Figure:
    weights = counts.documents / counts.documents.sum()
    return figure_of(share(counts, weights), share_interval(counts, weights, z))


def figure_of(estimate: np.ndarray, interval: Interval) -> Figure:
    """An estimate, nan where there is none, and its interval within [0, 1]."""
    found = float(estimate)
    low, high = (min(max(float(end), 0.0), 1.0) for end in interval)
    return Figure(found if np.isfinite(found) else None, low, high)


def _class(cells: _Cells, name: str, index: int, z: float) -> ClassFigures:
    predicted = cells.documents[:, index].sum()
    return ClassFigures(
        name=name,
        predicted=float(predicted / cells.documents.sum()),
        precision=cells.precision(index, z) if predicted else None,
        recall=cells.recall(index, z),
        share=cells.share(cells.answers == index, z),
    )


def prices_of(accuracy: Figure, z: float, asked: int, documents: int, planned: int) -> tuple[Price, ...]:
    """What the next narrower half-widths cost, if answers go on as they did: (half / z)^2 = c (1 / n - 1 / N).

    Args:
        accuracy: that the half-widths are of.
        z: the bound of its interval.
        asked: questions so far.
        documents: that there are.
        planned: questions that were planned before the first answer.
    """
    half = (accuracy.high - accuracy.low) / 2
    if not asked or asked >= documents or half <= 0:
        return ()
    scale = (half / z) ** 2 / (1 / asked - 1 / documents)
    found = []
    for wanted in [width for width in HALF_WIDTHS if width < half][:_PRICES]:
        total = asked
        while total < documents and anytime_z(total, planned) * np.sqrt(scale * (1 / total - 1 / documents)) > wanted:
            total = min(documents, total + max(1, total // 100))
        found.append(Price(wanted, total - asked))
    return tuple(found)
