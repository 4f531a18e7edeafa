"""Intervals of stratified samples: against Wilson's formula, against a search that shares nothing with ours, and against the truth in simulated audits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from selftrain.evaluation.audit.estimate import Counts, anytime_z, ratio, ratio_interval, share, share_interval

Z = 1.959963984540054
MANY = 1e12  # documents: as good as infinitely many


def counts(asked, hits, documents=None, skipped=None) -> Counts:
    asked = np.asarray(asked, dtype=float)
    full = np.full(asked.shape, MANY) if documents is None else np.asarray(documents, dtype=float)
    return Counts(full, asked, np.asarray(hits, dtype=float), np.zeros(asked.shape) if skipped is None else np.asarray(skipped, dtype=float))


def wilson(p: float, n: float, z: float = Z) -> tuple[float, float]:
    """The interval as its paper prints it."""
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@pytest.mark.parametrize(("asked", "hits"), [(40, 37), (10, 0), (10, 10), (1, 1), (7, 3)])
def test_one_stratum_is_wilsons_interval(asked, hits) -> None:
    low, high = share_interval(counts([asked], [hits]), np.ones(1), Z)
    assert (low, high) == pytest.approx(wilson(hits / asked, asked), abs=1e-8)


def test_equal_strata_are_one_sample_less_what_fitting_them_takes() -> None:
    # By symmetry the likeliest shares are equal, theta, so the variance is 2 (1/4) theta (1 - theta) / (20 - 1/2): Wilson's interval for 39 answers.
    low, high = share_interval(counts([20, 20], [17, 17]), np.array([0.5, 0.5]), Z)
    assert (low, high) == pytest.approx(wilson(0.85, 39), abs=1e-8)


def test_what_has_been_asked_of_a_finite_population_is_no_longer_uncertain() -> None:
    # (N - n) / (N - 1) = 50 / 99 times the variance of 50 answers is that of 99.
    assert share_interval(counts([50], [40], [100]), np.ones(1), Z) == pytest.approx(wilson(0.8, 99), abs=1e-8)
    assert share_interval(counts([100], [83], [100]), np.ones(1), Z) == pytest.approx((0.83, 0.83), abs=1e-6)
    assert share_interval(counts([1], [1], [1]), np.ones(1), Z) == pytest.approx((1, 1))


def log_likelihood(p: float, asked: float, hits: float) -> float:
    return hits * math.log(max(p, 1e-300)) + (asked - hits) * math.log(max(1 - p, 1e-300))


def distance(coefficients, constant, asked, hits) -> float:
    """The score test's distance of two strata from sum_h c_h p_h = constant: the second share follows from the first, which is searched for."""

    def second(p: float) -> float:
        return (constant - coefficients[0] * p) / coefficients[1]

    ends = sorted((constant - coefficients[1] * edge) / coefficients[0] for edge in (0.0, 1.0))
    bounds = max(0.0, ends[0]), min(1.0, ends[1])
    found = minimize_scalar(
        lambda p: -log_likelihood(p, asked[0], hits[0]) - log_likelihood(second(p), asked[1], hits[1]),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    shares = found, second(found)
    variance = sum(c * c * p * (1 - p) / (n - 0.5) for c, p, n in zip(coefficients, shares, asked, strict=True))
    return (sum(c * s / n for c, s, n in zip(coefficients, hits, asked, strict=True)) - constant) / math.sqrt(variance)


def test_unequal_strata_end_where_the_score_test_refuses() -> None:
    asked, hits, weights = (30, 12), (29, 5), (0.8, 0.2)
    low, high = share_interval(counts(asked, hits), np.array(weights), Z)
    expected = [
        brentq(lambda value, z=z: distance(weights, value, asked, hits) - z, *between) for z, between in ((Z, (0.5, 0.85)), (-Z, (0.86, 0.98)))
    ]
    assert (low, high) == pytest.approx(expected, abs=1e-6)
    assert share(counts(asked, hits), np.array(weights)) == pytest.approx(0.8 * 29 / 30 + 0.2 * 5 / 12)


def test_a_ratio_ends_where_the_score_test_refuses() -> None:
    asked, hits, weights = (40, 60), (33, 4), np.array([0.3, 0.7])
    found = ratio(counts(asked, hits), weights, np.array([True, False]))
    assert found == pytest.approx(0.3 * 33 / 40 / (0.3 * 33 / 40 + 0.7 * 4 / 60))

    def away(value: float) -> float:
        return distance((0.3 * (1 - value), -0.7 * value), 0.0, asked, hits)

    expected = brentq(lambda value: away(value) - Z, 0.5, float(found) - 1e-6), brentq(lambda value: away(value) + Z, float(found) + 1e-6, 0.98)
    assert ratio_interval(counts(asked, hits), weights, np.array([True, False]), Z) == pytest.approx(expected, abs=1e-6)


def test_a_ratio_without_a_hit_may_be_anything() -> None:
    top = np.array([True, False])
    assert ratio_interval(counts([5, 5], [0, 0]), np.array([0.5, 0.5]), top, Z) == pytest.approx((0, 1))
    assert np.isnan(ratio(counts([5, 5], [0, 0]), np.array([0.5, 0.5]), top))


def test_a_stratum_without_an_answer_may_have_any_share() -> None:
    low, high = share_interval(counts([20, 0], [10, 0]), np.array([0.9, 0.1]), Z)
    alone = wilson(0.5, 20)
    assert (low, high) == pytest.approx((0.9 * alone[0], 0.9 * alone[1] + 0.1), abs=1e-8)
    assert np.isnan(share(counts([20, 0], [10, 0]), np.array([0.9, 0.1])))
    top = np.array([True, False])
    # the other stratum may hold no document of the class, or nothing else
    low, high = ratio_interval(counts([20, 0], [20, 0]), np.array([0.5, 0.5]), top, Z)
    assert high == 1 and low < 0.5 * wilson(1, 20)[0] / (0.5 * wilson(1, 20)[0] + 0.5) + 0.02


def test_a_skipped_question_counts_against_both_ends() -> None:
    skipped = share_interval(counts([10, 10], [6, 8], skipped=[1, 0]), np.array([0.5, 0.5]), Z)
    miss, hit = (share_interval(counts([10, 10], [hits, 8]), np.array([0.5, 0.5]), Z) for hits in (6, 7))
    assert list(skipped) == pytest.approx([float(miss.low), float(hit.high)])
    assert share(counts([10, 10], [6, 8], skipped=[1, 0]), np.array([0.5, 0.5])) == pytest.approx((6 / 9 + 0.8) / 2)
    weights, top = np.array([0.5, 0.5]), np.array([True, False])
    found = ratio_interval(counts([10, 10], [6, 2], skipped=[1, 1]), weights, top, Z)
    worst, best = ratio_interval(counts([10, 10], [6, 3]), weights, top, Z), ratio_interval(counts([10, 10], [7, 2]), weights, top, Z)
    assert list(found) == pytest.approx([float(worst.low), float(best.high)])


def test_the_bound_at_any_time_by_hand() -> None:
    # rho^2 = (5.99146 + ln 6.99146) / 100 = .0793617; at 100 answers (1 + 1 / 7.93617) ln(8.93617 * 400) = 1.126006 * 8.181608
    assert anytime_z(100, 100) == pytest.approx(math.sqrt(1.126006 * 8.181608), abs=1e-4)
    bounds = anytime_z(np.arange(1, 2000), 100)
    assert bounds.min() > Z and bounds.argmin() > 100


def test_many_audits_at_once_are_what_each_is_alone() -> None:
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 9, size=(20, 5))
    hits = rng.binomial(asked, 0.7)
    weights, top = rng.dirichlet(np.ones(5)), np.array([True, True, False, False, False])
    together = [share_interval(counts(asked, hits), weights, Z), ratio_interval(counts(asked, hits), weights, top, Z)]
    for row in range(20):
        alone = counts(asked[row], hits[row])
        for found, one in zip(together, (share_interval(alone, weights, Z), ratio_interval(alone, weights, top, Z)), strict=True):
            assert (found.low[row], found.high[row]) == pytest.approx((float(one.low), float(one.high)))
            assert 0 <= one.low <= one.high <= 1 + 1e-9


@pytest.mark.parametrize("shares", [(0.99, 0.97, 0.9, 0.6), (1.0, 1.0, 0.99, 0.95), (0.5, 0.5, 0.5, 0.5)])
def test_the_truth_is_inside_as_often_as_is_said(shares) -> None:
    rng = np.random.default_rng(7)
    weights = np.array([0.5, 0.25, 0.15, 0.1])
    asked = np.broadcast_to(25, (4000, 4))
    hits = rng.binomial(25, shares, size=(4000, 4))
    truth = float(weights @ np.array(shares))
    low, high = share_interval(counts(asked, hits), weights, Z)
    assert ((low <= truth) & (truth <= high)).mean() > 0.94
    top = np.array([True, True, False, False])
    of = float(weights[:2] @ np.array(shares[:2])) / truth
    low, high = ratio_interval(counts(asked, hits), weights, top, Z)
    assert ((low <= of) & (of <= high)).mean() > 0.94
