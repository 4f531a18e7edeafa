"""Balanced sampling of pseudo-labels (GenCo, section 3.4): the same number S_t of the most confident documents of every class. GenCo and PESCO use it.

`SelectingMethod` is what the two have in common around their algorithms: `rounds` times `steps_per_round` steps, and S_t growing from round to round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selftrain.methods.base import Method


@dataclass(frozen=True)
class Selection:
    """The pseudo-labeled documents of a round: document indices by class, with their soft targets."""

    groups: tuple[tuple[int, ...], ...]  # [class] -> document indices, most confident first
    targets: dict[int, torch.Tensor]  # document index -> Q, [L]
    label_of: dict[int, int]  # document index -> pseudo-label

    @classmethod
    def empty(cls, classes: int) -> Selection:
        """Nothing selected yet."""
        return cls(((),) * classes, {}, {})

    def __len__(self) -> int:
        return len(self.label_of)


def most_confident_per_class(confidence: torch.Tensor, targets: torch.Tensor, size: int) -> Selection:
    """The S_t most confident documents of each predicted class (GenCo, section 3.4); all of a class that has fewer, none of one that is never predicted.

    Args:
        confidence: P, `[N, L]`; the pseudo-label is its argmax (equation 2), the ranking its value there. Ties go to the earlier document.
        targets: Q, `[N, L]`.
        size: S_t.
    """
    best, labels = confidence.max(dim=1)
    groups = []
    for label in range(confidence.shape[1]):
        members = torch.nonzero(labels == label).flatten()
        order = torch.argsort(best[members], descending=True, stable=True)[:size]
        groups.append(tuple(int(index) for index in members[order]))
    label_of = {index: label for label, group in enumerate(groups) for index in group}
    return Selection(tuple(groups), {index: targets[index] for index in label_of}, label_of)


def growing_size(round_: int, rounds: int, first: float, last: float, documents: int, classes: int) -> int:
    """S_t of GenCo's section 3.4: documents a class in a round, at least one.

    Args:
        round_: t, counted from 0.
        rounds: T.
        first: S_1 as a share of `documents / classes`.
        last: S_T likewise; S_t is linear in between.
        documents: unlabeled ones.
        classes: L.
    """
    share = last if rounds == 1 else first + (last - first) * round_ / (rounds - 1)
    return max(1, round(share * documents / classes))


def batch_of(selection: Selection, per_class: int, rng: np.random.Generator) -> list[int]:
    """Document indices of one batch.

    Args:
        selection: of the round.
        per_class: documents of every class that has pseudo-labels; drawn without replacement where the class holds that many.
        rng: of the draw.
    """
    batch: list[int] = []
    for group in selection.groups:
        if group:
            chosen = rng.choice(len(group), size=per_class, replace=len(group) < per_class)
            batch.extend(group[int(index)] for index in chosen)
    return batch


def shares_grow(options: Any) -> Any:
    """A pydantic validator: S_t must not shrink."""
    if options.last_share < options.first_share:
        raise ValueError(f"last_share must be at least first_share, {options.first_share}, since S_t must not shrink (got {options.last_share})")
    return options


class SelectingMethod(Method):
    """A method that trains each round on a `selection`, for a fixed number of steps.

    Its options are `rounds`, `steps_per_round`, `first_share`, `last_share`, `tau`, `learning_rate` and `weight_decay`.
    """

    options: Any

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.selection = Selection.empty(len(self.corpus.labels))
        if self.rounds:
            self.adamw(self.rate(self.options.learning_rate, of_head=1e-3), self.options.weight_decay, self.planned_steps)

    @property
    def output_temperature(self) -> float:
        return float(self.options.tau)

    @property
    def rounds(self) -> int:
        return int(self.options.rounds)

    @property
    def planned_steps(self) -> int:
        return self.rounds * int(self.options.steps_per_round)

    def steps(self, round_: int) -> int:
        return int(self.options.steps_per_round) if len(self.selection) else 0

    def selection_size(self, round_: int) -> int:
        """S_t: documents a class in round t (0-based), at least one."""
        first, last = self.options.first_share, self.options.last_share
        return growing_size(round_, self.rounds, first, last, len(self.corpus.unlabeled), len(self.corpus.labels))

    def selection_figures(self, confidence: torch.Tensor) -> dict[str, float]:
        """What `refresh` reports about the selection, made by `confidence`, P `[N, L]`."""
        return {
            "selected": float(len(self.selection)),
            "classes_without_pseudo_labels": float(sum(not group for group in self.selection.groups)),
            "mean_confidence": float(confidence.max(dim=1).values.mean()),
        }
