"""From rows of a source to documents: what cannot be used is skipped with a reason, and nothing crashes on it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from selftrain.config import composed
from selftrain.data.corpus import UnusedRow, document_id
from selftrain.data.id_set import IdSet, numbers_of
from selftrain.data.images import image_id, usable_image


class SourceRow(NamedTuple):
    """One row of a source as it was found: text (or encoded image) and label may be of any type."""

    place: str  # where it stands: "line 17", "train row 3", a file name
    text: object
    label: object = None
    weak: object = None  # a second label, that may be wrong


class UnreadableText(NamedTuple):
    """Stands for the text of a row that the reader itself could not take apart."""

    reason: str


class CleanedRows(NamedTuple):
    """What some rows of a source hold: documents in the order of the rows, and rows that were skipped."""

    ids: np.ndarray  # uint64 [documents], `numbers_of` their ids
    contents: list[Any]  # strings, or for images their pixels, uint8 [3, height, width]
    labels: np.ndarray  # int32 [documents], class index; `NO_LABEL` where the row carries none
    weak: np.ndarray  # likewise, by the column of weak labels
    skipped: list[UnusedRow]


NO_LABEL = -1
UNKNOWN = -2  # class index of a label that no class has

# What pandas and databases write where there is no text.
_MISSING = frozenset({"nan", "none", "null", "<na>", "n/a"})
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*([eE][-+]?\d+)?\s*%?")
# Control characters other than white space, and the mark that a decoder leaves for bytes that it could not read.
_CONTROL = re.compile("[\x01-\x08\x0e-\x1f\x7f\ufffd]")
_BATCH_ROWS, _BATCH_SIZE = 4096, 8 << 20  # rows, and characters or bytes of pixels, that are cleaned at a time
_KNOWN_LABELS, _LABEL_CHARACTERS = 4096, 200  # values of a column whose class is remembered, and their length
_CONTROL_SHARE = 0.05  # a text may hold a stray control character; a document of which every twentieth is one is not text


def clean(
    rows: Iterable[SourceRow],
    *,
    index: Mapping[str, int],
    max_characters: int,
    known: IdSet | None = None,
    known_reason: str = "duplicate",
    images: bool = False,
    size: tuple[int, int] | None = None,
) -> Iterator[CleanedRows]:
    """Keep the rows that hold a usable text (or image), each text once; one batch of rows after the other.

    Args:
        rows: rows in the source's order; of equal texts the first usable one stays.
        index: label as `label_key` writes it -> class index.
        max_characters: longer texts are skipped.
        known: documents that are used elsewhere already (the test split, when training rows are cleaned).
        known_reason: reason written for a document that is in `known`.
        images: whether the rows hold images.
        size: (width, height) of all images.
    """
    seen = IdSet()
    class_of = _Classes(index)
    batch: list[_JudgedRow] = []
    held = 0
    for row in rows:
        text: Any
        text, reason = usable_image(row.text, size) if images else _usable(row.text, max_characters)
        label, weak = (class_of(row.label), class_of(row.weak)) if not reason else (NO_LABEL, NO_LABEL)
        if UNKNOWN in (label, weak):
            text, reason = "", "unknown label"
        batch.append(_JudgedRow(row.place, text, label, weak, reason))
        held += text.nbytes if images and not reason else len(text)
        if len(batch) == _BATCH_ROWS or held >= _BATCH_SIZE:
            yield _without_repeats(batch, seen, known, known_reason, images)
            batch, held = [], 0
    if batch:
        yield _without_repeats(batch, seen, known, known_reason, images)


class _JudgedRow(NamedTuple):
    """A row, and the reason why it cannot be used, where there is one."""

    place: str
    text: Any
    label: int
    weak: int
    reason: str


def _without_repeats(rows: list[_JudgedRow], seen: IdSet, known: IdSet | None, known_reason: str, images: bool) -> CleanedRows:
    """A batch without the documents that came before or are known; the others are added to `seen`."""
    usable = [row for row in rows if not row.reason]
    ids = numbers_of([image_id(row.text) if images else document_id(row.text) for row in usable])
    elsewhere = known.holds(ids) if known is not None else np.zeros(len(ids), dtype=bool)
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    new = first & ~elsewhere & ~seen.holds(ids)
    seen.add(ids[new])
    kept = [row for row, is_new in zip(usable, new, strict=True) if is_new]
    repeats = iter([known_reason if there else "duplicate" for there in elsewhere[~new]])
    again = iter(~new)
    skipped = [UnusedRow(row.place, row.reason or next(repeats)) for row in rows if row.reason or next(again)]
    labels, weak = (np.array([row[column] for row in kept], dtype=np.int32) for column in (2, 3))
    return CleanedRows(ids[new], [row.text for row in kept], labels, weak, skipped)


class _Classes:
    """`class_index` as an integer; the classes of the first values that came are remembered, since a column holds few."""

    def __init__(self, index: Mapping[str, int]) -> None:
        self._index = index
        self._known: dict[str | int, int] = {}

    def __call__(self, value: object) -> int:
        if value is None:
            return NO_LABEL
        if not isinstance(value, int) and (not isinstance(value, str) or len(value) > _LABEL_CHARACTERS):
            return self._class(value)
        found = self._known.get(value)
        if found is None:
            found = self._class(value)
            if len(self._known) < _KNOWN_LABELS:
                self._known[value] = found
        return found

    def _class(self, value: object) -> int:
        found = class_index(value, self._index)
        return NO_LABEL if found is None else found


def label_key(value: object) -> str | None:
    """A label as text that can be compared: composed, stripped, case folded, `2.0` as `2`; None for no label (None, NaN, empty, -1)."""
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    key = composed(str(value)).strip().casefold() if value is not None else ""
    # A CSV column of integers in which one cell is empty comes back from pandas as 0.0, 1.0, ...
    key = key.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", key) else key
    # -1 is how many data sets (and the hub) write "not labeled".
    return None if key in ("", "-1") else key


def class_index(value: object, index: Mapping[str, int]) -> int | None:
    """The class of a label: None where the row carries none, `UNKNOWN` where no class is called so."""
    key = label_key(value)
    return None if key is None else index.get(key, UNKNOWN)


def _usable(value: object, max_characters: int) -> tuple[str, str]:
    """(text, "") or ("", reason)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", "empty"
    if isinstance(value, UnreadableText):
        return "", value.reason
    if not isinstance(value, str):
        return "", "not text"
    text = value.strip()
    if not text or text.casefold() in _MISSING:
        return "", "empty"
    if "\0" in text:
        return "", "binary"
    if len(text) > max_characters:
        return "", "over-long"
    if len(_CONTROL.findall(text)) > _CONTROL_SHARE * len(text):
        return "", "binary"
    if _NUMBER.fullmatch(text):
        return "", "not text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can write one, UTF-8 cannot
        return "", "wrong encoding"
    return text, ""
