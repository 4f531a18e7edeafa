"""What the answers of an audit say of a classifier that gives a document none, one or several classes.

The questions are a simple random sample of the documents: one stratum. A document is in many classes' figures at once, so no stratum is good for all of them; and
the same answers may set thresholds with a promise, whose binomial test wants every document of a class to be as likely as another (evaluation/multi_label.py).
What is known of all documents, which classes are predicted for them, takes the place of strata: given how many questions fell on the documents that a class is
predicted for, these are a random sample of them.

Each class is a question with the answers yes and no, so precision, recall and share have the intervals of estimate.py, and so has the share of documents whose
set of classes is right as a whole. Micro-F1 is about labels, of which a document brings several at once: a ratio of two means over documents, whose interval is

    { f : |mean(a_i - f b_i)| <= z sd(a_i - f b_i) sqrt((1 - n/N) / n) }        a_i = 2 labels that are right, b_i = labels predicted + labels answered

(Fieller 1954). A sample without a mistake has the standard deviation 0. So two more documents count, at the lower end as ones with no label right and at the upper
end as ones with all of them, in the way of Agresti and Coull (1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selftrain.evaluation.audit.estimate import Counts, Interval, ratio, ratio_interval, score_bound, share, share_interval
from selftrain.evaluation.audit.figures import SKIPPED, ClassFigures, Figure, Price, accuracy_alone, figure_of, prices_of

_MORE = 2.0  # documents that count besides the sample at either end of the interval of micro-F1


@dataclass(frozen=True)
class SeveralFigures:
    """The result of an audit of several labels a document."""

    documents: int
    asked: int  # answers, skipped questions included
    skipped: int
    planned: int
    anytime: bool  # whether the intervals hold at every number of answers at once
    exact_match: Figure  # share of the documents whose set of classes is right as a whole
    micro_f1: Figure  # of all labels of all documents together
    none_of_these: Figure  # share of the documents that have none of the classes
    classes: tuple[ClassFigures, ...]
    prices: tuple[Price, ...]  # of the interval of `exact_match`

    def to_json(self) -> dict[str, Any]:
        """The figures as lists, dictionaries and numbers."""
        document = asdict(self)
        return document | {"classes": list(document["classes"]), "prices": list(document["prices"])}


def several_figures(
    documents: int,
    predicted_as: np.ndarray,
    predicted: np.ndarray,
    answers: np.ndarray,
    skipped: np.ndarray,
    class_names: Sequence[str],
    *,
    planned: int,
) -> SeveralFigures:
    """The figures of an audit of several labels a document.

    Args:
        documents: that there are.
        predicted_as: how many of them each class is predicted for, `[L]`.
        predicted: which classes are predicted for the documents that were asked about, boolean, `[n, L]`.
        answers: which they have, boolean, `[n, L]`; of a skipped question anything.
        skipped: which questions have no answer, boolean, `[n]`.
        class_names: the L names.
        planned: questions that were planned before the first answer.

    Raises:
        ValueError: the shapes do not fit, or there are more questions than documents.
    """
    predicted, answers, skipped = (np.asarray(table, dtype=bool) for table in (predicted, answers, skipped))
    predicted_as, asked = np.asarray(predicted_as, dtype=np.float64), len(skipped)
    if not predicted.shape == answers.shape == (asked, len(class_names)) or predicted_as.shape != (len(class_names),):
        raise ValueError(
            f"{len(class_names)} classes, {asked} questions, predicted {predicted.shape}, answers {answers.shape} and predicted_as "
            f"{predicted_as.shape} do not fit"
        )
    if np.any(predicted.sum(axis=0) > predicted_as) or np.any((~predicted).sum(axis=0) > documents - predicted_as):
        raise ValueError("more questions about a class's documents than there are")
    z = score_bound(asked, planned)
    exact_match, anytime = exact_match_alone(documents, predicted, answers, skipped, planned=planned)
    none = np.where(skipped, SKIPPED, answers.any(axis=1))
    empty, _ = accuracy_alone(np.array([[documents, 0]]), np.zeros(asked), np.zeros(asked), none, planned=planned)
    return SeveralFigures(
        documents=documents,
        asked=asked,
        skipped=int(skipped.sum()),
        planned=planned,
        anytime=anytime,
        exact_match=exact_match,
        micro_f1=_micro_f1(documents, predicted, answers, skipped, z),
        none_of_these=empty,
        classes=_classes(class_cells(documents, predicted_as, predicted, answers, skipped), class_names, z),
        prices=prices_of(exact_match, z, asked, documents, planned),
    )


def exact_match_alone(documents: int, predicted: np.ndarray, answers: np.ndarray, skipped: np.ndarray, *, planned: int) -> tuple[Figure, bool]:
    """`exact_match` and `anytime` of `several_figures`, in a small part of its time. Arguments as there."""
    wrong = np.where(skipped, SKIPPED, (predicted != answers).any(axis=1))
    return accuracy_alone(np.array([[documents, 0]]), np.zeros(len(wrong)), np.zeros(len(wrong)), wrong, planned=planned)


def class_cells(documents: int, predicted_as: np.ndarray, predicted: np.ndarray, answers: np.ndarray, skipped: np.ndarray) -> Counts:
    """What was answered about each class, `[..., L, 2]`: of the documents that it is predicted for, and of the others.

    Args:
        documents, predicted_as: as in `several_figures`.
        predicted, answers: likewise, `[..., n, L]`.
        skipped: likewise, `[..., n]`.
    """
    sides, unknown = np.stack([predicted, ~predicted], axis=-1), skipped[..., None, None]
    counted = [(sides & inside).sum(axis=-3).astype(np.float64) for inside in (np.True_, answers[..., None] & ~unknown, unknown)]
    return Counts(np.stack([predicted_as, documents - predicted_as], axis=-1), *counted)


def precision_interval(cells: Counts, z: float) -> tuple[np.ndarray, Interval]:
    """The estimate and the interval of every class's precision, `[..., L]`, from `class_cells`."""
    own = Counts(cells.documents[..., :1], cells.asked[..., :1], cells.hits[..., :1], cells.skipped[..., :1])
    return share(own, np.ones(1)), share_interval(own, np.ones(1), z)


def recall_interval(cells: Counts, z: float) -> tuple[np.ndarray, Interval]:
    """The estimate and the interval of every class's recall, likewise."""
    weights, top = cells.documents / cells.documents.sum(axis=-1, keepdims=True), np.array([True, False])
    return ratio(cells, weights, top), ratio_interval(cells, weights, top, z)


def share_of_class_interval(cells: Counts, z: float) -> tuple[np.ndarray, Interval]:
    """The estimate and the interval of the share of all documents that have each class, likewise."""
    whole = Counts(*(getattr(cells, name).sum(axis=-1, keepdims=True) for name in ("documents", "asked", "hits", "skipped")))
    return share(whole, np.ones(1)), share_interval(whole, np.ones(1), z)


def micro_f1_interval(documents: int, right: np.ndarray, labels: np.ndarray, z: float) -> Interval:
    """Both ends of the interval of micro-F1.

    Args:
        documents: that there are.
        right: 2 x the labels that are right of each document that was asked about, `[2, n]`: as few as they may be, and as many.
        labels: those that are predicted and those that it has, together, likewise.
        z: the bound of the test.
    """
    low, high = (_fieller(documents, *one, z, all_right=end == 1)[end] for end, one in enumerate(zip(right, labels, strict=True)))
    return Interval(np.array(low), np.array(high))


def _classes(cells: Counts, class_names: Sequence[str], z: float) -> tuple[ClassFigures, ...]:
    precision, recall, of_all = (find(cells, z) for find in (precision_interval, recall_interval, share_of_class_interval))
    predicted = cells.documents[:, 0] / cells.documents.sum(axis=-1)

    def figure(found: tuple[np.ndarray, Interval], place: int) -> Figure:
        estimate, (low, high) = found
        return figure_of(estimate[place], Interval(low[place], high[place]))

    return tuple(
        ClassFigures(
            name=name,
            predicted=float(predicted[place]),
            precision=figure(precision, place) if predicted[place] else None,
            recall=figure(recall, place),
            share=figure(of_all, place),
        )
        for place, name in enumerate(class_names)
    )


def _micro_f1(documents: int, predicted: np.ndarray, answers: np.ndarray, skipped: np.ndarray, z: float) -> Figure:
    right = 2.0 * (predicted & answers).sum(axis=1)
    labels = 1.0 * predicted.sum(axis=1) + answers.sum(axis=1)
    known = labels[~skipped].sum()
    # Of a skipped question the worst: it has none of the classes that are predicted, and all others. The best: it has just these.
    worst, best = np.full(len(skipped), float(predicted.shape[1])), 2.0 * predicted.sum(axis=1)
    low, high = (np.where(skipped, 0.0, right), np.where(skipped, worst, labels)), (np.where(skipped, best, right), np.where(skipped, best, labels))
    interval = micro_f1_interval(documents, np.stack([low[0], high[0]]), np.stack([low[1], high[1]]), z)
    return figure_of(right[~skipped].sum() / known if known else np.array(np.nan), interval)


def _fieller(documents: int, right: np.ndarray, labels: np.ndarray, z: float, *, all_right: bool) -> tuple[float, float]:
    """Both roots, with the further documents of one end."""
    left = 1 - len(right) / documents
    weights = np.append(np.ones(len(right)), _MORE * left)
    middle = labels.mean()
    a, b = np.append(right, middle if all_right else 0.0), np.append(labels, middle)
    total = weights.sum()
    a_mean, b_mean = weights @ a / total, weights @ b / total
    a, b = a - a_mean, b - b_mean
    scale = z**2 * left / total / max(total - 1, 1.0)
    aa, ab, bb = (scale * float(weights @ product) for product in (a * a, a * b, b * b))
    square, half, rest = b_mean**2 - bb, a_mean * b_mean - ab, a_mean**2 - aa
    if square <= 0:  # how many labels there are is not known well enough
        return 0.0, 1.0
    root = float(np.sqrt(max(half**2 - square * rest, 0.0)))
    return (half - root) / square, (half + root) / square
