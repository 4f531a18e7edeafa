import itertools
import subprocess
import sys
import warnings
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from selftrain.evaluation import plots
from selftrain.evaluation.metrics import precision_of_most_confident
from selftrain.evaluation.plot_style import STYLE

NAMES = ["a", "b", "c"]
MATRIX = [[5, 1, 0], [0, 0, 0], [2, 0, 7]]


def drawn(svg: bytes) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_every_picture_of_a_run(example, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = plots.from_metrics(example(classes=classes, documents=120))
    assert list(pictures) == ["variants", "accuracy_per_round", "confusion", "reliability", "precision_at", "per_class_f1"]
    for svg in pictures.values():
        drawn(svg)
        assert b"<dc:date>" not in svg


def test_without_labels_there_is_nothing_to_draw(example):
    assert plots.from_metrics(example(labeled=False)) == {}


@pytest.mark.slow
def test_same_data_same_bytes_also_in_another_process_whose_matplotlib_stays_as_it_was():
    # Reading the `backend` parameter makes matplotlib choose one and load pyplot; dict.items looks past that.
    program = (
        "import sys, matplotlib; before = list(dict.items(matplotlib.rcParams)); from selftrain.evaluation import plots;"
        f"sys.stdout.buffer.write(plots.confusion({MATRIX}, {NAMES})); plots.label_alignment({MATRIX}, {NAMES});"
        "assert list(dict.items(matplotlib.rcParams)) == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    here = plots.confusion(MATRIX, NAMES)
    assert here == plots.confusion(MATRIX, NAMES)
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == here


def test_empty_rows_of_a_heatmap_stay_white():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(plots.confusion(MATRIX, NAMES))
        drawn(plots.label_alignment(np.zeros((3, 3)), NAMES))


def test_names_that_the_font_or_a_formula_would_spoil():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = plots.confusion([[1, 0], [0, 1]], ["体育", "$5 to $10_{"])
    assert "体育" in svg.decode()  # left to the reader's fonts
    assert b"<text" not in plots.confusion([[1, 0], [0, 1]], ["Überschrift", "sport"])


def test_map_with_texts_and_prototypes():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2))
    svg = plots.embedding_map(points[:40], np.arange(40) % 3, NAMES, texts=points[40:57], text_labels=np.arange(17) % 3, prototypes=points[57:])
    assert svg == plots.embedding_map(
        points[:40], np.arange(40) % 3, NAMES, texts=points[40:57], text_labels=np.arange(17) % 3, prototypes=points[57:]
    )
    drawn(svg)
    drawn(plots.embedding_map(points, np.zeros(60, dtype=int), [f"class {index}" for index in range(40)]))
    # A linear classifier has no prototypes: no stars, and none in the legend.
    assert plots.embedding_map(points, np.zeros(60, dtype=int), NAMES, prototypes=points[:0]) == plots.embedding_map(
        points, np.zeros(60, dtype=int), NAMES
    )


def test_principal_components_keep_what_varies():
    line = np.outer(np.arange(5.0), np.array([3.0, 4.0, 0.0]))  # five points on a line, 5 apart
    points = plots.project(line, kind="pca")
    assert points.shape == (5, 2)
    assert np.abs(np.diff(points[:, 0])) == pytest.approx(5.0)
    assert points[:, 1] == pytest.approx(0.0, abs=1e-9)


def test_neighbours_stay_neighbours_and_the_seed_fixes_the_plane():
    rng = np.random.default_rng(0)
    embeddings = np.concatenate([rng.normal(size=(20, 8)) + 50, rng.normal(size=(20, 8)) - 50])
    points = plots.project(embeddings, kind="tsne", seed=3)
    assert np.array_equal(points, plots.project(embeddings, kind="tsne", seed=3))
    first, second = points[:20], points[20:]
    apart = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert apart > max(first.std(), second.std())


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3, 4), (3, 1), (6, 1), (30, 4)])
@pytest.mark.parametrize("kind", ["tsne", "pca"])
def test_few_or_equal_embeddings(shape, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert not plots.project(np.ones(shape), kind=kind).any()
        points = plots.project(np.arange(np.prod(shape), dtype=float).reshape(shape), kind=kind)
    assert points.shape == (shape[0], 2) and np.isfinite(points).all()


@pytest.mark.parametrize("documents", [1, 5, 12, 37, 60, 99, 100, 150, 1000])
def test_the_axis_of_precision_has_plain_numbers_that_do_not_overlap(documents):
    generator = np.random.default_rng(0)
    points = precision_of_most_confident(generator.random(documents), generator.random(documents) < 0.7)
    with mpl.style.context([STYLE], after_reset=True):
        figure = plots.precision_at.__wrapped__({"genco": points})
        figure.draw_without_rendering()
        (axes,) = figure.axes
        shown = [*axes.xaxis.get_majorticklabels(), *axes.xaxis.get_minorticklabels()]
        low, high = axes.get_xlim()
        shown = [label for label in shown if label.get_text() and low <= label.get_position()[0] <= high]
        boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
    assert shown and all(label.get_text().isdecimal() for label in shown)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
