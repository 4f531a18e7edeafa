"""How typical a text is of known documents, so that one of no class is seen; from embeddings alone, without a label.

A text is strange that lies far from all documents: what counts is the distance to its tenth-nearest (Sun et al. 2022, arXiv:2204.06507). By the embeddings of the
encoder that was trained this also sees kinds of documents that were there in training and fit no class; docs/howto/none_of_these.md has the measurement.

The known documents have such a distance too, each among the others. The share of them whose distance is as large is the typicality, a p-value of conformal anomaly
detection (Laxhammar and Falkman 2010): of texts that are drawn like the known documents, about 1 % have a typicality of at most .01.
"""

from __future__ import annotations

import numpy as np

NEIGHBOUR = 10
_BLOCK = 256  # texts whose similarities to all known documents are in memory at a time


class Surroundings:
    """Known documents, which texts are compared with.

    Args:
        embeddings: of the documents, `[M, D]`, of length one.
        neighbour: the document whose distance counts, the nearest is 1.

    Raises:
        ValueError: there are no more than `neighbour` documents.
    """

    def __init__(self, embeddings: np.ndarray, *, neighbour: int = NEIGHBOUR) -> None:
        if embeddings.ndim != 2 or len(embeddings) <= neighbour:
            raise ValueError(f"embeddings {embeddings.shape} must be of more than {neighbour} documents")
        self._known = embeddings.astype(np.float32)
        # A document is the nearest to itself.
        self._similarities = np.sort(self._similarity(self._known, neighbour + 1))
        self._neighbour = neighbour

    def __len__(self) -> int:
        """How many there are."""
        return len(self._known)

    def typicality(self, embeddings: np.ndarray) -> np.ndarray:
        """The share of the known documents, with the text itself, that are as far from the others as the text or farther, `[N]` in (0, 1].

        Args:
            embeddings: of the texts, `[N, D]`, of any length.
        """
        rows = embeddings.astype(np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        similarity = self._similarity(rows, self._neighbour)
        found: np.ndarray = (1 + np.searchsorted(self._similarities, similarity, side="right")) / (1 + len(self._known))
        return found

    def _similarity(self, rows: np.ndarray, place: int) -> np.ndarray:
        """The cosine to the known document that is the `place`-th nearest, `[N]`, of each of `rows`."""
        blocks = (rows[start : start + _BLOCK] @ self._known.T for start in range(0, len(rows), _BLOCK))
        found = [np.partition(cosines, -place, axis=1)[:, -place] for cosines in blocks]
        return np.concatenate(found) if found else np.empty(0)
