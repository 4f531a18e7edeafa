"""The command that measures a classifier by a few answers of yours: audit."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from selftrain.cli.common import add_command, add_tracking_uri

UNSUPPORTED = 2  # exit code where the answers do not support what is to be promised


def add_commands(commands: Any) -> None:
    """Add `audit`, which runs as a job too."""
    audit = add_command(
        commands,
        "audit",
        _audit,
        "measure a bundle on documents without labels, by a few answers of yours, with intervals",
        examples=(
            "selftrain audit bundle --documents mails.csv",
            "selftrain audit bundle --documents mails.csv --answers audit/questions.csv",
        ),
        sets={"documents": "data.source", "text_column": "data.text_column", "prediction_sets": "sets"},
    )
    audit.add_argument("bundle", metavar="BUNDLE", help="a bundle folder, or a registered one: models:/NAME@champion, models:/NAME/VERSION")
    audit.add_argument(
        "--documents",
        metavar="FILE",
        required=True,
        help="CSV, TSV, JSONL or Parquet with the documents that it is to be measured on; an address (s3://) of Parquet",
    )
    audit.add_argument("--text-column", default="text", help="column of the text in --documents (default: text)")
    audit.add_argument(
        "--budget", type=int, metavar="N", help="questions (default: 100); with --answers, more than before: further questions are written"
    )
    audit.add_argument(
        "--answers", metavar="FILE", help="the questions with their column label filled in, all or the first of them; a file or an address"
    )
    audit.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder or address of the audit: new, or with --answers the one of its questions (default: audit beside BUNDLE, for a registered one in the "
        "working folder)",
    )
    audit.add_argument(
        "--promise",
        type=float,
        metavar="SHARE",
        help="of wrong answers among those given, such as 0.05: with --answers, the threshold below which the bundle must abstain to keep it goes into the "
        "bundle; without, the questions are chosen for it",
    )
    audit.add_argument(
        "--sets",
        type=float,
        metavar="SHARE",
        dest="prediction_sets",
        help="of documents whose prediction set may lack the true class, such as 0.1: with --answers, the probability from which on a class is in the set "
        "goes into the bundle; without, the questions are chosen for it, unless there is a --promise",
    )
    audit.add_argument(
        "--none-of-these",
        type=float,
        metavar="SHARE",
        help="of documents that are of a class and taken for none, such as 0.05: with --answers, the typicality up to which a text is taken for none of the "
        "classes goes into the bundle; without, the questions are chosen as for --sets",
    )
    audit.add_argument("--seed", type=int, help="another seed asks about other documents (default: 0)")
    add_tracking_uri(audit)


def _audit(options: argparse.Namespace) -> int:
    from selftrain.errors import ConfigError

    if options.answers is not None and options.seed is not None:
        raise ConfigError("--seed chooses the questions, and --answers has them already; leave out one of them.")
    from selftrain.runs.audit_places import answers_file, audit_folder, bundle_folder, is_registered

    promises = {"--promise": options.promise, "--sets": options.prediction_sets, "--none-of-these": options.none_of_these}
    flag = next((flag for flag, share in promises.items() if share is not None), None)
    if flag is not None and is_registered(options.bundle):
        raise ConfigError(
            f"{flag} writes into the bundle, so BUNDLE must be a folder (got {options.bundle!r}); audit the run's bundle, and register it afterwards.",
            parameter="bundle",
        )
    bundle = bundle_folder(options.bundle, options.tracking_uri)
    out = options.out or str(Path("audit") if is_registered(options.bundle) else bundle.absolute().parent / "audit")
    if options.answers is not None:
        from selftrain.runs.audit import read_audit

        with audit_folder(out) as folder, answers_file(options.answers) as answers:
            found = read_audit(
                bundle,
                options.documents,
                folder,
                answers,
                budget=options.budget,
                promise=options.promise,
                sets=options.prediction_sets,
                none_of_these=options.none_of_these,
                text_column=options.text_column,
            )
        print(f"{found.text}\n\nreport     {_in(out, found.report)}")
        if found.more is not None:
            print(f"questions  {_in(out, found.more)}")
        return UNSUPPORTED if any(one is not None and one.promise is None for one in (found.promised, found.sets, found.none_of_these)) else 0
    from selftrain.runs.audit import NONE, SKIP, plan_audit

    asked = {"budget": options.budget, "promise": options.promise, "sets": options.prediction_sets, "seed": options.seed}
    asked |= {"none_of_these": options.none_of_these}
    with audit_folder(out) as folder:
        made = plan_audit(
            bundle, options.documents, folder, text_column=options.text_column, **{name: value for name, value in asked.items() if value is not None}
        )
    file = _in(out, made.file)
    print(f"{made.questions} questions about {made.documents:,} documents: {file}")
    several = f" (several with {made.separator!r} in between)" if made.separator else ""
    print(
        f"Fill in the column label, from the top: {', '.join(made.classes)}{several}; or {NONE!r}, or {SKIP!r}. "
        "The order is a random one, so stop where you like."
    )
    words = ["selftrain", "audit", options.bundle, "--documents", options.documents]
    words += ["--text-column", options.text_column] if options.text_column != "text" else []
    words += ["--tracking-uri", options.tracking_uri] if options.tracking_uri else []
    words += ["--answers", file, *(["--out", options.out] if options.out else [])]
    words += [word for flag, share in promises.items() if share is not None for word in (flag, f"{share:g}")]
    print(f"then: {shlex.join(words)}")
    return 0


def _in(out: str, file: Path) -> str:
    """`file` of an audit, where its user finds it."""
    return f"{out.rstrip('/')}/{file.name}"
