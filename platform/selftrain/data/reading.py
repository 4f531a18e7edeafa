"""Files to rows: what `data.source` names, as a stream. Text files come from records.py, and Parquet from parquet.py.

Every fault of a whole file is a `DataError`; faults of single rows are left to `cleaning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain.data.cleaning import SourceRow, UnreadableText
from selftrain.data.images import COLUMNS
from selftrain.data.parquet import CELL_BYTES, cells_of, open_checked, readable, schema_of
from selftrain.data.records import check_source, disk_errors, open_records
from selftrain.data.text_files import most_rows, suffix_of, too_many_rows
from selftrain.errors import DataError, nearest

COLUMNS_KEPT = 4096  # names of JSON records that are remembered, to be listed where one is missing
_TABLE_ROWS = 8192  # of a table in memory that are made Python objects at a time
_ODD_CHARACTERS = 1000  # of a record whose text is a list or an object: of a longer one, only that it is not text is kept


@dataclass(frozen=True)
class Rows:
    """Rows that are read anew whenever they are iterated over, with a batch of them in memory.

    `read` gives them; with True the rows may lack their texts: labels alone are wanted. Whatever is wrong with a file is raised while it is read.
    """

    read: Callable[[bool], Iterator[SourceRow]]
    labeled: bool  # whether any row can carry a label

    def __iter__(self) -> Iterator[SourceRow]:
        return self.read(False)

    def labels(self) -> Iterator[object]:
        """The label of every row."""
        return (row.label for row in self.read(True)) if self.labeled else iter(())


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of one part after those of another."""
    return Rows(lambda labels: (row for part in parts for row in part.read(labels)), any(part.labeled for part in parts))


def file_rows(
    path: Path, text_column: str, label_column: str | None, weak_column: str | None = None, *, place: str | None = None, may_be_empty: bool = False
) -> Rows:
    """The rows of a file, by its suffix.

    Args:
        path: a .csv, .tsv, .jsonl or .json file, plain or compressed (.csv.gz), or a .parquet file.
        text_column: column of the texts.
        label_column: column of the labels; None for no labels.
        weak_column: column of labels that may be wrong; None for none.
        place: what stands before "line 3" or "row 3" where a row is skipped; default: nothing.
        may_be_empty: whether a file without rows, which another program's writer may leave, is no error.

    Raises:
        DataError: no such file, an unknown suffix, an empty file; while it is read: it is unreadable, holds no rows, a wrong encoding, a missing column.
    """
    check_source(path, "data.source")
    before = f"{place} " if place else ""

    def read(labels: bool) -> Iterator[SourceRow]:
        none = True
        with disk_errors(path):
            if suffix_of(path) == ".parquet":
                rows = _parquet_rows(path, (text_column,), label_column, weak_column, f"{before}row", labels)
            else:
                rows = _text_file_rows(path, text_column, label_column, weak_column, before)
            for row in rows:
                none = False
                yield row
        if none and not may_be_empty:
            raise DataError(f"{path} holds no rows; pass a file with one document a row.")

    return Rows(read, label_column is not None)


def parquet_rows(path: Path, text_columns: Sequence[str], label_column: str | None, weak_column: str | None = None, *, place: str = "row") -> Rows:
    """The rows of a Parquet file; several text columns are joined by a newline.

    A file that lacks the text column and has one called `image` or `img` holds images (`image_column`).

    Args:
        path: the file.
        text_columns: columns of the texts.
        label_column: column of the labels; None for no labels.
        weak_column: column of labels that may be wrong; None for none.
        place: what a row is called where it is skipped, before its number.

    Raises:
        DataError: not Parquet, or a missing column; while it is read: a file that stands for much more than its size.
    """
    _columns_of(path, text_columns, label_column, weak_column)
    return Rows(lambda labels: _parquet_rows(path, text_columns, label_column, weak_column, place, labels), label_column is not None)


def _text_file_rows(path: Path, text_column: str, label_column: str | None, weak_column: str | None, before: str) -> Iterator[SourceRow]:
    columns = (text_column, label_column, weak_column)
    wanted = [column for column in columns if column]
    records = open_records(path, text_column)
    if records.columns is not None:
        require_columns(records.columns, wanted, str(path))
    keys: dict[str, None] = {}  # of JSON records, which have no header
    most = most_rows(path)
    number = 0
    for number, (place, value, characters, slipped) in enumerate(records.read(), start=1):
        if number > most:
            raise too_many_rows(path, number)
        place = f"{before}{place}"
        if slipped:
            yield SourceRow(place, UnreadableText("too many cells"))
        elif isinstance(value, dict):
            if records.columns is None and len(keys) < COLUMNS_KEPT:
                keys.update(dict.fromkeys(value))
            yield SourceRow(place, *(_kept(value.get(column), characters) if column else None for column in columns))
        else:
            yield SourceRow(place, _kept(value, characters))
    if number and records.columns is None and (len(keys) < COLUMNS_KEPT or any(column not in keys for column in wanted)):
        require_columns(list(keys), wanted, str(path))


def _kept(value: object, characters: int) -> object:
    return UnreadableText("not text") if isinstance(value, list | dict) and characters > _ODD_CHARACTERS else value


def _columns_of(path: Path, text_columns: Sequence[str], label_column: str | None, weak_column: str | None) -> tuple[Sequence[str], list[str]]:
    """(columns of texts or images, all that are read), which the file has."""
    schema = parquet_schema(path)
    if found := image_column(schema, text_columns):
        text_columns = (found,)
    columns = [*text_columns, *(column for column in (label_column, weak_column) if column)]
    require_columns(schema.names, columns, str(path))
    return text_columns, columns


def _parquet_rows(
    path: Path, text_columns: Sequence[str], label_column: str | None, weak_column: str | None, place: str, labels: bool
) -> Iterator[SourceRow]:
    text_columns, columns = _columns_of(path, text_columns, label_column, weak_column)
    opened = open_checked(path, columns)
    if opened.rows > (most := most_rows(path)):
        raise too_many_rows(path, opened.rows)
    if labels and label_column:
        text_columns, weak_column, columns = (label_column,), None, [label_column]
    count = 0
    shared: dict[Any, Any] = {}  # what is long and comes again is one object, in a batch: the rows of others may be gone
    batches = opened.batches(columns)
    while True:
        with readable(path):
            if (batch := next(batches, None)) is None:
                return
            shared.clear()
            cells = {name: [_fitting(value) for value in cells_of(batch.column(name), shared)] for name in dict.fromkeys(columns)}
        if count + batch.num_rows > most:
            raise too_many_rows(path, count)
        yield from _rows(cells, text_columns, (label_column, weak_column), place, start=count + 1)
        count += batch.num_rows


def parquet_schema(path: Path) -> Any:
    """The Arrow schema of a Parquet file.

    Raises:
        DataError: not a Parquet file.
    """
    return schema_of(path)


def _fitting(value: object) -> object:
    return UnreadableText("over-long") if isinstance(value, str | bytes) and len(value) > CELL_BYTES else value


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


def table_rows(table: Any, text_columns: Sequence[str], label_column: str | None, place: str, weak_column: str | None = None) -> Rows:
    """The rows of an Arrow table that has all these columns.

    Args:
        table: the table.
        text_columns: columns of the texts, joined by a newline.
        label_column: column of the labels; None for no labels.
        place: what a row is called where it is skipped, before its number.
        weak_column: column of labels that may be wrong; None for none.
    """
    names = dict.fromkeys([*text_columns, *(column for column in (label_column, weak_column) if column)])

    def read(labels: bool) -> Iterator[SourceRow]:
        count = 0
        for batch in table.select(list(names)).to_batches(_TABLE_ROWS):
            cells = {name: batch.column(name).to_pylist() for name in names}
            yield from _rows(cells, text_columns, (label_column, weak_column), place, start=count + 1)
            count += batch.num_rows

    return Rows(read, label_column is not None)


def _rows(
    cells: dict[str, list[Any]], text_columns: Sequence[str], label_columns: tuple[str | None, str | None], place: str, *, start: int
) -> Iterator[SourceRow]:
    parts = [cells[name] for name in text_columns]
    texts = parts[0] if len(parts) == 1 else [join_texts(of_row) for of_row in zip(*parts, strict=True)]
    labels, weak = (cells[column] if column else [None] * len(texts) for column in label_columns)
    for number, row in enumerate(zip(texts, labels, weak, strict=True), start=start):
        yield SourceRow(f"{place} {number}", *row)


def join_texts(parts: Sequence[object]) -> object:
    """Several columns as one text, joined by a newline; one column stays as it is, whatever it holds."""
    if len(parts) == 1:
        return parts[0]
    return "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def require_columns(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise a `DataError` where a column is missing (with the nearest one) or is there twice.

    Args:
        found: all columns.
        wanted: those that are read.
        where: what has the columns, for the error.
    """
    for column in wanted:
        if column not in found:
            raise DataError(
                f"{where} has no column {column!r}; {nearest(column, found) or 'it has no columns'} Set data.text_column or data.label_column."
            )
        if found.count(column) > 1:
            raise DataError(f"{where} has {found.count(column)} columns {column!r}, and only one of them can be meant; rename the others.")
