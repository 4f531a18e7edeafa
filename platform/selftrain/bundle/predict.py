"""Classify a whole file: `selftrain predict --file x.csv --out y.parquet`, in batches, so that a file larger than memory works.

Rows come in and go out as dictionaries. A row whose text cannot be classified gets no label, and its column `error` says why; the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from selftrain.bundle.classifier import Classifier, problem_with
from selftrain.data.tables import BATCH_ROWS, TableRow, check_paths, clean_cell, open_result, open_table
from selftrain.files.durable import whole_file

BATCH_CHARACTERS = 4 << 20  # of rows that are classified together: a tokenizer takes some hundred bytes a token, and a character may be one
TEXT_CHARACTERS = 1 << 20  # of a text that the tokenizer gets to see; no encoder reads a thousandth of them


def predict_file(classifier: Classifier, source: Path, out: Path, text_column: str) -> int:
    """Classify every row of a file.

    The result has the source's columns and `label`, `probability` (of that label), `error` and one `p_CLASS` a class; one of these that the source
    has already is called `predicted_...` instead. It appears whole or not at all.

    Args:
        classifier: the classifier.
        source: a .csv or .tsv (UTF-8, with a header), .jsonl or .json file, plain or compressed (.csv.gz), or a .parquet file.
        out: where the result goes: a .csv, .tsv, .jsonl or .parquet file.
        text_column: the column with the texts.

    Returns:
        The number of rows.

    Raises:
        DataError: no such file, an unknown suffix, no such column, or a file that is not what its suffix says.
        OutputError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    check_paths(source, out)
    table = open_table(source, text_column)
    names, schema = result_columns(table.schema, [str(name) for name in classifier.classes_])

    written = 0
    with (
        whole_file(out, "out") as partial,
        open_result(partial, out.suffix, schema) as writer,
        tqdm(total=table.rows, unit=" texts", file=sys.stderr, disable=None) as bar,
    ):
        for batch in batches(table.read()):
            writer.write(classified(classifier, batch, text_column, names))
            written += len(batch)
            bar.update(len(batch))
    return written


def result_columns(schema: pa.Schema, classes: Sequence[str]) -> tuple[list[str], pa.Schema]:
    """The columns that a classifier adds.

    Args:
        schema: of the rows that are classified.
        classes: class names.

    Returns:
        (names of the label, its probability, the error and each class's probability; the schema of the result).
    """
    names = new_columns(["label", "probability", "error", *(f"p_{name}" for name in classes)], schema.names)
    types = [pa.string(), pa.float64(), pa.string(), *([pa.float64()] * len(classes))]
    return names, pa.schema([*schema, *(pa.field(name, type_) for name, type_ in zip(names, types, strict=True))])


def classified(classifier: Classifier, batch: list[TableRow], text_column: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows with their labels.

    Args:
        classifier: the classifier.
        batch: rows that are classified together, of `batches`.
        text_column: the column with the texts.
        names: of the columns that are added, of `result_columns`.
    """
    label, probability, error, *columns = names
    problems = ["more cells than the header" if row.slipped else problem_with(row.cells[text_column]) for row in batch]
    usable = [index for index, problem in enumerate(problems) if problem is None]
    answers = dict(zip(usable, classifier.predict_proba([batch[index].cells[text_column][:TEXT_CHARACTERS] for index in usable]), strict=True))
    result = []
    for index, (cells, *_) in enumerate(batch):
        row = {name: clean_cell(value) for name, value in cells.items()}
        probabilities = answers.get(index)
        if probabilities is None:
            row |= {label: None, probability: None, error: problems[index], **dict.fromkeys(columns)}
        else:
            best = int(probabilities.argmax())
            row |= {label: str(classifier.classes_[best]), probability: float(probabilities[best]), error: None}
            row |= {name: float(value) for name, value in zip(columns, probabilities, strict=True)}
        result.append(row)
    return result


def new_columns(wanted: Sequence[str], taken: Sequence[str]) -> list[str]:
    """`wanted` names, each with `predicted_` in front where it is taken."""
    result: list[str] = []
    for name in wanted:
        while name in taken or name in result:
            name = f"predicted_{name}"
        result.append(name)
    return result


def batches(rows: Iterable[TableRow]) -> Iterator[list[TableRow]]:
    """Rows in groups that are small enough to be classified together."""
    batch: list[TableRow] = []
    characters = 0
    for row in rows:
        if batch and (len(batch) == BATCH_ROWS or characters + row.characters > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += row.characters
    if batch:
        yield batch
