"""The pictures of a sensitivity table: lines with error bars over one axis, heatmaps over two; PNG for files, SVG for pages, in the style of plot_style.py."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from selftrain.evaluation.plot_style import COLORS, INK, MARKERS, QUIET, SHADES, STYLE, WHITE, picture

Values = Sequence[float | None]
_BLUES = LinearSegmentedColormap.from_list("white-blue", ["#FFFFFF", "#8FC1E3", "#0072B2", "#00395A"])


@dataclass(frozen=True)
class Line:
    """One line: a mean, a deviation, the paper's figure and the difference from the reference for every value of the axis; None where there is none."""

    means: Values
    deviations: Values
    paper: Values = ()
    differences: Values = ()
    intervals: Sequence[tuple[float, float] | None] = ()  # of the differences


def lines(axis: str, values: Sequence[str], series: Mapping[str, Line], metric: str, *, svg: bool = False) -> bytes:
    """A line with error bars for each series; the paper's numbers are hollow, dashed markers of the same colour. Values stand at equal distances.

    Differences from a reference row, with their intervals, stand below.
    """

    def draw() -> Figure:
        compared = any(line.differences for line in series.values())
        figure = Figure(figsize=(max(4.6, 0.8 * len(values) + 2.2), 5.2 if compared else 3.6), layout="constrained")
        axes, *below = figure.subplots(1 + compared, 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + compared])[:, 0]
        places = np.arange(len(values))
        for number, (name, line) in enumerate(series.items()):
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            axes.errorbar(
                places, _numbers(line.means), yerr=np.nan_to_num(_numbers(line.deviations)), color=color, marker=marker, capsize=3, label=name
            )
            if any(value is not None for value in line.paper):
                (drawn,) = axes.plot(places, _numbers(line.paper), color=color, marker=marker, label=f"{name}, paper", linewidth=1.0)
                drawn.set(linestyle=(0, (4, 3)), markerfacecolor="white", alpha=0.8)
        last = below[0] if below else axes
        last.set_xticks(places, values, rotation=20 if max(map(len, values)) > 12 else 0, ha="right" if max(map(len, values)) > 12 else "center")
        last.set(xlabel=axis)
        axes.set(ylabel=metric)
        if below:
            _draw_differences(below[0], series)
        axes.grid(True, axis="y")
        axes.legend()
        return figure

    return picture(draw)() if svg else _png(draw)


def _draw_differences(axes: Axes, series: Mapping[str, Line]) -> None:
    axes.axhline(0.0, color=QUIET, linewidth=0.8)
    for number, line in enumerate(series.values()):
        found = [
            (place, value, interval)
            for place, (value, interval) in enumerate(zip(line.differences, line.intervals, strict=True))
            if value is not None
        ]
        for place, value, interval in found:
            low, high = interval or (value, value)
            marker = MARKERS[number % len(MARKERS)]
            at = place + 0.08 * (number - (len(series) - 1) / 2)  # intervals of several data sets stand side by side
            axes.errorbar(at, value, yerr=[[value - low], [high - value]], color=COLORS[number % len(COLORS)], marker=marker, capsize=3)
    axes.set(ylabel="difference, 95 %")
    axes.grid(True, axis="y")


def heatmaps(
    axes: tuple[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Mapping[str, Sequence[Values]],
    metric: str,
    *,
    differences: Mapping[str, Sequence[Values]] | None = None,
    svg: bool = False,
) -> bytes:
    """A heatmap for each panel; darker is higher, each panel on a scale of its own, the highest and lowest in numbers like all others.

    Args:
        axes: names of the rows' axis and the columns'.
        rows, columns: their values.
        panels: name -> `[row][column]` means.
        metric: what is shown.
        differences: name -> `[row][column]` differences from the reference row, which stand below the means.
        svg: for a page; otherwise a PNG.
    """

    def draw() -> Figure:
        width = 1.3 + 0.85 * len(columns)
        figure = Figure(figsize=(width * len(panels) + 0.4, 1.4 + 0.55 * len(rows)), layout="constrained")
        drawn = np.atleast_1d(figure.subplots(1, len(panels)))
        for place, (one, (name, means)) in enumerate(zip(drawn, panels.items(), strict=True)):
            shares = np.array([_numbers(row) for row in means])
            low, high = (np.nanmin(shares), np.nanmax(shares)) if np.isfinite(shares).any() else (0.0, 1.0)
            one.imshow(shares, cmap=SHADES if svg else _BLUES, vmin=low - 0.15 * (high - low) - 1e-9, vmax=high + 1e-9, aspect="auto")
            one.set_xticks(range(len(columns)), columns)
            one.set_yticks(range(len(rows)), rows)
            one.tick_params(length=0)
            one.spines[:].set_visible(False)
            one.set(xlabel=axes[1], ylabel=axes[0] if place == 0 else "")
            one.set_title(name, loc="left", color=INK)
            for row, column in np.ndindex(*shares.shape):
                value = shares[row, column]
                if np.isfinite(value):
                    dark = value > low + 0.55 * (high - low)
                    difference = differences[name][row][column] if differences else None
                    shown = f"{value:.2f}" + (f"\n{difference:+.2f}" if difference is not None else "")
                    one.text(column, row, shown, ha="center", va="center", fontsize=8, color=WHITE if dark else INK)
        figure.supxlabel(metric, fontsize=8, color=QUIET)
        return figure

    return picture(draw)() if svg else _png(draw)


def _numbers(values: Values) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _png(draw: Callable[[], Figure]) -> bytes:
    buffer = io.BytesIO()
    with mpl.style.context([STYLE], after_reset=True):
        draw().savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()
