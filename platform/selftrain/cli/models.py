"""Commands for trained models: predict, export, distill, register."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli.common import Parser, add_command, add_tracking_uri, names_of
from selftrain.errors import ConfigError, ProcessDied, printable

if TYPE_CHECKING:
    from selftrain.bundle.classifier import Classifier
    from selftrain.tracking import RegisteredVersion


_OF_A_PASS = {"address": "--address", "at_once": "--at-once", "threads": "--threads", "gpus": "--gpus"}
NO_LABEL = "-"  # what is printed for a text that gets none
NONE = "none of these"  # likewise, for one that fits no class
CONTINUES = "the same command continues, what is written is kept"


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    add_predict(commands)
    _add_export(commands)
    add_distill(commands)
    _add_register(commands)


def add_predict(commands: Any) -> None:
    """Add `predict`, which runs as a job too."""
    predict = add_command(
        commands,
        "predict",
        _predict,
        "classify texts, a file, or many files with the registered champion or a bundle",
        examples=(
            'selftrain predict --model mail "Where is my parcel?"',
            "selftrain predict --bundle bundle --file 'docs/*.parquet' --out labeled/",
        ),
        sets={"file": "source", "model": "model_name", "address": "ray.address", "prediction_sets": "sets"},
    )
    predict.add_argument("texts", nargs="*", metavar="TEXT")
    predict.add_argument(
        "--file",
        metavar="FILE",
        help="CSV, JSONL or Parquet with one text a row; or a folder, a wildcard (in quotes) or an address (s3://) of many, which Ray Data goes through",
    )
    predict.add_argument(
        "--out",
        metavar="FILE",
        help="where the labeled rows go (CSV, JSONL or Parquet); for many files a folder or an address; repeated, it continues",
    )
    predict.add_argument("--text-column", default="text", help="column of the text in --file (default: text)")
    predict.add_argument(
        "--abstain", action="store_true", help="no label for texts on which the bundle is not sure enough for its promise (selftrain audit --promise)"
    )
    predict.add_argument(
        "--sets",
        action="store_true",
        dest="prediction_sets",
        help="beside the label the classes that may be the true one, of which the bundle promises how often it is among them (selftrain audit --sets)",
    )
    predict.add_argument(
        "--none-of-these",
        type=_none_of_these,
        metavar="SHARE",
        help="no label for texts that fit no class: up to this share of the documents that the bundle keeps would be taken for such, 0.05 for instance; or "
        "promise, for what an audit has found (selftrain audit --none-of-these)",
    )
    which = predict.add_mutually_exclusive_group()
    which.add_argument("--model", default=None, help="name in the registry; its champion is used (default: bbc_news, the demo's)")
    which.add_argument("--bundle", metavar="FOLDER", help="a bundle folder, without a registry")
    predict.add_argument("--address", help="for many files: a Ray cluster (auto, or an address); default: a local Ray (ray.address)")
    predict.add_argument("--at-once", type=int, metavar="N", help="for many files: processes at most (default: as many as there is room for)")
    predict.add_argument("--threads", type=int, metavar="N", help="for many files: cores of a process (default: 1)")
    predict.add_argument(
        "--gpus", metavar="N", help="for many files: GPUs of a process, such as 0.5; 0: the CPU (default: auto, one where there are some)"
    )
    add_tracking_uri(predict)


def _add_export(commands: Any) -> None:
    export = add_command(
        commands,
        "export",
        _export,
        "put ONNX graphs into a bundle, in 8 bits too, and find this machine's fastest backend",
        examples=("selftrain export bundle --out fast", "selftrain export mail --documents labeled.csv --label-column topic --out fast"),
        sets={"bundle": "folder", "documents": "source"},
    )
    export.add_argument("bundle", metavar="BUNDLE_OR_MODEL", help="a bundle folder, or the name of a registered model, whose champion is taken")
    export.add_argument("--out", metavar="FOLDER", help="a new folder for a copy of the bundle with the graphs (default: into the bundle itself)")
    _add_documents(export, "to check and measure on")
    export.add_argument(
        "--max-accuracy-loss",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="of int8, in accuracy where the documents have labels, else in agreement with float32 (default: 0.005)",
    )
    export.add_argument("--backends", metavar="A,B,...", help="of onnx, onnx-int8, openvino; PyTorch is always measured (default: all)")
    export.add_argument("--threads", type=int, metavar="N", help="cores for the measurement (default: all that this process may use)")
    add_tracking_uri(export)


def add_distill(commands: Any) -> None:
    """Add `distill`, which runs as a job too."""
    distill = add_command(
        commands,
        "distill",
        _distill,
        "train smaller students on a bundle's probabilities, compare all of them, and choose and promote one",
        examples=(
            "selftrain distill bundle --out small",
            "selftrain distill bundle --documents labeled.csv --label-column topic --layers 2,3 --within 0.01 --promote",
        ),
        sets={
            "bundle": "folder",
            "documents": "source",
            "student": "students",
            "test_documents": "data.test_documents",
            "model": "name",
            "tracking_uri": "uri",
        },
    )
    distill.add_argument("bundle", metavar="BUNDLE", help="a bundle folder")
    _add_documents(distill, "to learn from; labeled ones are held out to measure on", data=True)
    distill.add_argument(
        "--test-documents",
        type=int,
        default=1000,
        metavar="N",
        help="labeled documents that are held out, where there is no test split (default: 1,000)",
    )
    distill.add_argument("--student", choices=("static", "shallow"), help="default: both, one bundle each")
    distill.add_argument(
        "--out", metavar="FOLDER", help="a new folder for the students' bundles, tiers.json and tiers.svg (default: distilled beside BUNDLE)"
    )
    distill.add_argument("--layers", default="3", metavar="K,...", help="layers of the shallow student; several make one each (default: 3)")
    distill.add_argument("--max-documents", type=int, default=20_000, metavar="N", help="documents to learn from at most (default: 20,000)")
    distill.add_argument(
        "--within",
        type=float,
        metavar="SHARE",
        help="export the students, in int8 too, and choose the fastest one that loses at most this of the accuracy (without labels of the agreement), such as "
        "0.01, by the upper bound of its loss",
    )
    distill.add_argument("--promote", action="store_true", help="register the chosen student and make it champion; it is compared with BUNDLE alone")
    distill.add_argument("--model", metavar="NAME", help="name in the registry for --promote (default: the bundle's own)")
    add_tracking_uri(distill)


def _add_register(commands: Any) -> None:
    register = add_command(
        commands,
        "register",
        _register,
        "make a bundle a version of a registered model, and champion if it is more accurate",
        examples=(
            "selftrain register fast --model mail --documents labeled.csv --label-column topic",
            "selftrain register fast --model mail --documents mails.csv --audit mail_audit --answers mail_audit/questions.csv",
        ),
        sets={"bundle": "folder", "model": "name", "tracking_uri": "uri"},
    )
    register.add_argument("bundle", metavar="BUNDLE", help="a bundle folder, such as those of export --out and distill")
    register.add_argument("--model", metavar="NAME", help="name in the registry (default: the bundle's own)")
    _add_documents(register, "with labels, to compare it with the champion")
    register.add_argument(
        "--audit", metavar="FOLDER", help="compare it by an audit's answers instead of a label column: the folder or address of selftrain audit --out"
    )
    register.add_argument("--answers", metavar="FILE", help="the questions of --audit with their column label filled in; a file or an address")
    register.add_argument(
        "--promote", action="store_true", help="make it champion and compare nothing; with --audit, only where the champion cannot be compared"
    )
    add_tracking_uri(register)


def _add_documents(parser: Parser, use: str, *, data: bool = False) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--documents", metavar="FILE", help=f"CSV, TSV, JSONL or Parquet with documents {use} (default: the data of the bundle's experiment)"
    )
    if data:
        which.add_argument("--data", metavar="NAME", help="instead of --documents, a named set of the catalogue (selftrain data)")
    parser.add_argument("--text-column", default="text", help="column of the text in --documents (default: text)")
    parser.add_argument("--label-column", help="column of the true label in --documents, for measuring alone")


def _require_columns_of_file(options: argparse.Namespace) -> None:
    if options.documents is None and (options.label_column is not None or options.text_column != "text"):
        raise ConfigError("--text-column and --label-column are columns of a file; pass it with --documents FILE.")


def _predict(options: argparse.Namespace) -> int:
    if bool(options.texts) == bool(options.file):
        raise ConfigError('selftrain predict takes either texts (selftrain predict "a text") or --file with --out.')
    if bool(options.file) != bool(options.out):
        raise ConfigError("--file and --out go together; pass the other one too.")
    if options.file and (options.address is not None or is_pass(options.file, options.out)):
        return _predict_files(options)
    if (flag := next((flag for dest, flag in _OF_A_PASS.items() if getattr(options, dest) is not None), None)) is not None:
        raise ConfigError(f"{flag} is for many files: a folder, a wildcard or an address with --file.")
    if options.file:
        from selftrain.data.tables import check_paths

        check_paths(Path(options.file), Path(options.out))  # before the model is opened
    classifier = _classifier(options)
    if options.file:
        from selftrain.bundle.predict import predict_file

        asked = {"abstain": options.abstain, "sets": options.prediction_sets, "none_of_these": options.none_of_these}
        rows = predict_file(classifier, Path(options.file), Path(options.out), options.text_column, **asked)
        print(f"{rows} rows labeled in {options.out}")
        return 0
    threshold = classifier.promised_threshold() if options.abstain else 0.0
    sets = classifier.promised_sets() if options.prediction_sets else None
    least = 0.0 if options.none_of_these is None else classifier.none_threshold(options.none_of_these)
    found, typicality = classifier.typicality(options.texts) if least else (classifier.predict_proba(options.texts), [1.0] * len(options.texts))
    for text, row, typical in zip(options.texts, found, typicality, strict=True):
        if classifier.card.multi_label:
            labels = ", ".join(f"{printable(classifier.card.labels[one])} {row[one]:.3f}" for one in classifier.card.labels_of(row)) or NO_LABEL
            print(f"{labels}\t{printable(text)}")
            continue
        best = int(row.argmax())
        label = printable(" / ".join(classifier.card.path_of(best))) if row[best] >= threshold else NO_LABEL
        label = NONE if typical <= least else label
        members = "" if sets is None else ", ".join(printable(str(classifier.classes_[one])) for one in sets.members(row.tolist())) + "\t"
        print(f"{label}\t{row[best]:.3f}\t{members}{printable(text)}")
    return 0


def is_pass(file: str, out: str) -> bool:
    """Whether `predict` is asked to go through many files, with Ray Data, and not through one in this process.

    Args:
        file: what is read, of `--file`.
        out: what is written, of `--out`.
    """
    from selftrain.passes.inputs import is_many

    return "://" in out or is_many(file)


def _none_of_these(value: str) -> Any:
    """A share, or the word; the library checks which shares there are."""
    try:
        return value if value == "promise" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a share such as 0.05, or promise (got {value!r})") from None


def _predict_files(options: argparse.Namespace) -> int:
    options.continues = CONTINUES
    from selftrain.passes.prediction import predict_files

    asked = {"threads": options.threads, "gpus": options.gpus}
    try:
        made = predict_files(
            _bundle(options),
            options.file,
            options.out,
            text_column=options.text_column,
            address=options.address,
            at_once=options.at_once,
            abstain=options.abstain,
            sets=options.prediction_sets,
            none_of_these=options.none_of_these,
            **{name: value for name, value in asked.items() if value is not None},
        )
    except ProcessDied as error:
        raise ProcessDied(f"{error} {CONTINUES[0].upper()}{CONTINUES[1:]}.") from None
    without = f", {made.abstained} of them abstained from" if options.abstain or options.none_of_these else ""
    without += f", {made.failed} of them without a label (column error)" if made.failed else ""
    print(f"{'nothing to do: ' if made.found else ''}{made.rows} rows labeled in {options.out}{without}")
    return 0


def _classifier(options: argparse.Namespace) -> Classifier:
    from selftrain.bundle.classifier import Classifier

    return Classifier.load(_bundle(options))


def _bundle(options: argparse.Namespace) -> Path:
    if options.bundle:
        return Path(options.bundle)
    from selftrain.tracking import champion_bundle

    return Path(champion_bundle(options.model or "bbc_news", options.tracking_uri).folder)


def _export(options: argparse.Namespace) -> int:
    from selftrain.files.durable import check_folder

    _require_columns_of_file(options)
    folder, out = Path(options.bundle), Path(options.out) if options.out else None
    if out is not None:
        check_folder(out, "out")
    if not folder.is_dir() and folder.name == options.bundle:
        from selftrain.tracking import champion_bundle

        if out is None:
            raise ConfigError(
                f"{options.bundle!r} is a registered model, and the files of a version never change; pass a folder for a copy of it with --out."
            )
        folder = champion_bundle(options.bundle, options.tracking_uri).folder
    from selftrain.bundle.backends import BACKENDS
    from selftrain.compress.onnx import describe_export, export_bundle

    record = export_bundle(
        folder,
        options.documents,
        text_column=options.text_column,
        label_column=options.label_column,
        out=out,
        max_accuracy_loss=options.max_accuracy_loss,
        backends=BACKENDS if options.backends is None else names_of(options.backends),
        threads=options.threads,
    )
    print(describe_export(record))
    print(f"bundle: {out or folder}")
    return 0


def _distill(options: argparse.Namespace) -> int:
    from selftrain.cli import distilling
    from selftrain.files.durable import check_folder

    _require_columns_of_file(options)
    distilling.check(options)
    check_folder(Path(options.out) if options.out else Path(options.bundle).absolute().parent / "distilled", "out")
    return distilling.distill(options)


def _register(options: argparse.Namespace) -> int:
    _require_columns_of_file(options)
    if options.audit is not None or options.answers is not None:
        return _register_audited(options)
    if options.documents is not None and options.promote:
        raise ConfigError("--promote compares nothing and takes no --documents; leave out one of them.")
    if options.documents is not None and options.label_column is None:
        raise ConfigError("--documents are compared by their labels; pass the labels' column with --label-column.")
    from selftrain.runs.register import register

    found = register(
        Path(options.bundle),
        options.model,
        documents=options.documents,
        text_column=options.text_column,
        label_column=options.label_column,
        promote=options.promote,
        uri=options.tracking_uri,
    )
    return _say_registered(found)


def _register_audited(options: argparse.Namespace) -> int:
    if options.audit is None or options.answers is None or options.documents is None:
        raise ConfigError("--audit, --answers and --documents go together; pass all three.")
    if options.label_column is not None:
        raise ConfigError("--audit has the labels; leave out --label-column.")
    from selftrain.runs.audit_places import answers_file, audit_folder
    from selftrain.runs.register import register

    with audit_folder(options.audit) as audit, answers_file(options.answers) as answers:
        found = register(
            Path(options.bundle),
            options.model,
            documents=options.documents,
            text_column=options.text_column,
            audit=audit,
            answers=answers,
            promote=options.promote,
            uri=options.tracking_uri,
        )
    return _say_registered(found)


def _say_registered(found: RegisteredVersion) -> int:
    print(f"{found.model} version {found.version}, {'champion' if found.champion else 'not champion'}: {found.reason}")
    return 0
