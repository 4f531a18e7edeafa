"""Words of scripts with and without blanks."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selftrain.data.words import Word, bare_words, first_words, joined, word_count, words_of

TEXTS = st.text() | st.text(alphabet="ab 我爱。กขสส 々カ,\n")


@given(st.text(alphabet=st.characters(max_codepoint=0xDFF)))
@example("a  b\tc\u3000d")
def test_where_blanks_separate_words_they_are_what_they_were(text):
    assert [word.text for word in words_of(text)] == text.split() and all(word.apart for word in words_of(text))
    assert first_words(text, 3) == " ".join(text.split()[:3])
    assert bare_words(text) == re.findall(r"\w+", text)


@given(TEXTS)
def test_words_together_are_the_text_with_single_blanks(text):
    assert joined(words_of(text)) == " ".join(text.split())
    assert word_count(text, 10**6) == len(list(words_of(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我爱北京", ["我", "爱", "北", "京"]),
        ("人々はカメラ", ["人", "々", "は", "カ", "メ", "ラ"]),
        ("iPhone很好,v2 不错。", ["iPhone", "很", "好", ",v2", "不", "错", "。"]),
        ("สวัสดีครับ abc", ["สวัส", "ดีคร", "ับ", "abc"]),
        ("한국어는 띄어 쓴다", ["한국어는", "띄어", "쓴다"]),  # Korean sets blanks
    ],
)
def test_characters_are_words_where_no_blanks_are_set(text, expected):
    assert [word.text for word in words_of(text)] == expected


def test_a_blank_stays_where_it_was():
    assert list(words_of("很 好x")) == [Word("很"), Word("好"), Word("x", apart=False)]
    assert first_words("很 好x y", 3) == "很 好x" and word_count("很 好x y", 2) == 2
