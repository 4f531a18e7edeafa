"""Merging: many small blocks of the log become a few large files that are sorted by hash, a few hash ranges at a time.

As in a log-structured merge tree, runs of about one size are merged when there are `FAN` of them, so that a text is written again as many times as its cache grew
eightfold: 5 times on the way to 10 million. A merge reads committed texts alone and writes them as they are. Whoever loses against another merge, dies, or finds
no space has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa

from selftrain.errors import SelfTrainError
from selftrain.texts.cache.block import Block, BrokenBlock
from selftrain.texts.cache.completion import HASH
from selftrain.texts.cache.contents import Contents, number_of
from selftrain.texts.cache.manifest import Manifest, MergedFile

LOG_BLOCKS = 512  # of the log that are merged at once
LOG_ROWS = 2**17  # the same, where they are large
FILE_ROWS = 2**16  # of a merged file
FILE_BYTES = 2**26  # the same, in memory, where texts are long
FAN = 8  # runs of about one size
_BASE = 2**14  # texts of the smallest size


def is_due(log: Sequence[Block]) -> bool:
    """Whether the writer of the last block of `log` has the duty of a merge; as all writers see one log, it is one writer's."""
    blocks, rows = len(log), sum(map(len, log))
    return blocks % LOG_BLOCKS == 0 or blocks >= 2 * LOG_BLOCKS or rows // LOG_ROWS > (rows - len(log[-1])) // LOG_ROWS


def merge(contents: Contents) -> bool:
    """Merge the oldest blocks of the log, and the runs whose turn it is; False where another process was first.

    Raises:
        OutputError: there is no space; nothing has changed.
    """
    while True:
        try:
            return _merge(contents)
        except BrokenBlock as problem:
            contents.set_aside(problem)


def _merge(contents: Contents) -> bool:
    log = contents.log
    if not log:
        return False
    through = number_of(log[: 2 * LOG_BLOCKS][-1].name)
    log = [block for block in log if number_of(block.name) <= through]
    manifest = contents.manifest
    first = first_run([sum(file.rows for file in run) for run in manifest.runs], sum(map(len, log)))
    blocks = [*contents.merged_blocks(file for run in manifest.runs[first:] for file in run), *log]
    files: list[MergedFile] = []
    try:
        for table in _by_ranges(blocks):
            files.append(contents.write_merged(table, manifest.generation + 1, through))
    except (BrokenBlock, SelfTrainError):
        with suppress(SelfTrainError):
            contents.store.remove([file.name for file in files])
        raise
    runs = (*manifest.runs[:first], tuple(files)) if files else manifest.runs[:first]
    if contents.commit(Manifest(manifest.generation + 1, through, runs)):
        return True
    contents.refresh()
    return False


def first_run(sizes: Sequence[int], new: int) -> int:
    """The first of the runs (oldest first, in texts) that are merged along with `new` texts; those after it are, too."""
    runs = [*sizes, new]
    while True:
        size, start = _size(runs[-1]), len(runs) - 1
        while start and _size(runs[start - 1]) <= size:
            start -= 1
        if len(runs) - start < FAN:
            return len(runs) - 1
        runs[start:] = [sum(runs[start:])]


def _size(rows: int) -> int:
    size = 0
    while rows >= _BASE * FAN:
        rows, size = rows // FAN, size + 1
    return size


def _by_ranges(blocks: Sequence[Block]) -> Iterator[pa.Table]:
    """All rows of `blocks`, sorted by hash, in tables of the size of a file; of rows with one key the first counts."""
    rows, memory = sum(map(len, blocks)), sum(block.bytes for block in blocks)
    ranges = max(-(-rows // FILE_ROWS), -(-memory // FILE_BYTES), 1)
    for number in range(ranges):
        low, high = number * 2**64 // ranges, (number + 1) * 2**64 // ranges - 1
        table = pa.concat_tables([block.between(low, high) for block in blocks])
        if table.num_rows:
            yield _without_repeats(table.take(pa.array(np.argsort(table.column(HASH).to_numpy(), kind="stable"))))


def _without_repeats(table: pa.Table) -> pa.Table:
    hashes = table.column(HASH).to_numpy()
    equal = np.flatnonzero(hashes[1:] == hashes[:-1])
    if not len(equal):
        return table.combine_chunks()
    keep = np.ones(len(hashes), bool)
    seen: set[str] = set()
    for row in np.union1d(equal, equal + 1):
        key = table.column("key")[int(row)].as_py()
        keep[row] = key not in seen
        seen.add(key)
    return table.filter(pa.array(keep)).combine_chunks()
