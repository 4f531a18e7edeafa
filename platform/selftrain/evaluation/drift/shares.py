"""How many texts of each class there are, where a classifier is not always right.

Counting predictions is biased towards the shares that it was trained for. The maximum-likelihood shares under label shift (every class looks as it did, only its
share has changed) are found by expectation maximisation (Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
Neural Computation 2002; "EMQ" in the library quapy). It needs no label, and calibrated probabilities; benchmarks/watch.py measures how near it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DRAWS = 200
_ROUNDS, _STILL = 200, 1e-5


class Shares(NamedTuple):
    """Shares of the classes, `[L]` each."""

    predicted: np.ndarray  # of the predictions
    estimated: np.ndarray
    low: np.ndarray  # 95 %, by bootstrap over the texts: of the estimate's noise, not of its bias
    high: np.ndarray


def expected_shares(probabilities: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Maximum-likelihood shares of the classes, `[L]`.

    Args:
        probabilities: of texts, `[n, L]`, at least one.
        before: shares that the probabilities take for granted, `[L]`.
    """
    before = np.maximum(before, 1e-6)
    shares = before / before.sum()
    for _ in range(_ROUNDS):
        weighed = probabilities * (shares / before)
        weighed /= np.maximum(weighed.sum(axis=1, keepdims=True), 1e-300)
        old, shares = shares, weighed.mean(axis=0)
        if np.abs(shares - old).max() < _STILL:
            break
    return np.asarray(shares)


def shares(probabilities: np.ndarray, before: np.ndarray) -> Shares:
    """Shares with intervals; arguments as in `expected_shares`."""
    probabilities = probabilities.astype(np.float64)
    rng = np.random.default_rng(0)
    drawn = [expected_shares(probabilities[rng.integers(0, len(probabilities), len(probabilities))], before) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    counted = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) / len(probabilities)
    return Shares(counted, expected_shares(probabilities, before), low, high)
