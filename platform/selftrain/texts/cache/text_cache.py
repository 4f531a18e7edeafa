"""The cache as its users see it: look up, add, go through."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selftrain.errors import OutputError
from selftrain.texts.cache.block import BrokenBlock, among, log_bytes
from selftrain.texts.cache.completion import SCHEMA, Completion, Hashes, key_hashes, to_completions, to_table
from selftrain.texts.cache.contents import BROKEN, Contents, block_name
from selftrain.texts.cache.manifest import MERGED
from selftrain.texts.cache.merging import LOG_BLOCKS, is_due, merge
from selftrain.texts.cache.store import cache_location, open_store

_Result = TypeVar("_Result")


class TextCache:
    """All completions of one cache, on disk or in an object store; in memory are 8 bytes a text and what was read last. One thread at a time.

    A block that cannot be parsed costs its own completions and nothing else: it is kept as `NAME.parquet.broken`, reported on standard error and listed in
    `broken`; its completions are generated anew.

    Args:
        location: folder, or address that begins with s3:// or gs://; a folder is made where it is missing.

    Raises:
        ConfigError: `location` is another kind of address.
        OutputError: the folder cannot be written.
        DataError: a block cannot be read for a reason other than its content.
        ServiceError: the object store cannot be reached.
    """

    def __init__(self, location: Path | str) -> None:
        self.location = cache_location(location)
        self._contents = Contents(open_store(self.location))
        self._contents.refresh()

    @property
    def broken(self) -> list[str]:
        """Paths of the blocks that were set aside."""
        return self._contents.broken

    def __len__(self) -> int:
        return len(np.unique(self._steadily(self._all_hashes)))

    def get(self, key: str) -> Completion | None:
        """The completion for `key`, or None; for several keys `lookup` reads each block once."""
        return self.lookup([key]).get(key)

    def lookup(self, keys: Iterable[str]) -> dict[str, Completion]:
        """The completions of those `keys` that have one, whoever committed it."""
        wanted = list(dict.fromkeys(keys))
        found = self._steadily(lambda: self._find(wanted))
        missing = [key for key in wanted if key not in found]
        if missing and self._contents.refresh():
            found |= self._steadily(lambda: self._find(missing))
        return found

    def completions(self) -> Iterator[Completion]:
        """All completions, one a key. What is committed meanwhile may be among them."""
        for table in self._tables(SCHEMA.names):
            yield from to_completions(table)

    def count(self, document_id: str) -> int:
        """The number of completions for a document."""
        tables = self._tables(["key", "document_id"])
        return sum(pc.sum(pc.equal(table.column("document_id"), document_id), min_count=0).as_py() for table in tables)

    def add(self, completions: Iterable[Completion]) -> None:
        """Commit those with a new key as one block: all of it or nothing. Where another process has committed a key, its completion replaces this one.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
            DataError: a block of another process cannot be read.
            ServiceError: the object store cannot be reached.
        """
        new: dict[str, Completion] = {}
        for completion in completions:
            new.setdefault(completion.key, completion)
        new = self._unknown(new)
        while new:
            number = self._contents.last_number + 1
            table = to_table(list(new.values()))
            if not self._contents.store.create(block_name(number), log_bytes(table)):
                self._contents.refresh(known=number)
            elif self._contents.newer_manifest():
                # The number may have been free because what it was is merged; then the block does not count. If it was merged itself, its keys are found.
                self._contents.refresh()
                if number > self._contents.manifest.through:
                    break
            else:
                self._contents.append(number, table)
                break
            new = self._unknown(new)
        if new and self._contents.log and is_due(self._contents.log):
            self._merge()

    def _unknown(self, completions: dict[str, Completion]) -> dict[str, Completion]:
        found = self._steadily(lambda: self._find(list(completions)))
        return {key: completion for key, completion in completions.items() if key not in found}

    def _merge(self) -> None:
        contents = self._contents
        if len(contents.log) > 2 * LOG_BLOCKS:
            print(f"selftrain: the text cache {self.location} holds {len(contents.log)} small blocks; they are merged, once.", file=sys.stderr)
        try:
            while merge(contents) and len(contents.log) >= LOG_BLOCKS:
                pass
        except OutputError as error:  # what was to be added is committed, and no text depends on a merge
            print(f"selftrain: the text cache's blocks cannot be merged now: {error}", file=sys.stderr)

    def _find(self, keys: Sequence[str]) -> dict[str, Completion]:
        hashes = key_hashes(keys)
        order = np.argsort(hashes, kind="stable")
        wanted = hashes[order]
        found: dict[str, Completion] = {}
        for block in self._contents.blocks_for(wanted):
            places, rows = block.find(wanted)
            if len(rows):
                for place, completion in zip(order[places], to_completions(block.take(rows)), strict=True):
                    if completion.key == keys[place]:
                        found.setdefault(completion.key, completion)
        return found

    def _all_hashes(self) -> Hashes:
        return np.concatenate([np.zeros(0, np.uint64), *(block.hashes for block in self._contents.blocks)])

    def _tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of all rows, one a key, a block at a time."""
        hashes = np.sort(self._steadily(self._all_hashes))
        repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        seen: set[str] = set()
        done: list[Hashes] = []  # of blocks that were gone through
        before = np.zeros(0, np.uint64)
        left = deque(self._contents.blocks)
        while left:
            try:
                table, row_hashes = left[0].read(columns)
            except BrokenBlock as problem:
                # Merged by another process: go on with what has not been seen, by hash.
                self._contents.set_aside(problem)
                left, before = deque(self._contents.blocks), np.sort(np.concatenate([before, *done]))
                done = []
                continue
            done.append(left.popleft().hashes)
            keep = ~among(row_hashes, before)
            for row in np.flatnonzero(among(row_hashes, repeated) & keep):
                key = table.column("key")[int(row)].as_py()
                keep[row] = key not in seen
                seen.add(key)
            yield table if keep.all() else table.filter(pa.array(keep))

    def _steadily(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, which is done again where another process has merged a block meanwhile, or one is broken."""
        while True:
            try:
                return work()
            except BrokenBlock as problem:
                self._contents.set_aside(problem)


def broken_blocks(location: Path | str) -> set[str]:
    """Paths of the blocks of a cache that were set aside because they could not be parsed."""
    place = cache_location(location)
    if "://" not in place and not Path(place).is_dir():
        return set()
    store = open_store(place)
    names = [*store.names(), *(f"{MERGED}/{name}" for name in store.names(MERGED))]
    return {store.path(name) for name in names if name.endswith(f".parquet{BROKEN}")}
