"""Several raters choose classes for the same documents: what they come to together, and how far each of them can be relied on.

The model is that of Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm" (Applied Statistics 28): each rater has an
error rate of its own for every class, raters err independently given the true class, and the true classes are estimated together with the error rates. So a rater
that mostly agrees with what all of them come to counts more, class by class, without one true label.

Two raters that disagree cannot tell who is right, by this or any other method that has nothing but their votes: the estimate needs three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_VOTE = -1
_ITERATIONS = 200
_CLOSE = 1e-7  # change of a probability at which the estimate stands
_SPREAD = 1.0  # vote of each rater on each class that nobody gave, spread evenly: no error rate is zero because it was not seen


@dataclass(frozen=True)
class Consensus:
    """What raters come to.

    Args:
        probabilities: of the classes, `[documents, classes]`; a row of zeros for a document without a vote.
        confusion: of each rater, the probability of a vote (column) for documents of a class (row), `[raters, classes, classes]`.
        prior: share of each class, `[classes]`.
        reliability: of each rater, the probability that its vote is right, `[raters]`.
    """

    probabilities: np.ndarray
    confusion: np.ndarray
    prior: np.ndarray
    reliability: np.ndarray


def consensus(votes: np.ndarray, classes: int, *, iterations: int = _ITERATIONS) -> Consensus:
    """Weigh votes by expectation maximisation, from the shares of the votes on.

    Args:
        votes: class indices, `[documents, raters]`; `NO_VOTE` where a rater gave none.
        classes: how many there are.
        iterations: at most.
    """
    given = votes != NO_VOTE
    ballots = np.zeros((*votes.shape, classes))  # [documents, raters, classes]: 1 at what was voted for
    documents, raters = np.nonzero(given)
    ballots[documents, raters, votes[given]] = 1.0
    voted = given.any(axis=1)
    found = ballots.sum(axis=1) / np.maximum(given.sum(axis=1, keepdims=True), 1)
    for _ in range(iterations):
        before = found
        prior, confusion = _rates(found, ballots, voted)
        score = np.log(prior) + np.einsum("nrl,rcl->nc", ballots, np.log(confusion))
        likelihood = np.exp(score - score.max(axis=1, keepdims=True))
        found = likelihood / likelihood.sum(axis=1, keepdims=True) * voted[:, None]
        if np.abs(found - before).max(initial=0.0) < _CLOSE:
            break
    prior, confusion = _rates(found, ballots, voted)
    return Consensus(found, confusion, prior, np.einsum("c,rcc->r", prior, confusion))


def _rates(found: np.ndarray, ballots: np.ndarray, voted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(share of each class, confusion of each rater) where the classes of the documents are `found`."""
    classes = found.shape[1]
    counts = np.einsum("nc,nrl->rcl", found, ballots) + _SPREAD / classes
    prior = (found.sum(axis=0) + _SPREAD / classes) / (voted.sum() + _SPREAD)
    return prior, counts / counts.sum(axis=2, keepdims=True)
