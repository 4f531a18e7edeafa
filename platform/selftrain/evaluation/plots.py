"""The plots of a run, each a function from plain data to the bytes of one SVG.

A scatter plot of many dots is rasterised inside its SVG, so that a large map stays small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from selftrain.evaluation.calibration import Bin, calibration_error
from selftrain.evaluation.metrics import PrecisionAt
from selftrain.evaluation.plot_style import BOUND, COLORS, INK, MARKERS, QUIET, SHADES, WHITE, canvas, legend, picture, series_style, shortened
from selftrain.evaluation.schema import RunMetrics, Summary, VariantRound
from selftrain.evaluation.summary import compared, main_row, plus_minus

_MOST_DOTS = 1500  # that are drawn one by one, in the colours of the page


def from_metrics(metrics: RunMetrics) -> dict[str, bytes]:
    """Every plot that needs metrics.json alone, by the names of the report's captions; plots without data are left out.

    Plots of several variants show the first seed of each, with plain inference where both kinds were measured, and at most as many as have a colour.
    """
    pictures: dict[str, bytes] = {}
    names, main = metrics["asked"]["classes"], main_row(metrics)
    shown: dict[str, dict[str, Any]] = {}
    for row in sorted(metrics["rows"], key=lambda row: row["inference_augmentation"]):
        if row["scores"] is not None:
            shown.setdefault(row["variant"], row["scores"])
    order = [name for name in compared(metrics) if name in shown]
    if any(entry["accuracy"] for entry in metrics["summary"]):
        pictures["variants"] = variants(metrics["summary"])
    if any("accuracy" in entry["figures"] for entry in metrics["rounds"]):
        pictures["accuracy_per_round"] = per_round([entry for entry in metrics["rounds"] if entry["variant"] in order], order=order)
    if main is not None and main["scores"] is not None:
        if "confusion" in main["scores"]:  # documents with several classes have none
            pictures["confusion"] = confusion(main["scores"]["confusion"], names)
        pictures["reliability"] = reliability(main["scores"]["reliability"])
    if shown:
        if all("precision_at" in shown[name] for name in order):
            pictures["precision_at"] = precision_at({name: shown[name]["precision_at"] for name in order})
        pictures["per_class_f1"] = per_class_f1({name: [entry["f1"] for entry in shown[name]["per_class"]] for name in order}, names)
    return pictures


@picture
def confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Documents by true class (rows) and predicted class (columns); the shade is the share of the row, the number counts documents."""
    return _heatmap(np.asarray(matrix, dtype=float), class_names, "true class", "predicted class", shares=False)


@picture
def label_alignment(matrix: Sequence[Sequence[float]], class_names: Sequence[str]) -> Figure:
    """GenCo figure 4, left: texts by the class that was asked for (rows) and the class that they are put into (columns), as percent of the row."""
    return _heatmap(np.asarray(matrix, dtype=float), class_names, "asked-for class", "class the text is put into", shares=True)


@picture
def reliability(bins: Sequence[Bin]) -> Figure:
    """Accuracy against mean confidence, one dot a bin with the area of the bin's documents; on the diagonal confidence equals accuracy."""
    figure, axes = canvas(4.6, 3.9)
    filled = [entry for entry in bins if entry["documents"]]
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    confidence = [entry["confidence"] or 0.0 for entry in filled]
    accuracy = [entry["accuracy"] or 0.0 for entry in filled]
    most = max((entry["documents"] for entry in filled), default=1)
    axes.vlines(confidence, np.minimum(confidence, accuracy), np.maximum(confidence, accuracy), color=COLORS[1], linewidth=1.4)
    axes.scatter(confidence, accuracy, s=[14 + 110 * entry["documents"] / most for entry in filled], color=COLORS[0], zorder=3, linewidths=0)
    axes.set_title(f"expected calibration error {calibration_error(list(bins)):.3f}", loc="left", color=INK)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="mean confidence of the bin", ylabel="accuracy of the bin")
    axes.grid(True)
    return figure


@picture
def precision_at(variants: Mapping[str, Sequence[PrecisionAt]]) -> Figure:
    """GenCo figure 3: precision among the most confident documents, one line a variant, from the few to all."""
    figure, axes = canvas(5.2, 3.9)
    for index, (name, points) in enumerate(variants.items()):
        axes.plot([point["documents"] for point in points], [point["precision"] for point in points], label=shortened(name), **series_style(index))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    # Over about one power of ten a logarithmic axis labels its minor ticks too, in mathematical notation by default.
    axes.xaxis.set_minor_formatter(NullFormatter())
    counts = sorted({point["documents"] for points in variants.values() for point in points})
    if counts and counts[-1] < 20 * counts[0]:
        axes.set_xticks(_apart(counts), minor=False)
    axes.set(xlabel="most confident documents", ylabel="precision")
    axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))
    axes.grid(True)
    legend(figure, len(variants))
    return figure


@picture
def per_class_f1(variants: Mapping[str, Sequence[float]], class_names: Sequence[str]) -> Figure:
    """F1 of every class (rows) under every variant (bars with few of them, else dots on one line)."""
    count, bars = len(class_names), len(class_names) * len(variants) <= 30
    height = 1.1 + (0.16 * count * len(variants) + 0.12 * count if bars else 0.24 * count)
    figure, axes = canvas(5.2, max(2.2, height))
    thickness = 0.8 / max(1, len(variants))
    for index, (name, values) in enumerate(variants.items()):
        if bars:
            places = np.arange(count) + (index - (len(variants) - 1) / 2) * thickness
            axes.barh(places, values, height=thickness * 0.86, color=COLORS[index % len(COLORS)], label=shortened(name))
        else:
            axes.plot(values, np.arange(count), label=shortened(name), **{**series_style(index), "linestyle": "none"})
    axes.set_yticks(range(count), [shortened(name) for name in class_names])
    axes.set_ylim(count - 0.4, -0.6)
    axes.set(xlim=(0, 1.02), xlabel="F1")
    axes.grid(True, axis="x" if bars else "both")
    axes.tick_params(axis="y", length=0)
    legend(figure, len(variants))
    return figure


@picture
def per_round(
    rounds: Sequence[VariantRound], metric: str = "accuracy", label: str = "accuracy on the test documents", order: Sequence[str] = ()
) -> Figure:
    """One metric over the self-training rounds: the mean over seeds, one line a variant, with a band from the lowest to the highest seed.

    Args:
        rounds: the rounds of metrics.json.
        metric: key of a round's `figures`.
        label: label of the vertical axis.
        order: variants in the order of the other plots, so that each keeps its colour; further ones follow.
    """
    figure, axes = canvas(5.2, 3.9)
    values: dict[str, dict[int, list[float]]] = {}
    for entry in rounds:
        if metric in entry["figures"]:
            values.setdefault(entry["variant"], {}).setdefault(entry["round"], []).append(entry["figures"][metric])
    places = {name: index for index, name in enumerate(dict.fromkeys([*order, *values]))}
    for name, by_round in sorted(values.items(), key=lambda item: places[item[0]]):
        steps, index = sorted(by_round), places[name]
        axes.plot(steps, [float(np.mean(by_round[step])) for step in steps], label=shortened(name), **series_style(index))
        low, high = [min(by_round[step]) for step in steps], [max(by_round[step]) for step in steps]
        axes.fill_between(steps, low, high, color=COLORS[index % len(COLORS)], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="self-training round", ylabel=label)
    axes.grid(True)
    legend(figure, len(values))
    return figure


@picture
def variants(summary: Sequence[Summary]) -> Figure:
    """Accuracy of every variant: a bar for the mean over seeds, a whisker of one standard deviation each way; bounds are grey."""
    shown = [entry for entry in summary if entry["accuracy"] is not None]
    figure, axes = canvas(5.2, max(1.6, 0.7 + 0.3 * len(shown)))
    for place, entry in enumerate(shown):
        value = entry["accuracy"]
        assert value is not None
        spread = value["std"] or 0.0
        axes.barh(place, value["mean"], height=0.66, color=BOUND if entry["bound"] else COLORS[0])
        if spread:
            axes.errorbar(value["mean"], place, xerr=spread, color=INK, linewidth=1, capsize=2.5)
        axes.text(value["mean"] + spread + 0.012, place, plus_minus(value), va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shown)), [shortened(entry["variant"]) + (" + inf. aug." if entry["inference_augmentation"] else "") for entry in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set(xlim=(0, 1.4), xlabel="accuracy on the test documents")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.spines["bottom"].set_bounds(0, 1)
    axes.tick_params(axis="y", length=0)
    return figure


@picture
def embedding_map(
    documents: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    *,
    texts: np.ndarray | None = None,
    text_labels: Sequence[int] | np.ndarray = (),
    prototypes: np.ndarray | None = None,
) -> Figure:
    """GenCo figure 4, right: documents by class as dots, generated texts as crosses, the prototypes of the classes as stars.

    Args:
        documents: `[N, 2]` from `project`, together with the others so that all share one plane.
        labels: class of each document, true or predicted.
        class_names: names in index order.
        texts: `[T, 2]`, or None.
        text_labels: class that each text was asked for.
        prototypes: `[L, 2]`, or None, or none of them (a linear classifier has no points in this space).
    """
    # The legend stands above the map; many names take columns of 15 right of it.
    above, columns = len(class_names) <= 10, -(-len(class_names) // 15)
    figure, axes = canvas(5.2, 4.6 + 0.2 * (len(class_names) // 3)) if above else canvas(5.0 + 1.7 * columns, 4.8)
    many = len(documents) + (len(texts) if texts is not None else 0) > _MOST_DOTS
    labels, text_labels = np.asarray(labels, dtype=int), np.asarray(text_labels, dtype=int)
    starred = prototypes is not None and len(prototypes) > 0
    for index, name in enumerate(class_names):
        color, marker = COLORS[index % len(COLORS)], MARKERS[(index // len(COLORS)) % len(MARKERS)]
        mine = documents[labels == index]
        axes.scatter(mine[:, 0], mine[:, 1], s=11, color=color, marker=marker, linewidths=0, alpha=0.65, rasterized=many, label=shortened(name))
        if texts is not None and (text_labels == index).any():
            own = texts[text_labels == index]
            axes.scatter(own[:, 0], own[:, 1], s=16, color=color, marker="x", linewidths=0.9, rasterized=many)
        if prototypes is not None and starred:
            star = prototypes[index]
            axes.scatter(star[0], star[1], s=190, color=color, marker="*", edgecolors=INK, linewidths=0.9, zorder=4)
    if texts is not None and len(texts):
        axes.scatter([], [], s=16, color=INK, marker="x", linewidths=0.9, label="generated text")
    if starred:
        axes.scatter([], [], s=110, color="white", marker="*", edgecolors=INK, linewidths=0.9, label="class prototype")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left" if above else "outside right upper", ncols=3 if above else columns, markerscale=1.4, handletextpad=0.3)
    return figure


def project(embeddings: np.ndarray, kind: Literal["tsne", "pca"] = "tsne", seed: int = 0) -> np.ndarray:
    """Lay embeddings out in a plane, `[N, D]` to `[N, 2]`; the same input and seed give the same points.

    t-SNE takes a perplexity of 30, or a third of the documents where they are fewer; with fewer than five documents, or one dimension, the principal
    components stand in. Embeddings that are all equal go to the origin.
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    if len(embeddings) < 2 or np.ptp(embeddings, axis=0).max(initial=0.0) == 0.0:
        return np.zeros((len(embeddings), 2))
    if kind == "tsne" and len(embeddings) >= 5 and embeddings.shape[1] >= 2:
        perplexity = min(30.0, (len(embeddings) - 1) / 3)
        # One thread: sums in one order on every machine, and on a busy machine OpenMP's waiting threads cost more than they help.
        with threadpool_limits(1):
            points = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings)
        return np.asarray(points, dtype=np.float64)
    components = min(2, *embeddings.shape)
    points = PCA(n_components=components, svd_solver="full").fit_transform(embeddings)
    return np.pad(points, ((0, 0), (0, 2 - components)))


def _apart(counts: Sequence[int]) -> list[int]:
    """Of ascending numbers those that have room beside each other on a logarithmic axis; the last is one of them."""
    shown: list[int] = []
    for count in reversed(counts):
        if not shown or count * 1.2 <= shown[-1]:
            shown.append(count)
    return shown[::-1]


def _heatmap(matrix: np.ndarray, class_names: Sequence[str], rows: str, columns: str, *, shares: bool) -> Figure:
    count = len(class_names)
    side = min(10.5, max(4.4, 2.2 + 0.36 * count if count <= 20 else 1.8 + 0.21 * count))
    figure, axes = canvas(side + 0.4, side)
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    axes.imshow(share, cmap=SHADES, vmin=0, vmax=1)
    names = [shortened(name) for name in class_names]
    axes.set_xticks(range(count), names, rotation=0 if max(map(len, names), default=0) * count <= 40 else 90)
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=columns, ylabel=rows)
    if count <= 20:
        shown = [(row, column) for row, column in np.ndindex(count, count) if matrix[row, column] > 0]
        for row, column in shown:
            text = f"{100 * share[row, column]:.0f} %" if shares else f"{matrix[row, column]:.0f}"
            size = 9 if count <= 8 else 6.5
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=WHITE if share[row, column] > 0.65 else INK)
    return figure
