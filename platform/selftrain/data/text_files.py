"""Text files of documents, plain or compressed with gzip, as a stream of lines: UTF-8, and bounded.

No line is longer than `RECORD_CHARACTERS`. A few bytes of gzip may stand for gigabytes, so a file gives at most `GZIP_EXPANSION` times its size, which texts do
not reach, or `GZIP_FREE_BYTES` where that is more.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TextIO

from selftrain.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
COMPRESSED = ".gz"  # behind one of `SUFFIXES`
# Of a line, a cell, a row or a record: twenty books. Beyond it the memory of what a row becomes (25 times its text, for JSON) could not be borne.
RECORD_CHARACTERS = 16 << 20
GZIP_FREE_BYTES = 32 << 20
GZIP_EXPANSION = 25  # prose shrinks to a third or a quarter, records with long keys to a tenth
# A row takes some 400 bytes of memory besides its text, so that a file of two bytes a row takes 200 times its size. Documents are longer.
FREE_ROWS = 1_000_000
BYTES_A_ROW = {True: 4, False: 16}  # compressed or not: that a file of more rows has at least, on average

Undecodable = Literal["strict", "surrogateescape"]  # what bytes that are not UTF-8 do: refuse the file, or spoil their own row alone


def suffix_of(path: Path) -> str:
    """What a file is by its name, in lower case: `.csv` for x.csv, X.CSV and x.csv.gz; `.gz` where nothing that we read is compressed."""
    inner = Path(path.stem).suffix.lower()
    return inner if is_compressed(path) and inner in SUFFIXES else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name of a file without what `suffix_of` goes by: `x` for x.csv and x.csv.gz."""
    return Path(path.stem).stem if suffix_of(path) != path.suffix.lower() else path.stem


def is_compressed(path: Path) -> bool:
    """Whether a file is one of gzip, by its name."""
    return path.suffix.lower() == COMPRESSED


def most_rows(path: Path) -> int:
    """How many rows a file of its size may hold in memory."""
    return max(FREE_ROWS, path.stat().st_size // BYTES_A_ROW[is_compressed(path)])


def too_many_rows(path: Path, rows: int) -> DataError:
    """The error for a file with more than `most_rows`."""
    size = path.stat().st_size
    return DataError(
        f"{path} holds {rows:,} rows or more in {size:,} bytes, fewer than {BYTES_A_ROW[is_compressed(path)]} bytes a row: these are not documents; "
        "pass a file with one document a row."
    )


@contextmanager
def opened(path: Path, *, newline: str, undecodable: Undecodable = "strict") -> Iterator[TextIO]:
    """A file as text, without a byte order mark.

    Args:
        path: the file; it is decompressed where its name ends in `.gz`.
        newline: as of `open`.
        undecodable: what bytes that are not UTF-8 do.

    Raises:
        DataError: it is not UTF-8 (the error says where), not gzip, torn, or gives much more than its size lets expect.
    """
    try:
        with _bytes_of(path) as content, io.TextIOWrapper(content, encoding="utf-8-sig", errors=undecodable, newline=newline) as stream:
            yield stream
    except UnicodeDecodeError:
        byte, line, guess = _first_wrong_byte(path)
        name, stem = path.name.removesuffix(COMPRESSED), stem_of(path)
        raise DataError(
            f"{path} is not UTF-8: byte 0x{byte:02x} on line {line}; convert it, e.g. iconv -f {guess} -t UTF-8 {name} > {stem}.utf8{suffix_of(path)}."
        ) from None


def check_compressed(path: Path) -> None:
    """Decompress a gzip file once and keep nothing, before work that would be lost where it turns out torn or a bomb; other files pass unread.

    Raises:
        DataError: it is not gzip, torn, or gives much more than its size lets expect.
    """
    if is_compressed(path):
        with _bytes_of(path) as content:
            while content.read(1 << 20):
                pass


def lines_of(stream: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file.

    Raises:
        DataError: one is longer than a record may be.
    """
    number = 0
    while line := stream.readline(RECORD_CHARACTERS + 1):
        number += 1
        if len(line) > RECORD_CHARACTERS:
            raise DataError(f"Line {number} of {path} has more than {RECORD_CHARACTERS:,} characters; pass a file with one document a row.")
        yield line


@contextmanager
def _bytes_of(path: Path) -> Iterator[BinaryIO]:
    if not is_compressed(path):
        with path.open("rb") as plain:
            yield plain
        return
    with path.open("rb") as packed, gzip.GzipFile(fileobj=packed, mode="rb") as content, io.BufferedReader(_Decompressed(path, content)) as stream:
        yield stream


class _Decompressed(io.RawIOBase):
    """The content of a gzip file, counted while it is read."""

    def __init__(self, path: Path, content: gzip.GzipFile) -> None:
        self._path, self._content = path, content
        self._size = path.stat().st_size
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        try:
            count = self._content.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self._path} is not a readable gzip file ({error}); compress it again.") from None
        self._given += count
        if self._given > max(GZIP_FREE_BYTES, self._size * GZIP_EXPANSION):
            raise DataError(
                f"{self._path} holds more than {self._given / 1e6:,.0f} MB in {self._size:,} bytes, more than {GZIP_EXPANSION} times its size: decompress it first, "
                "if these are documents."
            )
        return count


def _first_wrong_byte(path: Path) -> tuple[int, int, str]:
    """(the first byte that is not UTF-8, its line, the encoding that the file may have)."""
    line, rest = 1, b""
    with _bytes_of(path) as stream:
        block = stream.read(1 << 20)
        guess = "UTF-16" if block[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        while True:
            content, rest = rest + block, b""
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                # A character of up to four bytes may go on in the next block.
                if not block or error.end < len(content) or len(content) - error.start > 3:
                    return content[error.start], line + content.count(b"\n", 0, error.start), guess
                content, rest = content[: error.start], content[error.start :]
            line += content.count(b"\n")
            block = stream.read(1 << 20)
