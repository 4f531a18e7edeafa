"""The command that says how good a classifier is where there are no labels: audit."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from selftrain.cli.common import add_command


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    audit = add_command(
        commands,
        "audit",
        _audit,
        "measure a bundle on documents without labels, by a few answers of yours, with intervals",
        examples=(
            "selftrain audit bundle --documents mails.csv",
            "selftrain audit bundle --documents mails.csv --answers audit/questions.csv",
        ),
        sets={"documents": "data.source", "text_column": "data.text_column"},
    )
    audit.add_argument("bundle", metavar="BUNDLE", help="a bundle folder")
    audit.add_argument(
        "--documents", metavar="FILE", required=True, help="CSV, TSV, JSONL or Parquet with the documents that it is to be measured on"
    )
    audit.add_argument("--text-column", default="text", help="column of the text in --documents (default: text)")
    audit.add_argument(
        "--budget", type=int, metavar="N", help="questions (default: 100); with --answers, more than before: further questions are written"
    )
    audit.add_argument("--answers", metavar="FILE", help="the questions with their column label filled in, all or the first of them")
    audit.add_argument(
        "--out", metavar="FOLDER", help="folder of the audit: new, or with --answers the one of its questions (default: audit beside BUNDLE)"
    )
    audit.add_argument("--seed", type=int, help="another seed asks about other documents (default: 0)")


def _audit(options: argparse.Namespace) -> int:
    from selftrain.errors import ConfigError

    if options.answers is not None and options.seed is not None:
        raise ConfigError("--seed chooses the questions, and --answers has them already; leave out one of them.")
    bundle = Path(options.bundle)
    out = Path(options.out) if options.out else bundle.absolute().parent / "audit"
    if options.answers is not None:
        from selftrain.runs.audit import read_audit

        found = read_audit(bundle, options.documents, out, Path(options.answers), budget=options.budget, text_column=options.text_column)
        print(f"{found.text}\n\nreport     {found.report}")
        if found.more is not None:
            print(f"questions  {found.more}")
        return 0
    from selftrain.runs.audit import NONE, SKIP, plan_audit

    asked = {"budget": options.budget, "seed": options.seed}
    made = plan_audit(
        bundle, options.documents, out, text_column=options.text_column, **{name: value for name, value in asked.items() if value is not None}
    )
    print(f"{made.questions} questions about {made.documents:,} documents: {made.file}")
    print(
        f"Fill in the column label, from the top: {', '.join(made.classes)}; or {NONE!r}, or {SKIP!r}. The order is a random one, so stop where you like."
    )
    words = ["selftrain", "audit", options.bundle, "--documents", options.documents]
    words += ["--text-column", options.text_column] if options.text_column != "text" else []
    print(f"then: {shlex.join([*words, '--answers', str(made.file), *(['--out', options.out] if options.out else [])])}")
    return 0
