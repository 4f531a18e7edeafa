"""What can be said of a classifier without an answer: its confidence, after a temperature that its agreement with another classifier decides. No guarantee.

Confidence alone says little: its scale is an option of the training. Two classifiers that were made apart agree on a document where both are right, and seldom
where one is wrong. So the temperature is the one at which the mean confidence is the share of documents on which the two agree. It misses the errors that both
make, as where a class name misleads the encoder that both start from: that is what an audit is for.
"""

from __future__ import annotations

import numpy as np

UNKNOWN_ACCURACY = 0.8  # of a classifier that there is no other to compare with; only the allocation of questions rests on it
_COLDEST, _HOTTEST = 1e-3, 1e3
_STEPS = 60  # of a bisection


def agreement(probabilities: np.ndarray, others: np.ndarray) -> float:
    """Share of documents on which two classifiers, `[N, L]` each, give the same class."""
    return float((probabilities.argmax(axis=1) == others.argmax(axis=1)).mean())


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
