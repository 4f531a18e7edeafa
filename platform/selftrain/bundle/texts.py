"""Which texts a classifier takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from selftrain.errors import DataError


def problem_with(text: object) -> str | None:
    """Why `text` cannot be classified, in a few words; None where it can."""
    if not isinstance(text, str):
        return f"not a string but {type(text).__name__}"
    if not text or text.isspace():
        return "empty"
    if "\x00" in text:
        return "binary"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "not valid Unicode"
    return None


def checked_texts(texts: Any) -> list[str]:
    """Texts that can be classified, as a list.

    Raises:
        DataError: `texts` is one string, or holds something that is not a text; the message says where.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise DataError(f"texts must be a list of texts (got {type(texts).__name__}); for one text write predict([text]).", parameter="texts")
    checked = list(texts)
    for index, text in enumerate(checked):
        if (problem := problem_with(text)) is not None:
            raise DataError(f"Text {index} of {len(checked)} cannot be classified, it is {problem}; fix it or leave it out.")
    return [str(text) for text in checked]  # numpy's own strings become plain ones
