"""What is taken for a label: balanced sampling of pseudo-labels (GenCo, section 3.4: the same number S_t of the most confident documents for every class),
and choice of negative labels (NS3L, table 6)."""

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
    """The `size` most confident documents of each predicted class; all of a class that has fewer, none of a class that is never predicted.

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
    """S_t of GenCo's section 3.4: documents a class in round t (0-based), at least one; `first` and `last` are shares of `documents / classes`."""
    share = last if rounds == 1 else first + (last - first) * round_ / (rounds - 1)
    return max(1, round(share * documents / classes))


def batch_of(selection: Selection, per_class: int, rng: np.random.Generator) -> list[int]:
    """Document indices of one batch: `per_class` of every class that has pseudo-labels, without replacement where the class holds that many."""
    batch: list[int] = []
    for group in selection.groups:
        if group:
            chosen = rng.choice(len(group), size=per_class, replace=len(group) < per_class)
            batch.extend(group[int(index)] for index in chosen)
    return batch


def choose_negatives(
    how: str,
    documents: int,
    classes: int,
    count: int,
    rng: np.random.Generator,
    distances: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> torch.Tensor:
    """Negative labels that do not come from the model's own probabilities (NS3L, table 6).

    Args:
        how: `uniform` draws `count` classes; `exclude_nearest` draws them from all but the class of the nearest labeled document; `furthest` takes the
            `count` classes whose nearest labeled document is furthest; `oracle` draws them from all but the true class.
        documents: N.
        classes: L; at most L - 1 are negative.
        count: P.
        rng: of the draws.
        distances: to the nearest labeled document of each class, `[N, L]`; for `exclude_nearest` and `furthest`.
        truth: true classes, `[N]`; for `oracle`.

    Returns:
        mask `[N, L]`, True for negative labels.
    """
    keys = rng.random((documents, classes))  # the largest `count` are chosen
    if how == "furthest":
        assert distances is not None
        keys = distances
    elif how == "exclude_nearest":
        assert distances is not None
        keys[np.arange(documents), distances.argmin(axis=1)] = -1.0
    elif how == "oracle":
        assert truth is not None
        keys[np.arange(documents), truth] = -1.0
    chosen = np.argsort(-keys, axis=1, kind="stable")[:, : min(count, classes - 1)]
    mask = np.zeros((documents, classes), dtype=bool)
    np.put_along_axis(mask, chosen, True, axis=1)
    return torch.from_numpy(mask)
