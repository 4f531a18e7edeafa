"""The work of a pass in parts: each is read, classified and written by itself, and what is written is not done again.

A part is some thousand rows: a range of rows of a large file, or several small files. Its name says where it comes in the order of all rows, and holds a hash of
what it is made from. So the same command finds it again, and finds nothing of a file that was changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from selftrain.passes.inputs import Source

PART_ROWS = 10_000  # what a killed process loses at most, and what the progress bar moves by
# A row in the middle of a row group, or of a text file, is reached by reading all rows before it: no more parts of it than this, so that on average ten rows are
# read, which takes microseconds each, for one that is classified.
PARTS_A_GROUP = 20
_NAME = re.compile(r"part-\d{6,}-([0-9a-f]{20})\.parquet")


@dataclass(frozen=True)
class Slice:
    """Rows of a file."""

    source: Source
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """What becomes one file of the result."""

    number: int
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """How many it has."""
        return sum(one.stop - one.start for one in self.slices)

    @cached_property
    def key(self) -> str:
        """What it is made from, as a hash."""
        made_from = [[one.source.path, one.source.size, one.source.version, one.start, one.stop] for one in self.slices]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:20]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"part-{self.number:06d}-{self.key}.parquet"

    def to_json(self) -> str:
        """To send it."""
        return json.dumps([self.number, [[one.source.path, one.source.size, one.source.version, one.start, one.stop] for one in self.slices]])

    @classmethod
    def from_json(cls, text: str) -> Part:
        """What `to_json` made."""
        number, slices = json.loads(text)
        return cls(number, tuple(Slice(Source(path, size, version), start, stop) for path, size, version, start, stop in slices))


def key_of(name: str) -> str | None:
    """The key of the part whose file has this name; None for any other file."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def parts_of(sources: Sequence[Source], rows: Sequence[Sequence[int]]) -> list[Part]:
    """All rows of all files in their order, in parts.

    Args:
        sources: the files.
        rows: of each file, the rows of each of its row groups.
    """
    parts: list[Part] = []
    gathered: list[Slice] = []
    count = 0
    for source, groups in zip(sources, rows, strict=True):
        for start, stop in _ranges(groups):
            if gathered and count + stop - start > PART_ROWS:
                parts.append(Part(len(parts), tuple(gathered)))
                gathered, count = [], 0
            gathered.append(Slice(source, start, stop))
            count += stop - start
    return [*parts, Part(len(parts), tuple(gathered))] if gathered else parts


def _ranges(groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of rows: whole row groups, and of larger ones a part each."""
    start = end = 0
    for rows in groups:
        step = max(PART_ROWS, -(-rows // PARTS_A_GROUP))
        if end > start and end - start + rows > PART_ROWS:
            yield start, end
            start = end
        first, end = end, end + rows
        if rows > step:
            yield from ((at, min(at + step, end)) for at in range(first, end, step))
            start = end
    if end > start:
        yield start, end
