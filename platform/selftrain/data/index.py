"""A document by its id, without a dictionary of all texts: 16 bytes a document, made when the first one is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from selftrain.data.corpus import Documents


class DocumentIndex:
    """The contents of documents by id.

    Args:
        parts: in which an id is looked up; where several have it, the last one's content is found.
    """

    def __init__(self, parts: Sequence[Documents]) -> None:
        self._parts = tuple(reversed([part for part in parts if len(part)]))

    def __getitem__(self, id_: str) -> Any:
        wanted = hash(id_)
        for part, (hashes, rows) in zip(self._parts, self._sorted, strict=True):
            place = int(np.searchsorted(hashes, wanted))
            while place < len(hashes) and hashes[place] == wanted:  # different ids may share a hash
                if part.ids[row := int(rows[place])] == id_:
                    return part.contents[row]
                place += 1
        raise KeyError(id_)

    @cached_property
    def _sorted(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every part, the hashes of its ids in order, and the rows that have them."""
        found = []
        for part in self._parts:
            hashes = np.fromiter(map(hash, part.ids), np.int64, len(part))
            rows = np.argsort(hashes, kind="stable")
            found.append((hashes[rows], rows))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"_parts": self._parts}  # another process hashes strings otherwise
