"""Sets of document ids of 8 bytes each, where a set of strings takes 150, and labels by document id of 20 bytes each, where a dictionary takes 170."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

_BLOCK = 4096  # ids that are made Python strings at a time


def numbers_of(ids: Iterable[str]) -> np.ndarray:
    """Document ids (16 hexadecimal digits each) as unsigned integers `[ids]`."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64)


def digits_of(ids: np.ndarray) -> str:
    """The ids that `numbers_of` made numbers of, one after the other."""
    return ids.astype(">u8").tobytes().hex()


class IdSet:
    """Ids as unsigned integers, in sorted runs of which each is at least twice as long as the next: adding and asking take the logarithm of the size."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """For each of `ids` whether it was added, `[ids]`."""
        found = np.zeros(len(ids), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, ids)
            places[places == len(run)] = 0
            found |= run[places] == ids
        return found

    def add(self, ids: np.ndarray) -> None:
        """Add `ids`, none of which may be in it."""
        run = np.sort(ids)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # merges what is sorted
        if len(run):
            self._runs.append(run)


class LabelsById(Mapping[str, int]):
    """Labels by document id, in the order given.

    Args:
        ids: `numbers_of` the ids, each another.
        labels: of each, integers.
    """

    def __init__(self, ids: np.ndarray, labels: np.ndarray) -> None:
        order = np.argsort(ids)
        self._sorted, self._labels = ids[order], labels[order]
        self._places = np.empty_like(order)  # of the ids as they were given, among the sorted ones
        self._places[order] = np.arange(len(ids))

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            digits = digits_of(self._sorted[self._places[start : start + _BLOCK]])
            yield from (digits[place : place + 16] for place in range(0, len(digits), 16))

    def __getitem__(self, id_: str) -> int:
        try:
            number = int(id_, 16)
        except ValueError:
            raise KeyError(id_) from None
        place = bisect_left(self._sorted.data, number)
        if place == len(self) or self._sorted[place] != number or f"{number:016x}" != id_:
            raise KeyError(id_)
        return int(self._labels[place])
