"""Which documents are worth a label: those that stand for many others. Arrays in, numbers out.

Facility location (Wei, Iyer & Bilmes 2015, Submodularity in data subset selection and active learning): near every document there should be one that is chosen.
Chosen greedily, each adds most to

    sum_i w_i max_{j chosen} max(0, cos(i, j)),

so every beginning of the order is a good choice too (at least 1 - 1/e of the best one of its size), and whoever stops early loses little. Documents that have a
label already count as chosen. The weights w are 1 here: with the classifier's doubts as weights, a hundred answers were worth less (docs/howto/labelling.md).
"""

from __future__ import annotations

import numpy as np

_BLOCK = 64  # candidates whose gains are computed at once


def choose(embeddings: np.ndarray, count: int, *, weights: np.ndarray | None = None, labeled: np.ndarray | None = None) -> np.ndarray:
    """Documents in the order in which they are worth a label, `[count]`.

    Args:
        embeddings: of the documents, `[N, D]`, of any length but zero.
        count: documents to choose, at most N.
        weights: w, `[N]`, not negative; default: 1.
        labeled: embeddings of documents that have a label, `[M, D]`.

    Raises:
        ValueError: the shapes do not fit, or `count` is out of range.
    """
    weights = np.ones(len(embeddings)) if weights is None else weights
    if embeddings.ndim != 2 or weights.shape != embeddings.shape[:1] or not 1 <= count <= len(embeddings):
        raise ValueError(f"embeddings {embeddings.shape}, weights {weights.shape} and count {count} do not fit")
    units, weights = _units(embeddings), weights.astype(np.float32)
    covered = np.zeros(len(units), dtype=np.float32)
    if labeled is not None and len(labeled):
        covered = np.maximum(covered, (units @ _units(labeled).T).max(axis=1))
    near = units @ units.T
    # What a document adds only gets less, so an old gain is a bound, and most need not be computed again (Minoux 1978).
    bounds = np.full(len(units), np.inf, dtype=np.float32)
    order = np.empty(count, dtype=np.int64)
    for place in range(count):
        stale = bounds.copy()
        while stale.max() >= np.where(np.isneginf(stale), bounds, -1).max():
            few = np.argpartition(stale, -min(_BLOCK, len(stale)))[-_BLOCK:]
            few = few[~np.isneginf(stale[few])]
            bounds[few] = np.maximum(near[few] - covered, 0) @ weights
            stale[few] = -np.inf
        order[place] = bounds.argmax()
        bounds[order[place]] = -np.inf
        covered = np.maximum(covered, near[order[place]])
    return order


def _units(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
