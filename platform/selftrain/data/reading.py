"""Files to rows: CSV, TSV, JSON lines, JSON and Parquet.

CSV and JSON are read with the standard library rather than with Arrow, because one odd cell (a number among texts, a null) must cost one row and not
the file. Every fault of a whole file is a `UserError`; faults of single rows are left to `cleaning`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selftrain.data.cleaning import Fault, Row
from selftrain.data.images import COLUMNS
from selftrain.errors import UserError, nearest

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def read_file(path: Path, text_column: str, label_column: str | None, weak_column: str | None = None) -> list[Row]:
    """The rows of a file, by its suffix.

    Args:
        path: a file with one of `SUFFIXES`.
        text_column: column of the texts.
        label_column: column of the labels; None for no labels.
        weak_column: column of labels that may be wrong; None for none.

    Raises:
        UserError: no such file, an unknown suffix, an empty or unreadable file, a wrong encoding, a missing column.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is of no kind that can be read; data.source takes {', '.join(SUFFIXES)} files.")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file; give the path of a {suffix} file.")
    if not path.is_file():
        raise UserError(f"No such file: {path}; check data.source.")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; give a file with one document a row.")
        if suffix == ".parquet":
            rows = read_parquet(path, (text_column,), label_column, weak_column)
        elif suffix in (".csv", ".tsv"):
            rows = _read_delimited(path, text_column, label_column, weak_column)
        else:
            rows = _read_json(path, text_column, label_column, weak_column)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not rows:
        raise UserError(f"{path} holds no rows; give a file with one document a row.")
    return rows


def read_parquet(
    path: Path, text_columns: Sequence[str], label_column: str | None, weak_column: str | None = None, *, place: str = "row"
) -> list[Row]:
    """The rows of a Parquet file; several text columns are joined by a newline.

    A file without the text column and with one that is called `image` or `img` is one of images (`image_column`).

    Raises:
        UserError: not Parquet, or a missing column.
    """
    import pyarrow.parquet

    schema = parquet_schema(path)
    if found := image_column(schema, text_columns):
        text_columns = (found,)
    columns = [*text_columns, *(column for column in (label_column, weak_column) if column)]
    require_columns(schema.names, columns, str(path))
    with _readable(path):
        table = pyarrow.parquet.read_table(path, columns=columns)
    return table_rows(table, text_columns, label_column, place, weak_column)


def parquet_schema(path: Path) -> Any:
    """The Arrow schema of a Parquet file.

    Raises:
        UserError: not a Parquet file.
    """
    import pyarrow.parquet

    with _readable(path):
        return pyarrow.parquet.read_schema(path)


def image_column(schema: Any, text_columns: Sequence[str]) -> str | None:
    """The column of an Arrow schema that holds images, None where the documents are texts: one that is asked for and holds bytes, or `image` or `img`."""
    import pyarrow

    def holds_bytes(name: str) -> bool:
        kind = schema.field(name).type
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) or pyarrow.types.is_struct(kind))

    if text_columns[0] in schema.names:
        return text_columns[0] if holds_bytes(text_columns[0]) else None
    return next((name for name in COLUMNS if name in schema.names and holds_bytes(name)), None)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); write it again.") from None


def table_rows(table: Any, text_columns: Sequence[str], label_column: str | None, place: str, weak_column: str | None = None) -> list[Row]:
    """The rows of an Arrow table that has all the columns named."""
    texts = [join_texts(parts) for parts in zip(*(table.column(name).to_pylist() for name in text_columns), strict=True)]
    labels, weak = (table.column(column).to_pylist() if column else [None] * len(texts) for column in (label_column, weak_column))
    return [Row(f"{place} {number}", *cells) for number, cells in enumerate(zip(texts, labels, weak, strict=True), start=1)]


def join_texts(parts: Sequence[object]) -> object:
    """Several columns as one text, joined by a newline; one column stays as it is, whatever it holds."""
    if len(parts) == 1:
        return parts[0]
    return "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def require_columns(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise a `UserError` that names the nearest column when one of `wanted` is missing."""
    for column in wanted:
        if column not in found:
            raise UserError(
                f"{where} has no column {column!r}; {nearest(column, found) or 'it has no columns'} Set data.text_column or data.label_column."
            )


def _decode(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} on line {line}; convert it, e.g. "
            f"iconv -f {guess} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}."
        ) from None


def _read_delimited(path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> list[Row]:
    content = _decode(path)
    header_line = content.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if path.suffix.lower() == ".csv" and text_column not in next(csv.reader([header_line]), []):
        # Spreadsheets of many countries write semicolons (or tabs) into a .csv.
        delimiter = next((other for other in ";\t|" if text_column in next(csv.reader([header_line], delimiter=other), [])), ",")
    # A cell may be as long as the file: an over-long text costs its row alone. The limit is the csv module's, for all its users, hence put back.
    limit = csv.field_size_limit(max(len(content), csv.field_size_limit()))
    try:
        return list(_delimited_rows(csv.reader(io.StringIO(content, newline=""), delimiter=delimiter), path, text_column, label_column, weak_column))
    except csv.Error as error:
        raise UserError(f"{path} is not a readable {path.suffix[1:].upper()} file: {error}.") from None
    finally:
        csv.field_size_limit(limit)


def _delimited_rows(reader: Any, path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> Iterator[Row]:
    header = [name.strip() for name in next(reader, [])]
    columns = (label_column, weak_column)
    require_columns(header, [text_column, *(column for column in columns if column)], str(path))
    at_text, at_labels = header.index(text_column), [header.index(column) if column else None for column in columns]
    line = reader.line_num + 1
    for cells in reader:
        if cells:  # a blank line is no row
            if len(cells) > len(header):
                # Commas that were not quoted: the cells have slipped, and neither text nor label can be trusted.
                yield Row(f"line {line}", Fault("too many cells"))
            else:
                cells += [""] * (len(header) - len(cells))
                yield Row(f"line {line}", cells[at_text], *(None if at is None else cells[at] for at in at_labels))
        line = reader.line_num + 1


def _read_json(path: Path, text_column: str, label_column: str | None, weak_column: str | None) -> list[Row]:
    content = _decode(path)
    records: list[tuple[str, Any]] = []
    number = 1
    try:
        if path.suffix.lower() == ".json" and content.lstrip().startswith("["):
            records = [(f"item {item}", record) for item, record in enumerate(json.loads(content), start=1)]
        else:
            # Split at line feeds only: a JSON string may hold U+2028 and its like.
            for number, line in enumerate(content.split("\n"), start=1):
                if line.strip():
                    records.append((f"line {number}", json.loads(line)))
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            number += error.lineno - 1
        fault = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UserError(
            f"{path} is not valid JSON: {fault} on line {number}; write one object a line, or a .json file with a list of objects."
        ) from None
    found = list(dict.fromkeys(name for _, record in records if isinstance(record, dict) for name in record))
    if records:
        require_columns(found, [text_column, *(column for column in (label_column, weak_column) if column)], str(path))
    return [
        Row(place, record.get(text_column), *(record.get(column) if column else None for column in (label_column, weak_column)))
        if isinstance(record, dict)
        else Row(place, record)
        for place, record in records
    ]
