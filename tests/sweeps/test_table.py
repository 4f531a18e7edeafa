"""Tables by hand-worked numbers."""

from __future__ import annotations

import csv
import io

import pytest
from scipy import stats

from selftrain.evaluation.sensitivity import Line, heatmaps, lines
from selftrain.sweeps.report import figure
from selftrain.sweeps.table import build, number, to_csv, to_markdown, to_text

VALUES = {"a": [0.80, 0.82, 0.84], "b": [0.90, 0.91, 0.92], "c": [0.895, 0.91, 0.918]}


def results(values=VALUES, column="news"):
    return {((row,), column, seed): {"scores": {"accuracy": value}} for row, group in values.items() for seed, value in enumerate(group)}


def table(found, metric="accuracy", **more):
    return build(axes=["tau"], rows=[("a",), ("b",), ("c",)], columns=["news"], seeds=[0, 1, 2], metric=metric, results=found, **more)


def test_means_deviations_and_the_paired_test():
    made = table(results())
    a, b, c = (made.entries[(row,), "news"] for row in "abc")
    assert a.summary == {"mean": pytest.approx(82.0), "std": pytest.approx(2.0)}
    assert b.best and not a.best and not c.best and b.p is None
    assert a.p == pytest.approx(stats.ttest_rel(VALUES["a"], VALUES["b"]).pvalue) and a.worse
    assert c.p == pytest.approx(stats.ttest_rel(VALUES["c"], VALUES["b"]).pvalue) and not c.worse
    assert made.complete


def test_the_best_error_is_the_lowest():
    made = table(results(), metric="error")
    assert made.entries[("b",), "news"].best and made.entries[("b",), "news"].summary["mean"] == pytest.approx(9.0)


def test_what_failed_or_is_missing_is_said_and_cannot_be_the_best():
    found = results()
    found[("b",), "news", 1] = {"error": "it broke"}
    del found[("b",), "news", 2]
    made = table(found)
    b = made.entries[("b",), "news"]
    assert (b.values, b.failed, b.missing) == ({0: 90.0}, {1: "it broke"}, (2,))
    assert made.entries[("c",), "news"].best and not made.complete
    text = to_text(made)
    assert "90.00 (1 of 3 seeds)" in text and "Failed: b on news, seed 1: it broke" in text
    empty = table({})
    assert "–" in to_text(empty) and not any(entry.best for entry in empty.entries.values())


def test_markdown_has_the_papers_figures_where_there_are_any():
    made = table(results(), paper={"a": {"news": "83.18 ± 0.05"}}, paper_source="table 5")
    rows = to_markdown(made).splitlines()
    assert rows[0] == "| tau | news | paper |"
    assert rows[2] == "| a | 82.00 ± 2.00 • | 83.18 ± 0.05 |" and rows[3] == "| b | **91.00 ± 1.00** | – |"
    assert "table 5" in to_markdown(made) and "paper" not in to_markdown(table(results())).lower()


def test_csv_holds_every_seed():
    rows = list(csv.DictReader(io.StringIO(to_csv(table(results())))))
    assert [row["tau"] for row in rows] == ["a", "b", "c"] and rows[1]["best"] == "yes"
    assert [float(rows[0][f"seed {seed}"]) for seed in range(3)] == [80.0, 82.0, 84.0]


def test_the_figure_of_a_printed_number():
    assert [number(text) for text in ("83.18 ± 0.05", "16.47", ".5", None, "–")] == [83.18, 16.47, 0.5, None, None]


def test_figures_are_pictures_and_repeat():
    made = table(results(), paper={"a": {"news": "83.18"}}, paper_source="x")
    first = figure(made)
    assert first.startswith(b"\x89PNG") and first == figure(made)
    assert lines("tau", ["1"], {"x": Line([None], [None])}, "accuracy").startswith(b"\x89PNG")  # nothing is there yet
    assert heatmaps(("T", "lambda"), ["a", "b"], ["1", "2"], {"p": [[1.0, None], [2.0, 3.0]], "q": [[None, None], [None, None]]}, "x").startswith(
        b"\x89PNG"
    )


def test_three_axes_become_panels(monkeypatch):
    rows = [(host, t, weight) for host in ("alone", "VAT") for t in ("1", "2") for weight in ("x", "y", "z")]
    found = {(row, "news", 0): {"scores": {"accuracy": place / 100}} for place, row in enumerate(rows)}
    made = build(axes=["host", "T", "weight"], rows=rows, columns=["news"], seeds=[0], metric="accuracy", results=found)
    seen = {}
    monkeypatch.setattr("selftrain.sweeps.report.heatmaps", lambda axes, rows, columns, panels, metric: seen.update(panels) or b"")
    figure(made)
    shown = {name: [[round(value) for value in row] for row in means] for name, means in seen.items()}
    assert shown == {"alone": [[0, 1, 2], [3, 4, 5]], "VAT": [[6, 7, 8], [9, 10, 11]]}
