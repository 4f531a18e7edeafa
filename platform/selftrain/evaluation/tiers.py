"""The picture of a distillation: every tier's accuracy against its speed and size; SVG, in the style of plot_style.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from selftrain.evaluation.plot_style import COLORS, MARKERS, canvas, picture, shortened


@dataclass(frozen=True)
class Tier:
    """One way to classify.

    Attributes:
        name: student and backend.
        right: share of documents that it gets right, 0 to 1.
        texts_per_second: on one core; None where unknown.
        size_mb: megabytes of weights; None where unknown.
        loss: how much less often it is right than the teacher; None where one was not chosen among several.
        at_most: upper bound of the loss.
    """

    name: str
    right: float
    texts_per_second: float | None
    size_mb: float | None
    loss: float | None = None
    at_most: float | None = None


@picture
def tiers(rows: Sequence[Tier], figure_name: str) -> Figure:
    """Accuracy (or agreement) against speed, with the area of a dot for the size; a tier of unknown speed is a line."""
    figure, axes = canvas(6.6, 4.2)
    largest = max((row.size_mb or 0.0 for row in rows), default=0.0) or 1.0
    for index, row in enumerate(rows):
        color = COLORS[index % len(COLORS)]
        size = "" if row.size_mb is None else f", {row.size_mb:,.1f} MB"
        if row.texts_per_second is None:
            axes.axhline(row.right, color=color, linestyle="--", linewidth=1.2, label=f"{shortened(row.name, 40)}, speed unknown")
            continue
        axes.scatter(
            row.texts_per_second,
            row.right,
            s=30 + 400 * (row.size_mb or 0.0) / largest,
            color=color,
            marker=MARKERS[index % len(MARKERS)],
            alpha=0.8,
            linewidths=0,
            label=f"{shortened(row.name, 40)}: {row.texts_per_second:,.0f} texts/s{size}",
        )
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.2)
    axes.set(xlabel="texts a second on one core", ylabel=figure_name)
    axes.grid(True)
    legend = figure.legend(loc="outside upper left", ncols=1)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([30])
    return figure
