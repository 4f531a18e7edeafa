"""What `make mutants` has found, as a table in docs/howto/mutants.md and as CSV; and the explanations of mutants that no test can notice."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import unified_diff
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXPLANATIONS = Path(__file__).with_name("explained")
PAGE, FIGURES, SURVIVORS = ROOT / "docs/howto/mutants.md", ROOT / "docs/results/mutants.csv", ROOT / "docs/results/mutants_survivors.csv"
BEGIN, END = "<!-- table: written by make mutants-report -->\n", "<!-- end of table -->"
FOUND = ("killed", "timeout")
# Changes that no caller can notice wherever they are made: what a pattern finds is taken out on both sides, and if the sides are equal then, this is why.
KINDS = {
    r",?\s*strict=\w+|,\s*(?=\))": "zip's strict is an assertion: what it is given is of one length, or no test of ours would pass",
    r",?\s*encoding=(\"utf-8\"|\"UTF-8\"|None)|,\s*(?=\))": "UTF-8 is the default on every platform that we run on, and its name has no case",
    r"(?<=code\()\"(utf-8|UTF-8)\"": "UTF-8 is the default, and its name has no case",
    r",?\s*\bdim=1(?=\))|,\s*(?=\))": "the second dimension is what F.normalize takes by itself",
    r"(?<==)(False|None)(?=[,)])": "None is as false as False where a truth value is asked for",
}
COLUMNS = ("file", "mutants", "tested", "killed", "timeout", "survived", "unreached", "explained", "score", "from", "to")

Known = Callable[["Mutant"], dict[str, Any] | None]
Explanations = Mapping[tuple[str, str], str]  # (function, change) -> reason


@dataclass(frozen=True)
class Mutant:
    """A function with one change."""

    name: str  # selftrain.files.journal.xǁJournalǁadd__mutmut_3, numbered within the function
    path: str  # selftrain/files/journal.py
    original: str  # source of the function
    changed: str

    @property
    def function(self) -> str:
        """mutmut's name of the function."""
        return self.name.partition("__mutmut_")[0]

    @cached_property
    def identity(self) -> str:
        """Of the changed function's text: stays when other mutants of it come and go."""
        return hashlib.sha256(f"{self.function}\n{self._plain(self.changed)}".encode()).hexdigest()[:16]

    @cached_property
    def change(self) -> str:
        """The lines that differ, as `- before` and `+ after`."""
        before, after = (textwrap.dedent(self._plain(text)).splitlines() for text in (self.original, self.changed))
        return "\n".join(f"{line[0]} {line[1:].strip()}" for line in list(unified_diff(before, after, n=0, lineterm=""))[2:] if line[0] in "+-")

    @cached_property
    def kind(self) -> str | None:
        """Why a change of this kind makes no difference anywhere; None where it is of no such kind."""
        lines = self.change.splitlines()
        before, after = ("\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in "-+")
        return next((why for pattern, why in KINDS.items() if re.sub(pattern, "", before) == re.sub(pattern, "", after)), None)

    @staticmethod
    def _plain(text: str) -> str:
        return re.sub(r"__mutmut_(\d+|orig)\b", "", text)


def read_explanations() -> dict[tuple[str, str], str]:
    """Every explanation: by function and change, for a number says nothing after the function was edited."""
    found = {}
    for file in sorted(EXPLANATIONS.glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")) or []:
            found[entry["function"], entry["change"]] = entry["reason"]
    return found


def write_explanation(mutant: Mutant, reason: str) -> None:
    """Add one to the file of the mutant's module."""
    file = EXPLANATIONS / (mutant.path.removesuffix(".py").replace("/", ".") + ".yaml")
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None) or []
    entries = [entry for entry in entries if (entry["function"], entry["change"]) != (mutant.function, mutant.change)]
    entries.append({"function": mutant.function, "change": mutant.change, "reason": reason})
    EXPLANATIONS.mkdir(exist_ok=True)
    file.write_text(yaml.dump(entries, allow_unicode=True, sort_keys=False, width=150), encoding="utf-8")


def refused(mutants: Sequence[Mutant], known: Known, explanations: Explanations) -> list[str]:
    """Explanations that explain nothing: their mutant is gone, or a test notices it."""
    by_change: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in mutants:
        by_change.setdefault((mutant.function, mutant.change), []).append(mutant)
    found = []
    for function, change in explanations:
        same = by_change.get((function, change), [])
        verdicts = [(known(mutant) or {}).get("status") for mutant in same]
        if not same:
            found.append(f"{function}: there is no such mutant any more\n{change}")
        elif all(verdict in FOUND for verdict in verdicts):
            found.append(f"{same[0].name}: a test notices it\n{change}")
    return found


def explained(mutant: Mutant, explanations: Explanations) -> bool:
    """Whether it is known why no test can notice a mutant."""
    return mutant.kind is not None or (mutant.function, mutant.change) in explanations


def wilson(successes: int, trials: int, whole: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found on `trials` of `whole`, drawn by chance; a point where all were tested."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    if trials >= whole:
        return share, share
    z = 1.959964
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5 / (1 + z * z / trials)
    return middle - half, middle + half


def count(mutants: Sequence[Mutant], known: Known, explanations: Explanations) -> list[dict[str, Any]]:
    """A row a file and one of all that have been begun: how many mutants, what became of them, and the score among those that change behaviour, in percent."""
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.path, []).append(mutant)
    rows = []
    begun = [mutant for group in by_file.values() if any(known(mutant) for mutant in group) for mutant in group]
    for path, group in [*sorted(by_file.items()), ("all", begun)]:
        found: Counter[str] = Counter()
        for mutant in group:
            verdict = known(mutant)
            status = verdict["status"] if verdict else "waiting"
            if status in ("survived", "unreached") and explained(mutant, explanations):
                status = "explained"
            found[status] += 1
        tested = len(group) - found["waiting"]
        killed, counted = found["killed"] + found["timeout"], tested - found["explained"]
        low, high = wilson(killed, counted, len(group) - found["explained"])
        score = f"{100 * killed / counted:.1f}" if counted else ""
        rows.append(
            {"file": path, "mutants": len(group), "tested": tested, **{name: found[name] for name in COLUMNS[3:8]}}
            | {"score": score, "from": f"{100 * low:.1f}", "to": f"{100 * high:.1f}"}
        )
    return rows


def summary(mutants: Sequence[Mutant], known: Known, explanations: Explanations, *, survivors: bool = False) -> str:
    """The table for a terminal, with survivors by name where they are asked for, and explanations that are refused."""
    rows = count(mutants, known, explanations)
    width = max(len(row["file"]) for row in rows)
    lines = ["".join(["file".ljust(width), *(f"{name:>10}" for name in COLUMNS[1:9])])]
    lines += ["".join([row["file"].ljust(width), *(f"{row[name]!s:>10}" for name in COLUMNS[1:9])]) for row in rows]
    if survivors:
        for mutant, status in _surviving(mutants, known, explanations):
            lines += [f"\n{mutant.name} ({status})", mutant.change]
    given = {(mutant.function, mutant.change) for mutant in mutants}
    asked = {
        key: why for key, why in explanations.items() if key in given or not survivors
    }  # some mutants say nothing of other mutants' explanations
    lines += [f"\nrefused explanation of {text}" for text in refused(mutants, known, asked)]
    return "\n".join(lines)


def _surviving(mutants: Sequence[Mutant], known: Known, explanations: Explanations) -> list[tuple[Mutant, str]]:
    found = []
    for mutant in sorted(mutants, key=lambda mutant: (mutant.path, mutant.name)):
        status = (known(mutant) or {}).get("status")
        if status in ("survived", "unreached") and not explained(mutant, explanations):
            found.append((mutant, status))
    return found


def write_report(mutants: Sequence[Mutant], known: Known, explanations: Explanations) -> None:
    """docs/howto/mutants.md's table, and the figures and survivors as CSV.

    Ends the program with exit code 1 where an explanation explains nothing.
    """
    wrong = refused(mutants, known, explanations)
    if wrong:
        sys.exit("Explanations that must go from tests/mutation/explained:\n\n" + "\n\n".join(wrong))
    rows = count(mutants, known, explanations)
    FIGURES.parent.mkdir(exist_ok=True)
    with FIGURES.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with SURVIVORS.open("w", newline="", encoding="utf-8") as file:
        plain = csv.writer(file, lineterminator="\n")
        plain.writerow(["mutant", "status", "change"])
        plain.writerows((mutant.name, status, mutant.change) for mutant, status in _surviving(mutants, known, explanations))
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:start]}{_markdown(rows)}{page[end:]}", encoding="utf-8")


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"`make mutants` and `make mutants-report`, {date.today().isoformat()}; files of which no mutant was tested are named below:\n",
        "| File | Mutants | Tested | Killed | Out of time | Survived | Unreached | Explained | Score (%) | 95 % interval |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if not row["tested"]:
            continue
        interval = "" if row["from"] == row["to"] else f"{row['from']}–{row['to']}"
        lines.append("| " + " | ".join([str(row[name]) for name in COLUMNS[:9]] + [interval]) + " |")
    waiting = [row["file"] for row in rows if row["tested"] == 0]
    lines.append(f"\nNot tested yet: {', '.join(waiting)}." if waiting else "\nEvery file has been tested, in whole or by a random sample.")
    return "\n".join(lines) + "\n"
