"""Files to rows: CSV, TSV, JSON lines, JSON and Parquet.

CSV and JSON are read with the standard library rather than with Arrow, because one odd cell (a number among texts, a null) must cost one row and not
the file. Every fault of a whole file is a `SelfTrainError`; faults of single rows are left to `cleaning`. A file is read as a stream, and no row of it is
larger than `RECORD_CHARACTERS`: what a file takes in memory follows from its size.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from selftrain.data.cleaning import Fault, Row
from selftrain.data.images import COLUMNS
from selftrain.data.parquet import CELL_BYTES, cells_of, open_checked, readable, schema_of
from selftrain.errors import SelfTrainError, nearest
from selftrain.files.parsing import json_items, json_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# Of a line, a cell, a row or a record: twenty books. Beyond it the memory of what a row becomes (25 times its text, for JSON) could not be borne.
RECORD_CHARACTERS = 16 << 20
COLUMNS_KEPT = 4096  # names of JSON records that are remembered, to be named where one is missing
# A row takes some 400 bytes of memory besides its text, so that a file of two bytes a row takes 200 times its size. Documents are longer.
FREE_ROWS = 1_000_000
BYTES_A_ROW = 16  # that a file of more rows has at least, on average
_END = "\0the end of the file"  # fed behind the last line: where it comes out in another row, a quote was never closed
_ODD_CHARACTERS = 1000  # of a record whose text is a list or an object: of a longer one, only that it is no text is kept


def read_file(path: Path, text_column: str, label_column: str | None, weak_column: str | None = None) -> list[Row]:
    """The rows of a file, by its suffix.

    Args:
        path: a file with one of `SUFFIXES`.
        text_column: column of the texts.
        label_column: column of the labels; None for no labels.
        weak_column: column of labels that may be wrong; None for none.

    Raises:
        SelfTrainError: no such file, an unknown suffix, an empty or unreadable file, a wrong encoding, a missing column.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SelfTrainError(f"{path} is of no kind that can be read; data.source takes {', '.join(SUFFIXES)} files.")
    if path.is_dir():
        raise SelfTrainError(f"{path} is a folder, not a file; give the path of a {suffix} file.")
    if not path.is_file():
        raise SelfTrainError(f"No such file: {path}; check data.source.")
    try:
        if path.stat().st_size == 0:
            raise SelfTrainError(f"{path} is empty; give a file with one document a row.")
        if suffix == ".parquet":
            rows = read_parquet(path, (text_column,), label_column, weak_column)
        elif suffix in (".csv", ".tsv"):
            rows = list(_read_delimited(path, text_column, label_column, weak_column))
        else:
            rows = _read_json(path, text_column, label_column, weak_column)
    except OSError as error:
        raise SelfTrainError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not rows:
        raise SelfTrainError(f"{path} holds no rows; give a file with one document a row.")
    return rows


def most_rows(path: Path) -> int:
    """How many rows a file of its size may hold."""
    return max(FREE_ROWS, path.stat().st_size // BYTES_A_ROW)


def too_many_rows(path: Path, rows: int) -> SelfTrainError:
    """The error for a file with more than `most_rows`."""
    size = path.stat().st_size
    return SelfTrainError(
        f"{path} holds {rows:,} rows or more in {size:,} bytes, fewer than {BYTES_A_ROW} bytes a row: these are no documents; give a file with one document a row."
    )


def read_parquet(
    path: Path, text_columns: Sequence[str], label_column: str | None, weak_column: str | None = None, *, place: str = "row"
) -> list[Row]:
    """The rows of a Parquet file; several text columns are joined by a newline.

    A file without the text column and with one that is called `image` or `img` is one of images (`image_column`).

    Raises:
        SelfTrainError: not Parquet, a missing column, or a file that stands for much more than its size.
    """
    schema = parquet_schema(path)
    if found := image_column(schema, text_columns):
        text_columns = (found,)
    columns = [*text_columns, *(column for column in (label_column, weak_column) if column)]
    require_columns(schema.names, columns, str(path))
    opened = open_checked(path, columns)
    if opened.rows > (most := most_rows(path)):
        raise too_many_rows(path, opened.rows)
    rows: list[Row] = []
    shared: dict[Any, Any] = {}
    with readable(path):
        for batch in opened.batches(columns):
            cells = {name: [_fitting(value) for value in cells_of(batch.column(name), shared)] for name in dict.fromkeys(columns)}
            if len(rows) + batch.num_rows > most:
                raise too_many_rows(path, len(rows))
            rows += _rows(cells, text_columns, (label_column, weak_column), place, start=len(rows) + 1)
    return rows


def parquet_schema(path: Path) -> Any:
    """The Arrow schema of a Parquet file.

    Raises:
        SelfTrainError: not a Parquet file.
    """
    return schema_of(path)


def _fitting(value: object) -> object:
    return Fault("over-long") if isinstance(value, str | bytes) and len(value) > CELL_BYTES else value


def image_column(schema: Any, text_columns: Sequence[str]) -> str | None:
    """The column of an Arrow schema that holds images, None where the documents are texts: one that is asked for and holds bytes, or `image` or `img`."""
    import pyarrow

    def holds_bytes(name: str) -> bool:
        kind = schema.field(name).type
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) or pyarrow.types.is_struct(kind))

    names = [name for name in schema.names if schema.names.count(name) == 1]
    if text_columns[0] in schema.names:
        return text_columns[0] if text_columns[0] in names and holds_bytes(text_columns[0]) else None
    return next((name for name in COLUMNS if name in names and holds_bytes(name)), None)


def table_rows(table: Any, text_columns: Sequence[str], label_column: str | None, place: str, weak_column: str | None = None) -> list[Row]:
    """The rows of an Arrow table that has all the columns named."""
    names = dict.fromkeys([*text_columns, *(column for column in (label_column, weak_column) if column)])
    return _rows({name: table.column(name).to_pylist() for name in names}, text_columns, (label_column, weak_column), place, start=1)


def _rows(
    cells: dict[str, list[Any]], text_columns: Sequence[str], label_columns: tuple[str | None, str | None], place: str, *, start: int
) -> list[Row]:
    texts = [join_texts(parts) for parts in zip(*(cells[name] for name in text_columns), strict=True)]
    labels, weak = (cells[column] if column else [None] * len(texts) for column in label_columns)
    return [Row(f"{place} {number}", *row) for number, row in enumerate(zip(texts, labels, weak, strict=True), start=start)]


def join_texts(parts: Sequence[object]) -> object:
    """Several columns as one text, joined by a newline; one column stays as it is, whatever it holds."""
    if len(parts) == 1:
        return parts[0]
    return "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def require_columns(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise a `SelfTrainError` that names the nearest column when one of `wanted` is missing, or that one of them is there twice."""
    for column in wanted:
        if column not in found:
            raise SelfTrainError(
                f"{where} has no column {column!r}; {nearest(column, found) or 'it has no columns'} Set data.text_column or data.label_column."
            )
        if found.count(column) > 1:
            raise SelfTrainError(
                f"{where} has {found.count(column)} columns {column!r}, and which of them is meant nobody can tell; rename the others."
            )


@contextmanager
def opened(path: Path, newline: str) -> Iterator[TextIO]:
    """A UTF-8 file, with or without a byte order mark.

    Raises:
        SelfTrainError: it is not UTF-8; the error says where.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as stream:
            yield stream
    except UnicodeDecodeError:
        byte, line, guess = _first_wrong_byte(path)
        raise SelfTrainError(
            f"{path} is not UTF-8: byte 0x{byte:02x} on line {line}; convert it, e.g. "
            f"iconv -f {guess} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}."
        ) from None


def _first_wrong_byte(path: Path) -> tuple[int, int, str]:
    """(the first byte that is not UTF-8, its line, the encoding that the file may have)."""
    line, rest = 1, b""
    with path.open("rb") as stream:
        guess = "UTF-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        stream.seek(0)
        while True:
            block = stream.read(1 << 20)
            content, rest = rest + block, b""
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                # A character of up to four bytes may go on in the next block.
                if not block or error.end < len(content) or len(content) - error.start > 3:
                    return content[error.start], line + content.count(b"\n", 0, error.start), guess
                content, rest = content[: error.start], content[error.start :]
            line += content.count(b"\n")


def lines_of(stream: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file.

    Raises:
        SelfTrainError: one is longer than a record may be.
    """
    number = 0
    while line := stream.readline(RECORD_CHARACTERS + 1):
        number += 1
        if len(line) > RECORD_CHARACTERS:
            raise SelfTrainError(f"Line {number} of {path} has more than {RECORD_CHARACTERS:,} characters; give a file with one document a row.")
        yield line


def _read_delimited(path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> Iterator[Row]:
    kind = path.suffix[1:].upper()
    # A cell may be as long as a record: an over-long text costs its row alone. The limit is the csv module's, for all its users, hence put back.
    limit = csv.field_size_limit(max(RECORD_CHARACTERS, csv.field_size_limit()))
    try:
        with opened(path, newline="") as stream:
            header_line = next(lines_of(stream, path), "")
            delimiter = "\t" if kind == "TSV" else ","
            if kind == "CSV" and text_column not in next(csv.reader([header_line]), []):
                # Spreadsheets of many countries write semicolons (or tabs) into a .csv.
                delimiter = next((other for other in ";\t|" if text_column in next(csv.reader([header_line], delimiter=other), [])), ",")
            stream.seek(0)
            yield from _delimited_rows(Cells(stream, path, delimiter), path, text_column, label_column, weak_column)
    except csv.Error as error:
        raise SelfTrainError(f"{path} is not a readable {kind} file: {error}.") from None
    finally:
        csv.field_size_limit(limit)


class Cells:
    """The cells of each row, and the line on which the row begins; a row is not longer than a record, and no quote is left open."""

    def __init__(self, stream: TextIO, path: Path, delimiter: str) -> None:
        self._stream, self._path = stream, path
        self._characters = 0  # of the row that is being read
        self._reader = csv.reader(self._fed(), delimiter=delimiter)
        self.line = 1

    def _fed(self) -> Iterator[str]:
        for line in lines_of(self._stream, self._path):
            self._characters += len(line)
            if self._characters > RECORD_CHARACTERS:
                raise self._endless()
            yield line
        yield _END

    def _endless(self) -> SelfTrainError:
        return SelfTrainError(
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
            self.line, self._characters = following, 0


def _delimited_rows(rows: Cells, path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> Iterator[Row]:
    cells_of_rows = iter(rows)
    header = [name.strip() for name in next(cells_of_rows, [])]
    columns = (label_column, weak_column)
    require_columns(header, [text_column, *(column for column in columns if column)], str(path))
    at_text, at_labels = header.index(text_column), [header.index(column) if column else None for column in columns]
    most, count = most_rows(path), 0
    for cells in cells_of_rows:
        if cells:  # a blank line is no row
            count += 1
            if count > most:
                raise too_many_rows(path, count)
            if len(cells) > len(header):
                # Commas that were not quoted: the cells have slipped, and neither text nor label can be trusted.
                yield Row(f"line {rows.line}", Fault("too many cells"))
            else:
                cells += [""] * (len(header) - len(cells))
                yield Row(f"line {rows.line}", cells[at_text], *(None if at is None else cells[at] for at in at_labels))


def _read_json(path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> list[Row]:
    columns = (text_column, label_column, weak_column)
    rows: list[Row] = []
    found: dict[str, None] = {}
    most = most_rows(path)
    for place, record, characters in _records(path):
        if isinstance(record, dict):
            found |= dict.fromkeys(record) if len(found) < COLUMNS_KEPT else {}
            rows.append(Row(place, *(_kept(record.get(column), characters) if column else None for column in columns)))
        else:
            rows.append(Row(place, _kept(record, characters)))
        if len(rows) > most:
            raise too_many_rows(path, len(rows))
    if rows:
        missing = [column for column in columns if column and column not in found]
        if len(found) < COLUMNS_KEPT or missing:
            require_columns(list(found), [column for column in columns if column], str(path))
    return rows


def _records(path: Path) -> Iterator[tuple[str, Any, int]]:
    """(place, record, its characters) of every record of a file of JSON lines, or with a list of objects."""
    number = 1
    try:
        # Split at line feeds only: a JSON string may hold U+2028 and its like.
        with opened(path, newline="\n") as stream:
            if path.suffix.lower() == ".json" and _first_sign(stream) == "[":
                for item, (record, characters) in enumerate(json_items(stream.read(), characters=RECORD_CHARACTERS), start=1):
                    yield f"item {item}", record, characters
                return
            for number, line in enumerate(lines_of(stream, path), start=1):
                if line.strip():
                    yield f"line {number}", json_of(line.removesuffix("\n"), characters=RECORD_CHARACTERS), len(line)
    except UnicodeDecodeError:
        raise  # a ValueError too, of which `opened` knows more
    except ValueError as error:
        at = number + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else number
        fault = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise SelfTrainError(
            f"{path} is not valid JSON: {fault} on line {at}; write one object a line, or a .json file with a list of objects."
        ) from None


def _first_sign(stream: TextIO) -> str:
    """The first character that is no white space; the stream stands at its beginning again."""
    while (sign := stream.read(1)).isspace():
        pass
    stream.seek(0)
    return sign


def _kept(value: object, characters: int) -> object:
    return Fault("not text") if isinstance(value, list | dict) and characters > _ODD_CHARACTERS else value
