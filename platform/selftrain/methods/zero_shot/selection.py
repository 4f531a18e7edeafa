"""Balanced sampling of pseudo-labels (GenCo, section 3.4): the same number S_t of the most confident documents of every class. GenCo and PESCO use it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


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
