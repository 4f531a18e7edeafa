"""Documents with none, one or several classes: how good the sets of classes are, and thresholds whose share of missed labels is under control.

`evaluate_sets` gives scikit-learn's figures for several labels, in the shape of `metrics.Scores`: `accuracy` is the share of documents whose set is right as a
whole, and what only a single label has (confusion matrix, precision of the most confident) is left out.

`thresholds_for` chooses a class's threshold by answers given by hand, so that at most a share `risk` of the documents that have the class lack it among their
It is split conformal prediction on the documents of the class, in the form that holds with the answers given (Vovk, arXiv:1209.2673; as evaluation/audit/sets.py):
the threshold is so low that at most m answers of the class miss it, m being the largest number that the binomial test refuses "more than `risk` are missed" with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom
from sklearn.metrics import precision_recall_fscore_support

from selftrain.evaluation.calibration import calibration_error, reliability_bins
from selftrain.evaluation.metrics import ClassScores, macro_f1

_ROUNDING = 1e-4  # of a threshold: so much lower than the probability that it comes from, that another backend's rounding misses nothing


def evaluate_sets(probabilities: np.ndarray, memberships: np.ndarray, class_names: Sequence[str], threshold: float = 0.5) -> dict[str, Any]:
    """Measure sets of classes against true ones; plain data, as `Scores.to_json()` gives it.

    Args:
        probabilities: of each class by itself, `[N, L]`.
        memberships: which classes each document truly has, boolean, `[N, L]`.
        class_names: in index order.
        threshold: a class is in a document's set where its probability reaches it.

    Raises:
        ValueError: the shapes do not fit, or there are no documents.
    """
    truth = np.asarray(memberships, dtype=bool)
    if probabilities.shape != truth.shape or truth.shape[1:] != (len(class_names),) or not len(truth):
        raise ValueError(
            f"{len(class_names)} classes, probabilities {probabilities.shape} and memberships {truth.shape} do not fit; expected [N, L] twice"
        )
    found = probabilities >= threshold
    columns = precision_recall_fscore_support(truth, found, average=None, zero_division=0.0)
    per_class = [
        ClassScores(name=name, precision=float(precision), recall=float(recall), f1=float(f1), support=int(support), predicted=int(count))
        for name, precision, recall, f1, support, count in zip(class_names, *columns, found.sum(axis=0), strict=True)
    ]
    micro = precision_recall_fscore_support(truth, found, average="micro", zero_division=0.0)
    confidence = np.maximum(probabilities, 1 - probabilities)  # of each answer, yes or no
    bins = reliability_bins(confidence.ravel(), ((probabilities >= 0.5) == truth).ravel())
    return {
        "documents": len(truth),
        "accuracy": float((found == truth).all(axis=1).mean()),
        "micro_f1": float(micro[2]),
        "macro_f1": macro_f1(per_class) if found.any() else 0.0,
        "ece": calibration_error(bins),
        "brier": float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        "mean_confidence": float(confidence.mean()),
        "labels": float(truth.sum(axis=1).mean()),
        "predicted_labels": float(found.sum(axis=1).mean()),
        "per_class": per_class,
        "reliability": list(bins),
    }


@dataclass(frozen=True)
class ClassThreshold:
    """What the answers say of one class.

    Attributes:
        threshold: of its probability; None where the answers support none.
        answers: that have the class.
        missed: of them, those below the threshold.
        needed: answers with the class that would support a threshold if none were missed.
    """

    threshold: float | None
    answers: int
    missed: int
    needed: int


def thresholds_for(probabilities: np.ndarray, memberships: np.ndarray, *, risk: float, level: float = 0.95) -> list[ClassThreshold]:
    """The highest threshold of every class whose promise the answers support.

    Args:
        probabilities: of the documents that answers were given about, drawn at random, `[n, L]`.
        memberships: which classes the answers give each, boolean, `[n, L]`.
        risk: share of a class's documents that may lack it, at most, in (0, 1).
        level: of confidence for all classes together.

    Raises:
        ValueError: the shapes do not fit, or `risk` is out of range.
    """
    truth = np.asarray(memberships, dtype=bool)
    if truth.ndim != 2 or probabilities.shape != truth.shape:
        raise ValueError(f"probabilities {probabilities.shape} and memberships {truth.shape} must be tables of one shape")
    if not 0 < risk < 1:
        raise ValueError(f"risk must be above 0 and below 1 (got {risk})")
    chance = (1 - level) / truth.shape[1]  # of a mistake about one class
    needed = int(np.ceil(np.log(chance) / np.log1p(-risk)))
    found = []
    for label in range(truth.shape[1]):
        of_class = np.sort(probabilities[truth[:, label], label])
        allowed = int(np.sum(binom.cdf(np.arange(len(of_class)), len(of_class), risk) <= chance))
        if not allowed:  # with no answer missed the test would still not be refused
            found.append(ClassThreshold(None, len(of_class), 0, needed))
            continue
        threshold = float(of_class[allowed - 1] * (1 - _ROUNDING))
        found.append(ClassThreshold(threshold, len(of_class), int((of_class < threshold).sum()), needed))
    return found
