"""Parquet from anyone: what a file would take in memory is read from the headers of its pages, before a page is decoded.

A page says how large it is when decompressed, and how many values it holds; a few bytes may stand for gigabytes (compression, runs of one value, a dictionary
whose entries are repeated, common prefixes). Columns of text are read as dictionaries, so that a repeated text takes its memory once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from selftrain.errors import DataError

PAGE_BYTES = 128 << 20  # of a page when decompressed; writers make pages of a megabyte, or of one value where that is larger
PAGE_VALUES = 1 << 24  # of a page; an Arrow row group has a million rows by default
NESTED_BYTES_A_VALUE = 1 / 8  # that lists have at least, beyond a page's worth of values: embeddings have 4, a run of one value next to none
BATCH_BYTES = 128 << 20  # that are decoded at once, as far as that can be known before
SHARED_LENGTH = 200  # of a text that is kept once however often it comes; the table of the shorter ones would take more than they do
CELL_BYTES = 16 << 20  # of a text or an encoded image
_DICTIONARY_PAGE, _PAGES = 2, {0: 5, 2: 7, 3: 8}  # page type -> the field of the header that describes it (parquet.thrift, PageHeader)
_DELTA_LENGTH, _DELTA_BYTE_ARRAY, _DICTIONARY = 6, 7, frozenset({2, 8})  # encodings
_LEVELS = 8  # of a header, which has three
_HEADER_BYTES = 16 << 20  # of a page header at most, whose statistics may hold a value or two


class _Damaged(ValueError):
    """What stands where a page header should is not one."""


@dataclass(frozen=True)
class CheckedParquet:
    """A file that was checked."""

    schema: Any  # as the file states it; texts come as dictionaries
    file: Any  # pyarrow.parquet.ParquetFile
    rows: int
    batch_rows: int  # that may be decoded at once

    def batches(self, columns: Sequence[str] | None = None, most: int = 8192, row_groups: Sequence[int] | None = None) -> Iterator[Any]:
        """Record batches of at most `most` rows, of some columns and row groups or all."""
        yield from self.file.iter_batches(
            batch_size=min(most, self.batch_rows), row_groups=row_groups, columns=None if columns is None else list(dict.fromkeys(columns))
        )


class PageHeader(NamedTuple):
    """What a page's header says."""

    kind: int
    bytes: int  # decompressed
    compressed: int
    values: int
    encoding: int | None


def groups_of(metadata: Any) -> tuple[int, ...]:
    """Rows of each row group, from a file's metadata."""
    return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))


def schema_of(path: Path) -> Any:
    """The Arrow schema of a Parquet file.

    Raises:
        DataError: not a Parquet file.
    """
    import pyarrow.parquet

    with readable(path):
        return pyarrow.parquet.read_schema(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What Arrow says of a file that it cannot read, as a `DataError`."""
    import pyarrow

    try:
        yield
    # A page that cannot be decompressed is an OSError with no number; one with a number is the disk's, which the caller knows better.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of a column's name
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())[:200]
        raise DataError(f"{path} is not a readable Parquet file ({reason}); write it again.") from None


def open_checked(path: Path, columns: Iterable[str] | None = None) -> CheckedParquet:
    """A Parquet file whose pages stay within the bounds above.

    Args:
        path: the file.
        columns: that will be read; None for all.

    Raises:
        DataError: it is not a Parquet file, is damaged, or one that takes much more memory than its size lets expect.
    """
    import pyarrow.parquet

    wanted = None if columns is None else set(columns)
    with readable(path):
        metadata = pyarrow.parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        plain: set[str] = set()  # Arrow cannot read these as dictionaries, and they hold none
        repeated = 0  # bytes of the largest dictionary whose entries are repeated when decoded
        total = 0
        with path.open("rb") as stream:
            size = path.stat().st_size
            for group in range(metadata.num_row_groups):
                facts = metadata.row_group(group)
                for number in range(facts.num_columns):
                    column = facts.column(number)
                    name = column.path_in_schema.split(".")[0]
                    if wanted is None or name in wanted:
                        chunk = _checked(path, stream, size, column, facts.num_rows)
                        total += chunk.bytes
                        if chunk.plain:
                            plain.add(name)
                        if column.path_in_schema != name or column.physical_type != "BYTE_ARRAY":
                            repeated = max(repeated, chunk.dictionary)
        texts = [field.name for field in schema if _is_bytes(field.type) and field.name not in plain]
        file = pyarrow.parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts)
    row_bytes = repeated + total // max(1, metadata.num_rows)
    return CheckedParquet(schema, file, metadata.num_rows, max(1, min(1 << 16, BATCH_BYTES // max(1, row_bytes))))


def cells_of(array: Any, shared: dict[Any, Any]) -> list[Any]:
    """The values of a column of a batch; what is long and comes again is one object.

    Args:
        array: of a record batch.
        shared: the long values that were met before; kept by the caller from batch to batch.
    """
    import pyarrow
    import pyarrow.compute

    if not pyarrow.types.is_dictionary(array.type):
        return [_shared(value, shared) for value in _decoded(array)]
    used = pyarrow.compute.drop_null(pyarrow.compute.unique(array.indices))
    values = dict(zip(used.to_pylist(), _decoded(array.dictionary.take(used)), strict=True))
    values = {index: _shared(value, shared) for index, value in values.items()}
    return [None if index is None else values[index] for index in array.indices.to_pylist()]


def _decoded(array: Any) -> list[Any]:
    """The values of an array; bytes of a text that are not UTF-8 are kept apart as surrogates, so that they spoil their own row alone."""
    import pyarrow

    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        if not _is_bytes(array.type):
            raise DataError("A text inside of a list or an object of a Parquet file is not UTF-8; leave the column out.") from None
        raw = array.cast(pyarrow.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    except (OverflowError, ValueError) as error:
        raise DataError(
            f"A column of the type {array.type} of a Parquet file holds values that Python cannot represent ({error}); leave it out."
        ) from None


def _shared(value: Any, shared: dict[Any, Any]) -> Any:
    if isinstance(value, str | bytes):
        return shared.setdefault(value, value) if len(value) >= SHARED_LENGTH else value
    if isinstance(value, dict):  # an image as the hub keeps it: bytes and path
        return {key: _shared(below, shared) for key, below in value.items()}
    return value


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind))


class _Chunk(NamedTuple):
    """What the pages of one column of one row group take."""

    bytes: int
    dictionary: int  # bytes of its dictionary
    plain: bool  # texts stand one behind the other (DELTA_LENGTH_BYTE_ARRAY)


def _checked(path: Path, stream: BinaryIO, size: int, column: Any, rows: int) -> _Chunk:
    """Raise a `DataError` where a page is beyond the bounds."""
    where = f"{path}, column {column.path_in_schema!r}"
    offset = column.data_page_offset
    if column.dictionary_page_offset is not None:
        offset = min(offset, column.dictionary_page_offset)
    seen = total = dictionary = 0
    encodings = set()
    while seen < column.num_values:
        try:
            page, length = read_header(stream, offset)
        except (_Damaged, IndexError, struct.error):
            raise DataError(f"{path} is not a readable Parquet file (a damaged page in column {column.path_in_schema!r}); write it again.") from None
        if page.compressed < 0 or page.bytes < 0 or page.values < 0 or offset + length + page.compressed > size:
            raise DataError(f"{path} is not a readable Parquet file (a torn page in column {column.path_in_schema!r}); write it again.")
        if page.bytes > PAGE_BYTES or page.values > PAGE_VALUES:
            what = f"{page.bytes / 1e6:,.0f} MB" if page.bytes > PAGE_BYTES else f"{page.values:,} values"
            raise DataError(f"{where} has a page of {what}, more than any writer makes; write the file again with pages of about a megabyte.")
        if page.encoding == _DELTA_BYTE_ARRAY:
            raise DataError(
                f"{where} is written as DELTA_BYTE_ARRAY, of which a few bytes may stand for gigabytes; write it again with dictionaries."
            )
        offset += length + page.compressed
        total += page.bytes
        if page.kind == _DICTIONARY_PAGE:
            dictionary = max(dictionary, page.bytes)
        else:
            seen += page.values
            encodings.add(page.encoding)
            if page.values == 0:
                raise DataError(f"{path} is not a readable Parquet file (an empty page in column {column.path_in_schema!r}); write it again.")
    if seen > max(rows, PAGE_VALUES) and total < seen * NESTED_BYTES_A_VALUE:
        raise DataError(f"{where} has lists of {seen:,} values in {total / 1e6:.1f} MB, far more than its size lets expect; leave the column out.")
    if _DELTA_LENGTH in encodings and encodings & _DICTIONARY:
        raise DataError(f"{where} is written both as DELTA_LENGTH_BYTE_ARRAY and with a dictionary; write it again in one of the two.")
    return _Chunk(total, dictionary, _DELTA_LENGTH in encodings)


def read_header(stream: BinaryIO, offset: int) -> tuple[PageHeader, int]:
    """(the page whose header stands at `offset`, the header's length in bytes).

    Raises:
        ValueError, IndexError, struct.error: there is no header.
    """
    stream.seek(offset)
    content = stream.read(1 << 12)
    try:
        reader = _Thrift(content)
        fields = reader.structure()
    except (IndexError, struct.error):
        stream.seek(offset)
        reader = _Thrift(stream.read(_HEADER_BYTES))
        fields = reader.structure()
    kind, bytes_, compressed = (fields.get(number) for number in (1, 2, 3))
    if not isinstance(kind, int) or not isinstance(bytes_, int) or not isinstance(compressed, int):
        raise _Damaged("a page header without its sizes")
    about = fields.get(_PAGES.get(kind, 0))
    about = about if isinstance(about, dict) else {}
    values, encoding = about.get(1, 0), about.get(4 if kind == 3 else 2)
    return PageHeader(kind, bytes_, compressed, values if isinstance(values, int) else 0, encoding if isinstance(encoding, int) else None), reader.at


class _Thrift:
    """As much of Thrift's compact protocol as page headers take: structures, numbers, and bytes, which are skipped."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind, delta = head & 0x0F, head >> 4
            number = number + delta if delta else self._signed()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _LEVELS:
            raise _Damaged("a page header of many levels")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            self._skip(8)
            return None
        if kind == 8:
            self._skip(self._unsigned())
            return None
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            for _ in range(count):
                if head & 0x0F in (1, 2):
                    self._byte()
                else:
                    self._value(head & 0x0F, depth + 1)
            return None
        if kind == 12:
            return self.structure(depth + 1)
        raise _Damaged(f"a field of the kind {kind}")

    def _byte(self) -> int:
        found = self.content[self.at]
        self.at += 1
        return found

    def _unsigned(self) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
            shift += 7
            if shift > 63:
                raise _Damaged("a number of more than 64 bits")

    def _signed(self) -> int:
        found = self._unsigned()
        return (found >> 1) ^ -(found & 1)

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.content):
            raise IndexError("the header ends early")
