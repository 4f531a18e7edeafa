"""The order of documents in an epoch, drawn once: a permutation of millions takes longer than a step."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np


class LatestOrder:
    """Keeps the last order that was drawn; a training goes through one after the other."""

    def __init__(self) -> None:
        self._of: Hashable = None
        self._order: np.ndarray | None = None

    def __call__(self, of: Hashable, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """The order, `[documents]`.

        Args:
            of: all that the order depends on, such as the epoch.
            draw: makes it, where the last one was of something else.
        """
        if self._order is None or of != self._of:
            self._order, self._of = draw(), of
        return self._order
