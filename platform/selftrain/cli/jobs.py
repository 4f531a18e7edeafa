"""Commands for jobs of a Ray cluster: submit, jobs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli import models, training
from selftrain.cli.common import Parser, add_command, load_experiment, names_of
from selftrain.errors import ConfigError, ServiceError, printable, say
from selftrain.passwords import KEY_VARIABLE, has_password, keys_with_passwords

if TYPE_CHECKING:
    from selftrain.runtime.jobs import Job, Jobs
    from selftrain.runtime.upload import Upload
    from selftrain.sweeps.space import Paper, Space

_ADDRESS = "of the cluster's dashboard (default: RAY_ADDRESS, else http://127.0.0.1:8265)"
_TRACKING = "MLFLOW_TRACKING_URI"
_OWN = frozenset({"help", "address", "storage", "detach"})  # options of `submit` itself

Words = Callable[["Upload"], list[str]]  # what is uploaded -> the command line on the cluster


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    submit = add_command(
        commands,
        "submit",
        _submit,
        "run, sweep, generate, distill or predict as a job of a Ray cluster, and follow it",
        examples=(
            "selftrain submit run jobs/experiments/bbc_news.yaml --storage /mnt/shared",
            "selftrain submit sweep tune_spaces/genco_tau.yaml --storage /mnt/shared --detach",
        ),
    )
    kinds = submit.add_subparsers(metavar="COMMAND", required=True, parser_class=_SubmittedParser)
    training.add_commands(kinds)
    models.add_distill(kinds)
    models.add_predict(kinds)
    for name, submitted in kinds.choices.items():
        _make_submitted(name, submitted)

    jobs = add_command(
        commands,
        "jobs",
        _jobs,
        "list, follow, stop and resume the jobs of a Ray cluster",
        examples=("selftrain jobs list", "selftrain jobs resume run-20261129-101500-0a1b2c"),
    )
    acts = jobs.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, act, text in (
        ("list", _list, "show all jobs: id, status, start, command"),
        ("logs", _logs, "print what a job has printed and follow it; the exit code is the job's"),
        ("stop", _stop, "have a job end in order, so that it can be resumed"),
        ("resume", _resume, "continue a job that was stopped or has failed, as a new job, and follow it"),
    ):
        job = f" {'run-20261129-101500-0a1b2c' if name != 'list' else ''}".rstrip()
        parser = add_command(acts, name, _jobs, text, examples=(f"selftrain jobs {name}{job}",))
        if name != "list":
            parser.add_argument("id", metavar="ID", help="of a job, as `selftrain jobs list` shows it")
        if name == "logs":
            parser.add_argument("--no-follow", action="store_true", help="print what is there, and end")
        if name == "resume":
            _add_detach(parser)
        parser.add_argument("--address", metavar="URL", help=_ADDRESS)
        parser.set_defaults(act=act)


class _SubmittedParser(Parser):
    """A parser whose later options take the place of earlier ones: `submit` has an --address of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, conflict_handler="resolve")


def _make_submitted(name: str, parser: Parser) -> None:
    """Turn the parser of a command into that of `submit` of the command."""
    parser.add_argument("--address", metavar="URL", help=_ADDRESS)
    parser.add_argument(
        "--storage",
        metavar="FOLDER",
        help="absolute path of a folder that all nodes share, where relative folders lie (default: SELFTRAIN_STORAGE; where the cluster is this machine alone, "
        "the working folder)",
    )
    _add_detach(parser)
    parser.description = f"As a job of a Ray cluster: {(parser.description or '')[:1].lower()}{(parser.description or '')[1:]}"
    files = (example for example in parser.get_default("examples") if name != "predict" or "--file" in example)  # a text is no job
    examples = tuple(example.replace("selftrain ", "selftrain submit ", 1) for example in files)
    parser.epilog = "\n".join(["examples, with --storage or on one machine:", *(f"  {example}" for example in examples)])
    parser.set_defaults(command=_submit, kind=name, continues=None, examples=examples)


def _add_detach(parser: Parser) -> None:
    parser.add_argument("--detach", action="store_true", help="do not follow the job")


def _submit(options: argparse.Namespace) -> int:
    words = _WORDS[options.kind](options)
    from selftrain.runtime.jobs import Jobs
    from selftrain.runtime.upload import Upload, storage_of

    jobs = Jobs(options.address)
    here = jobs.here()
    upload = Upload(storage_of(options.storage, here=here), here=here)
    arguments = words(upload)
    id_ = jobs.submit(arguments, upload, command=options.asked)
    print(f"job         {id_}")
    if (uri := upload.tracking_uri) is not None and uri.startswith("http"):
        print(f"MLflow      {uri}")
    return _follow(jobs, id_, options.detach)


def _jobs(options: argparse.Namespace) -> int:
    from selftrain.runtime.jobs import Jobs

    act: Callable[[Jobs, argparse.Namespace], int] = options.act
    return act(Jobs(options.address), options)


def _list(jobs: Jobs, options: argparse.Namespace) -> int:
    for job in jobs.list():
        started = job.started.strftime("%Y-%m-%d %H:%M") if job.started else ""
        print(f"{printable(job.id):<36} {job.status:<9} {started:<16} {printable(job.command)}")
    return 0


def _logs(jobs: Jobs, options: argparse.Namespace) -> int:
    if not options.no_follow:
        return _follow(jobs, options.id, False)
    _write(jobs.logs(options.id))
    return 0


def _stop(jobs: Jobs, options: argparse.Namespace) -> int:
    before = jobs.job(options.id)
    job = before if before.ended else jobs.stop(options.id)
    if before.ended:
        print(f"{job.id} has ended already: {job.status}")
    elif job.ended:
        print(_end(job))
    else:
        raise ServiceError(f"The job {job.id} was told to stop and has not ended yet; look again with `selftrain jobs list`.")
    return 0


def _resume(jobs: Jobs, options: argparse.Namespace) -> int:
    id_ = jobs.resume(options.id)
    print(f"job         {id_}")
    return _follow(jobs, id_, options.detach)


def _follow(jobs: Jobs, id_: str, detach: bool) -> int:
    """Show a job to its end; returns its exit code."""
    if detach:
        print(f"follow it:  selftrain jobs logs {id_}\nstop it:    selftrain jobs stop {id_}", flush=True)
        return 0
    try:
        job = jobs.follow(id_, _write)
    except KeyboardInterrupt:
        say(f"the job {id_} goes on; `selftrain jobs logs {id_}` follows it again, `selftrain jobs stop {id_}` stops it.")
        return 130
    say(_end(job))
    return 2 if job.exit_code is None else job.exit_code


def _end(job: Job) -> str:
    if job.status == "succeeded":
        return f"the job {job.id} has succeeded."
    how = "was stopped" if job.status == "stopped" else "has failed" + (f" (exit code {job.exit_code})" if job.exit_code is not None else "")
    why = f": {' '.join(job.message.split())}" if job.message else ""
    return f"the job {job.id} {how}{why}; `selftrain jobs resume {job.id}` continues it."


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _run_words(options: argparse.Namespace) -> Words:
    training.check_run(options)
    if options.resume:
        return lambda upload: ["run", f"--resume={upload.folder(options.resume, 'resume')}", *_given(options, {"resume"}), "--address=auto"]
    address, options.address = options.address, None  # of the dashboard, and no key of the experiment
    experiment = training.checked_options(load_experiment(options))
    options.address = address
    _say_what_stays(_keys_of_servers(experiment.augment.model_dump()))
    name = Path(options.experiment).name if options.experiment else f"{experiment.name}.yaml"

    def words(upload: Upload) -> list[str]:
        from selftrain.config import parse

        document = upload.document(_tracked(experiment.model_dump(mode="json")))
        file = upload.keep(name, parse(document).to_yaml().encode(), "experiment")
        in_the_file = {"experiment", "data", "classes", "text_column", "label_column", "overrides", "promote"}
        return ["run", *_given(options, in_the_file), "--address=auto", file]

    return words


def _sweep_words(options: argparse.Namespace) -> Words:
    training.check_sweep(options)
    if options.resume:
        return lambda upload: ["sweep", f"--resume={upload.folder(options.resume, 'folder')}", *_given(options, {"resume"}), "--address=auto"]
    from selftrain.sweeps.space import load_space

    space = load_space(options.space, small=options.small, overrides=options.overrides)
    if space.search is None:  # a wrong value is refused here, and not on the cluster
        for setting in space.settings():
            for column in space.columns:
                space.cell(setting, column, space.seeds[0])
    document = space.model_dump(mode="json", exclude_defaults=True)
    document.pop("small", None)  # it is laid over the rest, or was not asked for
    if (key := next(keys_with_passwords(document), None)) is not None:
        raise ConfigError(f"{key} in {options.space} holds a password, which the job would show; set the address in the environment of the nodes.")
    _say_what_stays(_keys_of_servers(space.base.get("augment") or {} if isinstance(space.base, dict) else {}))

    def words(upload: Upload) -> list[str]:
        from selftrain.sweeps.space import parse_space

        placed = parse_space(_placed_space(document, upload))
        if placed.paper is not None and placed.search is None:
            placed = placed.model_copy(update={"paper": _figures_of(placed, placed.paper)})
        file = upload.keep(Path(options.space).name, placed.to_yaml().encode(), "path")
        return ["sweep", *_given(options, {"space", "small", "overrides"}), "--address=auto", file]

    return words


def _placed_space(document: dict[str, Any], upload: Upload) -> dict[str, Any]:
    """A sweep with the paths that it has on the nodes; `document` is a valid one, with its base inline."""
    from selftrain.config import Experiment, merge

    default = Experiment()
    folders = {"output": default.output, "model": {"cache": default.model.cache}, "augment": {"cache": default.augment.cache}}
    base = _tracked(merge(folders, document["base"]))
    axes = {key: _placed_axis(key, axis, upload) for key, axis in document["axes"].items()}
    # A table without data sets has one column, with the name of the base's source: it keeps the name that the submitter typed.
    columns = document.get("datasets") or {base.get("data", {}).get("source", default.data.source): {}}
    datasets = {name: upload.document(changes, "data.") for name, changes in columns.items()}
    return {**document, "base": upload.document(base), "axes": axes, "datasets": datasets}


def _placed_axis(key: str, axis: Any, upload: Upload) -> Any:
    if isinstance(axis, list):
        return upload.value(key, axis)
    named = all(isinstance(changes, dict) for changes in axis.values())  # else a range of numbers
    return {name: upload.document(changes) for name, changes in axis.items()} if named else axis


def _figures_of(space: Space, paper: Paper) -> Paper:
    """`paper` with the figures of the rows and columns of `space` alone: a file that has others is refused, and a small sweep has fewer."""
    rows = {setting.name for setting in space.settings()}
    figures = {row: {column: one for column, one in cells.items() if column in space.columns} for row, cells in paper.figures.items() if row in rows}
    return paper.model_copy(update={"figures": figures})


def _generate_words(options: argparse.Namespace) -> Words:
    from selftrain.config import load

    data = {"classes": names_of(options.classes)} if options.classes is not None else {}
    experiment = load(None, options.overrides, {"data": data, "augment": {"model": options.model} if options.model else {}})
    _say_what_stays(_keys_of_servers(experiment.augment.model_dump()))

    def words(upload: Upload) -> list[str]:
        placed = experiment.augment.model_dump(mode="json", include={"cache", "model", "teachers"})
        augment = upload.document({"augment": placed})["augment"]
        places = [f"--set=augment.{key}={json.dumps(value)}" for key, value in augment.items() if value]
        return ["generate", *_given(options, {"out", "model"}), f"--out={upload.folder(options.out, 'out')}", *places, "--set=ray.address=auto"]

    return words


def _distill_words(options: argparse.Namespace) -> Words:
    def words(upload: Upload) -> list[str]:
        places = [f"--out={upload.folder(options.out, 'out')}"] if options.out else []
        if options.documents:
            places.append(f"--documents={upload.source(options.documents, 'documents')}")
        return ["distill", *_given(options, {"bundle", "out", "documents"}), *places, upload.bundle(options.bundle, "bundle")]

    return words


def _predict_words(options: argparse.Namespace) -> Words:
    if options.texts or not (options.file and options.out):
        raise ConfigError("selftrain submit predict takes --file with --out; a text needs no job.")
    cluster = ["--address=auto"] if models.is_pass(options.file, options.out) else []

    def words(upload: Upload) -> list[str]:
        out = options.out if "://" in options.out else upload.folder(options.out, "out")
        source = upload.bundle(options.file, "source") if os.path.isdir(options.file) else upload.source(options.file, "source")
        bundle = [f"--bundle={upload.bundle(options.bundle, 'bundle')}"] if options.bundle else []
        return ["predict", *_given(options, {"texts", "file", "out", "bundle"}), *bundle, f"--file={source}", f"--out={out}", *cluster]

    return words


_WORDS: dict[str, Callable[[argparse.Namespace], Words]] = {
    "run": _run_words,
    "sweep": _sweep_words,
    "generate": _generate_words,
    "distill": _distill_words,
    "predict": _predict_words,
}


def _given(options: argparse.Namespace, left_out: set[str]) -> list[str]:
    """What the user typed of a command's own options, as words; those in `left_out` are said in another way."""
    parser: Parser = options.parser
    found: list[str] = []
    for dest, flag in parser.flags().items():
        value = getattr(options, dest, None)
        if dest in left_out | _OWN or value in (None, False, []) or value == parser.get_default(dest):
            continue
        found += [flag] if value is True else [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    return found


def _tracked(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the tracking address of this process, where it has none of its own and the address may be shown."""
    from selftrain.config import merge

    uri = os.environ.get(_TRACKING)
    if (document.get("tracking") or {}).get("uri") or not uri or has_password(uri):
        return document
    return merge(document, {"tracking": {"uri": uri}})


def _keys_of_servers(augment: Mapping[str, Any]) -> list[str]:
    """The environment variables with keys of the servers that the section `augment` of an experiment, or of a sweep's base, names."""
    servers = [one for one in (augment, *(augment.get("teachers") or ())) if one.get("server")]
    return list(dict.fromkeys(str(one.get("key_variable", KEY_VARIABLE)) for one in servers))


def _say_what_stays(keys: Sequence[str]) -> None:
    """Say which secrets of this process the job does not get, and who must have them; `keys` are variables that it would read."""
    shown = (
        "is not sent, because everybody who may list the jobs of the cluster would see it; the nodes must have it in the environment of `ray start`"
    )
    if has_password(os.environ.get(_TRACKING, "")):
        say(f"{_TRACKING} holds a password and {shown} (where they have none, the job's figures go to mlflow.db on the storage).")
    for variable in filter(os.environ.get, keys):
        say(f"{variable} {shown}.")
