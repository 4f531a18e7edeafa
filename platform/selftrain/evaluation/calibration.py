"""Calibration: whether a confidence of 0.8 is right four times in five.

The expected calibration error ("On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3) and the bins behind it, which the reliability diagram
draws. Confidence is the probability of the predicted class. scikit-learn's `calibration_curve` returns neither the counts of the bins nor the empty ones, and its
bins are open above.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

BINS = 15  # equal-width bins, as in the paper


class Bin(TypedDict):
    """Documents whose confidence lies in (`lower`, `upper`]; the first bin holds 0 as well."""

    lower: float
    upper: float
    documents: int
    confidence: float | None  # mean confidence; None in an empty bin
    accuracy: float | None  # share that is right; None in an empty bin


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Sort documents into equal-width bins of confidence.

    Args:
        confidence: `[N]`, probability of the predicted class, in [0, 1].
        correct: `[N]`, whether the prediction is right.
        bins: number of bins over [0, 1].

    Raises:
        ValueError: the shapes differ, or `bins` is below 1.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(f"confidence and correct must be vectors of one length (got {confidence.shape} and {correct.shape})")
    if bins < 1:
        raise ValueError(f"bins must be at least 1 (got {bins})")
    edges = np.linspace(0.0, 1.0, bins + 1)
    where = np.digitize(confidence, edges[1:-1], right=True)
    documents = np.bincount(where, minlength=bins)
    confidences = np.bincount(where, weights=confidence, minlength=bins)
    rights = np.bincount(where, weights=correct, minlength=bins)
    return [
        Bin(
            lower=float(edges[index]),
            upper=float(edges[index + 1]),
            documents=int(count),
            confidence=float(confidences[index] / count) if count else None,
            accuracy=float(rights[index] / count) if count else None,
        )
        for index, count in enumerate(documents)
    ]


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error: the mean gap between accuracy and confidence, each bin weighted by its documents; in [0, 1], and 0 without documents."""
    total = sum(entry["documents"] for entry in bins)
    gaps = (
        entry["documents"] * abs(entry["accuracy"] - entry["confidence"])
        for entry in bins
        if entry["accuracy"] is not None and entry["confidence"] is not None
    )
    return sum(gaps) / total if total else 0.0
