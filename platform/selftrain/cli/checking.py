"""The command that looks at class names before training: check."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selftrain.cli.common import DATA_KEYS, add_command, add_experiment, load_experiment


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    check = add_command(
        commands,
        "check",
        _check,
        "look at the class names before training: do they separate the documents, and, with ten answers, are they right",
        examples=(
            'selftrain check --data mails.csv --classes "billing,delivery,returns" --questions questions.csv',
            'selftrain check --data mails.csv --classes "billing,delivery,returns" --answers questions.csv',
        ),
        sets=DATA_KEYS,
    )
    add_experiment(check)
    check.add_argument("--documents", type=int, metavar="N", help="documents that are looked at, a random sample (default: 500)")
    check.add_argument("--questions", metavar="FILE.csv", help="also write questions about typical documents, with an empty column label")
    check.add_argument("--answers", metavar="FILE.csv", help="the questions with their column label filled in: say which names are wrong")
    check.add_argument("--count", type=int, metavar="N", help="questions (default: 10); with --answers, as many as were asked for")
    check.add_argument("--seed", type=int, help="another seed asks about other documents (default: 0)")


def _check(options: argparse.Namespace) -> int:
    from selftrain.errors import ConfigError
    from selftrain.files.durable import check_file

    if options.questions and options.answers:
        raise ConfigError("--questions writes new questions, and --answers reads answers to old ones; leave out one of them.")
    if not (options.questions or options.answers) and (options.count is not None or options.seed is not None):
        raise ConfigError("--count and --seed choose questions; pass --questions FILE.csv or --answers FILE.csv too.")
    experiment = load_experiment(options)
    if options.questions:
        from selftrain.runs.questions import check_new

        check_new(Path(options.questions))
        check_file(Path(options.questions), "questions")
    from selftrain.runs.check import check

    asked = {name: value for name, value in (("count", options.count), ("seed", options.seed)) if value is not None}
    found = check(experiment, **({"documents": options.documents} if options.documents is not None else {}))
    if options.answers:
        print(found.answered(Path(options.answers), **asked).text)
        return 0
    print(found.text)
    if options.questions:
        from selftrain.runs.questions import NONE, SKIP

        count = found.ask(Path(options.questions), **asked)
        print(f"\n{count} questions: {options.questions}")
        print(f"Fill in the column label: {', '.join(found.corpus.class_names)}; or {NONE!r}, or {SKIP!r}.")
        print(f"then: {options.asked.replace('--questions', '--answers')}")
    return 0
