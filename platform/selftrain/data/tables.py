"""Tables that rows come from and go to: CSV, JSON lines and Parquet, larger than memory if need be.

Rows are dictionaries. What is read is bounded row by row (data/reading.py, data/parquet.py), and rows are handed out with the characters that they took.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.data.parquet import CELL_BYTES, cells_of, open_checked, readable
from selftrain.data.reading import RECORD_CHARACTERS, Cells, lines_of, most_rows, too_many_rows
from selftrain.errors import SelfTrainError
from selftrain.files.outputs import check_file
from selftrain.files.parsing import json_of

SUFFIXES = (".csv", ".jsonl", ".parquet")
COLUMNS = 4096  # of a table at most: a thousand rows of as many are in memory at once
BATCH_ROWS = 1024
RAGGED = "\0ragged"  # marks a CSV row with more cells than the header

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A source: its columns, the types that a Parquet file gives them, how many rows there are, and the rows with the characters (or bytes) of each."""

    schema: pa.Schema
    rows: int | None  # None where counting would mean reading it twice
    read: Callable[[], Iterator[tuple[Row, int]]]


def check_paths(source: Path, out: Path) -> None:
    """Raise a `SelfTrainError` unless `source` is a file of a known kind, and `out` can be written and is another one."""
    if not _is_file(source):
        raise SelfTrainError(f"No file {str(source)[:300]!r} to classify; give the path of a CSV, JSONL or Parquet file.")
    for file, option in ((source, "--file"), (out, "--out")):
        if file.suffix.lower() not in SUFFIXES:
            raise SelfTrainError(f"{option} {file} ends in {file.suffix or 'nothing'}; its name has to end in {', '.join(SUFFIXES)}.")
    check_file(out, "--out")
    if out.resolve() == source.resolve():
        raise SelfTrainError(f"--out {out} is the source itself; name another file.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def open_table(source: Path) -> Table:
    """A file as a table.

    Raises:
        SelfTrainError: it is empty, not what its suffix says, or beyond a bound.
    """
    try:
        table = _OPEN[source.suffix.lower()](source)
    except OSError as error:
        raise SelfTrainError(f"{source} cannot be read: {error.strerror or error}.") from None
    names = table.schema.names
    if len(set(names)) != len(names):
        raise SelfTrainError(f"{source} names a column twice; give each column a name of its own.")
    if len(names) > COLUMNS:
        raise SelfTrainError(f"{source} has {len(names):,} columns, more than {COLUMNS:,}; leave some out.")
    return table


def open_result(file: Path, kind: str, schema: pa.Schema) -> Writer:
    """A table to write to; `kind` is the suffix that the file will have."""
    return _WRITE[kind.lower()](file, schema)


def clean(value: Any) -> Any:
    """A string that any format can hold: bytes of the source that are no UTF-8, and halves of surrogate pairs, become replacement characters."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


# Sources


def _open_csv(source: Path) -> Table:
    csv.field_size_limit(max(RECORD_CHARACTERS, csv.field_size_limit()))

    def rows_of_cells() -> Iterator[list[str]]:
        # Bytes that are no UTF-8 are kept apart as surrogates, so that they spoil their own row alone.
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                yield from Cells(file, source, ",")
            except csv.Error as error:
                raise SelfTrainError(f"{source} is not a CSV file ({error}); save it as UTF-8 CSV with a header.") from None

    header = [clean(name) for name in next(rows_of_cells(), [])]
    if not header:
        raise SelfTrainError(f"{source} is empty; its first line has to name the columns.")

    def read() -> Iterator[tuple[Row, int]]:
        rows = rows_of_cells()
        next(rows)
        for cells in rows:
            if not cells:  # a blank line is no row
                continue
            row: Row = dict.fromkeys(header)
            row.update(zip(header, cells, strict=False))
            if len(cells) > len(header):
                row[RAGGED] = True
            yield row, sum(map(len, cells))

    return Table(pa.schema([(name, pa.string()) for name in header]), None, read)


def _open_jsonl(source: Path) -> Table:
    def read() -> Iterator[tuple[Row, int]]:
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            for number, line in enumerate(lines_of(file, source), start=1):
                if not line.strip():
                    continue
                try:
                    row = json_of(line, characters=RECORD_CHARACTERS)
                except ValueError as error:
                    raise SelfTrainError(f"Line {number} of {source} is not JSON ({error}); each line has to be one object.") from None
                if not isinstance(row, dict):
                    raise SelfTrainError(
                        f"Line {number} of {source} is a {type(row).__name__}; each line has to be one object such as {{'text': '...'}}."
                    )
                yield {clean(name): value for name, value in row.items()}, len(line)

    # Lines may differ in their keys and types, and a Parquet file wants to know both before its first row: so the file is read twice.
    kinds: dict[str, set[str]] = {}
    rows = 0
    for row, _ in read():
        rows += 1
        for name, value in row.items():
            long = isinstance(value, int) and not -(2**63) <= value < 2**63
            kinds.setdefault(name, set()).add("long" if long else type(value).__name__)
        if len(kinds) > COLUMNS:
            raise SelfTrainError(f"{source} has more than {COLUMNS:,} different keys in its first {rows:,} objects; leave some out.")
    if not rows:
        raise SelfTrainError(f"{source} is empty; each line has to be one JSON object.")
    schema = pa.schema([(name, _parquet_type(kind)) for name, kind in kinds.items()])

    def shaped() -> Iterator[tuple[Row, int]]:
        return (({name: row.get(name) for name in schema.names}, characters) for row, characters in read())

    return Table(schema, rows, shaped)


def _parquet_type(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"NoneType"}
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds == {"int"}:
        return pa.int64()
    if kinds and kinds <= {"int", "float"}:
        return pa.float64()
    return pa.string()  # nested, mixed and very long values are written as JSON


def _open_parquet(source: Path) -> Table:
    opened = open_checked(source)
    if opened.rows > most_rows(source):
        raise too_many_rows(source, opened.rows)
    schema = opened.schema.remove_metadata()

    def read() -> Iterator[tuple[Row, int]]:
        shared: dict[Any, Any] = {}
        batches = opened.batches(most=BATCH_ROWS)
        while True:
            with readable(source):
                if (batch := next(batches, None)) is None:
                    return
                shared.clear()
                columns = [cells_of(batch.column(number), shared) for number in range(batch.num_columns)]
            least = batch.nbytes // max(1, batch.num_rows)
            for cells in zip(*columns, strict=True):
                characters = sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
                if characters > CELL_BYTES:
                    raise SelfTrainError(f"{source} has a row of {characters / 1e6:,.0f} MB, more than {CELL_BYTES / 1e6:,.0f}; leave it out.")
                yield dict(zip(schema.names, cells, strict=True)), max(characters, least)

    return Table(schema, opened.rows, read)


# Results


class Writer(Protocol):
    """Where rows go; the file is complete when it is left."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, rows: list[Row]) -> None:
        """Append rows."""


class _ToCsv:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._file = file.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, schema.names)
        self._writer.writeheader()

    def __enter__(self) -> _ToCsv:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: list[Row]) -> None:
        self._writer.writerows({name: _json(value) if isinstance(value, list | dict) else value for name, value in row.items()} for row in rows)


class _ToJsonl:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._file = file.open("w", encoding="utf-8")

    def __enter__(self) -> _ToJsonl:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: list[Row]) -> None:
        self._file.writelines(f"{_json(row)}\n" for row in rows)


class _ToParquet:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(file, schema)

    def __enter__(self) -> _ToParquet:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, rows: list[Row]) -> None:
        columns = []
        for field in self._schema:
            values = [row.get(field.name) for row in rows]
            if pa.types.is_string(field.type):
                values = [value if value is None or isinstance(value, str) else _json(value) for value in values]
            columns.append(pa.array(values, field.type))
        self._writer.write_table(pa.table(columns, schema=self._schema))


def _json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinities, nor halves of surrogate pairs."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(name) if isinstance(name, str) else str(name): _finite(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return clean(value)


_OPEN: dict[str, Callable[[Path], Table]] = {".csv": _open_csv, ".jsonl": _open_jsonl, ".parquet": _open_parquet}
_WRITE: dict[str, Callable[[Path, pa.Schema], Writer]] = {".csv": _ToCsv, ".jsonl": _ToJsonl, ".parquet": _ToParquet}
