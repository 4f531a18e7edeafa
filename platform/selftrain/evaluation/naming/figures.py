"""Without a label: whether class names separate the documents, from the cosines of documents and label prompts.

Nothing here can tell a right name from a wrong one: swap two names, and every figure stays the same. What shows is a name that cannot work: one that says what
another says, or that is nearest to next to nothing. benchmarks/check.py measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Chosen on BBC News, whose own names correlate by .63 at most and have .74 of an even share at least, while vague ones had .15 to .42 of it, and synonyms
# correlated by .72 to .98. RARE was .25 until AG News was seen, where vague names had .28 to .58.
NEAR = 0.75  # correlation of two names' scores over the documents, from which they are called near each other
RARE = 0.4  # of an even share of the documents, below which a name is called near nothing
MOST_SAID = 10  # warnings
EXAMPLES = 3
ADDED = 3  # words, to a name that is near nothing: benchmarks/check.py measures what that does to the accuracy, and to that of other names
_LIKE = 0.5  # share of the words of both, from which two documents are too much alike to be two examples


@dataclass(frozen=True)
class NameFigures:
    """One class name."""

    name: str
    share: float  # of the documents that are nearest to it
    margin: float  # of their scores over the second name, mean; 1: as for names that have nothing to do with each other
    second: str  # the name that is most often second among them
    second_share: float  # how often


@dataclass(frozen=True)
class PairFigures:
    """Two names."""

    names: tuple[str, str]
    cosine: float  # of their prompts
    correlation: float  # of their scores over the documents
    together: float  # of the documents nearest to either, the share for which the other is second


@dataclass(frozen=True)
class NamingFigures:
    """All names."""

    documents: int
    separation: float  # mean margin of all documents; 1: as for names that have nothing to do with each other
    names: tuple[NameFigures, ...]
    near: tuple[PairFigures, ...]  # of each name and the one that its scores go with most, the highest correlation first


def margins(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(nearest name, second name, margin between their scores) of each document, `[N]` each, from `scores` `[N, L]`."""
    rows = np.arange(len(scores))
    nearest = scores.argmax(axis=1)
    others = np.array(scores, dtype=np.float64)
    others[rows, nearest] = -np.inf
    second = others.argmax(axis=1)
    return nearest, second, scores[rows, nearest] - others[rows, second]


def figures(scores: np.ndarray, cosines: np.ndarray, names: Sequence[str]) -> NamingFigures:
    """The figures of class names.

    Args:
        scores: cosines of documents and names, `[N, L]`.
        cosines: of names and names, `[L, L]`.
        names: the L names, at least two.

    Raises:
        ValueError: the shapes do not fit, or there are fewer than two documents.
    """
    scores, cosines = np.asarray(scores, dtype=np.float64), np.asarray(cosines, dtype=np.float64)
    count = len(names)
    if scores.ndim != 2 or scores.shape[1] != count or cosines.shape != (count, count) or count < 2 or len(scores) < 2:
        raise ValueError(f"{count} names, scores {scores.shape} and cosines {cosines.shape} do not fit; at least two of each are needed")
    nearest, second, margin = margins(scores)
    unrelated = _unrelated_margin(scores)
    found = []
    for index, name in enumerate(names):
        own = nearest == index
        seconds = np.bincount(second[own], minlength=count)
        mean = float(margin[own].mean()) / unrelated if own.any() and unrelated > 0 else 0.0
        share = float(seconds.max() / own.sum()) if own.any() else 0.0
        found.append(NameFigures(name, float(own.mean()), mean, names[int(seconds.argmax())], share))
    near = _near(scores, cosines, nearest, second, names)
    return NamingFigures(len(scores), float(margin.mean()) / unrelated if unrelated > 0 else 0.0, tuple(found), near)


def _unrelated_margin(scores: np.ndarray) -> float:
    """The mean margin where every name keeps its scores, and they belong to other documents than those of the other names."""
    rng = np.random.default_rng(0)
    return float(margins(np.stack([rng.permutation(column) for column in scores.T], axis=1))[2].mean())


def _near(scores: np.ndarray, cosines: np.ndarray, nearest: np.ndarray, second: np.ndarray, names: Sequence[str]) -> tuple[PairFigures, ...]:
    centred = scores - scores.mean(axis=0)
    lengths = np.sqrt((centred**2).sum(axis=0))
    correlation = centred.T @ centred / np.maximum(np.outer(lengths, lengths), 1e-300)
    np.fill_diagonal(correlation, -np.inf)
    pairs = {(min(index, other), max(index, other)) for index, other in enumerate(correlation.argmax(axis=1).tolist())}
    found = []
    for first, other in sorted(pairs, key=lambda pair: -correlation[pair]):
        either = np.isin(nearest, (first, other))
        both = either & np.isin(second, (first, other))
        together = float(both.sum() / either.sum()) if either.any() else 0.0
        found.append(PairFigures((names[first], names[other]), float(cosines[first, other]), float(correlation[first, other]), together))
    return tuple(found)


def warnings(found: NamingFigures, words: Sequence[Sequence[str]]) -> list[str]:
    """A sentence for each thing about the names that is likely to harm: what was seen, and what to do.

    Args:
        found: the figures.
        words: that are typical of the documents nearest to each name, `[L][...]`; a name near nothing is proposed with the first `ADDED` of them.
    """
    said = []
    for pair in found.near:
        if pair.correlation >= NEAR:
            first, other = pair.names
            said.append(
                f"The names {first!r} and {other!r} say nearly the same of these documents (their scores correlate by {pair.correlation:.2f}, their prompts' "
                f"cosine is {pair.cosine:.2f}, and of the documents nearest to either {100 * pair.together:.0f} % have the other second): "
                "say in each what the other is not, or make them one class. Opposites, such as good and bad, come near each other too."
            )
    even = 1 / len(found.names)
    for name, own in zip(found.names, words, strict=True):
        if name.share < RARE * even:
            seen = "No document is" if not name.share else f"Only {100 * name.share:.1f} % of the documents are"
            proposed = f", such as {', '.join([name.name, *own[:ADDED]])!r}" if own else ""
            said.append(f"{seen} nearest to the name {name.name!r}: use words that its documents use{proposed}, or leave the class out.")
    return said if len(said) <= MOST_SAID else [*said[: MOST_SAID - 1], f"{len(said) - MOST_SAID + 1} more names are near another, or near nothing."]


def examples(scores: np.ndarray, words: Sequence[frozenset[str]], count: int = EXAMPLES) -> list[list[int]]:
    """For each name, up to `count` typical documents: nearest to it, with the largest margins, and no two of nearly the same words.

    Args:
        scores: of documents and names, `[N, L]`.
        words: of each document, `[N]`.
        count: of documents a name.
    """
    nearest, _, margin = margins(np.asarray(scores))
    found: list[list[int]] = []
    for name in range(np.shape(scores)[1]):
        own = np.flatnonzero(nearest == name)
        kept: list[int] = []
        for index in own[np.argsort(-margin[own], kind="stable")].tolist():
            if len(kept) == count:
                break
            if not any(_alike(words[index], words[other]) for other in kept):
                kept.append(index)
        found.append(kept)
    return found


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    return len(first & second) > _LIKE * len(first | second)
