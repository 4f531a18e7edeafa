"""Questions about documents in a CSV file, and the answers that come back in its column `label`: an audit's and a check's."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from selftrain.data.cleaning import label_key
from selftrain.data.label_sets import labels_in
from selftrain.data.records import check_source, open_records
from selftrain.data.text_files import SUFFIXES, suffix_of
from selftrain.errors import DataError, OutputError, nearest
from selftrain.evaluation.audit.figures import SKIPPED
from selftrain.runs.labeled import spreadsheet_cell

COLUMNS = ("id", "text", "label")
NONE, SKIP = "none of these", "skip"  # answers that are no class; a class of that name goes before
_Answer = TypeVar("_Answer")


def question_key(place: int, id_: str) -> str:
    """What the row of a question is found by. A spreadsheet would take some ids for numbers, and write others."""
    return f"q{place + 1}-{id_}"


def write_questions(file: Path, questions: Iterable[tuple[str, str, str]]) -> None:
    """Write (key, text, answer so far) of each question."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        for key, text, label in questions:
            writer.writerow([key, spreadsheet_cell(text), spreadsheet_cell(label)])


def check_new(file: Path) -> None:
    """Raise an `OutputError` where a file of questions is there already: it may hold answers."""
    if file.exists():
        raise OutputError(f"questions {str(file)!r} is there already, and may hold answers; set another file, or remove it.", parameter="questions")


def read_answers(file: Path, keys: Sequence[str], classes: Sequence[str], whose: str) -> dict[int, int]:
    """Place of a question -> index of the answer: a class, the number of classes for none of them, `SKIPPED`.

    Args:
        file: of questions, with labels.
        keys: of the questions, in their order.
        classes: their names.
        whose: the questions, as in "none of this audit".

    Raises:
        DataError: the file is not one of these questions, a label is no class, or there is no answer.
    """
    known = {NONE: len(classes), SKIP: SKIPPED} | _indices(classes)
    return _read(file, keys, (*classes, NONE, SKIP), whose, known.__getitem__)


def read_label_sets(file: Path, keys: Sequence[str], classes: Sequence[str], separator: str, whose: str) -> dict[int, tuple[int, ...] | None]:
    """Place of a question -> indices of the classes that its document has, ascending; None for a skipped one.

    Args:
        file, keys, classes, whose: as in `read_answers`.
        separator: between the labels of a cell; a cell with it alone says none of the classes, as `NONE` does.

    Raises:
        DataError: as `read_answers`.
    """
    index = _indices(classes)

    def labels_of(cell: str) -> tuple[int, ...] | None:
        if cell not in index and cell in (NONE, SKIP):
            return () if cell == NONE else None
        return tuple(sorted(index[label] for label in labels_in(cell, separator) or ()))

    return _read(file, keys, (*classes, NONE, SKIP), whose, labels_of)


def _indices(classes: Sequence[str]) -> dict[str, int]:
    return {str(label_key(name)): index for index, name in enumerate(classes)}


def _read(file: Path, keys: Sequence[str], names: Sequence[str], whose: str, answer_of: Callable[[str], _Answer]) -> dict[int, _Answer]:
    """Place of a question -> its answer: what `answer_of` makes of the label, which raises a `KeyError` with what is no class."""
    check_source(file, "answers")
    if suffix_of(file) not in SUFFIXES:
        raise DataError(f"answers must be a {', '.join(SUFFIXES)} file (got {str(file)!r}).", parameter="answers")
    records = open_records(file, "label")
    places = {key: place for place, key in enumerate(keys)}
    given: dict[int, _Answer] = {}
    seen: set[int] = set()
    for record in records.read():
        row = record.value
        if not isinstance(row, dict) or "id" not in row or "label" not in row:
            raise DataError(f"{record.place.capitalize()} of {file} lacks the column id or label; keep the columns {', '.join(COLUMNS)}.")
        place = places.get(str(row["id"]).strip())
        if place is None:
            raise DataError(
                f"{record.place.capitalize()} of {file} has the id {str(row['id'])[:50]!r}, which is none of {whose}; pass its own questions."
            )
        if place in seen:
            raise DataError(f"{record.place.capitalize()} of {file} answers {str(row['id'])!r} a second time; keep one of the two.")
        seen.add(place)
        label = label_key(str(row["label"]).removeprefix("'") if row["label"] is not None else None)
        if label is None:
            continue
        try:
            given[place] = answer_of(label)
        except KeyError as error:
            hint = nearest(str(error.args[0]), [str(label_key(name)) for name in names])
            raise DataError(f"{record.place.capitalize()} of {file} has the label {str(row['label'])[:50]!r}, which is no class; {hint}") from None
    if not given:
        raise DataError(f"{file} holds no answer; write one of {', '.join(names)} into its column label.")
    return given
