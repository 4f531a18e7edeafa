"""Makes the tables of docs/results/*.md again from the CSV beside each page: means, deviations, the best and the marks, all from the seeds' own figures.

`make docs` runs it first; `python docs/tables.py --check` changes nothing and exits with 1 where a page differs from its CSV.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from selftrain.sweeps.table import build_table, to_markdown

RESULTS = Path(__file__).resolve().parent / "results"
_TABLE = re.compile(r"^\| .*?(?=^!\[|^\*\*What)", re.M | re.S)


def pages() -> list[Path]:
    """The pages that have a CSV with a column a seed."""
    return [
        page
        for page in sorted(RESULTS.glob("*.md"))
        if (data := page.with_suffix(".csv")).exists() and "seed " in data.read_text().partition("\n")[0]
    ]


def table_of(data: Path, paper_source: str | None) -> str:
    """The table and its legend, as `selftrain sweep` writes them.

    Args:
        data: a CSV of a sweep.
        paper_source: where the paper's figures stand; None where there are none.
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
    return to_markdown(
        build_table(
            axes=axes,
            rows=list(dict.fromkeys(tuple(line[axis] for axis in axes) for line in lines)),
            columns=list(dict.fromkeys(line["data set"] for line in lines)),
            seeds=seeds,
            metric=metric,
            results=results,
            paper=paper,
            paper_source=paper_source,
        )
    )


def remade(page: Path) -> str:
    """The page with its table made again."""
    text = page.read_text(encoding="utf-8")
    source = re.search(r"^Paper: (.*), as printed there;", text, re.M)
    return _TABLE.sub(lambda _: table_of(page.with_suffix(".csv"), source[1] if source else None) + "\n", text, count=1)


def main(check: bool) -> int:
    """Write the pages, or name those that differ."""
    differ = [page for page in pages() if remade(page) != page.read_text(encoding="utf-8")]
    for page in differ:
        print(f"{page.name}: its table is not that of its CSV" if check else f"{page.name}: made again")
        if not check:
            page.write_text(remade(page), encoding="utf-8")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
