"""The sentences of a document, by punctuation and line breaks: what PESCO chooses positives from."""

from __future__ import annotations

import re

from selftrain.data.words import word_count

_END = re.compile(r"(?<=[.!?])\s+|\s*[\n\t]+\s*|(?<=[。！？｡])\s*(?=.)")


def sentences(text: str, *, fewest_words: int = 4) -> list[str]:
    """The sentences of `text`, at least one.

    Args:
        text: the document; a line break ends a sentence, so a title on a line of its own is the first one.
        fewest_words: a part with fewer words ("Calif.") goes together with the one behind it, and the last one with the one before it.
    """
    found: list[str] = []
    short = ""
    for part in _END.split(text.strip()):
        short = f"{short} {part}".strip()
        if word_count(short, fewest_words) >= fewest_words:
            found.append(short)
            short = ""
    if short and found:
        found[-1] = f"{found[-1]} {short}"
    return found or [text]
