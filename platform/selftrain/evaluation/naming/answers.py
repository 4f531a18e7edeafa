"""Ten answers about class names: which documents to ask about, and what the answers say of each name.

The questions are about typical documents: of those nearest to a name, a random draw from the quarter with the largest margins over every other name. Where a name
is right, nearly all of these are of its class; where it is swapped with another, nearly all are of the other. So a few answers tell the two apart, which as many
answers on documents drawn from all would not.

What a name stands for is one of three things, and Bayes' rule weighs them:

    right     its typical documents are of its class
    class k   they are of class k: the name misleads, or is swapped with that of k
    nothing   they are of no class in particular

Given one of them, answers are a Dirichlet-multinomial sample (`_weights`). Names are looked at in pairs, because a swap shows in two names at once: that j stands
for k is likelier where k stands for j. A test of significance cannot refuse anything with two answers a name; the weights of the three, stated below, are what
makes it possible, and benchmarks/check.py says how often they are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from selftrain.evaluation.naming.figures import margins

SKIPPED = -1  # an answer: nobody knows
TYPICAL = 0.25  # of the documents nearest to a name, those with the largest margins
RIGHT, NOTHING = 0.8, 0.1  # before the first answer; what is left is shared by the other classes
AGREEING, STRAY = 6.0, 1.0  # of the Dirichlet: weight of the class that a name stands for, and of all other answers together
SWAPS = 20.0  # times likelier: that k stands for j, where j stands for k
DOUBT = 0.2  # a name is called wrong where it is right with less than this probability


@dataclass(frozen=True)
class Verdict:
    """What the answers say of one name."""

    asked: int  # answers about its documents, skipped ones left out
    agreed: int  # of them, those that are its class
    right: float  # probability that the name is right
    stands_for: int | None  # the class that it more likely stands for; None where it stands for none, or is not in doubt
    wrong: bool
    swapped: bool  # with `stands_for`, which stands for it in turn


def typical(scores: np.ndarray, share: float = TYPICAL) -> list[np.ndarray]:
    """For each name, its typical documents: those nearest to it, largest margin first, and of them the first `share`, at least one where there is any."""
    nearest, _, margin = margins(scores)
    found = []
    for name in range(scores.shape[1]):
        own = np.flatnonzero(nearest == name)
        own = own[np.argsort(-margin[own], kind="stable")]
        found.append(own[: int(np.ceil(share * len(own)))])
    return found


def questions(scores: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which documents to ask about.

    Names take turns, and where the last turn is not complete, those with the smallest mean margins are asked about once more.

    Args:
        scores: of documents and names, `[N, L]`, by which a document is nearest to a name.
        count: of questions; fewer come back where there are fewer typical documents.
        seed: of the draws.

    Returns:
        (documents, names that they are nearest to), `[n]` both, in random order.
    """
    rng = np.random.default_rng(seed)
    nearest, _, margin = margins(scores)
    left = [list(rng.permutation(own)) for own in typical(scores)]
    mean = [margin[nearest == name].mean() if len(own) else np.inf for name, own in enumerate(left)]
    order = np.argsort(mean, kind="stable")
    asked: list[tuple[int, int]] = []
    while len(asked) < count and any(left):
        asked += [(int(left[name].pop()), int(name)) for name in order if left[name]][: count - len(asked)]
    pairs = np.array(asked, dtype=np.int64).reshape(-1, 2)[rng.permutation(len(asked))]
    return pairs[:, 0], pairs[:, 1]


def verdicts(names: np.ndarray, answers: np.ndarray, classes: int) -> list[Verdict]:
    """What the answers say of each name.

    Args:
        names: that the documents are nearest to, `[n]`.
        answers: their true classes, `[n]`; `classes` for none of them, `SKIPPED` for an unknown one.
        classes: L, the number of names, at least two.

    Raises:
        ValueError: the shapes differ, or a value is out of range.
    """
    names, answers = np.asarray(names, dtype=np.int64), np.asarray(answers, dtype=np.int64)
    if names.shape != answers.shape or names.ndim != 1:
        raise ValueError(f"names and answers must be vectors of one length (got {names.shape} and {answers.shape})")
    if len(names) and (names.min() < 0 or names.max() >= classes or answers.min() < SKIPPED or answers.max() > classes):
        raise ValueError(f"names must be from 0 to {classes - 1}, and answers from {SKIPPED} to {classes}")
    counts = np.zeros((classes, classes + 1))
    known = answers != SKIPPED
    np.add.at(counts, (names[known], answers[known]), 1)
    asked = np.flatnonzero(counts.sum(axis=1))
    weights = {int(name): _weights(counts[name], int(name)) for name in asked}
    unasked = Verdict(0, 0, RIGHT, None, False, False)
    return [_verdict(name, counts[name], weights) if name in weights else unasked for name in range(classes)]


def _weights(counts: np.ndarray, name: int) -> np.ndarray:
    """What a name stands for, by its own answers, `[L + 1]`: each class (its own: right), and last nothing; of sum 1.

    Args:
        counts: of the answers, `[L + 1]`.
        name: index of its class.
    """
    classes = len(counts) - 1
    prior = np.full(classes + 1, (1 - RIGHT - NOTHING) / (classes - 1))
    prior[name], prior[classes] = RIGHT, NOTHING
    alpha = np.full((classes + 1, classes + 1), STRAY / classes)
    np.fill_diagonal(alpha, AGREEING)
    alpha[classes] = 1.0
    total = alpha.sum(axis=1)
    likelihood = gammaln(total) - gammaln(total + counts.sum()) + np.sum(gammaln(alpha + counts) - gammaln(alpha), axis=1)
    found = np.exp(likelihood - likelihood.max()) * prior
    return np.asarray(found / found.sum())


def _verdict(name: int, counts: np.ndarray, weights: Mapping[int, np.ndarray]) -> Verdict:
    """Of one name: the pair with another name that was asked about in which it is least likely right."""
    classes = len(counts) - 1
    pairs = [(*_together(name, other, weights), other) for other in weights if other != name]
    own, back, other = min(pairs, key=lambda pair: pair[0][name]) if pairs else (weights[name], 0.0, name)
    right, best = float(own[name]), int(own.argmax())
    wrong = right < DOUBT
    stands_for = best if wrong and best not in (name, classes) else None
    return Verdict(int(counts.sum()), int(counts[name]), right, stands_for, wrong, swapped=stands_for == other and back > 0.5)


def _together(name: int, other: int, weights: Mapping[int, np.ndarray]) -> tuple[np.ndarray, float]:
    """(what `name` stands for, `[L + 1]`; how likely `other` stands for the class of `name`): the marginals of a table [name's, other's] whose rows and columns are
    independent but for the one cell of a swap."""
    own = weights[name].copy()
    back = float(weights[other][name])
    swap = own[other] * back
    own[other] += (SWAPS - 1) * swap
    total = own.sum()
    return own / total, float((back + (SWAPS - 1) * swap) / total)
