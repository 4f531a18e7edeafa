"""Strong views of a text, by editing words or by a language model's continuation: what consistency methods compare a document with.

The edits are those of Wei & Zou 2019 (EDA) that need no thesaurus: words are left out and swapped. A view follows from the text and its number alone, so
frozen embeddings of views can be cached and every method of a comparison gets the same ones.
"""

from __future__ import annotations

import hashlib
import random

from selftrain.data.words import joined, words_of


def edited(text: str, view: int, *, dropped: float = 0.3, swapped: float = 0.1) -> str:
    """View number `view` of `text`.

    Args:
        text: the document.
        view: 0, 1, ...
        dropped: probability of leaving a word out; at least one stays.
        swapped: swaps of two random words, as a share of the words.
    """
    rng = random.Random(hashlib.sha256(f"selftrain view 1, {view}, {dropped}, {swapped}: {text}".encode()).digest())
    words = list(words_of(text))
    if len(words) < 2:
        return text
    kept = [word for word in words if rng.random() >= dropped] or [rng.choice(words)]
    for _ in range(round(swapped * len(kept))):
        first, second = rng.randrange(len(kept)), rng.randrange(len(kept))
        one, other = kept[first], kept[second]  # blanks stay in their places
        kept[first], kept[second] = one._replace(text=other.text), other._replace(text=one.text)
    return joined(kept)


def continued(text: str, continuation: str) -> str:
    """The strong view that a language model writes: its continuation stands in front, where an encoder that reads no more than the beginning reads it."""
    return f"{continuation} {text}".strip()
