"""Commands that look and change nothing: doctor, data, methods, leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selftrain.cli.common import DATA_KEYS, add_command, add_experiment, add_tracking_uri, load_experiment

_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        "check this machine, and say how to fix what is missing",
        examples=("selftrain doctor", "selftrain doctor --set augment.model=gemma-3-270m"),
        sets=DATA_KEYS,
    )
    add_experiment(doctor)

    data = add_command(
        commands,
        "data",
        _data,
        "list the catalogue, or show how an experiment's data is read",
        examples=("selftrain data", "selftrain data --data documents.csv --label-column topic"),
        sets=DATA_KEYS,
    )
    add_experiment(data)

    methods = add_command(
        commands, "methods", _methods, "list the methods, or print the options of one", examples=("selftrain methods", "selftrain methods genco")
    )
    methods.add_argument("name", nargs="?", metavar="METHOD")

    leaderboard = add_command(
        commands,
        "leaderboard",
        _leaderboard,
        "compare all methods on all data sets, from the finished runs in MLflow",
        examples=("selftrain leaderboard --html leaderboard.html",),
        sets={"tracking_uri": "uri"},
    )
    add_tracking_uri(leaderboard)
    leaderboard.add_argument("--experiment", default="selftrain", help="MLflow experiment (default: selftrain)")
    leaderboard.add_argument("--html", metavar="FILE", help="also write a page with sortable columns")


def _doctor(options: argparse.Namespace) -> int:
    from selftrain.doctor import checks, report

    found = checks(load_experiment(options))
    print(report(found))
    return 0 if all(check.ok for check in found) else 2


def _data(options: argparse.Namespace) -> int:
    from selftrain.data.describing import describe_catalogue, describe_corpus
    from selftrain.data.loading import load_corpus

    if options.experiment is None and options.data is None and not options.overrides:
        print(describe_catalogue())
        return 0
    print(describe_corpus(*load_corpus(load_experiment(options).data)))
    return 0


def _methods(options: argparse.Namespace) -> int:
    from selftrain.methods import METHODS, method_class

    if options.name is None:
        for name in METHODS:
            method = method_class(name)
            print(f"{name}\n    {method.summary}")
            print(f"    {method.paper}; supervision: {method.supervision}; of the language model: {method.language_model}")
        return 0
    for key, field in method_class(options.name).Options.model_fields.items():
        default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        kind = getattr(field.annotation, "__name__", None) or str(field.annotation).replace("typing.", "")
        limits = ", ".join(f"{sign} {getattr(part, name):g}" for part in field.metadata for name, sign in _LIMITS.items() if hasattr(part, name))
        print(f"method.{key}: {kind}{default}  {limits}\n    {field.description or ''}".rstrip())
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from selftrain.files.durable import check_file, whole_file

    if options.html:
        check_file(Path(options.html), "html")
    from selftrain.evaluation.leaderboard import entries_of, text_table, to_html
    from selftrain.tracking import finished_metrics

    entries = entries_of(finished_metrics(options.tracking_uri, options.experiment))
    print(text_table(entries))
    if options.html:
        with whole_file(Path(options.html), "html") as partial:
            partial.write_text(to_html(entries), encoding="utf-8")
        print(f"\npage  {options.html}")
    return 0
