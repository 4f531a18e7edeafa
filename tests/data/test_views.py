"""Strong views by editing words."""

from hypothesis import given
from hypothesis import strategies as st

from selftrain.data.views import continued, edited

TEXT = "the market fell on tuesday after the bank said that its profit had missed every forecast of the year"


def test_a_view_follows_from_text_and_number_and_differs_from_both():
    assert edited(TEXT, 0) == edited(TEXT, 0)
    assert len({TEXT, edited(TEXT, 0), edited(TEXT, 1), edited(TEXT + " x", 0)}) == 4


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), min_size=1, max_size=30), st.integers(0, 5))
def test_a_view_holds_words_of_the_text_and_is_never_empty(words, view):
    found = edited(" ".join(words), view).split()
    assert 1 <= len(found) <= len(words)
    assert all(found.count(word) <= words.count(word) for word in found)


def test_shares():
    long = " ".join(str(number) for number in range(2000))
    assert 1300 < len(edited(long, 0).split()) < 1500  # 30 % are left out
    assert edited(long, 0, dropped=0.0, swapped=0.0) == long


def test_a_text_without_blanks_is_edited_character_by_character():
    text = "这部电影非常好看,演员也很出色,我和朋友都很喜欢。"
    views = {edited(text, view) for view in range(4)}
    assert len(views | {text}) == 5 and all(5 < len(view) < len(text) and set(view) <= set(text) for view in views)


def test_views_of_other_texts_are_those_of_earlier_versions():
    """Cached embeddings of views stay valid."""
    assert edited(TEXT, 0) == "year on after the said that its profit had every forecast the fell"
    assert edited(TEXT, 1) == "profit market fell the tuesday after the said that its on had missed every forecast of year"


def test_a_continuation_stands_in_front_of_its_text():
    assert continued("the market fell", "Banks say why.") == "Banks say why. the market fell"
    assert continued("", "Banks say why.") == "Banks say why."
