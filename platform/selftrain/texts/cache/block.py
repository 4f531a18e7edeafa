"""A Parquet file of completions, read in parts: the hashes of its keys once (8 bytes a text), texts by row groups when they are asked for."""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.errors import DataError, SelfTrainError
from selftrain.texts.cache.completion import HASH, HASHED_SCHEMA, SCHEMA, Hashes, key_hashes
from selftrain.texts.cache.manifest import MergedFile
from selftrain.texts.cache.store import Store

Rows = npt.NDArray[np.int64]
GROUP_ROWS = 2048  # of a row group, at most: what one lookup reads
_GROUP_BYTES = 2**20
_KEPT_BYTES = 2**26  # row groups in memory
# Errors of the disk, not of what is on it: a block that cannot be read for these is not broken.
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE})


class BrokenBlock(Exception):
    """A block cannot be parsed, or is gone; for the package alone, which sets it aside or looks again."""

    def __init__(self, block: Block, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.block, self.reason, self.gone = block, reason, gone


class RowGroups:
    """The row groups that were read last, up to a size in memory."""

    def __init__(self, limit: int = _KEPT_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    def get(self, name: str, group: int) -> pa.Table | None:
        """A row group, or None."""
        table = self._tables.get((name, group))
        if table is not None:
            self._tables.move_to_end((name, group))
        return table

    def put(self, name: str, group: int, table: pa.Table) -> None:
        """Keep one, and forget what was asked for longest ago."""
        if (name, group) in self._tables:
            return
        self._tables[(name, group)] = table
        self._bytes += table.nbytes
        while self._bytes > self._limit and len(self._tables) > 1:
            self._bytes -= self._tables.popitem(last=False)[1].nbytes


class Block:
    """One file: a block of the log, whose rows stand as they were added, or a merged file, sorted by hash.

    Args:
        store: that holds it.
        name: in the store.
        kept: row groups in memory, of all blocks.
        entry: of the manifest, for a merged file.
    """

    def __init__(self, store: Store, name: str, kept: RowGroups, entry: MergedFile | None = None) -> None:
        self.name, self.entry = name, entry
        self.bytes = entry.bytes if entry else 0  # in memory; of a block of the log known once it is loaded
        self._store, self._kept = store, kept
        self._hashes: Hashes | None = None
        self._order: Rows | None = None  # rows by hash, where the file is not sorted
        self._starts: Rows = np.zeros(0, np.int64)  # first rows of the row groups

    @property
    def hashes(self) -> Hashes:
        """Of its keys, sorted."""
        if self._hashes is None:
            self._load()
        assert self._hashes is not None
        return self._hashes

    def __len__(self) -> int:
        return self.entry.rows if self.entry else len(self.hashes)

    def hold(self, table: pa.Table) -> None:
        """Take over the rows of a block of the log that this process has just written by `log_bytes`, instead of reading them."""
        self._starts = np.arange(0, table.num_rows, GROUP_ROWS)
        for group, start in enumerate(self._starts):
            self._kept.put(self.name, group, table.slice(int(start), GROUP_ROWS))
        self.bytes = table.nbytes
        self._hashes = self._sorted(table.column("key").to_pylist())

    def find(self, wanted: Hashes) -> tuple[Rows, Rows]:
        """Places in `wanted`, which is sorted, and the rows that have these hashes; both of one length."""
        first, last = (self.entry.first, self.entry.last) if self.entry else (0, 2**64 - 1)
        low, high = np.searchsorted(wanted, np.uint64(first), "left"), np.searchsorted(wanted, np.uint64(last), "right")
        if low == high:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places, ranks = _matches(wanted[low:high], self.hashes)
        return places + low, ranks if self._order is None else self._order[ranks]

    def take(self, rows: Rows) -> pa.Table:
        """Rows by number, in the order of `rows`."""
        if not len(rows):
            return SCHEMA.empty_table()
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        groups = np.searchsorted(self._starts, ascending, "right") - 1
        changes = np.flatnonzero(np.diff(groups)) + 1
        parts = []
        with self._parsing(), ExitStack() as stack:
            file: pq.ParquetFile | None = None
            for group, part in zip(groups[np.append(0, changes)], np.split(ascending, changes), strict=True):
                table, inside = self._kept.get(self.name, int(group)), part - self._starts[group]
                if table is None:
                    file = file or stack.enter_context(self._opened())
                    table = _checked(file.read_row_group(int(group), columns=SCHEMA.names), SCHEMA.names)
                    self._kept.put(self.name, int(group), table)
                if inside[-1] >= table.num_rows:
                    raise BrokenBlock(self, "it has lost rows")
                whole = len(part) == inside[-1] - inside[0] + 1
                parts.append(table.slice(int(inside[0]), len(part)) if whole else table.take(pa.array(inside)))
        taken = pa.concat_tables(parts)
        return taken if np.array_equal(ascending, rows) else taken.take(pa.array(np.argsort(order, kind="stable")))

    def between(self, low: int, high: int) -> pa.Table:
        """The rows of `HASHED_SCHEMA` whose hash is at least `low` and at most `high`, by hash."""
        if self.entry and (self.entry.last < low or self.entry.first > high):
            return HASHED_SCHEMA.empty_table()
        start, end = np.searchsorted(self.hashes, np.uint64(low), "left"), np.searchsorted(self.hashes, np.uint64(high), "right")
        rows = np.arange(start, end, dtype=np.int64) if self._order is None else self._order[start:end]
        return self.take(rows).add_column(0, HASHED_SCHEMA.field(HASH), pa.array(self.hashes[start:end]))

    def read(self, columns: Sequence[str]) -> tuple[pa.Table, Hashes]:
        """Some columns of all rows, in the order of the file, and the hash of each row."""
        hashes = self.hashes
        with self._parsing(), self._opened() as file:
            table = _checked(file.read(columns=list(columns)), columns)
        if self._order is not None:
            unsorted = np.empty_like(hashes)
            unsorted[self._order] = hashes
            hashes = unsorted
        if len(hashes) != table.num_rows:
            raise BrokenBlock(self, "it has lost rows")
        return table, hashes

    def readable(self) -> pa.Table:
        """The rows of `HASHED_SCHEMA` in row groups that can be read; what is left of a broken merged file."""
        parts = [HASHED_SCHEMA.empty_table()]
        try:
            with self._parsing(), self._opened() as file:
                groups = file.num_row_groups
            for group in range(groups):
                try:
                    with self._parsing(), self._opened() as file:
                        table = _checked(file.read_row_group(group, columns=SCHEMA.names), SCHEMA.names)
                        hashes = key_hashes(table.column("key").to_pylist())  # not as they stand there
                except BrokenBlock:
                    continue
                parts.append(table.add_column(0, HASHED_SCHEMA.field(HASH), pa.array(hashes)))
        except BrokenBlock:
            pass
        return pa.concat_tables(parts)

    def _load(self) -> None:
        with self._parsing(), self._opened() as file:
            metadata = file.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, np.int64)
            if self.entry:
                hashes = file.read(columns=[HASH]).column(HASH).to_numpy()
                if np.any(hashes[1:] < hashes[:-1]) or len(hashes) != self.entry.rows:
                    raise BrokenBlock(self, "its hashes are not in order")
            else:
                self.bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
                keys: list[str] = []
                for group in range(len(sizes)):
                    table = _checked(file.read_row_group(group, columns=SCHEMA.names), SCHEMA.names)
                    self._kept.put(self.name, group, table)
                    keys += table.column("key").to_pylist()
                hashes = self._sorted(keys)
        self._hashes = hashes

    def _sorted(self, keys: Sequence[str]) -> Hashes:
        unsorted = key_hashes(keys)
        self._order = np.argsort(unsorted, kind="stable")
        return unsorted[self._order]

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        source = self._store.open(self.name, self.entry.size) if self.entry else pa.BufferReader(self._store.read(self.name))
        with source, pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as file:
            yield file

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except (SelfTrainError, BrokenBlock):
            raise
        except FileNotFoundError:
            raise BrokenBlock(self, "it is gone", gone=True) from None
        except (pa.ArrowException, OSError, UnicodeDecodeError, IndexError) as error:
            if isinstance(error, OSError) and error.errno in _REFUSED:
                path = self._store.path(self.name)
                raise DataError(
                    f"The text cache's block {path} cannot be read ({error.strerror or error}); fix the cause and repeat the command."
                ) from None
            raise BrokenBlock(self, " ".join(str(error).split())[:150]) from None


def _checked(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """`table` with the types of `SCHEMA`; an `ArrowInvalid` where a column is missing, has gaps, or is no UTF-8."""
    if any(name not in table.column_names for name in columns):
        raise pa.ArrowInvalid("a column is missing")
    table = table.select(list(columns)).cast(pa.schema([SCHEMA.field(name) for name in columns]))
    if any(column.null_count for column in table.columns):
        raise pa.ArrowInvalid("a column has gaps")
    table.validate(full=True)
    return table


def among(values: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Which of `values` are in `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == values
    return found


def _matches(left: Hashes, right: Hashes) -> tuple[Rows, Rows]:
    """All pairs of places in two sorted arrays where these are equal."""
    if len(left) > len(right):
        places, others = _matches(right, left)
        return others, places
    start, end = np.searchsorted(right, left, "left"), np.searchsorted(right, left, "right")
    counts = end - start
    places = np.repeat(np.arange(len(left), dtype=np.int64), counts)
    return places, np.repeat(start - np.cumsum(counts) + counts, counts) + np.arange(counts.sum(), dtype=np.int64)


def log_bytes(table: pa.Table) -> bytes:
    """A block of the log: the file that it has always been, with a checksum a page."""
    return _parquet(table, write_page_checksum=True, row_group_size=GROUP_ROWS)


def merged_bytes(table: pa.Table) -> bytes:
    """A merged file of a table of `HASHED_SCHEMA` that is sorted by hash."""
    rows = max(1, min(GROUP_ROWS, _GROUP_BYTES * table.num_rows // max(table.nbytes, 1)))
    compression = {name: "none" if name == HASH else "zstd" for name in table.column_names}
    dictionary = ["document_id", "kind", "label"]
    return _parquet(table, write_page_checksum=True, row_group_size=rows, compression=compression, use_dictionary=dictionary, write_statistics=[HASH])


def _parquet(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    content: bytes = sink.getvalue().to_pybytes()
    return content
