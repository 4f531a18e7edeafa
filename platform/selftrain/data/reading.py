"""Files to rows: what `data.source` names, whole. Text files come from records.py, and Parquet from parquet.py.

Every fault of a whole file is a `DataError`; faults of single rows are left to `cleaning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selftrain.data.cleaning import SourceRow, UnreadableText
from selftrain.data.images import COLUMNS
from selftrain.data.parquet import CELL_BYTES, cells_of, open_checked, readable, schema_of
from selftrain.data.records import check_source, open_records
from selftrain.data.text_files import most_rows, suffix_of, too_many_rows
from selftrain.errors import DataError, nearest

COLUMNS_KEPT = 4096  # names of JSON records that are remembered, to be listed where one is missing
_ODD_CHARACTERS = 1000  # of a record whose text is a list or an object: of a longer one, only that it is not text is kept


def read_file(path: Path, text_column: str, label_column: str | None, weak_column: str | None = None) -> list[SourceRow]:
    """The rows of a file, by its suffix.

    Args:
        path: a .csv, .tsv, .jsonl or .json file, plain or compressed (.csv.gz), or a .parquet file.
        text_column: column of the texts.
        label_column: column of the labels; None for no labels.
        weak_column: column of labels that may be wrong; None for none.

    Raises:
        DataError: no such file, an unknown suffix, an empty or unreadable file, a wrong encoding, a missing column.
    """
    check_source(path, "data.source")
    try:
        if suffix_of(path) == ".parquet":
            rows = read_parquet(path, (text_column,), label_column, weak_column)
        else:
            rows = _read_text_file(path, text_column, label_column, weak_column)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not rows:
        raise DataError(f"{path} holds no rows; pass a file with one document a row.")
    return rows


def _read_text_file(path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> list[SourceRow]:
    columns = (text_column, label_column, weak_column)
    wanted = [column for column in columns if column]
    records = open_records(path, text_column)
    if records.columns is not None:
        require_columns(records.columns, wanted, str(path))
    rows: list[SourceRow] = []
    keys: dict[str, None] = {}  # of JSON records, which have no header
    most = most_rows(path)
    for place, value, characters, slipped in records.read():
        if slipped:
            rows.append(SourceRow(place, UnreadableText("too many cells")))
        elif isinstance(value, dict):
            keys |= dict.fromkeys(value) if records.columns is None and len(keys) < COLUMNS_KEPT else {}
            rows.append(SourceRow(place, *(_kept(value.get(column), characters) if column else None for column in columns)))
        else:
            rows.append(SourceRow(place, _kept(value, characters)))
        if len(rows) > most:
            raise too_many_rows(path, len(rows))
    if rows and records.columns is None and (len(keys) < COLUMNS_KEPT or any(column not in keys for column in wanted)):
        require_columns(list(keys), wanted, str(path))
    return rows


def _kept(value: object, characters: int) -> object:
    return UnreadableText("not text") if isinstance(value, list | dict) and characters > _ODD_CHARACTERS else value


def read_parquet(
    path: Path, text_columns: Sequence[str], label_column: str | None, weak_column: str | None = None, *, place: str = "row"
) -> list[SourceRow]:
    """The rows of a Parquet file; several text columns are joined by a newline.

    A file that lacks the text column and has one called `image` or `img` holds images (`image_column`).

    Args:
        path: the file.
        text_columns: columns of the texts.
        label_column: column of the labels; None for no labels.
        weak_column: column of labels that may be wrong; None for none.
        place: what a row is called where it is skipped, before its number.

    Raises:
        DataError: not Parquet, a missing column, or a file that stands for much more than its size.
    """
    schema = parquet_schema(path)
    if found := image_column(schema, text_columns):
        text_columns = (found,)
    columns = [*text_columns, *(column for column in (label_column, weak_column) if column)]
    require_columns(schema.names, columns, str(path))
    opened = open_checked(path, columns)
    if opened.rows > (most := most_rows(path)):
        raise too_many_rows(path, opened.rows)
    rows: list[SourceRow] = []
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


def table_rows(table: Any, text_columns: Sequence[str], label_column: str | None, place: str, weak_column: str | None = None) -> list[SourceRow]:
    """The rows of an Arrow table that has all these columns.

    Args:
        table: the table.
        text_columns: columns of the texts, joined by a newline.
        label_column: column of the labels; None for no labels.
        place: what a row is called where it is skipped, before its number.
        weak_column: column of labels that may be wrong; None for none.
    """
    names = dict.fromkeys([*text_columns, *(column for column in (label_column, weak_column) if column)])
    return _rows({name: table.column(name).to_pylist() for name in names}, text_columns, (label_column, weak_column), place, start=1)


def _rows(
    cells: dict[str, list[Any]], text_columns: Sequence[str], label_columns: tuple[str | None, str | None], place: str, *, start: int
) -> list[SourceRow]:
    texts = [join_texts(parts) for parts in zip(*(cells[name] for name in text_columns), strict=True)]
    labels, weak = (cells[column] if column else [None] * len(texts) for column in label_columns)
    return [SourceRow(f"{place} {number}", *row) for number, row in enumerate(zip(texts, labels, weak, strict=True), start=start)]


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
