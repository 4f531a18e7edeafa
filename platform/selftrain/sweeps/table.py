"""A table like the papers' from the results of cells: a row a setting, a column a data set, mean ± std over seeds, and what a row differs by from a named one.

Pure: numbers in, text out. The figure is drawn by evaluation/sensitivity.py.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selftrain.evaluation.layout import aligned
from selftrain.evaluation.significance import MeanStd, PairedTest, compare_by_seed, holm, mean_std
from selftrain.evaluation.summary import plus_minus, shown_difference, shown_p
from selftrain.sweeps.reference import Reference, Row, described, reference_rows

_LOWER_IS_BETTER = ("error", "ece")
_FIGURES = ("metric", "mean", "std", "seeds", "best", "reference", "difference", "low", "high", "p", "holm", "paper")  # of the CSV
METRICS = {"accuracy": "accuracy (%)", "error": "error (%)", "macro_f1": "macro-F1 (%)", "ece": "expected calibration error (%)"}


@dataclass(frozen=True)
class TableEntry:
    """One field of the table."""

    values: dict[int, float]  # seed -> the metric, in percent
    failed: dict[int, str] = field(default_factory=dict)  # seed -> why
    missing: tuple[int, ...] = ()  # seeds that were not run
    summary: MeanStd | None = None
    best: bool = False  # of its column
    reference: Row | None = None  # the row that this one is compared with; a reference row has itself
    test: PairedTest | None = None  # against it, on the same data set and seeds, in points
    corrected: float | None = None  # p of the test, after Holm's correction for all tests of the table
    paper: str | None = None  # as the paper prints it

    @property
    def seeds(self) -> int:
        """How many were asked for."""
        return len(self.values) + len(self.failed) + len(self.missing)


@dataclass(frozen=True)
class SweepTable:
    """The whole table."""

    axes: tuple[str, ...]
    rows: tuple[Row, ...]  # values of the axes
    columns: tuple[str, ...]
    metric: str
    entries: dict[tuple[Row, str], TableEntry]
    paper: str | None = None  # where the paper's figures stand
    reference: Reference | None = None  # what rows are compared with

    @property
    def complete(self) -> bool:
        """Whether every seed of every cell has a result."""
        return all(not entry.failed and not entry.missing for entry in self.entries.values())

    def column(self, name: str) -> list[tuple[Row, TableEntry]]:
        """Rows and entries of a data set, in order."""
        return [(row, self.entries[row, name]) for row in self.rows]

    def has_paper(self, column: str) -> bool:
        """Whether the paper gives a figure of this column."""
        return any(entry.paper is not None for _, entry in self.column(column))

    def beside(self, column: str) -> list[str]:
        """The titles of what stands beside a data set's figures."""
        return ["difference"] * (self.reference is not None) + ["paper"] * self.has_paper(column)


def build_table(
    *,
    axes: Sequence[str],
    rows: Sequence[Row],
    columns: Sequence[str],
    seeds: Sequence[int],
    metric: str,
    results: Mapping[tuple[Row, str, int], Mapping[str, Any]],
    paper: Mapping[str, Mapping[str, str]] | None = None,
    paper_source: str | None = None,
    reference: Reference | None = None,
) -> SweepTable:
    """The table.

    The best of a column is the one with the best mean among rows with all seeds (with what they have where none has all). Nothing is tested against it: with
    a reference, every other row is compared with that one, over the seeds that both have.

    Args:
        axes: names of the axes.
        rows: the settings, as values of the axes.
        columns: the data sets.
        seeds: those asked for.
        metric: a key of `METRICS`.
        results: (row, column, seed) -> {"scores": {...}} or {"error": why}; what was not run is left out.
        paper: row label -> column -> figure as printed.
        paper_source: where it stands.
        reference: as in `Space.reference`; without one there is no test.

    Raises:
        ConfigError: the table has no such row as `reference`.
    """
    compared = reference_rows(axes, rows, reference)
    entries: dict[tuple[Row, str], TableEntry] = {}
    for column in columns:
        found: dict[Row, TableEntry] = {}
        for row in rows:
            values, failed, missing = {}, {}, []
            for seed in seeds:
                result = results.get((row, column, seed))
                if result is None:
                    missing.append(seed)
                elif "error" in result:
                    failed[seed] = str(result["error"])
                else:
                    values[seed] = score(result, metric)
            figure = (paper or {}).get(" · ".join(row), {}).get(column)
            summary = mean_std(list(values.values())) if values else None
            found[row] = TableEntry(values, failed, tuple(missing), summary, reference=compared.get(row), paper=figure)
        entries |= {(row, column): replace(entry, best=row == _best(found, metric)) for row, entry in found.items()}
    return SweepTable(tuple(axes), tuple(rows), tuple(columns), metric, _tested(entries), paper_source, reference)


def score(result: Mapping[str, Any], metric: str) -> float:
    """The metric of one result, in percent."""
    scores = result["scores"]
    return 100.0 * (1.0 - float(scores["accuracy"]) if metric == "error" else float(scores[metric]))


def _best(entries: Mapping[Row, TableEntry], metric: str) -> Row | None:
    """The row with the best mean of a column; None where fewer than two compete."""
    means = {row: entry.summary["mean"] for row, entry in entries.items() if entry.summary is not None}
    competing = {row: mean for row, mean in means.items() if len(entries[row].values) == entries[row].seeds} or means
    if len(competing) < 2:
        return None
    sign = -1.0 if metric in _LOWER_IS_BETTER else 1.0
    return max(competing, key=lambda row: sign * competing[row])


def _tested(entries: Mapping[tuple[Row, str], TableEntry]) -> dict[tuple[Row, str], TableEntry]:
    """The entries with their tests against their reference rows; all tests of the table are one family."""
    tests = {
        (row, column): compare_by_seed(entry.values, entries[entry.reference, column].values)
        for (row, column), entry in entries.items()
        if entry.reference is not None and entry.reference != row
    }
    corrected = dict(zip(tests, holm([test.p if test is not None else None for test in tests.values()]), strict=True))
    return {key: replace(entry, test=tests.get(key), corrected=corrected.get(key)) for key, entry in entries.items()}


def shown_entry(entry: TableEntry) -> str:
    """A field as text: mean ± std, and how many seeds it is from where some are missing."""
    text = plus_minus(entry.summary, 2)
    if len(entry.values) < entry.seeds:
        text += f" ({len(entry.values)} of {entry.seeds} seeds)"
    return text


def shown_test(row: Row, entry: TableEntry) -> str:
    """What a row differs by from its reference row: mean, interval and p, and over how many seeds where that is not all."""
    if entry.reference == row:
        return "reference"
    test = entry.test
    fewer = f"{test.pairs} of {entry.seeds} seeds" if test is not None and 1 < test.pairs < entry.seeds else ""
    return shown_difference(test, 2, f"p {shown_p(entry.corrected)}" if entry.corrected is not None else "", fewer)


def shown_beside(table: SweepTable, row: Row, column: str) -> list[str]:
    """The fields of a row below `SweepTable.beside`."""
    entry = table.entries[row, column]
    found = {"difference": shown_test(row, entry), "paper": entry.paper or "–"}
    return [found[title] for title in table.beside(column)]


def to_markdown(table: SweepTable) -> str:
    """The table and its legend; the best of every column in bold."""
    head, body = _cells(table, bold="**{}**")
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n".join(legend(table)) + "\n"


def to_text(table: SweepTable) -> str:
    """The table for a terminal, columns aligned; `*` marks the best of every column."""
    head, body = _cells(table, bold="{} *")
    return "\n".join([*aligned(head, body), *legend(table, bold="*")])


def to_csv(table: SweepTable) -> str:
    """One line a setting and data set, with every seed's value."""
    seeds = sorted({seed for entry in table.entries.values() for seed in (*entry.values, *entry.failed, *entry.missing)})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*table.axes, "data set", *_FIGURES, *[f"seed {seed}" for seed in seeds]])
    for (row, column), entry in sorted(table.entries.items(), key=lambda item: (table.columns.index(item[0][1]), table.rows.index(item[0][0]))):
        summary, test = entry.summary, entry.test
        low, high = test.interval if test is not None and test.interval is not None else (None, None)
        writer.writerow(
            [
                *row,
                column,
                table.metric,
                _figure(summary["mean"] if summary else None),
                _figure(summary["std"] if summary else None),
                len(entry.values),
                "yes" if entry.best else "",
                " · ".join(entry.reference or ()),
                *map(_figure, (test.difference if test else None, low, high)),
                *(f"{value:.3g}" if value is not None else "" for value in (test.p if test else None, entry.corrected)),
                entry.paper or "",
                *[_figure(entry.values.get(seed)) for seed in seeds],
            ]
        )
    return stream.getvalue()


def _figure(value: float | None) -> str:
    return f"{value:.4f}" if value is not None else ""


def legend(table: SweepTable, bold: str = "bold") -> list[str]:
    """What the marks mean, and what failed."""
    seeds = max((entry.seeds for entry in table.entries.values()), default=0)
    lower = ", lower is better" if table.metric in _LOWER_IS_BETTER else ""
    lines = [
        f"{METRICS[table.metric][0].upper()}{METRICS[table.metric][1:]}{lower}: mean ± sample standard deviation over {seeds} seed{'s' if seeds != 1 else ''}."
    ]
    if any(entry.best for entry in table.entries.values()):
        lines[0] += f" {bold[0].upper()}{bold[1:]}: best mean of its column, not tested."
    if table.reference is not None:
        tests = sum(entry.corrected is not None for entry in table.entries.values())
        corrected = f"p by a paired t-test with Holm's correction for the {tests} tests of this table" if tests > 1 else "p by a paired t-test"
        lines.append(
            f"Difference: from {described(table.axes, table.reference)}, in points, seed by seed: mean (95 % interval by Student's t, of each alone; {corrected})."
        )
    if table.paper and any(entry.paper for entry in table.entries.values()):
        lines.append(f"Paper: {table.paper}, as printed there; other encoders, data sizes or language models than here.")
    reasons: dict[str, list[str]] = {}
    for (row, column), entry in table.entries.items():
        for seed, why in entry.failed.items():
            reasons.setdefault(why, []).append(f"{' · '.join(row)} on {column}, seed {seed}")
    lines += [f"Failed: {where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {why}" for why, where in reasons.items()]
    return lines


def number(text: str | None) -> float | None:
    """The figure of `83.18 ± 0.05`."""
    matched = re.match(r"\s*(-?\d*\.?\d+)", text or "")
    return float(matched.group(1)) if matched else None


def _cells(table: SweepTable, bold: str) -> tuple[list[str], list[list[str]]]:
    head = [*table.axes]
    for column in table.columns:
        head += [column, *table.beside(column)]
    body = []
    for row in table.rows:
        line = [*row]
        for column in table.columns:
            entry = table.entries[row, column]
            line.append(bold.format(shown_entry(entry)) if entry.best else shown_entry(entry))
            line += shown_beside(table, row, column)
        body.append(line)
    return head, body
