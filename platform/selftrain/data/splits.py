"""Stable splits: which document is held out depends on its content alone.

Documents are put in the order of a hash of (salt, document id). A document keeps its place relative to all others when rows are added, removed or
moved in the source, a smaller limit takes a subset of a larger one, and the order mixes the classes of a source that lists them one after the other.

Large corpora are ordered by the first 8 bytes of the hash (`hash_keys`), and by all of it where these are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

# Part of every hash: another salt would be another split. It must never change, or published figures could not be made again.
SALT = "selftrain split 1"


def hash_order(ids: Iterable[str], salt: str = SALT) -> list[str]:
    """`ids` sorted by the SHA-256 of the salt and the id."""
    return sorted(ids, key=lambda id_: (_digest(id_, salt), id_))


def hash_keys(ids: Iterable[str], salt: str = SALT) -> np.ndarray:
    """The first 8 bytes of the hash that `hash_order` sorts by, as unsigned integers `[ids]`."""
    return np.frombuffer(b"".join(_digest(id_, salt)[:8] for id_ in ids), ">u8").astype(np.uint64)


def hash_positions(keys: np.ndarray, id_at: Callable[[int], str], salt: str = SALT) -> np.ndarray:
    """The positions of documents in the order of `hash_order`.

    Args:
        keys: `hash_keys` of their ids.
        id_at: gives the id at a position; only asked where another one has the same key.
        salt: that the keys were made with.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    start = 0
    while start < len(same):  # runs of equal keys
        stop = start + 1
        while stop < len(same) and same[stop] == same[stop - 1] + 1:
            stop += 1
        run = slice(same[start], same[stop - 1] + 2)
        order[run] = sorted(order[run], key=lambda place: (_digest(id_at(place), salt), id_at(place)))
        start = stop
    return order


def hold_out(ordered: np.ndarray, count: int, eligible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split documents into (test, rest), both in the order given.

    Args:
        ordered: their positions, in hash order.
        count: size of the test split; smaller where fewer documents are eligible.
        eligible: for every document, by its position, whether it may be held out (it carries a label).
    """
    may = np.flatnonzero(eligible[ordered])[:count]
    return ordered[may], np.delete(ordered, may)


def _digest(id_: str, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}:{id_}".encode()).digest()
