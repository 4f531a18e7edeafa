"""Texts as one Arrow column: a `Sequence[str]` that takes 8 bytes a text beyond its UTF-8, where a tuple of strings takes 60 and more.

A large one lies in files that are mapped (files/mapped.py). A column is read-only, a slice of it copies nothing, and its buffers travel out of band (pickle's
protocol 5): what `ray.get` gives lies in Ray's shared memory, once a node, however many processes read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from selftrain.data.corpus import UnusedRow
from selftrain.files.mapped import GrowingBytes

BLOCK = 4096  # texts that are made Python strings at a time
_Item = TypeVar("_Item")


class _Column(Sequence[_Item]):
    """What columns share: they equal any sequence with the same items in the same order."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list: it would have to be the hash of a tuple of all items

    def __copy__(self) -> _Column[_Item]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Column[_Item]:
        return self  # it cannot change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} items)"


class TextColumn(_Column[str]):
    """Strings in the order in which they were given.

    Args:
        array: a pyarrow array of the type large_string without nulls.
    """

    def __init__(self, array: Any) -> None:
        _, ends, content = array.buffers()
        self._array = array
        # Where texts end and what they are, of this part alone: `ends[i]` to `ends[i + 1]` is text i. Reading them so takes half as long as Arrow's scalars.
        self._ends = memoryview(ends).cast("q")[array.offset : array.offset + len(array) + 1] if len(array) else memoryview(bytes(8)).cast("q")
        self._content = memoryview(content) if content is not None else memoryview(b"")

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumn:
        """A column of `texts`."""
        builder = TextBuilder()
        block: list[str] = []
        for text in texts:
            block.append(text)
            if len(block) == BLOCK:
                builder.extend(block)
                block = []
        builder.extend(block)
        return builder.column()

    @classmethod
    def of_buffers(cls, count: int, ends: Any, content: Any) -> TextColumn:
        """A column on buffers that exist.

        Args:
            count: of texts.
            ends: 8-byte integers: 0, and where each text ends.
            content: all texts one after the other, in UTF-8.
        """
        import pyarrow

        buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(content)]
        return cls(pyarrow.Array.from_buffers(pyarrow.large_string(), count, buffers))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(self._array.nbytes)

    def take(self, rows: np.ndarray) -> TextColumn:
        """The texts at `rows` (integers), in that order, as a column of its own."""
        return self._taken(rows).column()

    def _taken(self, rows: np.ndarray) -> TextBuilder:
        taken = TextBuilder()
        for start in range(0, len(rows), BLOCK):  # in pieces: all of it may be more than memory holds
            taken.append(TextColumn(self._array.take(rows[start : start + BLOCK])))
        return taken

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> TextColumn: ...

    def __getitem__(self, index: int | slice) -> str | TextColumn:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return TextColumn(self._array.slice(start, max(0, stop - start)))
            return self.take(np.arange(start, stop, step))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"text {index} of {len(self):,}")
        return str(self._content[self._ends[place] : self._ends[place + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self._array.slice(start, BLOCK).to_numpy(zero_copy_only=False).tolist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextColumn):
            return bool(self._array.equals(other._array))
        return super().__eq__(other)

    __hash__ = None

    def __arrow_array__(self, type: Any = None) -> Any:
        """Arrow's own array, which `pyarrow.array(column)` takes without a copy."""
        return self._array if type is None else self._array.cast(type)

    def __reduce__(self) -> tuple[Any, ...]:
        """The buffers of what is in the column: pyarrow's own way takes along all that a slice was cut from."""
        import pyarrow

        start, stop = self._ends[0], self._ends[-1]
        ends = np.frombuffer(self._ends, np.int64)
        return TextColumn.of_buffers, (len(self), pyarrow.py_buffer(ends - start if start else ends), pyarrow.py_buffer(self._content[start:stop]))


class TextBuilder:
    """A column that grows: one text after the other in one piece of memory, or of a file."""

    def __init__(self) -> None:
        self._content, self._ends = GrowingBytes(), GrowingBytes()
        self._ends.append(bytes(8))

    def __len__(self) -> int:
        return len(self._ends) // 8 - 1

    def extend(self, texts: Sequence[str], errors: str = "strict") -> None:
        """Append `texts`; `errors` as of `str.encode`."""
        encoded = [text.encode("utf-8", errors) for text in texts]
        self._append(np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded))), b"".join(encoded))

    def append(self, column: TextColumn) -> None:
        """Append the texts of `column`."""
        ends = np.frombuffer(column._ends, np.int64)
        self._append(ends[1:] - ends[0], column._content[ends[0] : ends[-1]])

    def _append(self, ends: np.ndarray, content: bytes | memoryview) -> None:
        self._ends.append((ends + len(self._content)).data)
        self._content.append(content)

    def column(self) -> TextColumn:
        """What was appended; the builder cannot be used after that."""
        return TextColumn.of_buffers(len(self), self._ends.whole(), self._content.whole())

    def keep(self, rows: np.ndarray) -> TextBuilder:
        """A builder that holds the texts at `rows` alone, in that order; this one cannot be used after that."""
        return self.column()._taken(rows)


class SkippedRows(_Column[UnusedRow]):
    """Rows that were not used, in order: some 20 bytes each, so that millions can be listed.

    Args:
        rows: where each stands.
        codes: which of `reasons` each has, integers `[rows]`.
        reasons: all that occur.
    """

    def __init__(self, rows: TextColumn, codes: np.ndarray, reasons: tuple[str, ...]) -> None:
        self._rows, self._codes, self._reasons = rows, codes, reasons

    @property
    def counts(self) -> Counter[str]:
        """Rows by reason; what comes first was met first."""
        found = np.bincount(self._codes, minlength=len(self._reasons)).tolist()
        return Counter({reason: count for reason, count in zip(self._reasons, found, strict=True) if count})

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> UnusedRow: ...

    @overload
    def __getitem__(self, index: slice) -> SkippedRows: ...

    def __getitem__(self, index: int | slice) -> UnusedRow | SkippedRows:
        if isinstance(index, slice):
            return SkippedRows(self._rows[index], self._codes[index], self._reasons)
        return UnusedRow(self._rows[index], self._reasons[self._codes[index]])

    def __iter__(self) -> Iterator[UnusedRow]:
        for row, code in zip(self._rows, self._codes, strict=True):
            yield UnusedRow(row, self._reasons[code])


class SkippedBuilder:
    """Skipped rows that become more."""

    def __init__(self) -> None:
        self._rows = TextBuilder()
        self._codes = bytearray()
        self._reasons: dict[str, int] = {}

    def extend(self, rows: Sequence[UnusedRow]) -> None:
        """Append rows."""
        self._rows.extend([one.row for one in rows], "replace")  # a file's name may be no UTF-8
        self._codes += bytes(self._reasons.setdefault(one.reason, len(self._reasons)) for one in rows)

    def column(self) -> SkippedRows:
        """What was appended; the builder cannot be used after that."""
        return SkippedRows(self._rows.column(), np.frombuffer(self._codes, np.uint8), tuple(self._reasons))
