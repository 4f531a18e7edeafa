"""The files of a sweep for readers: table.md, table.csv, figure.png, and report.html, which holds all of them and loads nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftrain.evaluation.layout import page
from selftrain.evaluation.sensitivity import Line, heatmaps, lines
from selftrain.evaluation.summary import plus_minus
from selftrain.evaluation.svg import inline
from selftrain.files.durable import write_whole
from selftrain.sweeps.space import Space
from selftrain.sweeps.table import METRICS, SweepTable, TableEntry, legend, number, shown_beside, shown_entry, to_csv, to_markdown, to_text


def write_table(folder: Path, space: Space, table: SweepTable, facts: Mapping[str, Any]) -> str:
    """Write a grid's table, figure and report.

    Args:
        folder: where to.
        space: what was asked.
        table: the results.
        facts: of the sweep as a whole: command, date, machine, seconds.

    Returns:
        The table for a terminal.
    """
    write_whole(folder / "table.md", f"{_opening(space, facts)}\n{to_markdown(table)}\n![the same as a picture](figure.png)\n")
    write_whole(folder / "table.csv", to_csv(table))
    write_whole(folder / "figure.png", figure(table))
    head = [(name, table.beside(name)) for name in table.columns]
    body = [(row, [(table.entries[row, name], shown_beside(table, row, name)) for name in table.columns]) for row in table.rows]
    drawing = inline(figure(table, svg=True), "figure", f"{space.title}, the table as a picture")
    write_whole(
        folder / "report.html",
        _page(space, facts, table=table, head=head, body=body, legend=legend(table), picture=drawing, metric=METRICS[table.metric]),
    )
    return to_text(table)


def write_ranking(folder: Path, space: Space, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Write a search's ranking and report.

    Args:
        folder: where to.
        space: what was asked.
        rows: of `search.ranking`.
        facts: as in `write_table`.

    Returns:
        The ranking for a terminal.
    """
    head = ["setting", "validation accuracy (%)", "test accuracy (%)", "ended early"]
    # Accuracy on test documents is shown for the chosen setting alone: with a second one, they would have a part in the choice.
    body = [
        [
            row["setting"],
            plus_minus(row["validation"], 2),
            plus_minus(row["test"], 2) if index == 0 else "",
            f"round {row['stopped']}" if row["stopped"] else "",
        ]
        for index, row in enumerate(rows)
    ]
    lines_ = [head, ["---"] * len(head), *body]
    note = f"{' · '.join(space.axes)}; ranked by accuracy on validation documents; test accuracy is shown for the first alone."
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines_)
    write_whole(folder / "table.md", f"{_opening(space, facts)}\n{text}\n\n{note}\n")
    write_whole(folder / "report.html", _page(space, facts, ranking=[head, *body], legend=[note]))
    return f"{text}\n{note}"


def _opening(space: Space, facts: Mapping[str, Any]) -> str:
    """The origin of the numbers: the command, the date, the seeds and the machine."""
    seeds = ", ".join(map(str, space.seeds))
    done = (
        f"{facts['trained']} trainings in {facts['seconds']:.0f} s, {facts['at_once']} at once" if facts["trained"] else "nothing was left to train"
    )
    machine = f"{facts['cpus']} CPU cores, {facts['memory_gb']:.0f} GiB"
    made = f"{facts['date']}, seeds {seeds}, {machine}; {done}; all cells together {facts['train_seconds']:.0f} s of training"
    claim = f"\n{space.claim}\n" if space.claim else ""
    return f"# {space.title}\n\n    {facts['command']}\n\n{made}; selftrain {facts['code_version']}.\n{claim}"


def figure(table: SweepTable, *, svg: bool = False) -> bytes:
    """Lines over one axis, heatmaps over the last two; further axes and data sets become panels. Differences from the reference stand below. PNG, or SVG."""
    metric = METRICS[table.metric]
    if len(table.axes) == 1:
        series = {name: _line([entry for _, entry in table.column(name)]) for name in table.columns}
        return lines(table.axes[0], [row[0] for row in table.rows], series, metric, svg=svg)
    rows, columns = (tuple(dict.fromkeys(row[index] for row in table.rows)) for index in (-2, -1))
    leading = list(dict.fromkeys(row[:-2] for row in table.rows))
    panels, differences = {}, {}
    for above, name in itertools.product(leading, table.columns):
        title = " · ".join([*above, *([name] if len(table.columns) > 1 or not above else [])])
        cells = [[table.entries.get(((*above, row, column), name)) for column in columns] for row in rows]
        panels[title] = [[_mean(entry) for entry in line] for line in cells]
        differences[title] = [[entry.test.difference if entry is not None and entry.test is not None else None for entry in line] for line in cells]
    return heatmaps((table.axes[-2], table.axes[-1]), rows, columns, panels, metric, differences=differences, svg=svg)


def _line(entries: Sequence[TableEntry]) -> Line:
    deviations = [entry.summary["std"] if entry.summary else None for entry in entries]
    tests = [entry.test for entry in entries] if any(entry.test is not None for entry in entries) else []
    differences = [test.difference if test is not None else None for test in tests]
    intervals = [test.interval if test is not None else None for test in tests]
    return Line([_mean(entry) for entry in entries], deviations, [number(entry.paper) for entry in entries], differences, intervals)


def _mean(entry: TableEntry | None) -> float | None:
    return entry.summary["mean"] if entry is not None and entry.summary is not None else None


def _page(space: Space, facts: Mapping[str, Any], **content: Any) -> str:
    settings = {"table": None, "ranking": None, "picture": None, "head": [], "body": [], "legend": []} | content
    return page("sweep.html", {"shown": shown_entry}, space=space, facts=facts, yaml=space.to_yaml(), **settings)
