"""Tables by hand-worked numbers."""

from __future__ import annotations

import csv
import io
import math

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from selftrain.errors import ConfigError
from selftrain.evaluation.sensitivity import Line, heatmaps, lines
from selftrain.sweeps.report import figure
from selftrain.sweeps.table import build_table, legend, number, to_csv, to_markdown, to_text

VALUES = {"a": [0.80, 0.82, 0.84], "b": [0.90, 0.91, 0.92], "c": [0.895, 0.91, 0.918]}


def results(values=VALUES, column="news"):
    return {((row,), column, seed): {"scores": {"accuracy": value}} for row, group in values.items() for seed, value in enumerate(group)}


def table(found, metric="accuracy", **more):
    return build_table(axes=["tau"], rows=[("a",), ("b",), ("c",)], columns=["news"], seeds=[0, 1, 2], metric=metric, results=found, **more)


def test_means_deviations_and_no_test_without_a_reference():
    made = table(results())
    a, b, c = (made.entries[(row,), "news"] for row in "abc")
    assert a.summary == {"mean": pytest.approx(82.0), "std": pytest.approx(2.0)}
    assert b.best and not a.best and not c.best
    assert made.complete and not any(entry.test or entry.corrected is not None for entry in made.entries.values())
    assert "difference" not in to_text(made).lower()


def test_every_row_is_compared_with_the_reference_and_never_with_the_best():
    """By hand: b - a is 10, 9, 8: mean 9, standard error 1 / sqrt(3), t = 15.588; of two degrees of freedom p = 1 - t / sqrt(t^2 + 2) and t_.975 = 4.30265."""
    made = table(results(), reference="a")
    a, b, c = (made.entries[(row,), "news"] for row in "abc")
    assert a.test is None and a.reference == b.reference == ("a",)
    t = 9 * math.sqrt(3)
    assert b.test.difference == pytest.approx(9) and b.test.pairs == 3
    assert b.test.interval == pytest.approx((9 - 4.30265 / math.sqrt(3), 9 + 4.30265 / math.sqrt(3)), abs=1e-4)
    assert b.test.p == pytest.approx(1 - t / math.sqrt(t * t + 2))
    # c - a is 9.5, 9, 7.8: mean 8.7667, deviation .8737, t = 17.38; the smaller p of the two counts twice, and the other is not below it
    assert c.test.p == pytest.approx(0.003295, abs=1e-5) and b.test.p == pytest.approx(0.004090, abs=1e-5)
    assert (c.corrected, b.corrected) == (pytest.approx(2 * c.test.p), pytest.approx(2 * c.test.p))
    assert to_text(made).splitlines()[3].split("  ")[-1] == "+9.00 (+6.52 to +11.48; p .007)"


def test_all_data_sets_of_a_table_are_one_family():
    other = results({"a": [0.5, 0.6, 0.7], "b": [0.55, 0.65, 0.78]}, column="mail")  # t = 6: p .0267
    rows = {"axes": ["tau"], "rows": [("a",), ("b",)], "seeds": [0, 1, 2], "metric": "accuracy", "reference": "a"}
    both = build_table(columns=["news", "mail"], results=results() | other, **rows)
    alone = build_table(columns=["mail"], results=other, **rows)
    b = both.entries[("b",), "mail"], both.entries[("b",), "news"]
    assert (b[0].corrected, b[1].corrected) == (pytest.approx(0.0267, abs=1e-4), pytest.approx(2 * 0.00409, abs=1e-4))
    assert alone.entries[("b",), "mail"].corrected == alone.entries[("b",), "mail"].test.p
    assert "correction for the 2 tests of this table" in legend(both)[1] and "correction" not in legend(alone)[1]


def test_rows_are_compared_within_the_other_axes():
    rows = [("1", "CE"), ("1", "SEAL"), ("2", "CE"), ("2", "SEAL")]
    found = {
        (row, "news", seed): {"scores": {"accuracy": (10 * place + seed * (1 + place % 2)) / 100}}
        for place, row in enumerate(rows)
        for seed in (0, 1)
    }
    made = build_table(
        axes=["noise", "method"], rows=rows, columns=["news"], seeds=[0, 1], metric="accuracy", results=found, reference={"method": "CE"}
    )
    assert [entry.reference for _, entry in made.column("news")] == [("1", "CE"), ("1", "CE"), ("2", "CE"), ("2", "CE")]
    assert [entry.test and entry.test.difference for _, entry in made.column("news")] == [None, pytest.approx(10.5), None, pytest.approx(10.5)]
    assert legend(made)[1].startswith("Difference: from the row with method CE and the same noise, in points,")
    assert to_markdown(made).splitlines()[2] == "| 1 | CE | 0.50 ± 0.71 | reference |"


def test_what_no_seed_changes_has_a_difference_and_no_p():
    made = table(results({"a": [0.8, 0.8, 0.8], "b": [0.9, 0.9, 0.9]}), reference="a")
    b = made.entries[("b",), "news"]
    assert (b.test.interval, b.test.p, b.corrected) == (None, None, None)
    assert "+10.00 (no seed changes either)" in to_text(made)
    found = results()
    del found[("c",), "news", 0]
    lines = to_text(table(found, reference="a")).splitlines()
    assert lines[4].endswith("2 of 3 seeds)") and "–" in to_text(table(results({"a": [0.8]}), reference="a"))


def test_a_reference_that_the_table_does_not_have_is_refused():
    for reference, why in (("d", "a row 'd'"), ({"rate": "a"}, "an axis 'rate'"), ({"tau": "d"}, "a value 'd' that the axis 'tau'")):
        with pytest.raises(ConfigError, match=why):
            table(results(), reference=reference)


def test_the_best_error_is_the_lowest():
    made = table(results(), metric="error")
    assert made.entries[("b",), "news"].best and made.entries[("b",), "news"].summary["mean"] == pytest.approx(9.0)


def test_what_failed_or_is_missing_is_said():
    found = results()
    found[("b",), "news", 1] = {"error": "it broke"}
    del found[("b",), "news", 2]
    made = table(found)
    b = made.entries[("b",), "news"]
    assert (b.values, b.failed, b.missing, b.seeds) == ({0: 90.0}, {1: "it broke"}, (2,), 3)
    assert not made.complete
    text = to_text(made)
    assert "90.00 (1 of 3 seeds)" in text and "Failed: b on news, seed 1: it broke" in text
    empty = table({})
    assert "–" in to_text(empty) and not any(entry.best for entry in empty.entries.values())


@pytest.mark.parametrize("why", ["failed", "missing"])
def test_a_row_without_all_seeds_does_not_compete_however_high_its_mean(why):
    found = results({**VALUES, "b": [0.99, 0.99, 0.99]})
    if why == "failed":
        found[("b",), "news", 2] = {"error": "it broke"}
    else:
        del found[("b",), "news", 2]
    made = table(found)
    a, b, c = (made.entries[(row,), "news"] for row in "abc")
    assert b.summary["mean"] == pytest.approx(99.0) and not b.best
    assert c.best and not a.best


def test_where_no_row_has_all_seeds_all_that_have_some_compete():
    found = {key: result for key, result in results().items() if key[2] < 2 and key[0] != ("c",)}
    made = table(found)
    a, b, c = (made.entries[(row,), "news"] for row in "abc")
    assert b.best and not a.best and c.summary is None and not c.best


def test_one_row_alone_is_not_the_best_of_anything():
    found = {key: result for key, result in results().items() if key[0] == ("a",)}
    assert not any(entry.best for entry in table(found).entries.values())


@pytest.mark.parametrize(("metric", "best"), [("accuracy", "b"), ("macro_f1", "b"), ("error", "a"), ("ece", "a")])
def test_lower_is_better_of_errors_and_calibration_alone(metric, best):
    figures = {"a": [0.10, 0.12], "b": [0.20, 0.22], "c": [0.15, 0.16]}
    read = {"error": lambda value: {"accuracy": 1 - value}}.get(metric, lambda value: {metric: value})
    found = {((row,), "news", seed): {"scores": read(value)} for row, group in figures.items() for seed, value in enumerate(group)}
    made = build_table(axes=["tau"], rows=[("a",), ("b",), ("c",)], columns=["news"], seeds=[0, 1], metric=metric, results=found)
    assert [row for (row,), entry in made.column("news") if entry.best] == [best]
    assert made.entries[("a",), "news"].values == {0: pytest.approx(10.0), 1: pytest.approx(12.0)}
    assert (", lower is better" in to_text(made)) == (best == "a")


def test_the_paired_test_pairs_what_has_the_same_seed():
    found = results()
    del found[("a",), "news", 0]  # a: seeds 1 and 2; a test that paired by place would set 0.82 against 0.90
    made = table(found, reference="b")
    assert made.entries[("a",), "news"].test.p == pytest.approx(stats.ttest_rel([0.82, 0.84], [0.91, 0.92]).pvalue)
    del found[("a",), "news", 1]
    alone = table(found, reference="b").entries[("a",), "news"]
    assert alone.corrected is None and alone.test == (pytest.approx(-8.0), None, None, 1)  # one pair is no sample


def test_columns_are_compared_for_themselves():
    other = results({"a": [0.9, 0.9, 0.9], "b": [0.1, 0.2, 0.3], "c": [0.2, 0.2, 0.2]}, column="mail")
    made = build_table(
        axes=["tau"], rows=[("a",), ("b",), ("c",)], columns=["news", "mail"], seeds=[0, 1, 2], metric="accuracy", results=results() | other
    )
    assert [[row for (row,), entry in made.column(name) if entry.best] for name in ("news", "mail")] == [["b"], ["a"]]


figures = st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), min_size=3, max_size=3)


@given(figures, st.permutations([0, 1, 2]), st.permutations([0, 1, 2]))
def test_neither_the_order_of_rows_nor_of_seeds_changes_what_is_said_of_a_row(group, rows, seeds):
    values = {row: [value / 100 for value in line] for row, line in zip("abc", group, strict=True)}
    means = [sum(line) for line in group]
    hypothesis.assume(len(set(means)) == 3)  # of equal means the first row is the best

    def made(rows, seeds):
        turned = {row: [values[row][seed] for seed in seeds] for row in values}
        named = [("abc"[row],) for row in rows]
        return build_table(axes=["tau"], rows=named, columns=["news"], seeds=[0, 1, 2], metric="accuracy", results=results(turned), reference="b")

    one, other = made([0, 1, 2], [0, 1, 2]), made(rows, seeds)
    assert sum(entry.best for entry in one.entries.values()) == 1
    for key, entry in one.entries.items():
        again = other.entries[key]
        assert entry.best == again.best == (means["abc".index(key[0][0])] == max(means))
        assert entry.summary["mean"] == pytest.approx(again.summary["mean"])
        assert (entry.corrected is None) == (again.corrected is None)
        assert entry.corrected is None or entry.corrected == pytest.approx(again.corrected, abs=1e-9)


def test_of_equal_means_the_first_row_is_the_best():
    made = table(results({"a": [0.5, 0.7, 0.6], "b": [0.6, 0.6, 0.6], "c": [0.7, 0.6, 0.5]}))
    assert [entry.best for _, entry in made.column("news")] == [True, False, False]


def whole_table():
    """Two axes, two columns, a failure of two seeds, a missing one, one seed alone, and a paper."""
    rows = [("1", "x"), ("1", "y"), ("2", "x")]
    found = {
        (row, column, seed): {"scores": {"accuracy": value}}
        for column, group in {"news": [[0.80, 0.82, 0.84], [0.90, 0.91, 0.92]], "mail": [[0.5, 0.6, 0.7], [0.55, 0.65, 0.78]]}.items()
        for row, values in zip(rows, group, strict=False)
        for seed, value in enumerate(values)
    }
    found |= {
        (rows[2], "news", 0): {"scores": {"accuracy": 0.99}},
        (rows[2], "news", 1): {"error": "it broke"},
        (rows[2], "news", 2): {"error": "it broke"},
    }
    found |= {(rows[2], "mail", 0): {"error": "no space"}, (rows[2], "mail", 1): {"error": "it broke"}}
    return build_table(
        axes=["T", "weight"],
        rows=rows,
        columns=["news", "mail"],
        seeds=[0, 1, 2],
        metric="accuracy",
        results=found,
        paper={"1 · x": {"news": "83.18 ± 0.05"}, "2 · x": {"news": "84"}},
        paper_source="Table 5",
        reference="1 · y",
    )


LEGEND = [
    "Accuracy (%): mean ± sample standard deviation over 3 seeds. {}: best mean of its column, not tested.",
    "Difference: from the row 1 · y, in points, seed by seed: mean (95 % interval by Student's t, of each alone; p by a paired t-test with Holm's "
    "correction for the 2 tests of this table).",
    "Paper: Table 5, as printed there; other encoders, data sizes or language models than here.",
    "Failed: 2 · x on news, seed 1 and 2 more: it broke",
    "Failed: 2 · x on mail, seed 0: no space",
]


def test_the_whole_text():
    assert to_text(whole_table()).splitlines() == [
        "T  weight  news                  difference                       paper         mail              difference",
        "-  ------  --------------------  -------------------------------  ------------  ----------------  -------------------------------",
        "1  x       82.00 ± 2.00          -9.00 (-11.48 to -6.52; p .008)  83.18 ± 0.05  60.00 ± 10.00     -6.00 (-10.30 to -1.70; p .027)",
        "1  y       91.00 ± 1.00 *        reference                        –             66.00 ± 11.53 *   reference",
        "2  x       99.00 (1 of 3 seeds)  +9.00 (one seed)                 84            – (0 of 3 seeds)  –",
        LEGEND[0].format("*"),
        *LEGEND[1:],
    ]


def test_the_whole_markdown():
    assert to_markdown(whole_table()) == "\n".join(
        [
            "| T | weight | news | difference | paper | mail | difference |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            "| 1 | x | 82.00 ± 2.00 | -9.00 (-11.48 to -6.52; p .008) | 83.18 ± 0.05 | 60.00 ± 10.00 | -6.00 (-10.30 to -1.70; p .027) |",
            "| 1 | y | **91.00 ± 1.00** | reference | – | **66.00 ± 11.53** | reference |",
            "| 2 | x | 99.00 (1 of 3 seeds) | +9.00 (one seed) | 84 | – (0 of 3 seeds) | – |",
            "",
            LEGEND[0].format("Bold"),
            *LEGEND[1:],
            "",
        ]
    )


def test_the_whole_csv():
    # Of three differences d, p = 1 - t / sqrt(t² + 2): .10, .09, .08 give t = 15.59; .05, .05, .08 give t = 6. Their half intervals are 4.30265 sd / sqrt(3).
    assert to_csv(whole_table()).split("\n") == [
        "T,weight,data set,metric,mean,std,seeds,best,reference,difference,low,high,p,holm,paper,seed 0,seed 1,seed 2",
        "1,x,news,accuracy,82.0000,2.0000,3,,1 · y,-9.0000,-11.4841,-6.5159,0.00409,0.00818,83.18 ± 0.05,80.0000,82.0000,84.0000",
        "1,y,news,accuracy,91.0000,1.0000,3,yes,1 · y,,,,,,,90.0000,91.0000,92.0000",
        "2,x,news,accuracy,99.0000,,1,,1 · y,9.0000,,,,,84,99.0000,,",
        "1,x,mail,accuracy,60.0000,10.0000,3,,1 · y,-6.0000,-10.3027,-1.6973,0.0267,0.0267,,50.0000,60.0000,70.0000",
        "1,y,mail,accuracy,66.0000,11.5326,3,yes,1 · y,,,,,,,55.0000,65.0000,78.0000",
        "2,x,mail,accuracy,,,0,,1 · y,,,,,,,,,",
        "",
    ]


def test_a_reason_that_two_seeds_share_is_said_once():
    found = results() | {(("a",), "news", seed): {"error": "it broke"} for seed in (0, 2)}
    assert legend(table(found))[-1] == "Failed: a on news, seed 0 and 1 more: it broke"


def test_the_legend_says_nothing_of_what_is_not_there():
    one = build_table(axes=["tau"], rows=[("a",)], columns=["news"], seeds=[0], metric="ece", results={(("a",), "news", 0): {"scores": {"ece": 0.1}}})
    assert legend(one) == ["Expected calibration error (%), lower is better: mean ± sample standard deviation over 1 seed."]
    assert legend(build_table(axes=[], rows=[], columns=[], seeds=[], metric="accuracy", results={}))[0].endswith("over 0 seeds.")
    papers = table(results(), paper={"a": {"news": "83"}})  # figures without a source
    assert len(legend(papers)) == 1


def test_markdown_has_the_papers_figures_where_there_are_any():
    made = table(results(), paper={"a": {"news": "83.18 ± 0.05"}}, paper_source="table 5")
    rows = to_markdown(made).splitlines()
    assert rows[0] == "| tau | news | paper |"
    assert rows[2] == "| a | 82.00 ± 2.00 | 83.18 ± 0.05 |" and rows[3] == "| b | **91.00 ± 1.00** | – |"
    assert "table 5" in to_markdown(made) and "paper" not in to_markdown(table(results())).lower()


def test_csv_holds_every_seed():
    rows = list(csv.DictReader(io.StringIO(to_csv(table(results())))))
    assert [row["tau"] for row in rows] == ["a", "b", "c"] and rows[1]["best"] == "yes"
    assert [float(rows[0][f"seed {seed}"]) for seed in range(3)] == [80.0, 82.0, 84.0]


def test_the_figure_of_a_printed_number():
    assert [number(text) for text in (" 83.18 ± 0.05", "16.47", ".5", "-3.25", "12", None, "–")] == [83.18, 16.47, 0.5, -3.25, 12.0, None, None]


def test_figures_are_pictures_and_repeat():
    made = table(results(), paper={"a": {"news": "83.18"}}, paper_source="x", reference="a")
    first = figure(made)
    assert first != figure(table(results(), paper={"a": {"news": "83.18"}}, paper_source="x")), "differences are drawn"
    assert first.startswith(b"\x89PNG") and first == figure(made)
    assert lines("tau", ["1"], {"x": Line([None], [None])}, "accuracy").startswith(b"\x89PNG")  # nothing is there yet
    assert heatmaps(("T", "lambda"), ["a", "b"], ["1", "2"], {"p": [[1.0, None], [2.0, 3.0]], "q": [[None, None], [None, None]]}, "x").startswith(
        b"\x89PNG"
    )


def test_three_axes_become_panels(monkeypatch):
    rows = [(host, t, weight) for host in ("alone", "VAT") for t in ("1", "2") for weight in ("x", "y", "z")]
    found = {(row, "news", 0): {"scores": {"accuracy": place / 100}} for place, row in enumerate(rows)}
    made = build_table(axes=["host", "T", "weight"], rows=rows, columns=["news"], seeds=[0], metric="accuracy", results=found, reference={"T": "1"})
    seen = {}
    below = {}

    def heatmaps(axes, rows, columns, panels, metric, *, differences, svg):
        seen.update(panels)
        below.update(differences)

    monkeypatch.setattr("selftrain.sweeps.report.heatmaps", heatmaps)
    figure(made)
    shown = {name: [[round(value) for value in row] for row in means] for name, means in seen.items()}
    assert shown == {"alone": [[0, 1, 2], [3, 4, 5]], "VAT": [[6, 7, 8], [9, 10, 11]]}
    assert below["VAT"] == [[None, None, None], [pytest.approx(3)] * 3], "T = 2 against T = 1 at the same host and weight"
