"""Classify a whole file: `selftrain predict --file x.csv --out y.parquet`, in batches, so that a file larger than memory works.

Rows come in and go out as dictionaries. A row whose text cannot be classified gets no label, and its column `error` says why; the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.promise import PredictionSets
from selftrain.bundle.texts import problem_with
from selftrain.bundle.typicality import Wanted
from selftrain.data.tables import BATCH_ROWS, TableRow, check_paths, clean_cell, open_result, open_table
from selftrain.files.durable import whole_file
from selftrain.runtime.progress import progress_bar

BATCH_CHARACTERS = 4 << 20  # of rows that are classified together: a tokenizer takes some hundred bytes a token, and a character may be one
TEXT_CHARACTERS = 1 << 20  # of a text that the tokenizer gets to see; no encoder reads a thousandth of them


def predict_file(
    classifier: Classifier,
    source: Path,
    out: Path,
    text_column: str,
    *,
    abstain: bool = False,
    sets: bool = False,
    none_of_these: Wanted | None = None,
) -> int:
    """Classify every row of a file.

    The result has the source's columns and `label`, `probability` (of that label), `error`, one `p_CLASS` a class, `set` where sets are asked for, and
    `none_of_these` and `typicality` where that is; one of these that the source has already is called `predicted_...` instead. Of a tree of classes also `parent`
    and `parent_probability`, of the group that the most probable class is in; of more levels `parent_1` (the outermost), `parent_1_probability` and so on. It
    appears whole or not at all.

    Of a bundle with several labels a text there is `labels`, a JSON list of names, instead of `label` and `probability`.

    Args:
        classifier: the classifier.
        source: a .csv or .tsv (UTF-8, with a header), .jsonl or .json file, plain or compressed (.csv.gz), or a .parquet file.
        out: where the result goes: a .csv, .tsv, .jsonl or .parquet file.
        text_column: the column with the texts.
        abstain: leave `label` empty where the bundle's promise takes it; such a row has a `probability` and no `error`.
        sets: write the classes of each row's prediction set into `set`, as a JSON list of names, the most probable first.
        none_of_these: leave `label` empty, and say true in `none_of_these`, where a text is too little typical, as `Classifier.predict` does.

    Returns:
        The number of rows.

    Raises:
        ConfigError: as `Classifier.promised_threshold`, `Classifier.promised_sets` and `Classifier.none_threshold`.
        DataError: no such file, an unknown suffix, no such column, or a file that is not what its suffix says.
        OutputError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    check_paths(source, out)
    threshold, wanted = classifier.promised_threshold() if abstain else 0.0, classifier.promised_sets() if sets else None
    least = None if none_of_these is None else classifier.none_threshold(none_of_these)
    table = open_table(source, text_column)
    classes = [str(name) for name in classifier.classes_]
    wanted_columns = {"sets": sets, "none_of_these": least is not None, "several": classifier.card.multi_label}
    names, schema = result_columns(table.schema, classes, classifier.card.levels, **wanted_columns)

    written = 0
    with (
        whole_file(out, "out") as partial,
        open_result(partial, out.suffix, schema) as writer,
        progress_bar("predict", "text", table.rows) as bar,
    ):
        for batch in batches(table.read()):
            writer.write(classified(classifier, batch, text_column, names, threshold, wanted, least))
            written += len(batch)
            bar.update(len(batch))
    return written


def predict_all(classifier: Classifier, texts: Sequence[str], what: str) -> np.ndarray:
    """`predict_proba` of many texts, `[texts, classes]`, with a bar that says `what` goes on."""
    parts = []
    with progress_bar(what, "text", len(texts)) as bar:
        for start in range(0, len(texts), BATCH_ROWS):
            parts.append(classifier.predict_proba(list(texts[start : start + BATCH_ROWS])))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def result_columns(
    schema: pa.Schema, classes: Sequence[str], levels: int = 0, *, sets: bool = False, none_of_these: bool = False, several: bool = False
) -> tuple[list[str], pa.Schema]:
    """The columns that a classifier adds.

    Args:
        schema: of the rows that are classified.
        classes: class names.
        levels: of groups above the classes.
        sets: whether there is a column for the prediction set.
        none_of_these: whether there are columns for that and the typicality.
        several: whether a text may have several labels: there is a column for them, none for a label and its probability, and none for groups.

    Returns:
        (names of the label, its probability, the error, each level's group and its probability, each class's probability and, if wanted, the set, whether it is
        none of these, and the typicality; the schema of the result).
    """
    if several:
        columns = {"labels": pa.string(), "error": pa.string()}
    else:
        columns = {"label": pa.string(), "probability": pa.float64(), "error": pa.string()}
        for group in ["parent"] if levels == 1 else [f"parent_{level}" for level in range(1, levels + 1)]:
            columns |= {group: pa.string(), f"{group}_probability": pa.float64()}
    columns |= {f"p_{name}": pa.float64() for name in classes}
    columns |= {"set": pa.string()} if sets else {}
    columns |= {"none_of_these": pa.bool_(), "typicality": pa.float64()} if none_of_these else {}
    names = new_columns(list(columns), schema.names)
    return names, pa.schema([*schema, *(pa.field(name, kind) for name, kind in zip(names, columns.values(), strict=True))])


def classified(
    classifier: Classifier,
    batch: list[TableRow],
    text_column: str,
    names: Sequence[str],
    threshold: float = 0.0,
    sets: PredictionSets | None = None,
    least: float | None = None,
) -> list[dict[str, Any]]:
    """Rows with their labels.

    Args:
        classifier: the classifier.
        batch: rows that are classified together, of `batches`.
        text_column: the column with the texts.
        names: of the columns that are added, of `result_columns`.
        threshold: of the highest probability; below it a row gets no label.
        sets: of which the classes are written into the column after those of the classes; None for none.
        least: the typicality up to which a row is none of these and gets no label; None where that is not asked.
    """
    several = classifier.card.multi_label
    error = names[1] if several else names[2]
    problems, answers, typicality = _answers(classifier, batch, text_column, typical=least is not None)
    result = []
    for index, (cells, *_) in enumerate(batch):
        row = {name: clean_cell(value) for name, value in cells.items()} | dict.fromkeys(names)
        found = answers.get(index)
        if found is None:
            row[error] = problems[index]
        elif several:
            row |= dict(zip(names, _with_labels(classifier, found), strict=True))
        else:
            row |= dict(zip(names, _with_label(classifier, found, typicality[index], threshold, sets, least), strict=True))
        result.append(row)
    return result


def _with_label(
    classifier: Classifier, probabilities: np.ndarray, typicality: float, threshold: float, sets: PredictionSets | None, least: float | None
) -> list[Any]:
    """The cells of a text that has one label, in the order of `result_columns`."""
    card, best = classifier.card, int(probabilities.argmax())
    none = least is not None and typicality <= least
    named = str(classifier.classes_[best]) if probabilities[best] >= threshold and not none else None
    groups: list[Any] = [cell for group in card.parents_of(best, probabilities).items() for cell in group] if card.levels else []
    groups += [None] * (2 * card.levels - len(groups))  # a class may be in fewer groups than others
    last: list[Any] = [] if sets is None else [_names(classifier, sets.members(probabilities.tolist()))]
    last += [] if least is None else [none, typicality]
    return [named, float(probabilities[best]), None, *groups, *probabilities.tolist(), *last]


def _with_labels(classifier: Classifier, probabilities: np.ndarray) -> list[Any]:
    """Those of a text that may have several."""
    return [_names(classifier, classifier.card.labels_of(probabilities)), None, *probabilities.tolist()]


def _names(classifier: Classifier, classes: Sequence[int]) -> str:
    """The names of classes, as a JSON list."""
    return json.dumps([str(classifier.classes_[one]) for one in classes], ensure_ascii=False)


def _answers(
    classifier: Classifier, batch: list[TableRow], text_column: str, *, typical: bool = False
) -> tuple[list[str | None], dict[int, np.ndarray], dict[int, float]]:
    """(why each row cannot be classified, or None; the probabilities of the others, and their typicality where it is wanted, by their place)."""
    problems = ["more cells than the header" if row.slipped else problem_with(row.cells[text_column]) for row in batch]
    usable = [index for index, problem in enumerate(problems) if problem is None]
    texts = [batch[index].cells[text_column][:TEXT_CHARACTERS] for index in usable]
    found, typicality = classifier.typicality(texts) if typical else (classifier.predict_proba(texts), np.ones(len(texts)))
    return problems, dict(zip(usable, found, strict=True)), dict(zip(usable, typicality.tolist(), strict=True))


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
