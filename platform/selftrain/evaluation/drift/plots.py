"""The pictures of a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from selftrain.evaluation.drift.look import TITLES, ClassShares
from selftrain.evaluation.plot_style import BOUND, COLORS, INK, QUIET, canvas, legend, picture, series_style, shortened

_LOWEST = 1e-6  # of an alarm's evidence, that is drawn
_MOST_CLASSES = 25


@picture
def evidence(history: Sequence[tuple[int, Mapping[str, float]]], alarm: int | None) -> Figure:
    """The evidence of each kind over the stream, on a logarithmic scale, with the line of an alarm.

    Args:
        history: (number of texts, kind -> share of an alarm's evidence).
        alarm: number of the text at which one was raised; None for none.
    """
    figure, axes = canvas(9.6, 3.4)
    kinds = list(dict.fromkeys(kind for _, levels in history for kind in levels))
    for index, kind in enumerate(kinds):
        points = [(texts, min(max(levels[kind], _LOWEST), 1e4)) for texts, levels in history if kind in levels]
        axes.plot(*zip(*points, strict=True), label=TITLES[kind], **{**series_style(index), "marker": "", "linestyle": "-"})
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(0.995, 1.25, "alarm", ha="right", va="bottom", fontsize=8, color=INK, transform=axes.get_yaxis_transform())
    if alarm is not None:
        axes.axvline(alarm, color=QUIET, linewidth=0.8)
    axes.set_yscale("log")
    axes.set(ylim=(_LOWEST, 2e4), xlabel="texts seen", ylabel="evidence, as a share of an alarm's")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True)
    legend(figure, len(kinds))
    return figure


@picture
def class_shares(classes: Sequence[ClassShares]) -> Figure:
    """Every class: its share of the reference's predictions (grey), and as it is estimated now, with its interval; where there are many, those that moved most."""
    shown = sorted(classes, key=lambda one: -abs(one.estimated - one.before))[:_MOST_CLASSES]
    shown = [one for one in classes if one in shown]
    figure, axes = canvas(5.2, max(2.2, 1.1 + 0.42 * len(shown)))
    places = np.arange(len(shown))
    axes.barh(places - 0.2, [one.before for one in shown], height=0.36, color=BOUND, label="reference")
    axes.barh(places + 0.2, [one.estimated for one in shown], height=0.36, color=COLORS[0], label="seen, estimated")
    axes.hlines(places + 0.2, [one.low for one in shown], [one.high for one in shown], color=INK, linewidth=1)
    axes.set_yticks(places, [shortened(one.name) for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set(xlabel="share of the texts")
    axes.set_xlim(left=0)
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    legend(figure, 2)
    return figure


@picture
def histogram(reference: np.ndarray, recent: np.ndarray, label: str, line: float | None = None) -> Figure:
    """The distribution of one number over the reference's texts and those of late, as shares.

    Args:
        reference, recent: the numbers, `[n]` and `[m]`.
        label: what they are.
        line: where a line stands; None for none.
    """
    figure, axes = canvas(5.2, 3.4)
    both = np.concatenate([reference, recent])
    edges = np.linspace(float(both.min()), max(float(both.max()), float(both.min()) + 1e-6), 26)
    for values, name, color in ((reference, "reference", BOUND), (recent, "seen", COLORS[0])):
        shares = np.histogram(values, edges)[0] / max(len(values), 1)
        axes.stairs(shares, edges, label=name, linewidth=1.6, color=color, fill=color == BOUND)
    if line is not None:
        axes.axvline(line, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlabel=label, ylabel="share of the texts")
    axes.grid(True, axis="y")
    legend(figure, 2)
    return figure


@picture
def places(reference: np.ndarray, recent: np.ndarray, far: np.ndarray) -> Figure:
    """Texts in the plane of the reference's first two components; those that are far from all known ones are crosses.

    Args:
        reference, recent: `[n, 2]` and `[m, 2]`.
        far: whether a text of late is far, `[m]`.
    """
    figure, axes = canvas(5.2, 4.2)
    near = recent[~far]
    axes.scatter(reference[:, 0], reference[:, 1], s=8, color=BOUND, linewidths=0, label="reference", rasterized=len(reference) > 1500)
    axes.scatter(near[:, 0], near[:, 1], s=10, color=COLORS[0], linewidths=0, alpha=0.7, label="seen", rasterized=len(recent) > 1500)
    axes.scatter(recent[far, 0], recent[far, 1], s=18, color=COLORS[1], marker="x", linewidths=0.9, label="seen, far from known texts")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    legend(figure, 3)
    return figure
