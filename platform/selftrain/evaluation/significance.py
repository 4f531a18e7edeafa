"""Whether a difference between two variants is more than the noise of their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from scipy import stats


class MeanStd(TypedDict):
    """Mean over seeds and its sample standard deviation (n - 1 in the denominator); one value has no deviation."""

    mean: float
    std: float | None


class PairedTest(NamedTuple):
    """Mean of the paired differences a - b, its 95 % interval, the two-sided p-value of Student's t, and how many pairs there are.

    One pair has neither interval nor p, and so have two variants that no seed changes: there is no sample.
    """

    difference: float
    interval: tuple[float, float] | None
    p: float | None
    pairs: int


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation of one metric over seeds.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("mean_std needs at least one value")
    return MeanStd(mean=float(np.mean(values)), std=float(np.std(values, ddof=1)) if len(values) > 1 else None)


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the mean of one metric over seeds, by Student's t; None for fewer than two values, which have none."""
    if len(values) < 2:
        return None
    found = mean_std(values)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * (found["std"] or 0.0) / len(values) ** 0.5
    return found["mean"] - half, found["mean"] + half


def paired_t_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Compare two variants seed by seed.

    Args:
        a, b: one metric of the two variants, the same seed at the same index.

    Returns:
        Difference, interval, p and pairs. Where every seed differs by the same amount, the t statistic is not defined, and p is its limit: 1 for no
        difference, 0 for any other.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a and b must have the same number of values, at least one (got {len(a)} and {len(b)})")
    pairs = len(a)
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    difference = float(differences.mean())
    # Rounding alone leaves a spread of about 1e-16; scipy would divide by it and warn.
    rounding = 1e-12 * max(1.0, float(np.abs([a, b]).max()))
    if max(float(np.ptp(a)), float(np.ptp(b))) <= rounding:  # one pair, too
        return PairedTest(difference, None, None, pairs)
    interval = mean_interval(differences.tolist())
    if float(np.ptp(differences)) <= rounding:
        return PairedTest(difference, interval, 1.0 if abs(difference) <= rounding else 0.0, pairs)
    return PairedTest(difference, interval, float(stats.ttest_rel(a, b).pvalue), pairs)


def compare_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> PairedTest | None:
    """`paired_t_test` over the seeds that both variants have (seed -> metric); None where they have none in common."""
    common = [seed for seed in a if seed in b]
    return paired_t_test([a[seed] for seed in common], [b[seed] for seed in common]) if common else None


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p-values of one family, in their order; a comparison that has none (None) does not count."""
    order = sorted((value, place) for place, value in enumerate(p) if value is not None)
    found: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        found[place] = largest
    return found
