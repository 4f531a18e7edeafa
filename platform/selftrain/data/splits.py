"""Stable splits: which document is held out depends on its content alone.

Documents are put in the order of a hash of (salt, document id). A document keeps its place relative to all others when rows are added, removed or
moved in the source, a smaller limit takes a subset of a larger one, and the order mixes the classes of a source that lists them one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

# Part of every hash: another salt would be another split. It must never change, or published figures could not be made again.
SALT = "selftrain split 1"


def hash_order(ids: Iterable[str], salt: str = SALT) -> list[str]:
    """`ids` sorted by the SHA-256 of the salt and the id."""
    return sorted(ids, key=lambda id_: (hashlib.sha256(f"{salt}:{id_}".encode()).digest(), id_))


def hold_out(ids: Iterable[str], count: int, eligible: Collection[str]) -> tuple[list[str], list[str]]:
    """Split `ids` into (test, rest), both in hash order.

    Args:
        ids: document ids, each once.
        count: size of the test split; smaller where fewer documents are eligible.
        eligible: the ids that may be held out (those that carry a label); a set, or anything that answers `in` quickly.
    """
    ordered = hash_order(ids)
    test = [id_ for id_ in ordered if id_ in eligible][:count]
    held = set(test)
    return test, [id_ for id_ in ordered if id_ not in held]
