"""A plot as a part of a page: its colours are the page's, and nothing but a drawing comes with it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from selftrain.evaluation import plots
from selftrain.evaluation.plot_style import BOUND, COLORS, GRID, INK, QUIET
from selftrain.evaluation.sensitivity import Line, heatmaps, lines
from selftrain.evaluation.svg import inline

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="36pt" viewBox="0 0 72 36">{}</svg>'


def cleaned(content: str) -> str:
    return inline(SVG.format(content).encode(), "one", "a plot").markup


def test_colours_become_variables_of_the_page(example):
    drawings = plots.from_metrics(example())
    rng = np.random.default_rng(0)
    drawings["lines"] = lines("tau", ["1", ".1"], {"news": Line([0.8, 0.9], [0.01, None], [0.7, 0.8])}, "accuracy", svg=True)
    drawings["heatmaps"] = heatmaps(("T", "weight"), ["1", "2"], ["3", "4"], {"alone": [[0.1, 0.2], [0.3, None]]}, "accuracy", svg=True)
    drawings["map"] = plots.embedding_map(rng.normal(size=(30, 2)), np.arange(30) % 3, ["a", "b", "c"], prototypes=rng.normal(size=(3, 2)))
    for name, content in drawings.items():
        markup = inline(content, name, "x").markup
        fixed = {color.lower() for color in (*COLORS, INK, QUIET, GRID, BOUND, "#ffffff", "#000000")}
        assert not fixed & set(re.findall(r"#[0-9a-f]{6}\b", markup)), name
        assert "var(--ink)" in markup
    assert "var(--bound)" in inline(drawings["variants"], "v", "x").markup


def test_the_width_is_that_of_the_drawing_and_the_page_scales_it():
    found = inline(SVG.format("").encode(), "one", "a <plot>")
    assert found.width == 96
    assert found.markup == '<svg viewBox="0 0 72 36" role="img" aria-label="a &lt;plot&gt;" />'


def test_ids_are_those_of_the_plot():
    markup = cleaned('<defs><path id="m1" d="M 0 0"/></defs><use xlink:href="#m1" x="3" clip-path="url(#p2)"/>')
    assert 'id="one-m1"' in markup and 'href="#one-m1"' in markup and 'clip-path="url(#one-p2)"' in markup


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        '<path d="M 0 0" onclick="alert(1)"/>',
        "<foreignObject><p>alert(1)</p></foreignObject>",
        '<image xlink:href="https://alert.example/a.png"/>',
        '<image xlink:href="data:image/svg+xml,alert"/>',
        '<use xlink:href="javascript:alert(1)"/>',
        '<path style="fill: url(https://alert.example)" d="M 0 0"/>',
        '<path clip-path="url(https://alert.example)" d="M 0 0"/>',
        "<style>@import alert</style>",
        "<metadata>alert</metadata>",
    ],
)
def test_nothing_but_a_drawing_comes_with_it(content):
    assert "alert" not in cleaned(content)


def test_words_stay_words():
    assert "&lt;b&gt;" in cleaned("<text>&lt;b&gt;</text>")
