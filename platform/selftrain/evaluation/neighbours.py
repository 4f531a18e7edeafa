"""How well a labeling fits the documents' neighbourhoods: a figure for comparing two labelings of the same documents without a true label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEIGHBOURS = 10


class Agreement(NamedTuple):
    """Of (document, neighbour) pairs."""

    share: float  # of the pairs that have the same label; it is high, too, where one class has nearly all documents
    above_chance: float  # the same, where 0 is what labels drawn at these classes' shares would have, and also that of a single class; 1: all pairs


def nearest(embeddings: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """The `count` nearest documents of each by cosine, `[N, count]`, nearest first; a document is no neighbour of its own, and ties go to the earlier one.

    Args:
        embeddings: `[N, D]`, none of them zero.
        count: fewer than N.
    """
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = directions @ directions.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def neighbour_agreement(neighbours: np.ndarray, labels: np.ndarray) -> Agreement:
    """How often a document and a neighbour of it have the same label.

    Args:
        neighbours: of `nearest`, `[N, count]`.
        labels: of the documents, `[N]`, from 0.
    """
    share = float((labels[neighbours] == labels[:, None]).mean())
    chance = float(((np.bincount(labels) / len(labels)) ** 2).sum())
    return Agreement(share, (share - chance) / (1 - chance) if chance < 1 else 0.0)
