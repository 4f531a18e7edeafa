"""Sets of document ids of 8 bytes each: a set of strings takes 150."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


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
