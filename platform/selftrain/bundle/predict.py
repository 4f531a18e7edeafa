"""Classify a whole file: `selftrain predict --file x.csv --out y.parquet`, in batches, so that a file larger than memory works.

Rows come in and go out as dictionaries. A row whose text cannot be classified gets no label, and its column `error` says why; the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from selftrain.bundle.classifier import Classifier, problem_with
from selftrain.data.tables import BATCH_ROWS, RAGGED, Row, check_paths, clean, open_result, open_table
from selftrain.errors import SelfTrainError, nearest
from selftrain.files.outputs import whole_file

BATCH_CHARACTERS = 4 << 20  # of rows that are classified together: a tokenizer takes some hundred bytes a token, and a character may be one
TEXT_CHARACTERS = 1 << 20  # of a text that the tokenizer gets to see; no encoder reads a thousandth of them


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
        SelfTrainError: no such file, an unknown suffix, no such column, or a file that is not what its suffix says.
    """
    source, out = Path(source), Path(out)
    check_paths(source, out)
    table = open_table(source)
    if text_column not in table.schema.names:
        raise SelfTrainError(f"{source} has no column {text_column!r}; {nearest(text_column, table.schema.names)} Name it with --text-column.")
    classes = [str(name) for name in classifier.classes_]
    names = _new_columns(["label", "probability", "error", *(f"p_{name}" for name in classes)], table.schema.names)
    types = [pa.string(), pa.float64(), pa.string(), *([pa.float64()] * len(classes))]
    schema = pa.schema([*table.schema, *(pa.field(name, type_) for name, type_ in zip(names, types, strict=True))])

    written = 0
    with (
        whole_file(out, "--out") as partial,
        open_result(partial, out.suffix, schema) as writer,
        tqdm(total=table.rows, unit=" texts", file=sys.stderr, disable=None) as bar,
    ):
        for batch in _batches(table.read()):
            writer.write(_classified(classifier, batch, text_column, names))
            written += len(batch)
            bar.update(len(batch))
    return written


def _classified(classifier: Classifier, batch: list[Row], text_column: str, names: list[str]) -> list[Row]:
    label, probability, error, *columns = names
    problems = ["more cells than the header" if row.pop(RAGGED, None) else problem_with(row.get(text_column)) for row in batch]
    usable = [index for index, problem in enumerate(problems) if problem is None]
    answers = dict(zip(usable, classifier.predict_proba([batch[index][text_column][:TEXT_CHARACTERS] for index in usable]), strict=True))
    result = []
    for index, row in enumerate(batch):
        row = {name: clean(value) for name, value in row.items()}
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


def _batches(rows: Iterable[tuple[Row, int]]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row, more in rows:
        if batch and (len(batch) == BATCH_ROWS or characters + more > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += more
    if batch:
        yield batch
