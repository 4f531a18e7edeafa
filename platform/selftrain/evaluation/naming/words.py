"""The words that are typical of the documents nearest to each name: a hint at what the name stands for, and at words for a better one.

A word's weight is its log-odds ratio between these documents and all others, over its standard error, with the rate in all documents as the prior (Monroe, Colaresi
and Quinn, "Fightin' Words", Political Analysis 2008, section 3.5.1). It needs no list of stop words, so that any language will do. Documents that hold the word
are counted, not how often they do; words in more documents than an even share of the names comes to are no one name's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

WORDS = 5
_FEWEST = 3  # documents of a name that hold a word
_PRIOR = 20.0  # documents
_WIDEST = 0.1  # of the documents, where an even share is less


def typical_words(words: Sequence[frozenset[str]], nearest: np.ndarray, classes: int, count: int = WORDS) -> list[list[str]]:
    """For each name, up to `count` words, the most typical first.

    Args:
        words: of each document, `[N]`, in lower case.
        nearest: the name that each document is nearest to, `[N]`.
        classes: number of names.
        count: of words a name.
    """
    counted = [Counter[str]() for _ in range(classes)]
    for bag, nearest_name in zip(words, nearest.tolist(), strict=True):
        counted[nearest_name].update(bag)
    everywhere = sum(counted, Counter[str]())
    most = len(words) * max(1 / classes, _WIDEST)
    vocabulary = sorted(word for word, held in everywhere.items() if held <= most and any(letter.isalpha() for letter in word))
    total = np.array([everywhere[word] for word in vocabulary], dtype=np.float64)
    documents = np.bincount(nearest, minlength=classes)
    prior = _PRIOR * total / max(len(nearest), 1)
    found = []
    for name in range(classes):
        own = np.array([counted[name][word] for word in vocabulary], dtype=np.float64)
        size, rest = documents[name] + _PRIOR, len(nearest) - documents[name] + _PRIOR
        inside, outside = own + prior, total - own + prior
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(inside / (size - inside)) - np.log(outside / (rest - outside))
        weight = np.where((own >= _FEWEST) & np.isfinite(ratio), ratio / np.sqrt(1 / inside + 1 / outside), -np.inf)
        order = np.argsort(-weight, kind="stable")[:count]
        found.append([vocabulary[index] for index in order.tolist() if weight[index] > 0])
    return found
