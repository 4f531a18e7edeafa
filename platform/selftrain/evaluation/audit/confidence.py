"""Confidence on a scale of its own: what a design takes for the chance that a prediction is right, where nobody has given an answer yet.

The scale of a classifier's confidence is an option of its training (a temperature of .1 makes .95 of what another makes .35), and the order of the documents is what
it says. So a temperature brings the mean to a fixed value. Nothing but the allocation of questions rests on it.
"""

from __future__ import annotations

import numpy as np

ASSUMED_ACCURACY = 0.8  # what classifiers without labels have on common sets, give or take .15
_COLDEST, _HOTTEST = 1e-3, 1e3
_STEPS = 60  # of a bisection


def confidence_at(probabilities: np.ndarray, mean: float) -> np.ndarray:
    """Confidence of each document after the temperature at which its mean is `mean`, or as near as any temperature comes, `[N]`.

    Args:
        probabilities: `[N, L]`, rows of sum 1.
        mean: in [0, 1].
    """
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-300))
    logits = logits - logits.max(axis=1, keepdims=True)
    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _confidence(logits, middle).mean() > mean:
            low = middle
        else:
            high = middle
    return _confidence(logits, (low + high) / 2)


def _confidence(logits: np.ndarray, log_temperature: float) -> np.ndarray:
    return np.asarray(1 / np.exp(logits / np.exp(log_temperature)).sum(axis=1))  # the largest logit is 0
