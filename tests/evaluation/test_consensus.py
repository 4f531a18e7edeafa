"""Weighed votes: two steps worked out by hand, and raters whose error rates are known."""

import numpy as np
import pytest

from selftrain.evaluation.consensus import NO_VOTE, consensus


def test_a_step_worked_out_by_hand():
    """Four documents, three raters, two classes; the third rater disagrees twice.

    Shares of the votes: P(class 0) = 1, 2/3, 0, 1/3, so the prior is 1/2 for each class (2 of 4, with half a vote more of 5 for the spread).
    Raters 1 and 2 voted 0 for documents 1 and 2, which hold 1 + 2/3 of class 0, and 1 for 3 and 4, which hold 1/3 of it: with half a vote spread on each,
    (5/3 + 1/2) / 3 = 13/18 right, 5/18 wrong; class 1 by symmetry. Rater 3 voted 0 for documents 1 and 4: (4/3 + 1/2) / 3 = 11/18 right, 7/18 wrong.
    Document 2 has votes 0, 0, 1: 13 * 13 * 7 = 1183 to 5 * 5 * 11 = 275. Document 1 has 0, 0, 0: 13 * 13 * 11 = 1859 to 5 * 5 * 7 = 175.
    """
    votes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])
    found = consensus(votes, 2, iterations=1)
    expected = [1859 / 2034, 1183 / 1458, 175 / 2034, 275 / 1458]
    assert found.probabilities[:, 0] == pytest.approx(expected) and found.probabilities.sum(axis=1) == pytest.approx(1)
    # The rates that follow: rater 3 was right where documents 1 and 4 are of class 0, and 2 and 3 of class 1.
    right = (expected[0] + expected[3] + 0.5) / (sum(expected) + 1)
    assert found.confusion[2, 0] == pytest.approx([right, 1 - right])
    assert found.reliability[2] == pytest.approx(right) and found.prior == pytest.approx([0.5, 0.5])


def test_raters_are_known_by_their_votes_alone():
    """Five raters of 1,500 documents: error rates are found, and the good ones outvote the many."""
    rng = np.random.default_rng(0)
    truth = rng.choice(3, size=1500, p=[0.5, 0.3, 0.2])
    right = np.array([0.95, 0.9, 0.45, 0.45, 0.45])
    wrong = (truth[:, None] + rng.integers(1, 3, size=(1500, 5))) % 3
    votes = np.where(rng.random((1500, 5)) < right, truth[:, None], wrong)
    found = consensus(votes, 3)
    assert found.reliability == pytest.approx(right, abs=0.04) and found.prior == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    counted = np.stack([(votes == label).sum(axis=1) for label in range(3)], axis=1).argmax(axis=1)
    assert (found.probabilities.argmax(axis=1) == truth).mean() > 0.93 > 0.88 > (counted == truth).mean()


def test_votes_that_are_missing_are_no_votes():
    votes = np.array([[0, 0, 0], [1, 1, NO_VOTE], [NO_VOTE, NO_VOTE, NO_VOTE], [1, NO_VOTE, 1]])
    found = consensus(votes, 2)
    assert found.probabilities[2].tolist() == [0.0, 0.0] and found.probabilities.argmax(axis=1).tolist() == [0, 1, 0, 1]
    without = consensus(votes[[0, 1, 3]], 2)
    assert found.probabilities[[0, 1, 3]] == pytest.approx(without.probabilities) and found.reliability == pytest.approx(without.reliability)


def test_two_that_disagree_are_believed_alike():
    found = consensus(np.array([[0, 1], [0, 0], [1, 0], [1, 1]]), 2)
    assert found.reliability[0] == pytest.approx(found.reliability[1]) and found.probabilities[0] == pytest.approx([0.5, 0.5])
