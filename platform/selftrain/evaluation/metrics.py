"""The metrics of one set of predictions: accuracy, macro-F1, calibration, and the precision of the most confident (GenCo figure 3).

Everything comes from two arrays, class probabilities and true labels. The result is plain data for metrics.json, so that the report, the plots and the tracking
server show the same numbers. The counts and the scores of classes are scikit-learn's. The Brier score is not: `brier_score_loss` refuses rows of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from selftrain.evaluation.calibration import Bin, calibration_error, reliability_bins

_STEPS = (1, 3, 5)  # 10, 30, 50, 100, 300, 500, ... most confident documents


class ClassScores(TypedDict):
    """The scores of one class; a score without documents to divide by is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int  # documents that truly are of the class
    predicted: int  # documents that are predicted as the class


class PrecisionAt(TypedDict):
    """Share of right predictions among the `documents` most confident ones."""

    documents: int
    fraction: float  # of all documents, in (0, 1]
    precision: float


@dataclass(frozen=True)
class Scores:
    """The metrics of one variant on one set of labeled documents; all are in [0, 1] except `brier`, in [0, 2]."""

    documents: int
    accuracy: float
    macro_f1: float  # mean F1 over the classes that occur among labels or predictions
    ece: float  # expected calibration error, 15 equal-width bins
    brier: float  # squared distance between probabilities and the one-hot label, mean over documents
    mean_confidence: float
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted]
    precision_at: tuple[PrecisionAt, ...]  # fewest documents first
    reliability: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """The scores as lists, dictionaries and numbers."""
        document = asdict(self)
        for name in ("per_class", "precision_at", "reliability"):
            document[name] = list(document[name])
        document["confusion"] = [list(row) for row in self.confusion]
        return document


def evaluate(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Measure predictions against true labels.

    The predicted class is the most probable one (the first of equals). Macro-F1 follows scikit-learn: the mean of F1 over the classes that occur
    among labels or predictions; a class with documents but no right prediction counts as 0, and a class that occurs in neither is left out.

    Args:
        probabilities: `[N, L]`, one row a document, each summing to 1; a row of zeros is a document without an answer: wrong, and in no class.
        labels: `[N]`, true class indices in 0 .. L-1.
        class_names: the L names, in index order.

    Raises:
        ValueError: the shapes do not fit, there are no documents, a label is out of range, or a row is not a probability distribution.
    """
    probabilities, labels = _checked(probabilities, labels, len(class_names))
    documents, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    answered = probabilities.any(axis=1)
    correct = (predicted == labels) & answered
    placed = np.where(answered, predicted, -1)  # scikit-learn leaves out what is not among the labels
    confusion = confusion_matrix(labels, placed, labels=range(classes))
    per_class = class_scores(labels, placed, class_names)
    bins = reliability_bins(confidence, correct)
    return Scores(
        documents=documents,
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(per_class),
        ece=calibration_error(bins),
        brier=float(np.mean(np.sum((probabilities - np.eye(classes)[labels]) ** 2, axis=1))),
        mean_confidence=float(confidence.mean()),
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        precision_at=precision_of_most_confident(confidence, correct),
        reliability=tuple(bins),
    )


def class_scores(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> tuple[ClassScores, ...]:
    """The scores of every class.

    Args:
        labels: true class indices, `[N]`.
        predicted: likewise; below 0: in no class.
        class_names: in index order.
    """
    columns = precision_recall_fscore_support(labels, predicted, labels=range(len(class_names)), zero_division=0.0)
    counts = np.bincount(predicted[predicted >= 0], minlength=len(class_names))
    return tuple(
        ClassScores(name=name, precision=float(precision), recall=float(recall), f1=float(f1), support=int(support), predicted=int(count))
        for name, precision, recall, f1, support, count in zip(class_names, *columns, counts, strict=True)
    )


def macro_f1(per_class: Sequence[ClassScores]) -> float:
    """The mean of F1 over the classes that occur among labels or predictions."""
    return float(np.mean([entry["f1"] for entry in per_class if entry["support"] or entry["predicted"]]))


def area_under_curve(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: whether documents of a class are ranked above the others, wherever the threshold lies.

    Args:
        probabilities: `[N, L]`.
        labels: `[N]`, true class indices.

    Returns:
        Of two classes that of the second; of more the mean over classes of each against all others; None where a class has no document or all of them.
    """
    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        return None
    of = range(1, 2) if classes == 2 else range(classes)
    return float(np.mean([roc_auc_score(labels == label, probabilities[:, label]) for label in of]))


def precision_of_most_confident(confidence: np.ndarray, correct: np.ndarray) -> tuple[PrecisionAt, ...]:
    """Precision among the 10, 30, 50, 100, 300, ... most confident documents and among each tenth of them (GenCo figure 3).

    Documents of equal confidence at the cut count in equal parts (the expectation over their random order), so that the result
    does not depend on the order of the documents.
    """
    documents = len(confidence)
    levels, group = np.unique(-np.asarray(confidence, dtype=np.float64), return_inverse=True)
    sizes = np.bincount(group, minlength=len(levels))
    rights = np.bincount(group, weights=np.asarray(correct, dtype=np.float64), minlength=len(levels))
    ends, rights_by_end = np.cumsum(sizes), np.cumsum(rights)
    result = []
    for count in _cuts(documents):
        last = int(np.searchsorted(ends, count))  # the group that the cut goes through
        missing = ends[last] - count
        right = rights_by_end[last] - rights[last] * missing / sizes[last]
        result.append(PrecisionAt(documents=count, fraction=count / documents, precision=float(right / count)))
    return tuple(result)


def _cuts(documents: int) -> list[int]:
    cuts = {-(-documents * tenth // 10) for tenth in range(1, 11)}  # rounded up: never an empty cut
    power = 10
    while power <= documents:
        cuts.update(step * power for step in _STEPS if step * power <= documents)
        power *= 10
    return sorted(cuts)


def _checked(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"{classes} classes, probabilities {probabilities.shape} and labels {labels.shape} do not fit; expected [N, L] and [N]")
    if not len(labels):
        raise ValueError("there are no documents to evaluate")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be integers in 0 .. {classes - 1}")
    # Softmax in half precision is off by about 1e-3.
    off = np.abs(probabilities.sum(axis=1) - 1)[probabilities.any(axis=1)]
    if not np.isfinite(probabilities).all() or probabilities.min() < 0 or off.max(initial=0.0) > 1e-2:
        raise ValueError("probabilities must be finite, not negative, and sum to 1 in every row (or be all 0: no answer)")
    # As they are: dividing by the sums would tear ties apart in the last digit.
    return probabilities, labels.astype(np.int64)
