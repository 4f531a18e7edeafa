"""The groups that a bundle's classes are in, where the classes are the leaves of a tree, and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from selftrain.config import check_groups, members_of


class Grouped:
    """What has classes and, for each, the groups that it is in."""

    if TYPE_CHECKING:  # fields of the bundle's card, in whose order they stand there
        labels: tuple[str, ...]
        parents: tuple[tuple[str, ...], ...]  # [class][...], the outermost first; empty where classes are no tree

    def check_tree(self) -> None:
        """Raise a `ValueError`, half a sentence, unless the parents fit the classes."""
        if not self.parents:
            return
        if len(self.parents) != len(self.labels):
            raise ValueError(f"parents must be {len(self.labels)} lists, one a class (got {len(self.parents)})")
        check_groups([(*above, name) for above, name in zip(self.parents, self.labels, strict=True)])

    @cached_property
    def members(self) -> dict[str, tuple[int, ...]]:
        """The classes of every group, by its name: indices into `labels`."""
        return members_of(self.parents)

    @property
    def levels(self) -> int:
        """Levels of the tree above its classes; 0 where there is none."""
        return max(map(len, self.parents), default=0)

    def path_of(self, label: int) -> tuple[str, ...]:
        """The groups that a class is in, the outermost first, and its name."""
        return (*(self.parents[label] if self.parents else ()), self.labels[label])

    def parents_of(self, label: int, probabilities: Sequence[float] | np.ndarray) -> dict[str, float]:
        """The groups that a class is in, the outermost first, with their probabilities: the sums of those of their classes.

        Args:
            label: index of the class.
            probabilities: of a text, `[classes]`.
        """
        # In Python: numpy is slower for a handful of classes. Rounding may take a sum of all classes above 1.
        return {group: min(1.0, float(sum(probabilities[index] for index in self.members[group]))) for group in self.path_of(label)[:-1]}
