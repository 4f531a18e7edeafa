"""Makes the tables of docs/ again from the CSV behind each: means, deviations, intervals, and differences, all from the seeds' own figures.

A sweep's page in docs/results/ has its CSV beside it, and the row that the others are compared with in tune_spaces/; a table of an experiment is made
wherever a page asks for it (docs/experiments.py), and so is a difference between two rows (docs/differences.py).
`make docs` runs this first; `python docs/tables.py --check` changes nothing and exits with 1 where a page differs from its CSV.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import differences  # docs/differences.py
import experiments  # docs/experiments.py
import yaml

from selftrain.errors import SelfTrainError
from selftrain.sweeps.reference import Reference, reference_of
from selftrain.sweeps.table import SweepTable, build_table, to_markdown

DOCS = Path(__file__).resolve().parent
SPACES = DOCS.parent / "tune_spaces"
RESULTS = DOCS / "results"
_TABLE = re.compile(r"^\| .*?(?=^!\[|^\*\*What)", re.M | re.S)


def pages() -> list[Path]:
    """The pages of sweeps: those that have a CSV with a column a seed."""
    return [page for page in sorted(RESULTS.glob("*.md")) if _is_sweep(page)]


def _is_sweep(page: Path) -> bool:
    data = page.with_suffix(".csv")
    return data.exists() and "seed " in data.read_text(encoding="utf-8").partition("\n")[0]


def reference_in(name: str, *, small: bool) -> Reference | None:
    """What the rows of a sweep are compared with.

    Args:
        name: of its file in tune_spaces/.
        small: whether the table is of the small size.
    """
    space = yaml.safe_load((SPACES / f"{name}.yaml").read_text(encoding="utf-8"))
    return reference_of((space["small"] if small and "reference" in space["small"] else space).get("reference"))


def table_of(data: Path, paper_source: str | None, reference: Reference | None) -> SweepTable:
    """The table, as `selftrain sweep` makes it.

    Args:
        data: a CSV of a sweep.
        paper_source: where the paper's figures stand; None where there are none.
        reference: what rows are compared with.
    """
    with data.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
        names = list(reader.fieldnames or [])
    axes = names[: names.index("data set")]
    seeds = [int(name.removeprefix("seed ")) for name in names if name.startswith("seed ")]
    metric = lines[0]["metric"]
    results, paper = {}, {}
    for line in lines:
        row = tuple(line[axis] for axis in axes)
        if line["paper"]:
            paper.setdefault(" · ".join(row), {})[line["data set"]] = line["paper"]
        for seed in seeds:
            if figure := line[f"seed {seed}"]:
                share = float(figure) / 100
                results[row, line["data set"], seed] = {"scores": {"accuracy": 1 - share} if metric == "error" else {metric: share}}
    return build_table(
        axes=axes,
        rows=list(dict.fromkeys(tuple(line[axis] for axis in axes) for line in lines)),
        columns=list(dict.fromkeys(line["data set"] for line in lines)),
        seeds=seeds,
        metric=metric,
        results=results,
        paper=paper,
        paper_source=paper_source,
        reference=reference,
    )


def remade(page: Path) -> str:
    """The page with its tables made again."""
    text = page.read_text(encoding="utf-8")
    if _is_sweep(page):
        source = re.search(r"^Paper: (.*), as printed there;", text, re.M)
        reference = reference_in(text.partition("tune_spaces/")[2].partition(".yaml")[0], small=" --small" in text)
        table = table_of(page.with_suffix(".csv"), source[1] if source else None, reference)
        text = _TABLE.sub(lambda _: to_markdown(table) + "\n", text, count=1)
    return differences.remade(experiments.remade(text, page), page)


def main(check: bool) -> int:
    """Write the pages, or name those that differ."""
    try:
        made = {page: remade(page) for page in sorted(DOCS.rglob("*.md"))}
    except SelfTrainError as error:
        print(error, file=sys.stderr)
        return 2
    differ = [page for page, text in made.items() if text != page.read_text(encoding="utf-8")]
    for page in differ:
        print(f"{page.relative_to(DOCS)}: " + ("a table is not that of its CSV" if check else "made again"))
        if not check:
            page.write_text(made[page], encoding="utf-8")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
