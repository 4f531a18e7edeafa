"""The quality of texts that a language model wrote for labels, without training on them: their diversity, and the share that fits its label (SunGen table 5)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_TOKEN = re.compile(r"\w+|[^\w\s]")
_EPSILON = 0.1  # the count where no n-gram is shared: smoothing 1 of Chen & Cherry 2014


def tokens(text: str) -> list[str]:
    """Lower-cased words and single punctuation marks."""
    return _TOKEN.findall(text.lower())


def self_bleu(texts: Sequence[str], order: int = 4) -> float:
    """Self-BLEU ("Texygen: A Benchmarking Platform for Text Generation Models", arXiv:1802.01886), 0 to 1; lower is more diverse.

    It is the mean over the texts of their BLEU with all other texts as references.

    BLEU is that of Papineni et al. 2002 with equal weights: the geometric mean of the precisions of n-grams up to `order`, each n-gram clipped at its largest
    count in one reference, times exp(1 - r / c) where the text, of c tokens, is shorter than the reference of the nearest length r. A text that shares no word
    has BLEU 0. The value grows with the number of texts, so only sets of equal size compare.

    Args:
        texts: at least two.
        order: longest n-gram.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"texts must be at least 2 (got {len(texts)})")
    split = [tokens(text) for text in texts]
    logs = np.zeros(len(split))
    shares_word = np.ones(len(split), dtype=bool)
    for size in range(1, order + 1):
        counts = [Counter(zip(*(words[start:] for start in range(size)), strict=False)) for words in split]
        largest = _two_largest(counts)
        for index, own in enumerate(counts):
            matched = sum(min(count, largest[gram][2] if largest[gram][1] == index else largest[gram][0]) for gram, count in own.items())
            if size == 1 and matched == 0:
                shares_word[index] = False
            logs[index] += math.log((matched or _EPSILON) / max(1, own.total())) / order
    return float((np.exp(logs) * _brevity(np.array([len(words) for words in split])) * shares_word).mean())


def correctness(probabilities: np.ndarray, labels: Sequence[int]) -> float:
    """Share of texts whose label is the most probable class to a classifier that was trained on real data, 0 to 1 (SunGen: a fine-tuned RoBERTa-large).

    Args:
        probabilities: of that classifier, `[texts, classes]`.
        labels: that the texts were written for, `[texts]`.
    """
    return float((probabilities.argmax(axis=1) == np.asarray(labels)).mean())


def _two_largest(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """By n-gram: its largest count in one text, that text's index, and the largest count in any other, so that "all but me" needs no second pass."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for index, own in enumerate(counts):
        for gram, count in own.items():
            first, owner, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, index, first) if count > first else (first, owner, max(second, count))
    return found


def _brevity(lengths: np.ndarray) -> np.ndarray:
    """Brevity penalties `[texts]`; of two references that are equally near in length the shorter counts."""
    present, texts = np.unique(lengths, return_counts=True)
    penalties = np.ones(len(lengths))
    for length, count in zip(present, texts, strict=True):
        others = present if count > 1 else present[present != length]
        nearest = int(others[np.abs(others - length).argmin()])
        if length < nearest:
            penalties[lengths == length] = math.exp(1 - nearest / length) if length else 0.0
    return penalties
