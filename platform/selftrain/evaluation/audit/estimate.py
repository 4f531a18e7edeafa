"""Intervals of a share, and of a ratio of two shares, in a finite population of which every stratum was sampled at random without replacement.

A value is inside the interval where a score test does not refuse it: the distance of the estimate, over its standard error *if the value were true*, that is
with the strata's shares that are likeliest under it. For one stratum this is Wilson's interval, and like it it is right near 0 and 1, where the usual standard
error is 0 (Wilson 1927; for linear combinations of shares Martín Andrés, Herranz Tejedor and Álvarez Hernández, "The optimal method to make inferences about a
linear combination of proportions", 2012). scipy and statsmodels have it for one share and for the difference of two.

    share   sum_h a_h p_h, with known a_h >= 0
    ratio   sum of a_h p_h over some strata, over the sum over all

`z` is 1.96 for a sample whose size was settled before, and `anytime_z` for one that may be looked at after every answer. Skipped questions have an unknown answer
and count against both ends: as a miss below and as a hit above; a stratum without answers may have any share.

All arrays are `[..., H]`, and results `[...]`: many audits are computed at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

LEVEL = 0.95
_STEPS = 60  # of a bisection


class Interval(NamedTuple):
    """Both ends of a 95 % interval, `[...]`."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Counts:
    """What was answered in each stratum, `[..., H]`."""

    documents: np.ndarray  # in the population
    asked: np.ndarray  # of them, skipped ones included
    hits: np.ndarray  # answers that count
    skipped: np.ndarray  # asked and not answered


def share(counts: Counts, weights: np.ndarray) -> np.ndarray:
    """The estimate of `sum_h weights_h p_h`, `[...]`; nan where a stratum with a weight has no answer."""
    return np.sum(np.where(np.asarray(weights) > 0, weights * _shares(counts), 0.0), axis=-1)


def share_interval(counts: Counts, weights: np.ndarray, z: np.ndarray | float) -> Interval:
    """The interval of `sum_h weights_h p_h`.

    Args:
        counts: of the strata.
        weights: a_h >= 0, `[..., H]`.
        z: the bound of the test, `[...]`.
    """
    weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), np.broadcast_shapes(np.shape(weights), counts.asked.shape))
    low = _lowest_share(counts, weights, counts.hits, z)
    misses = _lowest_share(counts, weights, counts.asked - counts.hits - counts.skipped, z)
    return Interval(low, weights.sum(axis=-1) - misses)


def ratio(counts: Counts, weights: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The estimate of the sum of `weights_h p_h` over `top`, over the sum over all strata, `[...]`; nan where there was no hit."""
    shares = np.where(np.asarray(weights) > 0, weights * _shares(counts), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(np.where(top, shares, 0.0), axis=-1) / shares.sum(axis=-1)


def ratio_interval(counts: Counts, weights: np.ndarray, top: np.ndarray, z: np.ndarray | float) -> Interval:
    """The interval of `ratio`.

    Args:
        counts: of the strata.
        weights: a_h >= 0, `[..., H]`.
        top: the strata of the numerator, `[..., H]`.
        z: the bound of the test, `[...]`.
    """
    top = np.asarray(top, dtype=bool)
    return Interval(_lowest_ratio(counts, weights, top, z), 1.0 - _lowest_ratio(counts, weights, ~top, z))


def score_bound(asked: int, planned: int) -> float:
    """`z` of an audit that has come to `asked` questions of `planned` ones."""
    return float(norm.ppf((1 + LEVEL) / 2)) if asked == planned else float(anytime_z(asked, planned))


def anytime_z(answers: np.ndarray | int, planned: int) -> np.ndarray:
    """The bound that an estimate crosses at any of all numbers of answers with a probability of 5 %: Robbins' normal mixture, in the asymptotic form of
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", arXiv:2103.06476 (equation 3).

    Args:
        answers: so far, `[...]`.
        planned: where the bound is to be tightest (their equation for rho).
    """
    alpha = 1 - LEVEL
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned
    scaled = np.maximum(np.asarray(answers, dtype=np.float64), 1.0) * rho2
    return np.sqrt((1 + 1 / scaled) * np.log((1 + scaled) / alpha**2))


def _shares(counts: Counts) -> np.ndarray:
    answered = counts.asked - counts.skipped
    with np.errstate(invalid="ignore"):
        return np.where(answered > 0, counts.hits / np.maximum(answered, 1), np.nan)


def _likeliest(asked: np.ndarray, hits: np.ndarray, pull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares that maximise the likelihood less `pull` times the share, and one less them: the roots of n_h (s/n - p) = pull p (1 - p) in [0, 1].

    A linear constraint's Lagrange multiplier times its coefficients is such a `pull`. Each root is written so that nothing cancels.
    """
    misses = asked - hits
    root = np.sqrt(np.maximum((asked - pull) ** 2 + 4 * pull * misses, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(pull >= 0, 2 * hits / (asked + pull + root), 1 - 2 * misses / (asked - pull + root))
        q = np.where(pull >= 0, 1 - p, 2 * misses / (asked - pull + root))
    return np.where(asked > 0, p, 0.0), np.where(asked > 0, q, 1.0)


def _variance(counts: Counts, coefficients: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Of `sum_h coefficients_h p_h`, if `p` are the shares. Fitting H shares under one constraint takes (H - 1) / H of an answer from each stratum."""
    known = (counts.asked > 0) & (coefficients != 0)
    strata = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    freedom = np.maximum(counts.asked - (strata - 1) / strata, 0.5)
    rest = (counts.documents - counts.asked) / np.maximum(counts.documents - 1, 1)
    return np.sum(np.where(known, coefficients**2 * p * q / freedom * rest, 0.0), axis=-1)


def _multiplier(step: np.ndarray) -> np.ndarray:
    return step / np.maximum(1 - step, 1e-12)  # beyond it a share is 0 or 1


def _lowest_share(counts: Counts, weights: np.ndarray, hits: np.ndarray, z: np.ndarray | float) -> np.ndarray:
    """The smallest value that is not refused; a stratum without answers may have no hit."""
    weights = np.where(counts.asked > 0, weights, 0.0)
    scale = (counts.asked.sum(axis=-1) / np.maximum(weights.max(axis=-1), 1e-300))[..., None]
    found = np.sum(weights * hits / np.maximum(counts.asked, 1), axis=-1)
    inside, outside = np.zeros(found.shape), np.ones(found.shape)  # steps of the multiplier
    for _ in range(_STEPS):
        step = (inside + outside) / 2
        p, q = _likeliest(counts.asked, hits, scale * _multiplier(step)[..., None] * weights)
        accepted = found - np.sum(weights * p, axis=-1) <= z * np.sqrt(_variance(counts, weights, p, q))
        inside, outside = np.where(accepted, step, inside), np.where(accepted, outside, step)
    p, _ = _likeliest(counts.asked, hits, scale * _multiplier(inside)[..., None] * weights)
    return np.where(found > 0, np.sum(weights * p, axis=-1), 0.0)


def _lowest_ratio(counts: Counts, weights: np.ndarray, top: np.ndarray, z: np.ndarray | float) -> np.ndarray:
    """The smallest ratio that is not refused: unknown answers are misses in `top` and hits elsewhere."""
    hits = np.where(top, counts.hits, counts.hits + counts.skipped)
    known = counts.asked > 0
    shares = hits / np.maximum(counts.asked, 1)
    unknown = np.sum(np.where(known | top, 0.0, weights), axis=-1)  # what strata without answers may add to the denominator
    numerator = np.sum(np.where(top & known, weights * shares, 0.0), axis=-1)
    denominator = np.sum(np.where(known, weights * shares, 0.0), axis=-1) + unknown
    low, high = np.zeros(numerator.shape), np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), 0.0)
    for _ in range(_STEPS // 2):
        value = (low + high) / 2
        coefficients = np.where(known, weights * (top - value[..., None]), 0.0)
        rest = -value * unknown
        p, q = _constrained(counts.asked, hits, coefficients, rest)
        accepted = np.sum(coefficients * shares, axis=-1) + rest <= z * np.sqrt(_variance(counts, coefficients, p, q))
        low, high = np.where(accepted, low, value), np.where(accepted, value, high)
    return high


def _constrained(asked: np.ndarray, hits: np.ndarray, coefficients: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest shares with `sum_h coefficients_h p_h + rest <= 0`, and one less them."""
    scale = (asked.sum(axis=-1) / np.maximum(np.abs(coefficients).max(axis=-1), 1e-300))[..., None]
    above, below = np.zeros(rest.shape), np.ones(rest.shape)
    for _ in range(_STEPS):
        step = (above + below) / 2
        p, _ = _likeliest(asked, hits, scale * _multiplier(step)[..., None] * coefficients)
        over = np.sum(coefficients * p, axis=-1) + rest > 0
        above, below = np.where(over, step, above), np.where(over, below, step)
    return _likeliest(asked, hits, scale * _multiplier(below)[..., None] * coefficients)
