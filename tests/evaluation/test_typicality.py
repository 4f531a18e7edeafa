"""The typicality of texts, worked out by hand, and what it means."""

from __future__ import annotations

import numpy as np
import pytest

from selftrain.evaluation.typicality import Surroundings


def directions(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_four_documents_by_hand() -> None:
    """The second-nearest documents of those at 0, 10, 25 and 90 degrees are 25, 15, 25 and 80 degrees away."""
    known = Surroundings(directions(0, 10, 25, 90), neighbour=2)
    assert len(known) == 4
    # 5: 5 degrees, and all are farther from each other. 40: 30 degrees, one is. 88: 63, one. 180: 155, none. 27: 17 degrees, three.
    assert known.typicality(7 * directions(5, 40, 88, 180, 27)) == pytest.approx([5 / 5, 2 / 5, 2 / 5, 1 / 5, 4 / 5])
    # The nearest: 10, 10, 15 and 65 degrees.
    assert Surroundings(directions(0, 10, 25, 90), neighbour=1).typicality(directions(37, 91)) == pytest.approx([3 / 5, 5 / 5])


def test_what_lies_where_all_documents_lie_is_typical() -> None:
    assert Surroundings(directions(0, 0, 0), neighbour=1).typicality(directions(0, 1)).tolist() == [1, 1 / 4]


def test_of_texts_like_the_known_ones_a_share_has_at_most_that_typicality() -> None:
    rng = np.random.default_rng(0)

    def drawn(count: int) -> np.ndarray:
        rows = rng.normal(size=(count, 8)) + 3 * np.eye(8)[1]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    documents, texts = drawn(1000), drawn(2000)
    known = Surroundings(documents)
    like = known.typicality(texts)
    own, theirs = np.sort(documents @ documents.T)[:, -11], np.sort(texts @ documents.T)[:, -10]  # a document is the nearest to itself
    assert like == pytest.approx((1 + (own[None] <= theirs[:, None]).sum(axis=1)) / 1001, abs=0.0021)
    for share in (0.02, 0.1, 0.5):
        assert (like <= share).mean() == pytest.approx(share, abs=4 * (share / 1000) ** 0.5)
    assert (known.typicality(-drawn(300)) < 0.01).mean() > 0.95
    assert known.typicality(np.empty((0, 8))).shape == (0,)


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 10 documents"):
        Surroundings(directions(*range(10)))
