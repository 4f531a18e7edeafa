"""Which completions of the language model are used as texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from selftrain.data.words import bare_words, joined, unspaced, word_count, words_of

MIN_WORDS = 3


@dataclass(frozen=True)
class FilteredText:
    """A completion after the filter: `text` to use, or the reason why it is not used."""

    text: str
    reason: str = ""  # "" | failed | empty | truncated | repeated | echo


def filter_completion(raw: str, document: str, *, cut_off: bool) -> FilteredText:
    """Keep a completion, shortened to whole sentences, or state why not.

    empty: fewer than three words; truncated: cut off by the token limit before three whole words were written; repeated: more than half of its word
    triples occur before in it; echo: more than half of its word 5-grams stand in the document.

    Args:
        raw: the completion as the engine returned it.
        document: the document that it is about.
        cut_off: the token limit ended it.
    """
    text = " ".join(raw.replace("�", " ").split())
    if word_count(text, MIN_WORDS) < MIN_WORDS:
        return FilteredText("", "truncated" if cut_off and text else "empty")
    if cut_off:
        text = _whole(text)
        if word_count(text, MIN_WORDS) < MIN_WORDS:
            return FilteredText("", "truncated")
    words = bare_words(text.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(triples) >= 4 and len(set(triples)) < 0.5 * len(triples):
        return FilteredText(text, "repeated")
    source = bare_words(document.lower())
    known = {tuple(source[i : i + 5]) for i in range(len(source) - 4)}
    grams = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    if grams and sum(gram in known for gram in grams) > 0.5 * len(grams):
        return FilteredText(text, "echo")
    return FilteredText(text)


def sentence_ends(text: str) -> list[int]:
    """The positions in `text` behind its sentences."""
    return [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)|[。！？｡][」』”’）]*", text)]


def _whole(text: str) -> str:
    """`text` up to its last whole sentence if that keeps half of it, else up to its last whole word; a character is whole where no blanks are set."""
    ends = sentence_ends(text)
    if ends and ends[-1] >= len(text) / 2:
        return text[: ends[-1]]
    words = list(words_of(text))
    return joined(words if unspaced(words[-1].text) else words[:-1])
