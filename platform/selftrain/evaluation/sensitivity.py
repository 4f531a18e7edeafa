"""The pictures of a sensitivity table: lines with error bars over one axis, heatmaps over two; PNG for files, SVG for pages, in the style of plot_style.py."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from selftrain.evaluation.plot_style import COLORS, INK, MARKERS, QUIET, SHADES, STYLE, WHITE, picture

Values = Sequence[float | None]
_BLUES = LinearSegmentedColormap.from_list("white-blue", ["#FFFFFF", "#8FC1E3", "#0072B2", "#00395A"])


@dataclass(frozen=True)
class Line:
    """One line: a mean, a deviation and the paper's figure for every value of the axis; None where there is none."""

    means: Values
    deviations: Values
    paper: Values = ()


def lines(axis: str, values: Sequence[str], series: Mapping[str, Line], metric: str, *, svg: bool = False) -> bytes:
    """A line with error bars for each series; the paper's numbers are hollow, dashed markers of the same colour. Values stand at equal distances."""

    def draw() -> Figure:
        figure = Figure(figsize=(max(4.6, 0.8 * len(values) + 2.2), 3.6), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(values))
        for number, (name, line) in enumerate(series.items()):
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            axes.errorbar(
                places, _numbers(line.means), yerr=np.nan_to_num(_numbers(line.deviations)), color=color, marker=marker, capsize=3, label=name
            )
            if any(value is not None for value in line.paper):
                (drawn,) = axes.plot(places, _numbers(line.paper), color=color, marker=marker, label=f"{name}, paper", linewidth=1.0)
                drawn.set(linestyle=(0, (4, 3)), markerfacecolor="white", alpha=0.8)
        axes.set_xticks(places, values, rotation=20 if max(map(len, values)) > 12 else 0, ha="right" if max(map(len, values)) > 12 else "center")
        axes.set(xlabel=axis, ylabel=metric)
        axes.grid(True, axis="y")
        axes.legend()
        return figure

    return picture(draw)() if svg else _png(draw)


def heatmaps(
    axes: tuple[str, str], rows: Sequence[str], columns: Sequence[str], panels: Mapping[str, Sequence[Values]], metric: str, *, svg: bool = False
) -> bytes:
    """A heatmap for each panel, `[row][column]` means; darker is higher, each panel on a scale of its own, the highest and lowest in numbers like all others."""

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
                    one.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=WHITE if dark else INK)
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
