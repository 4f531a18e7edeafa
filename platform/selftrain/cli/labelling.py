"""The command that asks you about documents on a web page: label."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli.common import add_command, add_listening

if TYPE_CHECKING:
    from selftrain.runs.labelling.folder import Folder


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    label = add_command(
        commands,
        "label",
        _label,
        "ask about documents on a web page, for an audit or for training, and keep the answers",
        examples=("selftrain label mail_audit", "selftrain label mail_training --training bundle --documents mails.csv --apart-from mail_audit"),
        sets={"training": "bundle", "documents": "data.source", "text_column": "data.text_column", "label_column": "data.label_column"},
    )
    label.add_argument("folder", metavar="FOLDER", help="of questions: what selftrain audit wrote, or with --training a new one")
    label.add_argument(
        "--training",
        metavar="BUNDLE",
        help="make FOLDER first: those of --documents that stand for many others, by this bundle's encoder, for its successor",
    )
    label.add_argument("--documents", metavar="FILE", help="CSV, TSV, JSONL or Parquet, for --training")
    label.add_argument("--text-column", help="column of the text in --documents (default: text)")
    label.add_argument("--label-column", help="column of --documents with labels that some have already; they are not asked about")
    label.add_argument("--budget", type=int, metavar="N", help="questions, for --training (default: 100)")
    label.add_argument("--apart-from", metavar="AUDIT", help="folder of an audit, for --training: documents that it asks about are left out")
    add_listening(label, "the page asks for")


def _label(options: argparse.Namespace) -> int:
    from selftrain.runs.labelling.desk import Desk
    from selftrain.runs.labelling.folder import open_folder
    from selftrain.runs.labelling.stopping import Stopping
    from selftrain.serving.label_server import checked_token, serve_desk

    folder = Path(options.folder)
    token = checked_token(options.host, options.port, options.token_file, no_token=options.no_token)
    _plan_training(options, folder)
    desk = Desk(open_folder(folder))
    written = serve_desk(desk, host=options.host, port=options.port, token=token, allowed_hosts=options.allowed_host)
    answers = desk.answers()
    print(f"{sum(one.key in answers for one in desk.folder.questions)} of {len(desk.folder.questions)} questions are answered: {written}")
    if (settled := Stopping(desk.folder).look(answers)) is not None:
        print(settled.says)
    if answers:
        for words in _words_after(desk.folder, answers):
            print(f"then: {shlex.join(words)}")
    return 0


def _plan_training(options: argparse.Namespace, folder: Path) -> None:
    from selftrain.errors import ConfigError

    names = ("documents", "text_column", "label_column", "budget", "apart_from")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.training is None:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')} chooses documents to learn from; add --training BUNDLE, or leave it out.")
        return
    if "documents" not in given:
        raise ConfigError("--training needs the documents to choose from; add --documents FILE.")
    from selftrain.runs.labelling.training import plan_training

    apart = given.pop("apart_from", None)
    made = plan_training(Path(options.training), given.pop("documents"), folder, apart_from=Path(apart) if apart else None, **given)
    print(f"{made.questions} questions about {made.documents:,} documents, of which {made.labeled:,} have a label and {made.apart:,} are an audit's")


def _words_after(folder: Folder, answers: Mapping[str, str]) -> list[list[str]]:
    """The commands that use the answers."""
    if folder.purpose == "training":
        from selftrain.runs.labelling.successor import words_of

        return [words_of(folder, answers)]
    audit = ["selftrain", "audit", "BUNDLE", "--documents", "FILE", "--out", str(folder.path), "--answers", str(folder.export)]
    if not folder.separator:
        return [audit]
    thresholds = ["selftrain", "thresholds", "BUNDLE", "--answers", str(folder.export), "--label-column", "label"]
    return [audit, thresholds + (["--separator", folder.separator] if folder.separator != "," else [])]
