"""The words of a text, also of one in a script that sets no blanks between words.

Chinese characters and kana are a word each, four characters of Thai, Lao, Burmese or Khmer one: about as much as a language model or a method gets of an English
word. In all other scripts words are what blanks separate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

_SYMBOLS = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"  # 々, kana, and the blocks of Chinese characters
_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
_UNSPACED = re.compile(f"[{_SYMBOLS}{_LETTERS}]")
_PARTS = re.compile(f"[{_SYMBOLS}]|[{_LETTERS}]{{1,4}}|[^{_SYMBOLS}{_LETTERS}]+")


_BARE = re.compile(f"[{_SYMBOLS}]|[{_LETTERS}]{{1,4}}|[^\\W{_SYMBOLS}{_LETTERS}]+")


class Word(NamedTuple):
    """A word, and whether a blank stands before it."""

    text: str
    apart: bool = True


def words_of(text: str) -> Iterator[Word]:
    """The words of `text` in their order; their texts together are all of it but blanks."""
    for run in text.split():
        if not unspaced(run):
            yield Word(run)
            continue
        apart = True
        for part in _PARTS.findall(run):
            yield Word(part, apart)
            apart = False


def unspaced(text: str) -> bool:
    """Whether `text` has a character of a script that sets no blanks between words."""
    return _UNSPACED.search(text) is not None


def joined(words: Iterable[Word]) -> str:
    """The words as a text, with single blanks where there were any."""
    return "".join(f" {text}" if apart else text for text, apart in words).removeprefix(" ")


def first_words(text: str, count: int) -> str:
    """The first `count` words of `text`."""
    return joined(islice(words_of(text), count))


def bare_words(text: str) -> list[str]:
    """The words of `text` without punctuation, which parts words too."""
    return _BARE.findall(text)


def word_count(text: str, most: int) -> int:
    """The number of words of `text`, which is not counted beyond `most`."""
    return sum(1 for _ in islice(words_of(text), most))
