"""Confidence on a scale of its own: what a design takes for the chance that a prediction is right, where nobody has given an answer yet.

The scale of a classifier's confidence is an option of its training (a temperature of .1 makes .95 of what another makes .35), and the order of the documents is what
it says. So a temperature brings the mean to a fixed value.

A classifier is also sure of its mistakes. Texts that share words mostly share a class, and words are a view that the encoder did not choose: where those of another
class surround a document, its prediction is doubtful however sure it is.

Nothing but the allocation of questions rests on either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

ASSUMED_ACCURACY = 0.8  # what classifiers without labels have on common sets, give or take .15
NEIGHBOURS = 30
MOST_COMPARED = 2000  # documents, drawn at random, among which neighbours are sought
_COLDEST, _HOTTEST = 1e-3, 1e3
_STEPS = 60  # of a bisection
_BLOCK = 512  # documents whose similarities to all that are compared are in memory at a time


def tempered_at(probabilities: np.ndarray, mean: float) -> np.ndarray:
    """Probabilities after the temperature at which the mean confidence is `mean`, or as near as any temperature comes, `[N, L]`.

    Args:
        probabilities: `[N, L]`, rows of sum 1.
        mean: in [0, 1].
    """
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-300))
    logits = logits - logits.max(axis=1, keepdims=True)
    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _softmax(logits, middle).max(axis=1).mean() > mean:
            low = middle
        else:
            high = middle
    return _softmax(logits, (low + high) / 2)


def confidence_at(probabilities: np.ndarray, mean: float) -> np.ndarray:
    """The confidence of each document by `tempered_at`, `[N]`."""
    return np.asarray(tempered_at(probabilities, mean).max(axis=1))


def confidence_among_neighbours(probabilities: np.ndarray, texts: Sequence[str], mean: float) -> np.ndarray:
    """The mean of a document's confidence and of the probability that its neighbours give to its predicted class, `[N]`.

    Neighbours are the 30 documents with the most alike words (cosine of their tf-idf), which weigh by how alike they are. A document that shares no word with any
    has its own confidence.

    Args:
        probabilities: `[N, L]`, rows of sum 1; they are read as `tempered_at` makes them.
        texts: `[N]`.
        mean: in [0, 1].
    """
    tempered = tempered_at(probabilities, mean)
    predicted, own = tempered.argmax(axis=1), tempered.max(axis=1)
    compared = np.random.default_rng(0).permutation(len(texts))[:MOST_COMPARED]
    words = HashingVectorizer(alternate_sign=False, norm=None)  # no vocabulary, which may be empty
    counted = words.transform([texts[index] for index in compared])
    weighing = TfidfTransformer(sublinear_tf=True).fit(counted)
    known = weighing.transform(counted).T.tocsr()
    place = np.full(len(texts), -1)
    place[compared] = np.arange(len(compared))
    others = np.empty(len(texts))
    for start in range(0, len(texts), _BLOCK):
        part = texts[start : start + _BLOCK]
        block = np.arange(start, start + len(part))
        alike = (weighing.transform(words.transform(part)) @ known).toarray()
        among = np.flatnonzero(place[block] >= 0)
        alike[among, place[block[among]]] = 0.0  # no document is its own neighbour
        others[block] = _by_neighbours(alike, tempered[compared], predicted[block], own[block])
    return (own + others) / 2


def _by_neighbours(alike: np.ndarray, tempered: np.ndarray, predicted: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The mean probability of the predicted class among the most alike of the compared documents, `[n]`; `own` where none is alike.

    Args:
        alike: similarities, `[n, M]`, at least 0.
        tempered: probabilities of what is compared, `[M, L]`.
        predicted: classes, `[n]`.
        own: confidence, `[n]`.
    """
    count = min(NEIGHBOURS, alike.shape[1])
    weights = np.where(alike >= np.partition(alike, -count, axis=1)[:, -count, None], alike, 0.0)
    total = weights.sum(axis=1)
    found = (weights @ tempered)[np.arange(len(predicted)), predicted]
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), own)


def _softmax(logits: np.ndarray, log_temperature: float) -> np.ndarray:
    scaled = np.exp(logits / np.exp(log_temperature))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))
