"""Which student is taken: the fastest one that is shown to lose no more than a tolerance (evaluation/tolerance.py says how), or none, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selftrain.compress.onnx import FEWEST_DOCUMENTS
from selftrain.compress.tiers import Measured
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.tiers import Tier
from selftrain.evaluation.tolerance import CONFIDENCE, Loss, enough, fewest, loss, smallest

_SURE = f"with {CONFIDENCE:.0%} confidence"


@dataclass(frozen=True)
class Choice:
    """What was chosen, None for nothing; the rows of all candidates with what they lose; and a sentence that says why."""

    chosen: Measured | None
    rows: list[Tier]
    sentence: str


def check_tolerance(within: float, documents: int, students: int, source: str) -> None:
    """Raise an error where nothing can be chosen, before anything is trained.

    Args:
        within: the largest loss.
        documents: that students are measured on.
        students: that are compared.
        source: the documents' name.

    Raises:
        ConfigError: `within` is not a share.
        DataError: there are too few documents to show it.
    """
    if not 0 < within < 1:
        raise ConfigError(f"within must be a share above 0 and below 1, such as 0.01 (got {within:g}).", parameter="within")
    if documents < (needed := max(fewest(within, students), FEWEST_DOCUMENTS)):
        larger = f", or a larger share (from {smallest(documents, students) + 5e-4:.3f} on)" if documents >= FEWEST_DOCUMENTS else ""
        raise DataError(
            f"within {within:g} takes at least {needed:,} documents to measure {students} candidates on, and {source} holds out {documents:,}; "
            f"pass more documents{larger}.",
            parameter="within",
        )


def choose(candidates: Sequence[Measured], teacher: np.ndarray, rate: float, *, within: float, students: int, figure: str) -> Choice:
    """The fastest candidate whose loss is at most `within`, and which is faster than its teacher.

    Args:
        candidates: at least one.
        teacher: whether the teacher is right, boolean `[documents]`.
        rate: texts a second of the teacher as it is.
        within: the largest loss.
        students: that were planned to be compared.
        figure: what is lost, accuracy or agreement.
    """
    losses = [loss(teacher, one.right, students) for one in candidates]
    rows = [replace(one.tier, loss=round(lost.estimate, 6), at_most=round(lost.at_most, 6)) for one, lost in zip(candidates, losses, strict=True)]
    good = [(one, lost) for one, lost in zip(candidates, losses, strict=True) if lost.at_most <= within]
    faster = [(one, lost) for one, lost in good if (one.tier.texts_per_second or 0.0) > rate]
    if faster:
        chosen, lost = max(faster, key=lambda pair: pair[0].tier.texts_per_second or 0.0)
        times = (chosen.tier.texts_per_second or 0.0) / rate
        which = f"chosen: {chosen.tier.name}, the fastest that loses at most {within:g}: {_lost(chosen, lost, figure)}, {times:.1f} times as fast"
        return Choice(chosen, rows, f"{which} as the teacher")
    if good:
        names = ", ".join(one.tier.name for one, _ in good)
        return Choice(None, rows, f"none is chosen: {names} would do by {figure}, and none is faster than the teacher ({rate:,.1f} texts/s)")
    nearest, lost = min(zip(candidates, losses, strict=True), key=lambda pair: pair[1].at_most)
    said = f"none is chosen: none is shown to lose at most {within:g}; nearest is {nearest.tier.name}: {_lost(nearest, lost, figure)}"
    more = enough(lost, within, students)
    return Choice(None, rows, said if more is None else f"{said}; about {more:,} documents like these could show it, these are {len(teacher):,}")


def _lost(one: Measured, lost: Loss, figure: str) -> str:
    """What a candidate loses, in words."""
    before = one.tier.right + lost.estimate
    return f"{figure} {one.tier.right:.4f} against {before:.4f}, a loss of {lost.estimate:.4f} and of at most {lost.at_most:.4f} {_SURE}"
