"""The levels of a tree, by hand."""

import numpy as np
import pytest

from selftrain.evaluation.levels import levels_of, scores_by_level

NAMES = ("football", "tennis", "rowing", "weather")
PARENTS = (("sport", "ball"), ("sport", "ball"), ("sport", "water"), ())


def test_levels_are_the_outermost_first_and_a_class_without_a_parent_is_its_own_group():
    sport, inner = levels_of(NAMES, PARENTS)
    assert (sport.names, sport.group_of) == (("sport", "weather"), (0, 0, 0, 1))
    assert (inner.names, inner.group_of) == (("ball", "water", "weather"), (0, 0, 1, 2))
    assert inner.sums(np.array([[0.5, 0.25, 0.125, 0.125]])).tolist() == [[0.75, 0.125, 0.125]]
    assert levels_of(NAMES, ()) == levels_of(NAMES, [()] * 4) == ()


def test_a_document_is_right_in_the_group_of_its_most_probable_class():
    found = np.array(
        [
            [0.25, 0.75, 0.0, 0.0],  # tennis for football: right in both groups
            [0.375, 0.0, 0.25, 0.375],  # football for rowing: right in sport alone
            [0.25, 0.25, 0.0, 0.5],  # right, although sport has as much: what counts is the class
            [0.0, 0.0, 0.0, 0.0],  # no answer
        ]
    )
    labels = np.array([0, 2, 3, 3])
    sport, inner = scores_by_level(found, labels, NAMES, PARENTS)
    assert (sport["groups"], sport["accuracy"], inner["groups"], inner["accuracy"]) == (2, 0.75, 3, 0.5)
    assert [(one["name"], one["support"], one["predicted"], one["recall"]) for one in sport["per_class"]] == [
        ("sport", 2, 2, 1.0),
        ("weather", 2, 1, 0.5),
    ]
    assert sport["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    # Confidences are sums: 1, 0.625, 0.5 and 0, each in a bin of its own.
    assert sport["ece"] == pytest.approx((0 + 0.375 + 0.5 + 0) / 4)
    assert scores_by_level(found, labels, NAMES, ()) == []
