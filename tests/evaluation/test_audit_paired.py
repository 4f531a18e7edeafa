"""The difference of two classifiers on audited documents: by hand, against Tango's formula, against a search that shares nothing with ours, and simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from selftrain.evaluation.audit.estimate import anytime_z
from selftrain.evaluation.audit.figures import SKIPPED
from selftrain.evaluation.audit.paired import Sample, accuracy, lead, lead_interval

Z = 1.959963984540054
MANY = 1e12  # documents: as good as infinitely many


def interval(asked, wins, losses, documents=None, unknown=None, z=Z) -> tuple[float, float]:
    asked, wins, losses = (np.asarray(values, dtype=float) for values in (asked, wins, losses))
    documents = np.full(asked.shape, MANY) if documents is None else np.asarray(documents, dtype=float)
    found = lead_interval(documents, asked, wins, losses, np.zeros(asked.shape) if unknown is None else np.asarray(unknown, dtype=float), z)
    return float(found.low), float(found.high)


def tango(n: int, wins: int, losses: int, z: float) -> float:
    """The difference at which Tango's statistic is z, as his paper prints it: the likeliest share of losses is a root of A q^2 + B q + C."""

    def statistic(delta: float) -> float:
        a, b, c = 2 * n, -wins - losses + (2 * n - wins + losses) * delta, -losses * delta * (1 - delta)
        q = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
        return (wins - losses - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta))) - z

    return brentq(statistic, *((-1 + 1e-9, (wins - losses) / n - 1e-9) if z > 0 else ((wins - losses) / n + 1e-9, 1 - 1e-9)))


@pytest.mark.parametrize(("n", "wins", "losses"), [(100, 12, 5), (44, 3, 1), (30, 9, 0), (30, 0, 4)])
def test_one_stratum_is_tangos_interval(n, wins, losses) -> None:
    assert interval([n], [wins], [losses]) == pytest.approx((tango(n, wins, losses, Z), tango(n, wins, losses, -Z)), abs=1e-7)


def test_without_a_win_and_a_loss_by_hand() -> None:
    # The likeliest shares under -d are d losses and 1 - d ties, so d^2 = z^2 d (1 - d) / 100: d = 3.84146 / 103.84146.
    assert interval([100], [0], [0]) == pytest.approx((-0.0369935, 0.0369935), abs=1e-6)
    assert interval([100], [100], [0])[1] == 1 and interval([100], [0], [100])[0] == -1


def test_a_population_that_was_asked_whole_is_known() -> None:
    assert interval([40, 10], [6, 0], [2, 1], documents=[40, 10]) == pytest.approx((0.06, 0.06), abs=1e-6)
    half, whole = interval([40], [6], [2], documents=[80]), interval([40], [6], [2])
    assert half[1] - half[0] == pytest.approx((whole[1] - whole[0]) / math.sqrt(2), rel=0.05)


def test_two_strata_end_where_the_score_test_refuses() -> None:
    asked, wins, losses, weights = np.array([60.0, 40.0]), np.array([7.0, 5.0]), np.array([2.0, 4.0]), np.array([0.7, 0.3])

    def distance(value: float, z: float) -> float:
        def unlikely(p):
            shares = np.array([p[0], p[2]]), np.array([p[1], p[3]])
            ties = np.clip(1 - shares[0] - shares[1], 1e-12, 1)
            return -np.sum(wins * np.log(shares[0]) + losses * np.log(shares[1]) + (asked - wins - losses) * np.log(ties))

        fitted = minimize(
            unlikely,
            [0.1, 0.1, 0.1, 0.1],
            bounds=[(1e-9, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: weights @ [p[0] - p[1], p[2] - p[3]] - value},
            options={"ftol": 1e-14, "maxiter": 500},
        ).x
        win, loss = fitted[[0, 2]], fitted[[1, 3]]
        variance = np.sum(weights**2 * (win + loss - (win - loss) ** 2) / (asked - 0.5))
        return (weights @ ((wins - losses) / asked) - value) / math.sqrt(variance) - z

    expected = brentq(distance, -0.15, 0.06, args=(Z,)), brentq(distance, 0.07, 0.3, args=(-Z,))
    assert interval(asked, wins, losses, documents=weights * MANY) == pytest.approx(expected, abs=1e-4)


def sample(**changed) -> Sample:
    """Two strata of 300 and 100 documents, of which 4 and 2 were asked."""
    facts = {"documents": np.array([300.0, 100.0]), "strata": np.array([0, 1, 0, 1, 0, 0]), "answers": np.array([0, 1, 2, 0, 1, 3]), "planned": 6}
    return Sample(**facts | changed)


FIRST, SECOND = np.array([0, 1, 2, 1, 1, 1]), np.array([1, 1, 2, 0, 0, 0])


def test_the_estimate_by_hand() -> None:
    """Stratum 0: won, both right, won, both wrong (the answer 3 is none of the classes); stratum 1: both right, lost."""
    found = lead(sample(), FIRST, SECOND)
    assert found.estimate == pytest.approx(0.75 * 2 / 4 - 0.25 * 1 / 2)  # .25
    assert (found.low, found.high) == pytest.approx(interval([4, 2], [2, 0], [0, 1], documents=[300, 100]))
    turned = lead(sample(), SECOND, FIRST)
    assert (turned.estimate, turned.low, turned.high) == pytest.approx((-0.25, -found.high, -found.low))
    assert [accuracy(sample(), one).estimate for one in (FIRST, SECOND)] == pytest.approx([0.75 * 3 / 4 + 0.25 / 2, 0.75 / 4 + 0.25])
    same = lead(sample(), FIRST, FIRST)
    assert same.estimate == 0 and same.low == pytest.approx(-same.high)


def test_a_skipped_question_may_be_a_win_or_a_loss_only_where_the_two_differ() -> None:
    skipped = np.array([SKIPPED, 1, SKIPPED, 0, 1, 3])  # the two differ about the first, and agree about the third
    found = lead(sample(answers=skipped), FIRST, SECOND)
    assert found.estimate == pytest.approx(0.75 * 1 / 3 - 0.25 / 2)
    worst, best = interval([4, 2], [1, 0], [1, 1], documents=[300, 100]), interval([4, 2], [2, 0], [0, 1], documents=[300, 100])
    assert (found.low, found.high) == pytest.approx((worst[0], best[1])) and found.low < found.estimate < found.high
    assert lead(sample(answers=np.array([0, SKIPPED, 2, SKIPPED, 1, 3])), FIRST, SECOND).estimate is None


def test_a_stratum_without_a_question_may_have_any_difference() -> None:
    alone = interval([30], [4], [1])
    assert interval([30, 0], [4, 0], [1, 0], documents=[0.9 * MANY, 0.1 * MANY]) == pytest.approx(
        (0.9 * alone[0] - 0.1, 0.9 * alone[1] + 0.1), abs=1e-6
    )


def test_an_audit_that_was_stopped_early_has_the_bound_for_any_time() -> None:
    found = lead(sample(planned=100), FIRST, SECOND)
    z = float(anytime_z(6, 100))
    assert (found.low, found.high) == pytest.approx(interval([4, 2], [2, 0], [0, 1], documents=[300, 100], z=z)) and z > Z


@pytest.mark.parametrize(("win", "loss"), [((0.1, 0.2, 0.15, 0.3), (0.05, 0.1, 0.15, 0.2)), ((0.0, 0.02, 0.05, 0.2), (0.0, 0.0, 0.03, 0.1))])
def test_the_truth_is_inside_as_often_as_is_said(win, loss) -> None:
    rng = np.random.default_rng(3)
    weights, asked = np.array([0.5, 0.25, 0.15, 0.1]), np.full(4, 25.0)
    drawn = np.stack([rng.multinomial(25, (a, b, 1 - a - b), size=2000) for a, b in zip(win, loss, strict=True)], axis=1)
    low, high = lead_interval(
        np.broadcast_to(weights * MANY, (2000, 4)), np.broadcast_to(asked, (2000, 4)), drawn[..., 0], drawn[..., 1], np.zeros((2000, 4)), Z
    )
    truth = float(weights @ (np.array(win) - np.array(loss)))
    assert ((low <= truth) & (truth <= high)).mean() > 0.94
