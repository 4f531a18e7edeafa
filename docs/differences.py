"""Paired differences between two rows of a table, and means of one, written into a page's text from the seeds' own figures.

A page (docs/science.md) asks for one between

    <!-- difference: genco_tau; 0.05 · AG News; 0.1 · AG News --><!-- end -->

that is table, row and the row that it is compared with. `make docs` (docs/tables.py) writes the mean difference in points of accuracy, its 95 % interval, the number
of seeds that both rows have, p, and p after Holm's correction for all differences that the page draws from the same table. A sweep's row is its axes and its data
set, joined by " · ". Several rows joined by " & " are one, the mean of their figures seed by seed: the main effect of a factor is such a difference.

    <!-- mean: few_labels_ag_news; VAT --><!-- end -->

is the row's mean accuracy with its sample standard deviation and the number of seeds: the cards of methods (docs/methods/) have theirs so.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import fmean

from experiments import FOLDER  # docs/experiments.py

from selftrain.errors import DataError
from selftrain.evaluation.significance import PairedTest, compare_by_seed, holm, mean_std
from selftrain.evaluation.summary import plus_minus, shown_difference, shown_p

_MARKER = "<!-- difference: "
_MEAN = re.compile(r"<!-- mean: ([\w-]+); ([^;>]+) -->(?:(?!<!--).)*<!-- end -->")
_ASKED = re.compile(r"<!-- difference: ([\w-]+); ([^;>]+); ([^;>]+) -->(?:(?!<!--).)*<!-- end -->")


def remade(text: str, page: Path, folder: Path = FOLDER) -> str:
    """The text of a page with its differences and means made again.

    Args:
        text: of the page.
        page: for messages.
        folder: of the CSVs of experiments; those of sweeps lie in the one above.

    Raises:
        DataError: a marker asks for what there is not, or cannot be read.
    """
    asked = [(found[1], found[2], found[3]) for found in _ASKED.finditer(text)]
    if len(asked) != text.count(_MARKER):
        raise DataError(f"{page.name}: a comment {_MARKER.strip()} is not of the form TABLE; ROW; REFERENCE with <!-- end --> after it.")
    tests = {one: _test(*one, folder) for one in asked}
    shown = {}
    for table in {one[0] for one in tests}:
        family = [one for one in tests if one[0] == table]
        for one, p in zip(family, holm([tests[one].p for one in family]), strict=True):
            shown[one] = _shown(tests[one], p if len(family) > 1 else None)
    text, made = _MEAN.subn(lambda found: f"<!-- mean: {found[1]}; {found[2]} -->{_shown_mean(found[1], found[2], folder)}<!-- end -->", text)
    if made != text.count("<!-- mean: "):
        raise DataError(f"{page.name}: a comment <!-- mean: is not of the form TABLE; ROW with <!-- end --> after it.")
    return _ASKED.sub(lambda found: f"<!-- difference: {found[1]}; {found[2]}; {found[3]} -->{shown[found[1], found[2], found[3]]}<!-- end -->", text)


def _test(table: str, row: str, reference: str, folder: Path) -> PairedTest:
    """The row against its reference, in points of accuracy."""
    rows = _rows(table, folder, f"{row} & {reference}".split(" & "))
    found = compare_by_seed(*(_mean([rows[name] for name in names.split(" & ")]) for names in (row, reference)))
    if found is None:
        raise DataError(f"The rows {row!r} and {reference!r} of the table {table} have no seed in common.")
    return found


def _mean(rows: list[dict[int, float]]) -> dict[int, float]:
    """Seed -> mean over the rows, of the seeds that all of them have."""
    return {seed: fmean(row[seed] for row in rows) for seed in rows[0] if all(seed in row for row in rows)}


def _rows(table: str, folder: Path, wanted: list[str]) -> dict[str, dict[int, float]]:
    """Row -> seed -> accuracy in points; those that are wanted are among them."""
    file = next((place / f"{table}.csv" for place in (folder, folder.parent) if (place / f"{table}.csv").exists()), None)
    if file is None:
        raise DataError(f"There is no table {table} in {folder.parent.name}/ or {folder.name}/.")
    found: dict[str, dict[int, float]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        lines = csv.DictReader(stream)
        names = list(lines.fieldnames or [])
        for line in lines:
            if "variant" in names:
                if line["inference"] == "plain":
                    found.setdefault(line["variant"], {})[int(line["seed"])] = 100 * float(line["accuracy"])
                continue
            axes = names[: names.index("data set") + 1]  # a sweep: axes, the data set, figures, seeds
            seeds = {name: int(name.removeprefix("seed ")) for name in names if name.startswith("seed ") and line[name]}
            figures = {seed: float(line[name]) for name, seed in seeds.items()}
            found[" · ".join(line[axis] for axis in axes)] = {s: 100 - f if line["metric"] == "error" else f for s, f in figures.items()}
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"The table {table} has no row {missing[0]!r}; it has: {', '.join(found)}.")
    return found


def _shown_mean(table: str, row: str, folder: Path) -> str:
    values = [figure / 100 for figure in _rows(table, folder, [row])[row].values()]
    return f"{plus_minus(mean_std(values))} (n {len(values)})"


def _shown(test: PairedTest, corrected: float | None) -> str:
    p = "" if test.p is None else f"p {shown_p(test.p)}" + ("" if corrected is None else f", Holm {shown_p(corrected)}")
    return shown_difference(test, 1, f"n {test.pairs}", p)
