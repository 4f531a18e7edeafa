"""Classify a whole file: `selftrain predict --file x.csv --out y.parquet`, in batches, so that a file larger than memory works.

Rows come in and go out as dictionaries. A row whose text cannot be classified gets no label, and its column `error` says why; the others go on.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from selftrain.errors import UserError, nearest
from selftrain.export.classifier import Classifier, problem_with

SUFFIXES = (".csv", ".jsonl", ".parquet")
BATCH_ROWS = 1024
_RAGGED = "\0ragged"  # marks, inside this file alone, a CSV row with more cells than the header

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A source: its columns, the types that a Parquet file gives them, how many rows there are, and the rows."""

    schema: pa.Schema
    rows: int | None  # None where counting would mean reading it twice
    read: Callable[[], Iterator[Row]]


def predict_file(classifier: Classifier, source: Path, out: Path, text_column: str) -> int:
    """Classify every row of a file.

    The result has the source's columns and `label`, `probability` (of that label), `error` and one `p_CLASS` a class; one of these that the source
    has already is called `predicted_...` instead. It appears whole or not at all.

    Args:
        classifier: the classifier.
        source: a .csv (UTF-8, with a header), .jsonl or .parquet file.
        out: where the result goes, in the format of its suffix.
        text_column: the column with the texts.

    Returns:
        The number of rows.

    Raises:
        UserError: no such file, an unknown suffix, no such column, or a file that is not what its suffix says.
    """
    source, out = Path(source), Path(out)
    if not source.is_file():
        raise UserError(f"No file {str(source)!r} to classify; give the path of a CSV, JSONL or Parquet file.")
    for file, option in ((source, "--file"), (out, "--out")):
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"{option} {file} ends in {file.suffix or 'nothing'}; its name has to end in {', '.join(SUFFIXES)}.")
    if out.resolve() == source.resolve():
        raise UserError(f"--out {out} is the source itself; name another file.")
    table = _OPEN[source.suffix.lower()](source)
    if text_column not in table.schema.names:
        raise UserError(f"{source} has no column {text_column!r}; {nearest(text_column, table.schema.names)} Name it with --text-column.")
    classes = [str(name) for name in classifier.classes_]
    names = _new_columns(["label", "probability", "error", *(f"p_{name}" for name in classes)], table.schema.names)
    types = [pa.string(), pa.float64(), pa.string(), *([pa.float64()] * len(classes))]
    schema = pa.schema([*table.schema, *(pa.field(name, type_) for name, type_ in zip(names, types, strict=True))])

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    written = 0
    try:
        with _WRITE[out.suffix.lower()](partial, schema) as writer, tqdm(total=table.rows, unit=" texts", file=sys.stderr, disable=None) as bar:
            for batch in _batches(table.read()):
                writer.write(_classified(classifier, batch, text_column, names))
                written += len(batch)
                bar.update(len(batch))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return written


def _classified(classifier: Classifier, batch: list[Row], text_column: str, names: list[str]) -> list[Row]:
    label, probability, error, *columns = names
    problems = ["more cells than the header" if row.pop(_RAGGED, None) else problem_with(row.get(text_column)) for row in batch]
    usable = [index for index, problem in enumerate(problems) if problem is None]
    answers = dict(zip(usable, classifier.predict_proba([batch[index][text_column] for index in usable]), strict=True))
    result = []
    for index, row in enumerate(batch):
        row = {name: _clean(value) for name, value in row.items()}
        probabilities = answers.get(index)
        if probabilities is None:
            row |= {label: None, probability: None, error: problems[index], **dict.fromkeys(columns)}
        else:
            best = int(probabilities.argmax())
            row |= {label: str(classifier.classes_[best]), probability: float(probabilities[best]), error: None}
            row |= {name: float(value) for name, value in zip(columns, probabilities, strict=True)}
        result.append(row)
    return result


def _new_columns(wanted: list[str], taken: list[str]) -> list[str]:
    result = []
    for name in wanted:
        while name in taken or name in result:
            name = f"predicted_{name}"
        result.append(name)
    return result


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _clean(value: Any) -> Any:
    """A string that any format can hold: bytes of the source that are no UTF-8, and halves of surrogate pairs, become replacement characters."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


# Sources


def _open_csv(source: Path) -> Table:
    csv.field_size_limit(sys.maxsize)

    def lines() -> Iterator[list[str]]:
        # Bytes that are no UTF-8 are kept apart as surrogates, so that they spoil their own row alone.
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                yield from csv.reader(file)
            except csv.Error as error:
                raise UserError(f"{source} is not a CSV file ({error}); save it as UTF-8 CSV with a header.") from None

    header = [_clean(name) for name in next(lines(), [])]
    if not header:
        raise UserError(f"{source} is empty; its first line has to name the columns.")
    if len(set(header)) != len(header):
        raise UserError(f"{source} names a column twice in its header; give each column a name of its own.")

    def read() -> Iterator[Row]:
        rows = lines()
        next(rows)
        for cells in rows:
            if not cells:  # a blank line is no row
                continue
            row: Row = dict.fromkeys(header)
            row.update(zip(header, cells, strict=False))
            if len(cells) > len(header):
                row[_RAGGED] = True
            yield row

    return Table(pa.schema([(name, pa.string()) for name in header]), None, read)


def _open_jsonl(source: Path) -> Table:
    def read() -> Iterator[Row]:
        with source.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"Line {number} of {source} is not JSON ({error}); each line has to be one object.") from None
                if not isinstance(row, dict):
                    raise UserError(f"Line {number} of {source} is a {type(row).__name__}; each line has to be one object such as {{'text': '...'}}.")
                yield {_clean(name): value for name, value in row.items()}

    # Lines may differ in their keys and types, and a Parquet file wants to know both before its first row: so the file is read twice.
    kinds: dict[str, set[str]] = {}
    rows = 0
    for row in read():
        rows += 1
        for name, value in row.items():
            long = isinstance(value, int) and not -(2**63) <= value < 2**63
            kinds.setdefault(name, set()).add("long" if long else type(value).__name__)
    if not rows:
        raise UserError(f"{source} is empty; each line has to be one JSON object.")
    schema = pa.schema([(name, _parquet_type(kind)) for name, kind in kinds.items()])

    def shaped() -> Iterator[Row]:
        return ({name: row.get(name) for name in schema.names} for row in read())

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
    try:
        metadata = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source} is not a Parquet file ({' '.join(str(error).split())[:150]}); check its name and how it was made.") from None

    def read() -> Iterator[Row]:
        for batch in metadata.iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()

    return Table(metadata.schema_arrow.remove_metadata(), metadata.metadata.num_rows, read)


# Results


class _Writer(Protocol):
    def __enter__(self) -> _Writer: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, rows: list[Row]) -> None: ...


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
        return {_clean(name) if isinstance(name, str) else str(name): _finite(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return _clean(value)


_OPEN: dict[str, Callable[[Path], Table]] = {".csv": _open_csv, ".jsonl": _open_jsonl, ".parquet": _open_parquet}
_WRITE: dict[str, Callable[[Path, pa.Schema], _Writer]] = {".csv": _ToCsv, ".jsonl": _ToJsonl, ".parquet": _ToParquet}
