"""A table like the papers' from the results of cells: a row a setting, a column a data set, mean ± std over seeds, marks for the best and the significantly worse.

Pure: numbers in, text out. The figure is drawn by evaluation/sensitivity.py.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selftrain.evaluation.significance import MeanStd, mean_std, paired_t_test
from selftrain.evaluation.summary import plus_minus

SIGNIFICANT = 0.05
WORSE = "•"
_LOWER_IS_BETTER = ("error", "ece")
METRICS = {"accuracy": "accuracy (%)", "error": "error (%)", "macro_f1": "macro-F1 (%)", "ece": "expected calibration error (%)"}


@dataclass(frozen=True)
class TableEntry:
    """One field of the table."""

    values: dict[int, float]  # seed -> the metric, in percent
    failed: dict[int, str] = field(default_factory=dict)  # seed -> why
    missing: tuple[int, ...] = ()  # seeds that were not run
    summary: MeanStd | None = None
    best: bool = False  # of its column
    p: float | None = None  # of the paired t-test against the best of the column
    paper: str | None = None  # as the paper prints it

    @property
    def worse(self) -> bool:
        """Whether the best of the column is significantly better."""
        return self.p is not None and self.p < SIGNIFICANT and not self.best

    @property
    def seeds(self) -> int:
        """How many were asked for."""
        return len(self.values) + len(self.failed) + len(self.missing)


@dataclass(frozen=True)
class SweepTable:
    """The whole table."""

    axes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # values of the axes
    columns: tuple[str, ...]
    metric: str
    entries: dict[tuple[tuple[str, ...], str], TableEntry]
    paper: str | None = None  # where the paper's figures stand

    @property
    def complete(self) -> bool:
        """Whether every seed of every cell has a result."""
        return all(not entry.failed and not entry.missing for entry in self.entries.values())

    def column(self, name: str) -> list[tuple[tuple[str, ...], TableEntry]]:
        """Rows and entries of a data set, in order."""
        return [(row, self.entries[row, name]) for row in self.rows]

    def has_paper(self, column: str) -> bool:
        """Whether the paper gives a figure of this column."""
        return any(entry.paper is not None for _, entry in self.column(column))


def build_table(
    *,
    axes: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    columns: Sequence[str],
    seeds: Sequence[int],
    metric: str,
    results: Mapping[tuple[tuple[str, ...], str, int], Mapping[str, Any]],
    paper: Mapping[str, Mapping[str, str]] | None = None,
    paper_source: str | None = None,
) -> SweepTable:
    """The table.

    The best of a column is the one with the best mean among rows with all seeds (with what they have where none has all). Every other row with at least two
    seeds in common with the best gets the p-value of a paired t-test over these.

    Args:
        axes: names of the axes.
        rows: the settings, as values of the axes.
        columns: the data sets.
        seeds: those asked for.
        metric: a key of `METRICS`.
        results: (row, column, seed) -> {"scores": {...}} or {"error": why}; what was not run is left out.
        paper: row label -> column -> figure as printed.
        paper_source: where it stands.
    """
    entries: dict[tuple[tuple[str, ...], str], TableEntry] = {}
    for column in columns:
        found: dict[tuple[str, ...], TableEntry] = {}
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
            found[row] = TableEntry(values, failed, tuple(missing), mean_std(list(values.values())) if values else None, paper=figure)
        entries |= {(row, column): entry for row, entry in _compared(found, metric).items()}
    return SweepTable(tuple(axes), tuple(rows), tuple(columns), metric, entries, paper_source)


def score(result: Mapping[str, Any], metric: str) -> float:
    """The metric of one result, in percent."""
    scores = result["scores"]
    return 100.0 * (1.0 - float(scores["accuracy"]) if metric == "error" else float(scores[metric]))


def _compared(entries: dict[tuple[str, ...], TableEntry], metric: str) -> dict[tuple[str, ...], TableEntry]:
    whole = {row: entry for row, entry in entries.items() if entry.summary is not None and len(entry.values) == entry.seeds}
    competing = whole or {row: entry for row, entry in entries.items() if entry.summary is not None}
    if len(competing) < 2:
        return entries
    sign = -1.0 if metric in _LOWER_IS_BETTER else 1.0
    winner = max(competing, key=lambda row: sign * (entry.summary["mean"] if (entry := competing[row]).summary is not None else 0.0))
    best = entries[winner]
    compared = {}
    for row, entry in entries.items():
        common = [seed for seed in entry.values if seed in best.values]
        p = paired_t_test([entry.values[s] for s in common], [best.values[s] for s in common]).p if row != winner and len(common) > 1 else None
        compared[row] = replace(entry, best=row == winner, p=p)
    return compared


def shown_entry(entry: TableEntry) -> str:
    """A field as text: mean ± std, the mark, and how many seeds it is from where some are missing."""
    text = plus_minus(entry.summary, 2) + (f" {WORSE}" if entry.worse else "")
    if len(entry.values) < entry.seeds:
        text += f" ({len(entry.values)} of {entry.seeds} seeds)"
    return text


def to_markdown(table: SweepTable) -> str:
    """The table and its legend; the best of every column in bold."""
    head, body = _cells(table, bold="**{}**")
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n".join(legend(table)) + "\n"


def to_text(table: SweepTable) -> str:
    """The table for a terminal, columns aligned; `*` marks the best of every column."""
    head, body = _cells(table, bold="{} *")
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [head, ["-" * width for width in widths], *body]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *legend(table, bold="*")])


def to_csv(table: SweepTable) -> str:
    """One line a setting and data set, with every seed's value."""
    seeds = sorted({seed for entry in table.entries.values() for seed in (*entry.values, *entry.failed, *entry.missing)})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*table.axes, "data set", "metric", "mean", "std", "seeds", "best", "p", "paper", *[f"seed {seed}" for seed in seeds]])
    for (row, column), entry in sorted(table.entries.items(), key=lambda item: (table.columns.index(item[0][1]), table.rows.index(item[0][0]))):
        summary = entry.summary
        writer.writerow(
            [
                *row,
                column,
                table.metric,
                f"{summary['mean']:.4f}" if summary else "",
                f"{summary['std']:.4f}" if summary and summary["std"] is not None else "",
                len(entry.values),
                "yes" if entry.best else "",
                f"{entry.p:.3g}" if entry.p is not None else "",
                entry.paper or "",
                *[f"{entry.values[seed]:.4f}" if seed in entry.values else "" for seed in seeds],
            ]
        )
    return stream.getvalue()


def legend(table: SweepTable, bold: str = "bold") -> list[str]:
    """What the marks mean, and what failed."""
    seeds = max((entry.seeds for entry in table.entries.values()), default=0)
    lower = ", lower is better" if table.metric in _LOWER_IS_BETTER else ""
    lines = [
        f"{METRICS[table.metric][0].upper()}{METRICS[table.metric][1:]}{lower}: mean ± sample standard deviation over {seeds} seed{'s' if seeds != 1 else ''}."
    ]
    if any(entry.best for entry in table.entries.values()):
        lines[0] += f" {bold[0].upper()}{bold[1:]}: best of its column."
    if any(entry.worse for entry in table.entries.values()):
        lines[0] += f" {WORSE}: significantly below the best (paired t-test over seeds, p < {SIGNIFICANT:g}, not corrected for the number of rows)."
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
        head += [column, "paper"] if table.has_paper(column) else [column]
    body = []
    for row in table.rows:
        line = [*row]
        for column in table.columns:
            entry = table.entries[row, column]
            line.append(bold.format(shown_entry(entry)) if entry.best else shown_entry(entry))
            if table.has_paper(column):
                line.append(entry.paper or "–")
        body.append(line)
    return head, body
