"""The command line: parse, build the experiment, call the library. Whatever is heavy is imported inside the command that needs it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from selftrain.errors import ProcessDied, SelfTrainError, printable, sentence
from selftrain.files.durable import check_file, check_folder, is_full, is_no_name, whole_file
from selftrain.passwords import has_password
from selftrain.runtime.signals import interruptible

DESCRIPTION = "Unlabeled documents and class names in; a small, fast, served classifier out."


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in the form of all others."""

    def error(self, message: str) -> NoReturn:
        raise SelfTrainError(f"{self.prog}: {message}; see {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a sweep with cells that failed, 2 for what the user can mend, 130 after Ctrl-C or SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for every file that is opened hides the one that matters
    try:
        _require_text(arguments)
        options = _parser().parse_args(arguments)
        _require_no_password(options)
        command: Callable[[argparse.Namespace], int] = options.command
        options.asked = shlex.join(["selftrain", *arguments])
        with interruptible():
            return command(options)
    except SelfTrainError as error:
        print(f"selftrain: {sentence(error)}", file=sys.stderr)
        if isinstance(error, ProcessDied):
            from selftrain.runtime.guard import leave

            leave(2)
        return 2
    except KeyboardInterrupt:
        print("selftrain: stopped; `selftrain run --resume FOLDER` continues a run, and `selftrain sweep --resume FOLDER` a sweep.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if is_no_name(error):
            print(f"selftrain: {sentence(SelfTrainError(f'{error.filename}: {error.strerror}; name another file or folder.'))}", file=sys.stderr)
            return 2
        if not is_full(error):
            raise
        where = f" while {error.filename} was written" if error.filename else ""
        print(f"selftrain: {sentence(SelfTrainError(f'{error.strerror}{where}; free some space, or work on another disk.'))}", file=sys.stderr)
        return 2


def _require_text(arguments: Sequence[str]) -> None:
    """What is asked for is written into reports, the registry and logs, all of them UTF-8."""
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise SelfTrainError(f"Argument {number} ({argument[:100]!r}) is not UTF-8; write it in UTF-8, or rename the file.") from None


def _require_no_password(options: argparse.Namespace) -> None:
    """Every user of the machine can read command lines, and reports and MLflow show them."""
    for name, value in vars(options).items():
        if isinstance(value, str) and has_password(value):
            raise SelfTrainError(
                f"--{name.replace('_', '-')} holds a password, and every user of this machine can read command lines; set the address by an environment "
                "variable (MLFLOW_TRACKING_URI), or leave the password to ~/.pgpass."
            )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="selftrain", description=DESCRIPTION)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    run = _command(commands, "run", _run, "run an experiment: generate texts, train, evaluate, register", experiment=True)
    run.add_argument("--dry-run", action="store_true", help="print the resolved config and what it will cost, and start nothing")
    run.add_argument(
        "--resume",
        metavar="FOLDER",
        help="continue a killed run, or add seeds or variants to a finished one (--set); what is finished is not done again",
    )
    run.add_argument("--address", help="a Ray cluster (auto, or an address); default: a local Ray for the length of the run")
    run.add_argument("--promote", action="store_true", help="make the new model champion although no labels can compare it")

    generate = _command(commands, "generate", _generate, "have the language model write a training set for class names")
    generate.add_argument("--classes", metavar="A,B,...", help="class names, separated by commas (data.classes)")
    generate.add_argument("--data", metavar="NAMED_SET", help="a set of the catalogue whose classes and prompts are used, e.g. sst2")
    generate.add_argument("--per-class", type=int, required=True, metavar="N", help="texts a class")
    generate.add_argument("--model", help="language model: a folder, a hub name, or gemma-3-270m (augment.model)")
    generate.add_argument("--out", required=True, metavar="FOLDER", help="where train.parquet and dataset.json go")
    generate.add_argument("--template", help="review, restaurant, product, news, text, subject; default: what fits --data, else text")
    generate.add_argument("--seed", type=int, help="another seed gets other texts (augment.engine_seed; default: 0)")
    generate.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a key, e.g. --set augment.temperature=1.0"
    )

    sweep = _command(commands, "sweep", _sweep, "train one experiment over settings, data sets and seeds: a table like the papers'")
    sweep.add_argument("space", nargs="?", metavar="SPACE.yaml", help="what to sweep, such as the files of tune_spaces/")
    sweep.add_argument("--small", action="store_true", help="at the size of the file's `small` block, for two CPU cores")
    sweep.add_argument("--dry-run", action="store_true", help="validate every cell, print what is to do, and start nothing")
    sweep.add_argument("--resume", metavar="FOLDER", help="continue a killed sweep from its folder; finished trainings are not done again")
    sweep.add_argument("--at-once", type=int, metavar="N", help="trials at the same time (default: one a core, one a GPU where trials use one)")
    sweep.add_argument("--address", help="a Ray cluster (auto, or an address); default: a local Ray for the length of the sweep")

    leaderboard = _command(commands, "leaderboard", _leaderboard, "all methods on all data sets, from the finished runs in MLflow")
    leaderboard.add_argument("--tracking-uri", help="tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file")
    leaderboard.add_argument("--experiment", default="selftrain", help="MLflow experiment (default: selftrain)")
    leaderboard.add_argument("--html", metavar="FILE", help="also write a page with sortable columns")

    predict = _command(commands, "predict", _predict, "classify texts with the registered champion or a bundle")
    predict.add_argument("texts", nargs="*", metavar="TEXT")
    predict.add_argument("--file", metavar="FILE", help="CSV, JSONL or Parquet with one text a row")
    predict.add_argument("--out", metavar="FILE", help="where the labeled rows go (CSV, JSONL or Parquet)")
    predict.add_argument("--text-column", default="text", help="column of the text in --file (default: text)")
    _model(predict)

    export = _command(commands, "export", _export, "put ONNX graphs into a bundle, in 8 bits too, and find the fastest backend of this machine")
    export.add_argument("bundle", metavar="BUNDLE_OR_MODEL", help="a bundle folder, or the name of a registered model, whose champion is taken")
    export.add_argument("--out", metavar="FOLDER", help="a new folder for a copy of the bundle with the graphs (default: into the bundle itself)")
    _documents(export, "checked and measured on")
    export.add_argument(
        "--max-accuracy-loss",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="of int8, in accuracy where the documents have labels, else in agreement with float32 (default: 0.005)",
    )
    export.add_argument("--backends", default=None, metavar="A,B,...", help="of onnx, onnx-int8, openvino; PyTorch is always measured (default: all)")
    export.add_argument("--threads", type=int, metavar="N", help="cores for the measurement (default: all that this process may use)")
    export.add_argument("--tracking-uri", help="tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file")

    distill = _command(commands, "distill", _distill, "train smaller students on a bundle's probabilities, and compare all tiers")
    distill.add_argument("bundle", metavar="BUNDLE", help="a bundle folder")
    _documents(distill, "learned from; labeled ones are held out to measure on", data=True)
    distill.add_argument("--student", choices=("static", "shallow"), help="default: both, one bundle each")
    distill.add_argument(
        "--out", metavar="FOLDER", help="a new folder for the students' bundles, tiers.json and tiers.svg (default: distilled beside BUNDLE)"
    )
    distill.add_argument("--layers", type=int, default=3, metavar="K", help="layers of the shallow student (default: 3)")
    distill.add_argument("--max-documents", type=int, default=20_000, metavar="N", help="documents to learn from at most (default: 20,000)")

    register = _command(commands, "register", _register, "make a bundle a version of a registered model, and champion where it is more accurate")
    register.add_argument("bundle", metavar="BUNDLE", help="a bundle folder, such as those of export --out and distill")
    register.add_argument("--model", metavar="NAME", help="name in the registry (default: the bundle's own)")
    _documents(register, "labeled, on which it is compared with the champion")
    register.add_argument("--promote", action="store_true", help="make it champion and compare nothing")
    register.add_argument("--tracking-uri", help="tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file")

    serve = _command(commands, "serve", _serve, "serve registered models and bundles: a page, and POST /v1/classify")
    serve.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[@VERSION]",
        help="name in the registry: its champion is served and followed, or one version",
    )
    serve.add_argument("--bundle", action="append", default=[], metavar="FOLDER", help="a bundle folder, without a registry")
    serve.add_argument("--tracking-uri", help="tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1); beyond this machine a token is needed")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    serve.add_argument("--replicas", type=int, default=1, metavar="N", help="processes that share the port (default: 1)")
    serve.add_argument("--threads", type=int, metavar="N", help="torch threads of a replica (default: all cores but one, divided among the replicas)")
    serve.add_argument("--token-file", metavar="FILE", help="bearer token that requests carry; default: the variable SELFTRAIN_SERVE_TOKEN, if set")
    serve.add_argument("--no-token", action="store_true", help="listen beyond this machine without a token")
    serve.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that requests may have in the header host, e.g. of a proxy in front (default: localhost, --host; beyond with a token, any)",
    )
    serve.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="after which a request gets 504 (default: 30)")
    serve.add_argument(
        "--max-waiting", type=int, default=2048, metavar="TEXTS", help="texts that may wait for a model; beyond it requests get 503 (default: 2048)"
    )

    serve.add_argument(
        "--language-model",
        metavar="URL",
        help="of an OpenAI-compatible server (vllm serve), e.g. http://127.0.0.1:8001/v1: requests may say augment, and texts are read with its continuations",
    )
    serve.add_argument("--language-model-name", metavar="NAME", help="of the model there (default: the only one that the server lists)")
    serve.add_argument(
        "--language-model-key-file", metavar="FILE", help="API key of that server; default: the variable SELFTRAIN_LANGUAGE_MODEL_KEY, if set"
    )

    ui = _command(commands, "ui", _ui, "open MLflow on the runs")
    ui.add_argument("--port", type=int, default=5000, help="port of the page (default: 5000)")
    ui.add_argument("--tracking-uri", help="tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file")

    _command(commands, "doctor", _doctor, "check this machine, and say how to mend what is missing", experiment=True)
    _command(commands, "data", _data, "list the catalogue, or show what an experiment's data is read as", experiment=True)

    methods = _command(commands, "methods", _methods, "list the methods, or print the options of one")
    methods.add_argument("name", nargs="?", metavar="METHOD")
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str, *, experiment: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    if experiment:
        parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT.yaml", help="experiment file; default: every default")
        parser.add_argument(
            "--data", metavar="SOURCE", help="catalogue name, CSV/JSONL/Parquet file, folder of selftrain generate, or hub name (data.source)"
        )
        parser.add_argument("--classes", metavar="A,B,...", help="class names, separated by commas (data.classes)")
        parser.add_argument("--text-column", help="column of the text (data.text_column)")
        parser.add_argument("--label-column", help="column of the true label, for evaluation (data.label_column)")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a key, e.g. --set method.tau=0.05"
        )
    return parser


def _model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default=None, help="name in the registry; its champion is used (default: bbc_news, the demo's)")
    which.add_argument("--bundle", metavar="FOLDER", help="a bundle folder, without a registry")
    parser.add_argument("--tracking-uri", help="tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file")


def _documents(parser: argparse.ArgumentParser, use: str, *, data: bool = False) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--documents", metavar="FILE", help=f"CSV, TSV, JSONL or Parquet with documents, {use} (default: the data of the bundle's experiment)"
    )
    if data:
        which.add_argument("--data", metavar="NAME", help="instead a named set of the catalogue (selftrain data)")
    parser.add_argument("--text-column", default="text", help="column of the text in --documents (default: text)")
    parser.add_argument("--label-column", help="column of the true label in --documents, for measuring alone")


def _load(options: argparse.Namespace) -> Any:
    from selftrain.config import load

    data: dict[str, Any] = {}
    if options.data is not None:
        data["source"] = options.data
    if options.classes is not None:
        data["classes"] = _names(options.classes)
    if options.text_column is not None:
        data["text_column"] = options.text_column
    if options.label_column is not None:
        data["label_column"] = options.label_column
    base: dict[str, Any] = {"data": data} if data else {}
    if getattr(options, "address", None):
        base["ray"] = {"address": options.address}
    if getattr(options, "promote", False):
        base["tracking"] = {"promote": True}
    return load(options.experiment, options.overrides, base)


def _run(options: argparse.Namespace) -> int:
    if options.resume and (options.experiment or options.data or options.classes or options.text_column or options.label_column or options.promote):
        raise SelfTrainError(
            "--resume continues a run as it was asked for; pass no experiment, --data, --classes, columns or --promote beside it. "
            "More seeds and variants can be added with --set."
        )
    asked = None if options.resume else _checked_options(_load(options))  # before torch is imported, which takes seconds
    from selftrain.runs import run as story
    from selftrain.runs.resume import resumed

    overrides = [*options.overrides, *([f"ray.address={options.address}"] if options.address else [])]
    experiment = asked or resumed(options.resume, overrides)
    if options.dry_run:
        print(story.plan(story.prepare(experiment)))
        return 0
    result = story.run(experiment, command=options.asked, resume=options.resume)
    facts = result.metrics
    print(result.table)
    print(f"\nreport      {result.folder / 'report.html'}")
    if facts.get("labeled"):
        print(f"labeled     {facts['labeled']}")
    print(f"MLflow run  {facts['run']['mlflow_run_id']}  (selftrain ui)")
    if registered := facts["registered"]:
        champion = "champion" if registered["champion"] else "not champion"
        print(f"model       {registered['model']} version {registered['version']}, {champion}: {registered['reason']}")
    if result.bundle is None:
        print("bundle      none: a bundle, predict and serve read texts, and the documents are images")
    else:
        print(f"bundle      {result.bundle}")
        print(f"\nserve it:   {facts['serve'][0]}")
    return _tracked(result.unsent)


def _tracked(unsent: str | None) -> int:
    if unsent is not None:
        print(f"selftrain: {unsent}", file=sys.stderr)
    return 0 if unsent is None else 2


def _checked_options(experiment: Any) -> Any:
    """`experiment`, whose method, its options and its variants are known."""
    from selftrain import methods

    for name in experiment.variants:
        methods.options_of(experiment.variant(name).method)
    methods.options_of(experiment.method)
    return experiment


def _generate(options: argparse.Namespace) -> int:
    from selftrain.config import load
    from selftrain.texts.dataset.generation import describe_filter, generate

    used = ("augment.", "ray.", "data.classes", "data.descriptions")
    if unused := next((override for override in options.overrides if not override.strip().startswith(used)), None):
        raise SelfTrainError(f"--set {unused!r} has nothing to say here; selftrain generate uses {', '.join(used)}.")
    data = {"classes": _names(options.classes)} if options.classes is not None else {}
    check_folder(Path(options.out), "--out")
    asked = {"model": options.model, "engine_seed": options.seed}
    experiment = load(None, options.overrides, {"data": data, "augment": {key: value for key, value in asked.items() if value is not None}})
    try:
        made = generate(
            experiment, Path(options.out), per_class=options.per_class, template=options.template, named=options.data, command=options.asked
        )
    except ProcessDied as error:
        raise ProcessDied(f"{error} The same command goes on.") from None
    except KeyboardInterrupt:
        print("selftrain: stopped; the same command goes on, finished texts are in the cache.", file=sys.stderr)
        return 130
    counts = ", ".join(f"{count} {name}" for name, count in made.facts["generated"]["written"].items())
    print(f"{'all is there: ' if made.found else ''}{counts} in {made.folder}; filtered and replaced: {describe_filter(made.facts)}")
    if made.shortfall:
        print(f"selftrain: {made.shortfall}", file=sys.stderr)
    print(f"train on it: selftrain run --data {shlex.quote(options.out)} --set data.supervision=all --set model.train=head --set method.name=sungen")
    return 0


def _names(classes: str) -> list[str]:
    return [name.strip() for name in classes.split(",")]


def _sweep(options: argparse.Namespace) -> int:
    if bool(options.space) == bool(options.resume):
        raise SelfTrainError("selftrain sweep takes either a file (selftrain sweep tune_spaces/genco_tau.yaml) or --resume FOLDER.")
    if options.resume and options.small:
        raise SelfTrainError("--resume continues a sweep at the size that it was started with; leave --small away.")
    if options.at_once is not None and options.at_once < 1:
        raise SelfTrainError(f"--at-once is {options.at_once}; at least one trial has to run.")
    from selftrain.sweeps.plan import plan, prepare, resumed
    from selftrain.sweeps.space import load_space
    from selftrain.sweeps.sweep import run_sweep

    space = resumed(options.resume) if options.resume else load_space(options.space, small=options.small)
    if options.dry_run:
        print(plan(prepare(space)))
        return 0
    result = run_sweep(space, folder=options.resume, at_once=options.at_once, address=options.address, command=options.asked)
    print(f"\n{space.title}\n\n{result.text}\n")
    print(f"report      {result.folder / 'report.html'}")
    print(f"table       {result.folder / 'table.md'}")
    print(f"MLflow run  {result.mlflow_run_id}  (selftrain ui)")
    return _tracked(result.unsent) or (0 if result.table is None or result.table.complete else 1)


def _leaderboard(options: argparse.Namespace) -> int:
    if options.html:
        check_file(Path(options.html), "--html")
    from selftrain.evaluation.leaderboard import entries_of, text_table, to_html
    from selftrain.tracking import finished_metrics

    entries = entries_of(finished_metrics(options.tracking_uri, options.experiment))
    print(text_table(entries))
    if options.html:
        with whole_file(Path(options.html), "--html") as partial:
            partial.write_text(to_html(entries), encoding="utf-8")
        print(f"\npage  {options.html}")
    return 0


def _classifier(options: argparse.Namespace) -> Any:
    from selftrain.bundle.classifier import Classifier

    if options.bundle:
        return Classifier.load(options.bundle)
    from selftrain.tracking import champion_bundle

    return Classifier.load(champion_bundle(options.model or "bbc_news", options.tracking_uri).folder)


def _predict(options: argparse.Namespace) -> int:
    if bool(options.texts) == bool(options.file):
        raise SelfTrainError('selftrain predict takes either texts (selftrain predict "a text") or --file with --out.')
    if bool(options.file) != bool(options.out):
        raise SelfTrainError("--file and --out go together: where do the labeled rows go?")
    if options.file:
        from selftrain.data.tables import check_paths

        check_paths(Path(options.file), Path(options.out))  # before the model is opened
    classifier = _classifier(options)
    if options.file:
        from selftrain.bundle.predict import predict_file

        rows = predict_file(classifier, Path(options.file), Path(options.out), options.text_column)
        print(f"{rows} rows labeled in {options.out}")
        return 0
    for text, row in zip(options.texts, classifier.predict_proba(options.texts), strict=True):
        best = int(row.argmax())
        print(f"{printable(str(classifier.classes_[best]))}\t{row[best]:.3f}\t{printable(text)}")
    return 0


def _export(options: argparse.Namespace) -> int:
    _require_columns_of_file(options, options.documents)
    folder, out = Path(options.bundle), Path(options.out) if options.out else None
    if out is not None:
        check_folder(out, "--out")
    if not folder.is_dir() and folder.name == options.bundle:
        from selftrain.tracking import champion_bundle

        if out is None:
            raise SelfTrainError(
                f"{options.bundle!r} is a registered model, and the files of a version never change; name a folder for its copy with --out."
            )
        folder = champion_bundle(options.bundle, options.tracking_uri).folder
    if options.threads is not None and options.threads < 1:
        raise SelfTrainError(f"--threads is {options.threads}; at least one is needed.")
    from selftrain.bundle.backends import BACKENDS
    from selftrain.bundle.format import read_card
    from selftrain.compress.onnx import describe, documents_to_check, export_bundle, require_empty

    card = read_card(folder)
    if out is not None:
        require_empty(out)
    documents = documents_to_check(card, options.documents, text_column=options.text_column, label_column=options.label_column)
    record = export_bundle(
        folder,
        documents,
        out=out,
        max_accuracy_loss=options.max_accuracy_loss,
        backends=BACKENDS if options.backends is None else _names(options.backends),
        threads=options.threads,
    )
    print(describe(record))
    print(f"bundle: {out or folder}")
    return 0


def _distill(options: argparse.Namespace) -> int:
    _require_columns_of_file(options, options.documents)
    if options.max_documents < 1:
        raise SelfTrainError(f"--max-documents is {options.max_documents}; give a number of documents.")
    check_folder(Path(options.out) if options.out else Path(options.bundle).absolute().parent / "distilled", "--out")
    from selftrain.bundle.documents import load_documents
    from selftrain.bundle.format import read_card
    from selftrain.compress.distill import STUDENTS, describe, distill
    from selftrain.compress.onnx import require_empty

    card = read_card(options.bundle)
    if options.out:
        require_empty(Path(options.out))
    corpus, truth = load_documents(card, options.documents or options.data, text_column=options.text_column, label_column=options.label_column)
    result = distill(
        Path(options.bundle),
        corpus,
        truth,
        students=STUDENTS if options.student is None else (options.student,),
        out=Path(options.out) if options.out else None,
        layers=options.layers,
        max_documents=options.max_documents,
    )
    print(describe(result))
    print(f"students: {result.folder}  picture: {result.folder / 'tiers.svg'}")
    return 0


def _register(options: argparse.Namespace) -> int:
    _require_columns_of_file(options, options.documents)
    if options.documents is not None and options.promote:
        raise SelfTrainError("--promote compares nothing, so it wants no --documents; leave one of them out.")
    if options.documents is not None and options.label_column is None:
        raise SelfTrainError("--documents are compared by their labels; name their column with --label-column.")
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
    print(f"{found.model} version {found.version}, {'champion' if found.champion else 'not champion'}: {found.reason}")
    return 0


def _require_columns_of_file(options: argparse.Namespace, file: str | None) -> None:
    if file is None and (options.label_column is not None or options.text_column != "text"):
        raise SelfTrainError("--text-column and --label-column name columns of a file; give it with --documents FILE.")


def _serve(options: argparse.Namespace) -> int:
    if options.threads is not None and options.threads < 1:
        raise SelfTrainError(f"--threads is {options.threads}; at least one has to compute.")
    from selftrain_serve.app import run

    from selftrain.serving.models import Source

    sources = [Source(model=name, version=version or None) for name, _, version in (given.partition("@") for given in options.model)]
    sources += [Source(bundle=folder) for folder in options.bundle]
    run(
        sources or [Source(model="bbc_news")],
        tracking_uri=options.tracking_uri,
        host=options.host,
        port=options.port,
        replicas=options.replicas,
        threads=options.threads,
        token_file=options.token_file,
        no_token=options.no_token,
        allowed_hosts=options.allowed_host,
        timeout_seconds=options.timeout,
        max_waiting_texts=options.max_waiting,
        language_model=options.language_model,
        language_model_name=options.language_model_name,
        language_model_key_file=options.language_model_key_file,
    )
    return 0


def _ui(options: argparse.Namespace) -> int:
    from selftrain.tracking.ui import show_runs

    show_runs(options.tracking_uri, options.port)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from selftrain.doctor import checks, report

    found = checks(_load(options))
    print(report(found))
    return 0 if all(check.ok for check in found) else 2


def _data(options: argparse.Namespace) -> int:
    from selftrain.data.describing import describe_catalogue, describe_corpus
    from selftrain.data.loading import load_corpus

    if options.experiment is None and options.data is None and not options.overrides:
        print(describe_catalogue())
        return 0
    print(describe_corpus(*load_corpus(_load(options).data)))
    return 0


def _methods(options: argparse.Namespace) -> int:
    from selftrain.methods import METHODS, method_class

    if options.name is None:
        for name in METHODS:
            method = method_class(name)
            print(
                f"{name}\n    {method.summary}\n    {method.paper}; supervision: {method.supervision}; of the language model: {method.language_model}"
            )
        return 0
    for key, field in method_class(options.name).Options.model_fields.items():
        default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        kind = getattr(field.annotation, "__name__", None) or str(field.annotation).replace("typing.", "")
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        limits = ", ".join(f"{sign} {getattr(part, name):g}" for part in field.metadata for name, sign in signs.items() if hasattr(part, name))
        print(f"method.{key}: {kind}{default}  {limits}\n    {field.description or ''}".rstrip())
    return 0
