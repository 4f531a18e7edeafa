"""The one reader of CSV, TSV, JSON lines and JSON, for every command: files to records, as a stream.

CSV is read with the standard library and not with Arrow, and JSON likewise: one odd cell (a number among texts, a comma that is not quoted) must cost its row
and not the file, and every bound is checked before a value is built. No record is larger than `RECORD_CHARACTERS`.
"""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from selftrain.data.text_files import COMPRESSED, RECORD_CHARACTERS, SUFFIXES, Undecodable, check_compressed, lines_of, opened, suffix_of
from selftrain.errors import DataError, SelfTrainError
from selftrain.files.parsing import json_items, json_of

FILE_SUFFIXES = (*SUFFIXES, ".parquet")
_END = "\0the end of the file"  # fed behind the last line: where it comes out in another row, a quote was never closed


class Record(NamedTuple):
    """One row of a file as it was found."""

    place: str  # "line 17", "item 3" of a list
    value: Any  # column -> cell, without the columns that a short row lacks; in a JSON file it may be anything else too
    characters: int  # that it took in the file
    slipped: bool = False  # a CSV row with more cells than the header: commas were not quoted, and no cell can be trusted


class Records(NamedTuple):
    """The records of a file."""

    columns: list[str] | None  # of the header of a CSV or TSV file; JSON states none
    read: Callable[[], Iterator[Record]]  # from the first record on, as often as it is called


def check_source(path: Path, parameter: str) -> None:
    """Raise a `DataError` unless `path` is a file with one of `FILE_SUFFIXES` (of the text files, also compressed: `.csv.gz`) that is not empty.

    Args:
        path: the file.
        parameter: that holds it, for the error.
    """
    shown = str(path)[:300]
    if suffix_of(path) not in FILE_SUFFIXES:
        raise DataError(
            f"{parameter} must be a {', '.join(FILE_SUFFIXES)} file, all but the last also compressed ({SUFFIXES[0]}{COMPRESSED}) (got {shown!r}).",
            parameter=parameter,
        )
    try:
        if path.is_dir():
            raise DataError(f"{parameter} must be a file (got the folder {shown!r}).", parameter=parameter)
        if not path.is_file():
            raise DataError(f"No such file: {shown}; correct {parameter}.", parameter=parameter)
        if path.stat().st_size == 0:
            raise DataError(f"{shown} is empty; pass a file with one document a row.", parameter=parameter)
    except SelfTrainError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{parameter} cannot be read (got {shown!r}): {getattr(error, 'strerror', None) or error}.", parameter=parameter) from None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Inside, an error of the disk that `path` is on is a `DataError`."""
    try:
        yield
    except SelfTrainError:  # a ServiceError is an OSError too
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def open_records(path: Path, text_column: str, undecodable: Undecodable = "strict") -> Records:
    """The records of a text file; a compressed one is checked whole first.

    Args:
        path: a file with one of the `SUFFIXES` of text files.
        text_column: column of the texts: a .csv file that has it only where cells are separated by semicolons, tabs or bars is read so.
        undecodable: what bytes that are not UTF-8 do.

    Raises:
        DataError: it is not what its name says, holds nothing, or is beyond a bound; `read` raises it too.
    """
    check_compressed(path)
    if suffix_of(path) in (".csv", ".tsv"):
        delimiter, header = _header(path, text_column, undecodable)
        return Records(header, lambda: _delimited(path, delimiter, header, undecodable))
    return Records(None, lambda: _json(path, undecodable))


def _header(path: Path, text_column: str, undecodable: Undecodable) -> tuple[str, list[str]]:
    """(delimiter, names of the columns)."""
    delimiter = "\t" if suffix_of(path) == ".tsv" else ","
    if delimiter == ",":
        with opened(path, newline="", undecodable=undecodable) as stream, _csv_errors(path):
            line = next(lines_of(stream, path), "")
            # Spreadsheets of many countries write semicolons (or tabs) into a .csv.
            delimiter = next((one for one in ",;\t|" if text_column in _names(next(csv.reader([line], delimiter=one), []))), ",")
    names = _names(next(_cells(path, delimiter, undecodable), ("", [], 0))[1])
    if not names:
        raise DataError(f"{path} is empty; its first line must hold the names of the columns.")
    return delimiter, names


def _names(cells: list[str]) -> list[str]:
    return [name.strip() for name in cells]


def _delimited(path: Path, delimiter: str, header: list[str], undecodable: Undecodable) -> Iterator[Record]:
    rows = _cells(path, delimiter, undecodable)
    next(rows, None)
    for place, cells, characters in rows:
        if cells:  # a blank line is no row
            yield Record(place, dict(zip(header, cells, strict=False)), characters, len(cells) > len(header))


def _cells(path: Path, delimiter: str, undecodable: Undecodable) -> Iterator[tuple[str, list[str], int]]:
    """(place, cells, characters) of every row."""
    with opened(path, newline="", undecodable=undecodable) as stream, _csv_errors(path):
        rows = _Cells(stream, path, delimiter)
        for cells in rows:
            yield f"line {rows.line}", cells, rows.characters


class _FieldLimit:
    """A `with` block in which a cell may be as long as a record. The csv module has one limit for the whole process: the last block that ends puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._before = csv.field_size_limit(max(RECORD_CHARACTERS, csv.field_size_limit()))
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                csv.field_size_limit(self._before)


_LONG_CELLS = _FieldLimit()


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    """Inside, a cell may be as long as a record, and an error of the csv module is a `DataError`."""
    try:
        with _LONG_CELLS:
            yield
    except csv.Error as error:
        raise DataError(f"{path} is not a readable {suffix_of(path)[1:].upper()} file: {error}.") from None


class _Cells:
    """The cells of each row, and the line on which the row begins; a row is not longer than a record, and no quote is left open."""

    def __init__(self, stream: TextIO, path: Path, delimiter: str) -> None:
        self._stream, self._path = stream, path
        self._reader = csv.reader(self._fed(), delimiter=delimiter)
        self.characters = 0  # of the row that is being read
        self.line = 1

    def _fed(self) -> Iterator[str]:
        for line in lines_of(self._stream, self._path):
            self.characters += len(line)
            if self.characters > RECORD_CHARACTERS:
                raise self._endless()
            yield line
        yield _END

    def _endless(self) -> DataError:
        return DataError(
            f"{self._path} has a quote in the row that begins on line {self.line} that is never closed, and all that follows would be one text; close it, or "
            'write a quote inside of a text as "".'
        )

    def __iter__(self) -> Iterator[list[str]]:
        following = self.line
        for cells in self._reader:
            self.line, following = following, self._reader.line_num + 1
            if cells == [_END]:
                return
            if cells and cells[-1].endswith(_END):
                raise self._endless()
            yield cells
            self.line, self.characters = following, 0


def _json(path: Path, undecodable: Undecodable) -> Iterator[Record]:
    """The records of a file of JSON lines, or of one with a list."""
    number = 1
    try:
        # Split at line feeds only: a JSON string may hold U+2028 and its like.
        if suffix_of(path) == ".json" and _first_sign(path, undecodable) == "[":
            with opened(path, newline="\n", undecodable=undecodable) as stream:
                for item, (value, characters) in enumerate(json_items(stream.read(), characters=RECORD_CHARACTERS), start=1):
                    yield Record(f"item {item}", value, characters)
            return
        with opened(path, newline="\n", undecodable=undecodable) as stream:
            for number, line in enumerate(lines_of(stream, path), start=1):
                if line.strip():
                    yield Record(f"line {number}", json_of(line.removesuffix("\n"), characters=RECORD_CHARACTERS), len(line))
    except SelfTrainError:
        raise  # a DataError is a ValueError too
    except ValueError as error:
        at = number + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else number
        fault = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{path} is not valid JSON: {fault} on line {at}; write one object a line, or a .json file with a list of objects.") from None


def _first_sign(path: Path, undecodable: Undecodable) -> str:
    """The first character of a file that is no white space."""
    with opened(path, newline="\n", undecodable=undecodable) as stream:
        while (sign := stream.read(1)).isspace():
            pass
        return sign
