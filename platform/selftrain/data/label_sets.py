"""Cells with several labels: `data.multi_label`. Each set of labels that occurs is one number from here on, as a single label is one.

A cell is split at `data.label_separator`; blanks around a label and empty parts do not count, and a label may come twice. A cell of separators alone is a document
of none of the classes; an empty one is, as everywhere, a document without a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from selftrain.config import DataConfig
from selftrain.data.cleaning import SourceRow, label_key
from selftrain.data.sources import DataSource
from selftrain.errors import ConfigError

MOST_SETS = 100_000  # that are told apart; a column with more is no column of labels
_SEPARATORS = (",", ";", "|", "/")


def check_multi_label(config: DataConfig) -> None:
    """Raise a `ConfigError` where `config` asks for something that documents with several labels do not have."""
    if not config.multi_label:
        return
    for key, value, plain in (
        ("supervision", config.supervision, "none"),
        ("weak_label_column", config.weak_label_column, None),
        ("validation_documents", config.validation_documents, 0),
        ("test_source", config.test_source, None),
    ):
        if value != plain:
            said = "left out" if plain is None else str(plain)
            raise ConfigError(f"data.{key} must be {said} with data.multi_label: true (got {value!r}).", parameter=f"data.{key}")


def labels_in(cell: object, separator: str) -> list[str] | None:
    """The labels of a cell, as `label_key` writes them, each once; none of a cell of separators alone, and None of one without a label."""
    if label_key(cell) is None:
        return None
    keys = (label_key(part) for part in str(cell).split(separator))
    return list(dict.fromkeys(key for key in keys if key is not None))


def cell_of(names: Sequence[str], separator: str) -> str:
    """The cell that holds labels, which `labels_in` takes apart again."""
    return f"{separator} ".join(names) or separator


def separator_for(names: Iterable[str]) -> str:
    """What stands between these labels in a cell: a comma, unless one of them has it."""
    held = "".join(names)
    return next((one for one in _SEPARATORS if one not in held), "||")


@dataclass(frozen=True)
class SingleLabels:
    """The rows of a source, one for each label: what the classes of a source are found by."""

    rows: Iterable[SourceRow]
    separator: str

    def __iter__(self) -> Iterator[SourceRow]:
        for row in self.rows:
            for part in str(row.label).split(self.separator) if label_key(row.label) is not None else ():
                yield row._replace(label=part)


def with_single_labels(source: DataSource, separator: str) -> DataSource:
    """`source` with a row for each label, to find its classes by."""
    return replace(source, train=SingleLabels(source.train, separator), test=None if source.test is None else SingleLabels(source.test, separator))


def sets_of(rows: Iterable[SourceRow], index: Mapping[str, int], separator: str) -> tuple[dict[str, int], tuple[tuple[int, ...], ...]]:
    """The sets of labels in `rows`.

    Args:
        rows: of a source.
        index: label as `label_key` writes it -> class index.
        separator: between the labels of a cell.

    Returns:
        (cell as `label_key` writes it -> number of its set, the classes of each set, ascending). A cell with a label that no class has is left out, so that its row
        is skipped like any with an unknown label.
    """
    cells: dict[str, int] = {}
    sets: dict[tuple[int, ...], int] = {}
    for row in rows:
        key = label_key(row.label)
        if key is None or key in cells or len(cells) >= MOST_SETS:
            continue
        classes = [index.get(label) for label in labels_in(row.label, separator) or ()]
        if None not in classes:
            known = tuple(sorted(one for one in classes if one is not None))
            cells[key] = sets.setdefault(known, len(sets))
    return cells, tuple(sets)
