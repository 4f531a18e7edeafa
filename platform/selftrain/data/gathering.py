"""The usable documents of a source as columns: 32 bytes a document besides its text, and no text of those that no split can want.

Rows come in batches (cleaning.py). Of every document its id, its label and its place in hash order are kept, since a split is chosen among all of them. Its
text is dropped as soon as enough others of its kind stand before it in hash order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from selftrain.data.cleaning import NO_LABEL, CleanedRows
from selftrain.data.columns import BLOCK, SkippedBuilder, TextBuilder, TextColumn
from selftrain.data.corpus import Documents
from selftrain.data.id_set import digits_of
from selftrain.data.images import stacked
from selftrain.data.splits import hash_keys, hash_positions
from selftrain.files.mapped import GrowingBytes

_LEAST_DROPPED = 4096  # texts that are dropped at a time, so that this is rare


@dataclass(frozen=True)
class Cut:
    """Which texts are wanted at most: the first `most` in hash order of each group, and all that share the hash of the last one of these.

    A split takes the first documents in hash order, of all documents or of those with a label; or of every class, where at most half of a class may be held out.
    So with all of them in a group, or two groups, or a group a class, the first `most` of a group hold whatever `most` documents are taken in that way.
    """

    most: int  # of a group; documents of all splits together
    by_class: bool  # a group a class, and one for those without a label; else one for all that carry a label, and one for those that do not


@dataclass(frozen=True)
class Gathered:
    """Documents by position, in the order of the source."""

    ids: np.ndarray  # uint64 [documents]
    labels: np.ndarray  # int32 [documents], class index or `NO_LABEL`
    weak: np.ndarray  # likewise
    ordered: np.ndarray  # all positions, in hash order
    _kept: np.ndarray | None  # positions whose contents are there, ascending; None: all of them
    _contents: Any  # TextColumn, or a list of images

    def __len__(self) -> int:
        return len(self.ids)

    def documents(self, positions: np.ndarray) -> Documents:
        """The documents at `positions`, in that order."""
        rows = positions
        if self._kept is not None:
            rows = np.searchsorted(self._kept, positions)
            assert np.array_equal(self._kept[rows], positions), "a text that is wanted was dropped"
        found = self._contents.take(rows) if isinstance(self._contents, TextColumn) else stacked([self._contents[row] for row in rows])
        return Documents(self.ids_of(positions), found)

    def ids_of(self, positions: np.ndarray) -> TextColumn:
        """The ids of the documents at `positions`."""
        return _ids(self.ids[positions])


def gather(batches: Iterable[CleanedRows], skipped: SkippedBuilder, *, images: bool = False, cut: Cut | None = None) -> Gathered:
    """All documents of `batches`.

    Args:
        batches: of `clean`.
        skipped: gets the rows that were skipped.
        images: whether the documents are images.
        cut: which texts may be wanted; None: all of them, as of images.
    """
    ids, keys, labels, weak = columns = [GrowingBytes() for _ in range(4)]
    contents: _CutTexts | TextBuilder | list[Any] = [] if images else TextBuilder() if cut is None else _CutTexts(cut)
    count = 0
    for batch in batches:
        batch_keys = hash_keys(_ids(batch.ids))
        if isinstance(contents, _CutTexts):
            contents.extend(batch, count, batch_keys)
        else:
            contents.extend(batch.contents)
        for column, more in zip(columns, (batch.ids, batch_keys, batch.labels, batch.weak), strict=True):
            column.append(more.data)
        skipped.extend(batch.skipped)
        count += len(batch.ids)
    all_ids, all_keys = (np.frombuffer(column.whole(), np.uint64) for column in (ids, keys))
    all_labels, all_weak = (np.frombuffer(column.whole(), np.int32) for column in (labels, weak))
    ordered = hash_positions(all_keys, lambda place: digits_of(all_ids[place : place + 1]))
    kept, found = (
        contents.finish() if isinstance(contents, _CutTexts) else (None, contents.column() if isinstance(contents, TextBuilder) else contents)
    )
    return Gathered(all_ids, all_labels, all_weak, ordered, kept, found)


def _ids(numbers: np.ndarray) -> TextColumn:
    builder = TextBuilder()
    for start in range(0, len(numbers), BLOCK):
        part = numbers[start : start + BLOCK]
        builder.append(TextColumn.of_buffers(len(part), np.arange(0, 16 * len(part) + 1, 16), digits_of(part).encode("ascii")))
    return builder.column()


class _CutTexts:
    """Texts that may still be wanted, with their positions, places in hash order and groups."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._texts = TextBuilder()
        self._rows: list[np.ndarray] = []  # [texts, 3] in parts: position, key, group
        self._next = _LEAST_DROPPED

    def extend(self, batch: CleanedRows, position: int, keys: np.ndarray) -> None:
        """Append a batch whose first document has `position`."""
        groups = batch.labels if self._cut.by_class else batch.labels != NO_LABEL
        positions = np.arange(position, position + len(keys))
        self._rows.append(np.stack([positions.astype(np.uint64), keys, groups.astype(np.int64).astype(np.uint64)], axis=1))
        self._texts.extend(batch.contents)
        if len(self._texts) >= self._next:
            self._drop()

    def _drop(self) -> None:
        rows = self._all()
        last = np.full(len(rows), np.iinfo(np.uint64).max, dtype=np.uint64)  # the key of the last that is wanted of each one's group
        for group in np.unique(rows[:, 2]):
            members = rows[:, 2] == group
            keys = rows[members, 1]
            if len(keys) > self._cut.most:
                last[members] = np.partition(keys, self._cut.most - 1)[self._cut.most - 1] if self._cut.most else 0
        kept = np.flatnonzero(rows[:, 1] <= last)
        if len(kept) < len(rows):
            self._texts = self._texts.keep(kept)
        self._rows = [rows[kept]]
        self._next = max(2 * len(kept), len(kept) + _LEAST_DROPPED)

    def _all(self) -> np.ndarray:
        return np.concatenate([np.empty((0, 3), dtype=np.uint64), *self._rows])

    def finish(self) -> tuple[np.ndarray, TextColumn]:
        """(positions whose texts are there, these texts)."""
        return self._all()[:, 0].astype(np.int64), self._texts.column()
