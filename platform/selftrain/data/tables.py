"""Tables that rows come from and go to, larger than memory if need be, with every column kept.

Rows are dictionaries. What is read is bounded row by row (records.py, parquet.py), and rows are handed out with the characters that they took.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.data.parquet import CELL_BYTES, cells_of, groups_of, open_checked, readable
from selftrain.data.records import Records, check_source, disk_errors, open_records
from selftrain.data.text_files import most_rows, suffix_of, too_many_rows
from selftrain.errors import DataError, OutputError, nearest
from selftrain.files.durable import check_file

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")  # of results
COLUMNS = 4096  # of a table at most: a thousand rows of as many are in memory at once
BATCH_ROWS = 1024


class TableRow(NamedTuple):
    """A row of a table."""

    cells: dict[str, Any]  # column -> cell, with every column
    characters: int  # (or bytes) that it took
    slipped: bool = False  # it has more cells than the header


class Read(Protocol):
    """Gives the rows of a table from number `start` to before number `stop`; of Parquet, whole row groups before `start` cost nothing."""

    def __call__(self, start: int = 0, stop: int | None = None) -> Iterator[TableRow]:
        """Rows in their order; `stop` None: to the end."""


@dataclass(frozen=True)
class Table:
    """A file of rows that is read as a stream."""

    schema: pa.Schema  # columns, with the types that a Parquet file gives them
    rows: int | None  # how many there are; None where counting would mean reading the file twice
    read: Read


def check_paths(source: Path, out: Path) -> None:
    """Check where a table is read from and written to, before the work.

    Raises:
        DataError: `source` is not a file that can be read.
        OutputError: `out` has an unknown suffix, is `source`, or cannot be written.
    """
    check_source(source, "source")
    if out.suffix.lower() not in SUFFIXES:
        raise OutputError(f"out must end in {', '.join(SUFFIXES)} (got {str(out)[:300]!r}).", parameter="out")
    check_file(out, "out")
    if out.resolve() == source.resolve():
        raise OutputError(f"out must be another file than source (got {str(out)!r} for both).", parameter="out")


def open_table(source: Path, text_column: str, *, json_types: Mapping[str, pa.DataType] | None = None) -> Table:
    """A file as a table; bytes that are not UTF-8 and commas that are not quoted spoil their own row alone.

    Args:
        source: a file of documents.
        text_column: column of the texts.
        json_types: column -> type, for a file of JSON; default: those that its own records have, which are read once more for it.

    Raises:
        DataError: it is empty, not what its suffix says, beyond a bound, or lacks the column.
    """
    with disk_errors(source):
        table = _open_parquet(source) if suffix_of(source) == ".parquet" else _open_text_file(source, text_column, json_types)
    check_columns(source, table.schema.names, text_column)
    return table


def check_columns(source: Path | str, names: Sequence[str], text_column: str) -> None:
    """Check the names of a table's columns.

    Args:
        source: the file, for the error.
        names: of its columns.
        text_column: the column that it must have.

    Raises:
        DataError: there is no such column, there are too many, or two have one name.
    """
    if len(set(names)) != len(names):
        raise DataError(f"{source} has two columns of one name; rename one of them.")
    if len(names) > COLUMNS:
        raise DataError(f"{source} has {len(names):,} columns, more than {COLUMNS:,}; leave some out.")
    if text_column not in names:
        raise DataError(f"text_column {text_column!r} is not a column of {source}; {nearest(text_column, names)}", parameter="text_column")


def open_result(file: Path, kind: str, schema: pa.Schema) -> Writer:
    """A table to write to.

    Args:
        file: what is written, under any name.
        kind: the suffix that it will have in the end, one of `SUFFIXES`.
        schema: its columns.
    """
    return _WRITERS[kind.lower()](file, schema)


def clean_cell(value: Any) -> Any:
    """A string that any format can hold: bytes of the source that are not UTF-8, and halves of surrogate pairs, become replacement characters."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


# Sources


def _open_text_file(source: Path, text_column: str, json_types: Mapping[str, pa.DataType] | None) -> Table:
    records = open_records(source, text_column, "surrogateescape")
    types: Mapping[str, pa.DataType] | None = None
    rows = None
    if records.columns is not None:
        names = [clean_cell(name) for name in records.columns]
    elif json_types is not None:
        types, names = json_types, list(json_types)
    else:
        kinds, rows = _json_kinds(source, records)
        types, names = types_of(kinds), list(kinds)
    schema = pa.schema([(name, pa.string() if types is None else types[name]) for name in names])

    def read(start: int = 0, stop: int | None = None) -> Iterator[TableRow]:
        for record in islice(records.read(), start, stop):
            cells = {clean_cell(name): value for name, value in record.value.items()}
            yield TableRow({name: cells.get(name) for name in names}, record.characters, record.slipped)

    return Table(schema, rows, read)


Kinds = dict[str, set[str]]  # column -> names of the Python types that its cells have


def count_rows(source: Path, text_column: str) -> tuple[list[str] | Kinds, int]:
    """Read a text file for what it holds.

    Args:
        source: a file with one of the `SUFFIXES` of text files.
        text_column: column of the texts.

    Returns:
        (of CSV and TSV the names of the columns, of JSON the kinds of their cells; the number of rows).

    Raises:
        DataError: as `open_table`.
    """
    with disk_errors(source):
        records = open_records(source, text_column, "surrogateescape")
        if records.columns is None:
            kinds, rows = _json_kinds(source, records)
            check_columns(source, list(kinds), text_column)
            return kinds, rows
        names = [clean_cell(name) for name in records.columns]
        check_columns(source, names, text_column)
        return names, sum(1 for _ in records.read())


def types_of(kinds: Kinds) -> dict[str, pa.DataType]:
    """Column -> the type that all of its cells fit in."""
    return {name: _parquet_type(kind) for name, kind in kinds.items()}


def _json_kinds(source: Path, records: Records) -> tuple[Kinds, int]:
    """(column -> kinds, rows): records may differ in their keys and types, and a Parquet file needs both before its first row. So the file is read twice."""
    kinds: Kinds = {}
    rows = 0
    for place, value, _, _ in records.read():
        if not isinstance(value, dict):
            raise DataError(f"{place.capitalize()} of {source} is a {type(value).__name__}, not an object such as {{'text': '...'}}.")
        rows += 1
        for name, cell in value.items():
            long = isinstance(cell, int) and not -(2**63) <= cell < 2**63
            kinds.setdefault(clean_cell(name), set()).add("long" if long else type(cell).__name__)
        if len(kinds) > COLUMNS:
            raise DataError(f"{source} has more than {COLUMNS:,} different keys in its first {rows:,} objects; leave some out.")
    if not rows:
        raise DataError(f"{source} is empty; pass a file with one object a row.")
    return kinds, rows


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
    ends = list(accumulate(groups_of(opened.file.metadata)))

    def read(start: int = 0, stop: int | None = None) -> Iterator[TableRow]:
        shared: dict[Any, Any] = {}
        stop = (ends or [0])[-1] if stop is None else stop
        wanted = [group for group, end in enumerate(ends) if end > start and (group == 0 or ends[group - 1] < stop)]
        at = ends[wanted[0] - 1] if wanted and wanted[0] else 0
        batches = opened.batches(most=BATCH_ROWS, row_groups=wanted)
        while True:
            with readable(source):
                if at >= stop or (batch := next(batches, None)) is None:
                    return
                first, at = at, at + batch.num_rows
                if at <= start:
                    continue
                batch = batch.slice(max(0, start - first), min(at, stop) - max(first, start))
                shared.clear()
                columns = [cells_of(batch.column(number), shared) for number in range(batch.num_columns)]
            least = batch.nbytes // max(1, batch.num_rows)
            for cells in zip(*columns, strict=True):
                characters = sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
                if characters > CELL_BYTES:
                    raise DataError(f"{source} has a row of {characters / 1e6:,.0f} MB, more than {CELL_BYTES / 1e6:,.0f}; leave it out.")
                yield TableRow(dict(zip(schema.names, cells, strict=True)), max(characters, least))

    return Table(schema, opened.rows, read)


# Results


class Writer(Protocol):
    """Where rows go; the file is complete when it is left."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""


class _ToCsv:
    def __init__(self, file: Path, schema: pa.Schema, delimiter: str = ",") -> None:
        self._file = file.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, schema.names, delimiter=delimiter)
        self._writer.writeheader()

    def __enter__(self) -> _ToCsv:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.writerows({name: _json(value) if isinstance(value, list | dict) else value for name, value in row.items()} for row in rows)


class _ToJsonl:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._file = file.open("w", encoding="utf-8")

    def __enter__(self) -> _ToJsonl:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._file.writelines(f"{_json(row)}\n" for row in rows)


class _ToParquet:
    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(file, schema)

    def __enter__(self) -> _ToParquet:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, rows: list[dict[str, Any]]) -> None:
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
        return {clean_cell(name) if isinstance(name, str) else str(name): _finite(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return clean_cell(value)


_WRITERS: dict[str, Callable[[Path, pa.Schema], Writer]] = {
    ".csv": _ToCsv,
    ".tsv": partial(_ToCsv, delimiter="\t"),
    ".jsonl": _ToJsonl,
    ".parquet": _ToParquet,
}
