"""The style of all plots, and the turning of a figure into the bytes of an SVG.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; series and classes also differ in marker. Nothing here touches pyplot, so that
drawing is safe in any process, and the same data gives the same bytes: no date, a fixed salt for ids. `svg.py` maps these colours to those of a page.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

P = ParamSpec("P")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, QUIET, GRID = "#222222", "#666666", "#E3E3E3"
BOUND, WHITE = "#BDBDBD", "#FEFEFE"  # WHITE stays white on a dark page too, unlike the background
# From transparent to dark blue: the page shows through, whether it is light or dark.
SHADES = LinearSegmentedColormap.from_list("clear-blue", [(0.0, 0.35, 0.62, 0.0), (0.0, 0.35, 0.62, 1.0)])
STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same shapes on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "svg.hashsalt": "selftrain",
}


def picture(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Turn a function that draws a figure into one that returns its SVG, under this file's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        buffer = io.BytesIO()
        with mpl.style.context([STYLE], after_reset=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure = draw(*args, **kwargs)
            # Text becomes outlines, the same on every machine. Where the font lacks a letter it stays text, in the reader's fonts.
            mpl.rcParams["svg.fonttype"] = "path" if all(_has_glyphs(text.get_text()) for text in figure.findobj(Text)) else "none"
            figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    return drawn


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of one plot, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def series_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the series at this place."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": ("-", "--", ":")[index // len(COLORS) % 3],
    }


def legend(figure: Figure, entries: int) -> None:
    """A legend above the plot, where there is more than one series."""
    if entries > 1:
        figure.legend(loc="outside upper left", ncols=min(3, entries), columnspacing=1.2, handlelength=1.8)


def shortened(name: str, length: int = 26) -> str:
    """A name of at most `length` characters."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def _has_glyphs(text: str) -> bool:
    font = get_font(findfont(FontProperties(family=["DejaVu Sans"])))
    return all(character == "\n" or font.get_char_index(ord(character)) for character in text)
