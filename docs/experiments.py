"""Keeps the figures of a finished run, seed by seed, and makes the tables of experiments from them.

    python docs/experiments.py NAME RUN_FOLDER... --settings-chosen-on "training documents, seeds 10 to 12"

writes docs/results/experiments/NAME.csv (a row a variant, seed and way of inference) and NAME.yaml (where they come from); of a run with
evaluation.every_round also rounds/NAME.csv (a row a variant, seed and round). A page shows them between

    <!-- experiment: NAME
    against: supervised
    -->
    <!-- end -->

where `make docs` (docs/tables.py) puts mean, deviation, interval, paired difference (corrected by Holm for the rows that are shown) and origin.
The comment is YAML; its keys are those of `Shown`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import rounds  # docs/rounds.py
import yaml
from pydantic import BaseModel, ConfigDict, Field

from selftrain.errors import DataError, SelfTrainError
from selftrain.evaluation.significance import PairedTest, compare_by_seed, holm, mean_interval, mean_std
from selftrain.evaluation.summary import plus_minus, shown_difference, shown_p

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS / "results" / "experiments"
COLUMNS = ("variant", "seed", "inference", "labels", "documents", "bound", "accuracy", "macro_f1", "ece")
_FIGURES = {"macro_f1": "macro-F1", "ece": "ECE", "auc": "AUC"}
_MARKER = "<!-- experiment: "
_TABLE = re.compile(r"<!-- (experiment: (?:(?!-->).)*)-->\n(?:(?!<!--).)*<!-- end -->", re.S)
_LIST = re.compile(r"<!-- experiments -->\n(?:(?!<!--).)*<!-- end -->", re.S)


class Shown(BaseModel):
    """What a page shows of an experiment's CSV."""

    model_config = ConfigDict(extra="forbid")
    experiment: str = Field(description="name of the CSV")
    against: str | None = Field(None, description="the variant that the others are compared with, seed by seed")
    rows: list[str] | dict[str, str | None] = Field(default=[], description="variants in order, or variant -> its name on the page; default: all")
    last_rounds: int = Field(
        0, ge=0, description="compare means over the last N rounds, and show their AUC; 0: the last round, as the run reports it"
    )
    by_round: bool = Field(False, description="show the mean accuracy of every round instead")
    paper: dict[str, str | float] = Field(default={}, description="variant -> the paper's figure; `title`: head of the column")

    def names(self, variants: Sequence[str]) -> dict[str, str]:
        """Variant -> its name on the page."""
        wanted = self.rows or list(variants)
        names = {name: (wanted[name] if isinstance(wanted, dict) else None) or name for name in wanted}
        asked = [*names, *([self.against] if self.against else []), *(row for row in self.paper if row != "title")]
        if missing := [name for name in asked if name not in variants]:
            raise DataError(f"The table {self.experiment} has no row {missing[0]!r}; it has: {', '.join(variants)}.")
        return names


@dataclass(frozen=True)
class Variant:
    """One row of a table: figures by seed, without and with continuations at inference."""

    bound: bool
    plain: dict[str, dict[int, float]]  # figure -> seed -> value
    augmented: dict[int, float]  # seed -> accuracy


# Keeping a run


def record(name: str, folders: Sequence[Path], chosen_on: str, *, machine: str | None = None, command: str | None = None) -> Path:
    """Write the CSV of finished runs and the file that says where its figures come from.

    Args:
        name: of both files.
        folders: runs of one experiment on the same documents; several where seeds or variants were run apart.
        chosen_on: which documents chose the settings, in words.
        machine: what the runs ran on, in words; default: this machine.
        command: what a reader types to run them again; default: what the runs were started with.

    Raises:
        DataError: a folder is no finished run with true labels, the runs do not fit together, or their command names a folder of this machine.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise DataError(f"name must consist of letters, digits, - and _ (got {name!r}).")
    runs = [_metrics(folder) for folder in folders]
    if len({(run["data"]["fingerprint"], run["data"]["test"]) for run in runs}) > 1:
        raise DataError("The runs are not of the same documents; record them under two names.")
    rows: dict[tuple[str, int, bool], Mapping[str, Any]] = {}
    for row in (row for run in runs for row in run["rows"]):
        key = (row["variant"], row["seed"], row["inference_augmentation"])
        if row["scores"] is None:
            raise DataError("The runs have no true labels to be scored by.")
        if key in rows:
            raise DataError(f"Two of the runs have {row['variant']!r} with seed {row['seed']}.")
        rows[key] = row
    origin = _origin(runs, chosen_on, machine, command)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump(origin, sort_keys=False, allow_unicode=True, width=160), encoding="utf-8")
    file = FOLDER / f"{name}.csv"
    file.write_text(_csv(list(rows.values())), encoding="utf-8")
    if followed := [entry for run in runs for entry in run.get("rounds", []) if "test_accuracy" in entry["figures"]]:
        rounds.write(file, followed)
    return file


def _metrics(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(folder)!r} is not the folder of a finished run: {error}") from None
    return found


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        scores = row["scores"]
        inference = "augmented" if row["inference_augmentation"] else "plain"
        bound = "yes" if row.get("bound") or row["supervision"] != rows[0]["supervision"] else ""
        figures = [scores["accuracy"], scores["macro_f1"], scores["ece"]]  # as metrics.json has them: nothing is rounded
        writer.writerow([row["variant"], row["seed"], inference, row["supervision"], row["documents"], bound, *figures])
    return stream.getvalue()


def _origin(runs: Sequence[Mapping[str, Any]], chosen_on: str, machine: str | None, command: str | None) -> dict[str, Any]:
    first = runs[0]
    return {
        "command": [command] if command else _commands(runs),
        "date": min(run["run"]["started"] for run in runs)[:10],
        "machine": machine or this_machine(),
        "settings chosen on": chosen_on,
        "version": _same(run["run"]["code_version"] for run in runs),
        "config": _same(run["run"]["config_fingerprint"] for run in runs),
        "data": f"{Path(first['data']['name']).name} ({first['data']['fingerprint']})",
        "documents": {key: first["data"][key] for key in ("unlabeled", "validation", "test") if key in first["data"]},
        "encoder": Path(first["asked"]["encoder"]).name,
        "language model": Path(first["asked"]["llm"]).name if first["asked"]["llm"] else None,
        "seconds": round(sum(run["run"]["seconds"] for run in runs)),
        "packages": first["versions"],
    }


def _commands(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader types: a start that only continued a killed run is none of it."""
    found = []
    for line in dict.fromkeys(line for run in runs for line in run["run"]["command"].splitlines()):
        words = shlex.split(line)
        if "--resume" in words:
            place = words.index("--resume") + 1
            if len(words) == place + 1:
                continue
            words[place : place + 1] = ["RUN_FOLDER"]
        if any(re.search(r"(^|=)(/|~|\.\.)", word) for word in words):
            raise DataError(f"The run's command names a folder of this machine ({line}); pass the command that a reader types.", parameter="command")
        found.append(line if "--resume" not in words else shlex.join(words))
    return found


def _same(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))


def this_machine() -> str:
    """Cores, accelerator and memory; neither its name nor its folders."""
    import torch

    gpu = f"{torch.cuda.get_device_name(0)}, " if torch.cuda.is_available() else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} CPU cores, {gpu}{memory:.0f} GiB"


# Showing it


def remade(text: str, page: Path, folder: Path = FOLDER) -> str:
    """The text of a page with its tables of experiments made again.

    Args:
        text: of the page.
        page: where it lies, for links.
        folder: of the CSVs.

    Raises:
        DataError: a marker asks for what there is not.
    """

    def table(found: re.Match[str]) -> str:
        try:
            shown = Shown(**yaml.safe_load(found[1]))
        except (TypeError, ValueError) as error:
            raise DataError(f"{page.name}: the comment <!-- {found[1].strip()} --> cannot be read: {error}") from None
        return f"<!-- {found[1]}-->\n\n{table_of(shown, page, folder)}\n\n<!-- end -->"

    made, count = _TABLE.subn(table, text)
    if count != text.count(_MARKER):
        raise DataError(f"{page.name}: a comment {_MARKER.strip()} has no <!-- end --> after it.")
    return _LIST.sub(lambda _: f"<!-- experiments -->\n\n{list_of(page, folder)}\n\n<!-- end -->", made)


def table_of(shown: Shown, page: Path, folder: Path = FOLDER) -> str:
    """The table, what its columns mean, and its origin."""
    file = folder / f"{shown.experiment}.csv"
    variants = _variants(file)
    names = shown.names(list(variants))
    if shown.by_round:
        return f"{rounds.table(names, rounds.read(file))}\n\nMean accuracy over the seeds after each round.\n\n{_from(file, page)}"
    if shown.last_rounds:
        variants = _of_last(variants, rounds.read(file), shown.last_rounds)
    figures = [key for key in _FIGURES if any(variants[name].plain.get(key) for name in names)]
    augmented = any(variants[name].augmented for name in names)
    several = any(len(variants[name].plain["accuracy"]) > 1 for name in names)
    head = ["variant", "n", "accuracy", *(["95 % interval"] if several else []), *(_FIGURES[key] for key in figures)]
    head += ["accuracy, augmented at inference"] if augmented else []
    head += [f"difference from {names.get(shown.against, shown.against)}", "p", "p, Holm"] if shown.against else []
    head += [str(shown.paper.get("title", "paper"))] if shown.paper else []
    lines = [head, ["---"] * len(head)]
    tests = _tests(shown.against, {name: variants[name] for name in names}, variants)
    for name, title in names.items():
        one = variants[name]
        accuracy = one.plain["accuracy"]
        line = [title + (" (bound)" if one.bound else ""), str(len(accuracy)), _shown(accuracy), *([_interval(accuracy)] if several else [])]
        line += [_shown(one.plain.get(key, {})) for key in figures]
        line += [_shown(one.augmented)] if augmented else []
        if shown.against:
            line += tests.get(name, ["", "", ""])
        line += [str(shown.paper.get(name, ""))] if shown.paper else []
        lines.append(line)
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"{table}\n\n{_legend(shown, several)}\n\n{_from(file, page)}"


def _of_last(variants: Mapping[str, Variant], followed: Mapping[str, Mapping[int, Any]], count: int) -> dict[str, Variant]:
    """The variants with the means of their last `count` rounds in place of the figures of the last one."""
    found = {}
    for name, one in variants.items():
        last = {seed: entries[-count:] for seed, entries in followed.get(name, {}).items()}
        plain = {"accuracy": {seed: fmean(accuracy for accuracy, _ in entries) for seed, entries in last.items()} or one.plain["accuracy"]}
        plain["auc"] = {seed: fmean(area for _, area in entries) for seed, entries in last.items() if all(area is not None for _, area in entries)}
        found[name] = Variant(one.bound, plain | {"macro_f1": {}, "ece": {}}, {})
    return found


def list_of(page: Path, folder: Path = FOLDER) -> str:
    """Every experiment whose figures are kept."""
    lines = ["| figures | command | date | machine | selftrain | settings chosen on |", "| --- | --- | --- | --- | --- | --- |"]
    for file in sorted(folder.glob("*.csv")):
        origin = origin_of(file)
        commands = "<br>".join(f"`{command}`" for command in origin["command"])
        cells = [commands, origin["date"], origin["machine"], origin["version"] or "not recorded", origin["settings chosen on"]]
        lines.append(f"| {' | '.join([f'[{file.stem}]({_link(file, page)})', *cells])} |")
    return "\n".join(lines)


def origin_of(file: Path) -> dict[str, Any]:
    """What stands beside a CSV."""
    origin: dict[str, Any] = yaml.safe_load(file.with_suffix(".yaml").read_text(encoding="utf-8"))
    return origin


def _variants(file: Path) -> dict[str, Variant]:
    if not file.exists():
        raise DataError(f"There is no {file.name} in {file.parent.name}/; record a run under that name, or correct the page's comment.")
    found: dict[str, Variant] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            one = found.setdefault(row["variant"], Variant(row["bound"] == "yes", {"accuracy": {}, "macro_f1": {}, "ece": {}}, {}))
            if row["inference"] == "augmented":
                one.augmented[int(row["seed"])] = float(row["accuracy"])
                continue
            for figure, values in one.plain.items():
                if row[figure]:
                    values[int(row["seed"])] = float(row[figure])
    return found


def _shown(values: Mapping[int, float]) -> str:
    return plus_minus(mean_std(list(values.values()))) if values else ""


def _interval(values: Mapping[int, float]) -> str:
    found = mean_interval(list(values.values()))
    return f"{found[0]:.3f} to {found[1]:.3f}" if found else ""


def _tests(against: str | None, shown: Mapping[str, Variant], variants: Mapping[str, Variant]) -> dict[str, list[str]]:
    """Row -> its difference from the reference, p and p after Holm's correction; a row without a seed in common with the reference is left out."""
    if against is None:
        return {}
    reference = variants[against].plain["accuracy"]
    found = {name: compare_by_seed(one.plain["accuracy"], reference) for name, one in shown.items() if name != against}
    tests = {name: test for name, test in found.items() if test is not None}
    corrected = holm([test.p for test in tests.values()])
    return {
        name: [
            _difference(test, max(len(shown[name].plain["accuracy"]), len(reference))),
            *("" if p is None else shown_p(p) for p in (test.p, holms)),
        ]
        for (name, test), holms in zip(tests.items(), corrected, strict=True)
    }


def _difference(test: PairedTest, seeds: int) -> str:
    return shown_difference(test, 3, f"{test.pairs} of {seeds} seeds" if test.pairs < seeds else "")


def _legend(shown: Shown, several: bool) -> str:
    text = "Mean ± sample standard deviation over n seeds; the interval is that of the mean accuracy, by Student's t." if several else "One seed."
    if shown.last_rounds:
        text += f" Accuracy and AUC are means over the last {shown.last_rounds} rounds."
    if shown.against:
        text += " Difference: of the accuracies, seed by seed, with its 95 % interval; p: two-sided paired t-test, alone and corrected for the rows of this table."
    return text


def _from(file: Path, page: Path) -> str:
    origin = origin_of(file)
    commands = ", ".join(f"`{command}`" for command in origin["command"])
    printed = f" Figures: {origin['figures']}." if "figures" in origin else ""
    version = f"selftrain {origin['version']}" if origin["version"] else "version not recorded"
    return (
        f"Origin: [{file.name}]({_link(file, page)}), {commands}; {origin['date']}, {origin['machine']}, {version}.{printed} "
        f"Settings chosen on: {origin['settings chosen on']}."
    )


def _link(file: Path, page: Path) -> str:
    return os.path.relpath(file, page.parent)


def main(arguments: Sequence[str]) -> int:
    """Keep the figures of a run."""
    parser = argparse.ArgumentParser(
        prog="docs/experiments.py", description="Keep the figures of finished runs, seed by seed, for the tables of docs/."
    )
    parser.add_argument("name", help="of the CSV in docs/results/experiments/")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="finished runs of one experiment on the same documents")
    parser.add_argument("--settings-chosen-on", required=True, metavar="WORDS", help="which documents chose the settings")
    parser.add_argument("--machine", metavar="WORDS", help="what the runs ran on; default: this machine's cores, GPU and memory")
    parser.add_argument("--command", metavar="COMMAND", help="what a reader types; default: what the runs were started with")
    given = parser.parse_args(arguments)
    try:
        file = record(given.name, given.folders, given.settings_chosen_on, machine=given.machine, command=given.command)
    except SelfTrainError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{file.relative_to(DOCS.parent)}: show it on a page with <!-- experiment: {given.name} --> and <!-- end -->, then run make docs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
