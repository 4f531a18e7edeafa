"""Where a document is cut into sentences."""

import pytest

from selftrain.data.sentences import sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The team won the match. The bank lost its profit!", ["The team won the match.", "The bank lost its profit!"]),
        ("A title of four words\nThe first sentence goes on", ["A title of four words", "The first sentence goes on"]),
        ("OAKLAND, Calif. The quarterback will miss games.", ["OAKLAND, Calif. The quarterback will miss games."]),
        ("The team won the match. In Rome.", ["The team won the match. In Rome."]),
        ("Version 2.1 of the phone", ["Version 2.1 of the phone"]),
        ("short", ["short"]),
        ("", [""]),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_no_word_is_lost():
    text = "One. Two words. Then a sentence of six words. End."
    assert " ".join(sentences(text)).split() == text.split()


def test_sentences_without_blanks_end_at_their_full_stops():
    assert sentences("公司周二表示。新手机将发售\uff01是吗\uff1f好。 价格未定") == [
        "公司周二表示。",
        "新手机将发售\uff01",
        "是吗\uff1f 好。",
        "价格未定",
    ]
