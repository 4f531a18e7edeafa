"""Agreement of neighbours, by hand."""

import numpy as np
import pytest

from selftrain.evaluation.neighbours import nearest, neighbour_agreement

# Four directions at 0, 10, 30 and 90 degrees, of any length.
ANGLES = np.radians([0, 10, 30, 90])
EMBEDDINGS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * np.array([[1.0], [5.0], [0.1], [2.0]])


def test_neighbours_are_nearest_by_angle_and_no_document_is_its_own():
    assert nearest(EMBEDDINGS, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_of_equally_near_ones_the_earlier_comes_first():
    assert nearest(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), 2)[3].tolist() == [1, 2]


def test_agreement_and_what_it_is_above_chance():
    neighbours = nearest(EMBEDDINGS, 2)
    found = neighbour_agreement(neighbours, np.array([0, 0, 0, 1]))
    assert found.share == pytest.approx(6 / 8)
    chance = 0.75**2 + 0.25**2
    assert found.above_chance == pytest.approx((0.75 - chance) / (1 - chance))


def test_a_single_class_agrees_wholly_and_not_above_chance():
    assert neighbour_agreement(nearest(EMBEDDINGS, 2), np.array([1, 1, 1, 1])) == (1.0, 0.0)
