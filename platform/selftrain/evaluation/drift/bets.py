"""Evidence that a stream of texts has changed, which may be looked at after every text.

Each score of a text (scores.py) is ranked among those of the reference's texts and of all texts seen before it. While the stream is like the reference, every order
of these texts is as likely as any other; then the ranks, with ties broken at random, are independent and uniform on [0, 1] (Vovk, Nouretdinov, Gammerman, "Testing
exchangeability on-line", ICML 2003, theorem 1). That is exact for a reference of any size: nothing is estimated.

A bet pays f(p) for the rank p, where f >= 0 has mean 1 on [0, 1], so that no bet gains on uniform ranks. What stands in the account, where one unit is added before
every text, is the Shiryaev-Roberts procedure on a conformal martingale (Vovk et al., "Retrain or not retrain", COPA 2021, arXiv:2102.10439):

    E_n = (1 + E_{n-1}) f(p_n)

E_n - n is a martingale, so E reaches c within n texts with a probability of n / c at most (Doob's optional stopping: E[E_{min(tau, n)}] <= n). There are several
scores k, whose ranks depend on each other; an alarm is w_k E_k >= c for any of them, with weights w of sum 1. By the union bound

    P(a false alarm within n texts) <= n / c                  and so: mean number of texts until a false alarm = sum_n P(none within n) >= c / 2

With c = 2 `EVERY` that mean is at least `EVERY`, however often one looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

EVERY = 100_000  # texts until a false alarm, on average, at least
ALARM = 2.0 * EVERY  # c
BINS = 128  # that scores are sorted into; ranks are of bins, ties broken at random
TAILS = (0.02, 0.1, 0.3, 0.5)  # shares of the ranks, at either end, that a bet is on
GROWTH = (0.01, 0.04, 0.16)  # nats a text that a bet gains, at best: an alarm takes about 20 of them
_MOST = 1e15  # evidence that is told apart


def _gain(tail: float, growth: float) -> tuple[float, float]:
    """What a bet on a tail pays inside and outside of it: it gains most, `growth` nats a text, where a certain share r > tail of the ranks falls into it."""

    def short(r: float) -> float:
        return r * np.log(r / tail) + (1 - r) * np.log((1 - r) / (1 - tail)) - growth

    r = brentq(short, tail, 1 - 1e-12)
    return r / tail, (1 - r) / (1 - tail)


_BETS = [(tail, *_gain(tail, growth)) for tail in TAILS for growth in GROWTH]
_TAIL, _INSIDE, _OUTSIDE = (np.array(column) for column in zip(*_BETS, strict=True))


class Detector:
    """The accounts of K scores. Arrays may have further axes in front (`...`), for streams side by side.

    Args:
        bins: of the reference's texts, `[..., N, K]`, from 0 to `BINS` - 1.
        weights: w, `[K]`, of sum 1.

    Attributes:
        texts: seen so far.
        evidence: E of every score and bet, `[..., K, bets]`.
    """

    def __init__(self, bins: np.ndarray, weights: np.ndarray) -> None:
        self.weights = weights
        self.texts = 0
        self._known = bins.shape[-2]
        # Texts in this bin or a higher one; one column more, of zeros, so that the last bin has a next one.
        self._above = np.zeros((*bins.shape[:-2], bins.shape[-1], BINS + 1), dtype=np.int64)
        for text in np.moveaxis(bins, -2, 0):
            self._count(text)
        accounts = (*bins.shape[:-2], bins.shape[-1], 2 * len(_BETS))
        self.evidence = np.zeros(accounts)
        self._best = np.ones(accounts)  # Page's CUSUM of the same bets, which says since when
        self._since = np.zeros(accounts, dtype=np.int64)

    def step(self, bins: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Take the next text.

        Args:
            bins: its scores' bins, `[..., K]`.
            draws: uniform on [0, 1], `[..., K]`: what breaks ties.

        Returns:
            The evidence of every score as a share of the alarm's, `[..., K]`: at 1 there is one.
        """
        place = bins[..., None]
        higher = np.take_along_axis(self._above, place + 1, axis=-1)
        same = np.take_along_axis(self._above, place, axis=-1) - higher
        rank = (higher + draws[..., None] * (same + 1)) / (self._known + self.texts + 1)
        paid = np.concatenate([np.where(end <= _TAIL, _INSIDE, _OUTSIDE) for end in (rank, 1 - rank)], axis=-1)
        self._count(bins)
        self.evidence = np.minimum((1 + self.evidence) * paid, _MOST)
        np.copyto(self._since, self.texts, where=self._best <= 1)
        self._best = np.minimum(np.maximum(self._best, 1) * paid, _MOST)
        self.texts += 1
        return self.level()

    def level(self) -> np.ndarray:
        """As `step` returns it."""
        found: np.ndarray = self.weights * self.evidence.mean(axis=-1) / ALARM
        return found

    def since(self, score: int) -> int:
        """Texts before the change, as the bet on a score says that gained most; of one stream."""
        return int(self._since[score, int(self._best[score].argmax())])

    def _count(self, bins: np.ndarray) -> None:
        self._above += np.arange(BINS + 1) <= bins[..., None]

    def to_json(self) -> dict[str, Any]:
        """For a file, of one stream."""
        return {
            "known": self._known,
            "texts": self.texts,
            "above": self._above.tolist(),
            "evidence": self.evidence.tolist(),
            "best": self._best.tolist(),
            "since": self._since.tolist(),
        }

    def restore(self, found: Mapping[str, Any]) -> None:
        """Go on from what `to_json` gave.

        Raises:
            ValueError: it is of other scores, or of another reference.
        """
        arrays = {name: np.array(found[name], dtype=old.dtype) for name, old in self._arrays().items()}
        if found["known"] != self._known or any(arrays[name].shape != old.shape for name, old in self._arrays().items()):
            raise ValueError("it is of another reference")
        if not all(np.isfinite(one).all() and (one >= 0).all() for one in arrays.values()) or int(found["texts"]) < 0:
            raise ValueError("it holds numbers that are none")
        self._above, self.evidence, self._best, self._since = arrays.values()
        self.texts = int(found["texts"])

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"above": self._above, "evidence": self.evidence, "best": self._best, "since": self._since}


def even_weights(kinds: Sequence[str]) -> np.ndarray:
    """w of scores of these kinds: every kind has the same share, and every score of a kind."""
    names = list(dict.fromkeys(kinds))
    return np.array([1 / (len(names) * kinds.count(kind)) for kind in kinds])
