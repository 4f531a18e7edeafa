"""Self-BLEU and correctness, by hand."""

import math

import numpy as np
import pytest

from selftrain.evaluation.diversity import correctness, self_bleu, tokens


def test_tokens_are_words_and_marks():
    assert tokens("It's GOOD, no?") == ["it", "'", "s", "good", ",", "no", "?"]


def test_bleu_2_of_three_texts_by_hand():
    texts = ["the cat sat", "the cat ran off", "a dog"]
    # 1: unigrams 2/3, bigrams 1/2; references of 4 and 2 tokens are equally near, the shorter one counts: no penalty
    # 2: unigrams 2/4, bigrams 1/3; it is the longest: no penalty
    # 3: shares no word
    expected = (math.sqrt(2 / 3 * 1 / 2) + math.sqrt(2 / 4 * 1 / 3) + 0.0) / 3
    assert self_bleu(texts, order=2) == pytest.approx(expected, rel=1e-12)


def test_counts_are_clipped_at_the_largest_in_one_other_text():
    # 1: "a" is in it three times and in another text at most twice: 2/3; 2: 2/2; 3: 1/2, its "b" is nowhere else. Lengths 3, 2, 2: no penalty
    assert self_bleu(["a a a", "a a", "a b"], order=1) == pytest.approx((2 / 3 + 2 / 2 + 1 / 2) / 3, rel=1e-12)


def test_a_short_text_is_penalised_and_what_is_not_shared_is_smoothed():
    # "a" against "b a": unigrams 1/1, no bigram: 0.1 / 1, penalty exp(1 - 2/1); "b a" against "a": 1/2 and 0.1 / 1
    expected = (math.sqrt(0.1) * math.exp(-1) + math.sqrt(0.5 * 0.1)) / 2
    assert self_bleu(["a", "b a"], order=2) == pytest.approx(expected, rel=1e-12)


def test_its_limits():
    same = ["one two three four five"] * 3
    assert self_bleu(same) == pytest.approx(1.0) and self_bleu(["one two", "three four"]) == 0.0 and self_bleu(["", "one"]) == 0.0
    with pytest.raises(ValueError, match="got 1"):
        self_bleu(["alone"])


def test_correctness_is_agreement():
    assert correctness(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]]), [0, 1, 1, 1]) == 0.75
