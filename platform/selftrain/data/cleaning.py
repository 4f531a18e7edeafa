"""From rows of a source to documents: what cannot be used is skipped with a reason, and nothing crashes on it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from selftrain.config import composed
from selftrain.data.corpus import UnusedRow, document_id
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


class Document(NamedTuple):
    """A usable document."""

    id: str
    text: Any  # str, or for an image its pixels, uint8 [3, height, width]
    label: int | None  # class index; None where the row carries no label
    weak: int | None = None  # likewise, by the column of weak labels


@dataclass(frozen=True)
class CleanedRows:
    """The usable documents of some rows, in the order of the rows, and the rows that were skipped."""

    documents: tuple[Document, ...]
    skipped: tuple[UnusedRow, ...]


UNKNOWN = -1  # class index of a label that no class has

# What pandas and databases write where there is no text.
_MISSING = frozenset({"nan", "none", "null", "<na>", "n/a"})
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*([eE][-+]?\d+)?\s*%?")
# Control characters other than white space, and the mark that a decoder leaves for bytes that it could not read.
_CONTROL = re.compile("[\x01-\x08\x0e-\x1f\x7f\ufffd]")
_CONTROL_SHARE = 0.05  # a text may hold a stray control character; a document of which every twentieth is one is not text


def clean(
    rows: Iterable[SourceRow],
    *,
    index: Mapping[str, int],
    max_characters: int,
    known: Collection[str] = (),
    known_reason: str = "duplicate",
    images: bool = False,
    size: tuple[int, int] | None = None,
) -> CleanedRows:
    """Keep the rows that hold a usable text (or image), each text once.

    Args:
        rows: rows in the source's order; of equal texts the first usable one stays.
        index: label as `label_key` writes it -> class index.
        max_characters: longer texts are skipped.
        known: ids of documents that are used elsewhere already (the test split, when training rows are cleaned).
        known_reason: reason written for a document that is in `known`.
        images: whether the rows hold images.
        size: (width, height) of all images.
    """
    documents: list[Document] = []
    skipped: list[UnusedRow] = []
    seen: set[str] = set()
    for row in rows:
        text: Any
        text, reason = usable_image(row.text, size) if images else _usable(row.text, max_characters)
        if not reason:
            label, weak = class_index(row.label, index), class_index(row.weak, index)
            id_ = image_id(text) if images else document_id(text)
            if UNKNOWN in (label, weak):
                reason = "unknown label"
            elif id_ in known:
                reason = known_reason
            elif id_ in seen:
                reason = "duplicate"
            else:
                seen.add(id_)
                documents.append(Document(id_, text, label, weak))
        if reason:
            skipped.append(UnusedRow(row.place, reason))
    return CleanedRows(tuple(documents), tuple(skipped))


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
