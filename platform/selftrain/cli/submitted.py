"""What `selftrain submit` sends: the command line that a job gets on the cluster, and the files that it takes along."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from selftrain.cli import distilling, models, training
from selftrain.cli.common import TRACKING_VARIABLE, Parser, classes_of, load_experiment
from selftrain.errors import ConfigError, say
from selftrain.passwords import KEY_VARIABLE, has_password, keys_with_passwords

if TYPE_CHECKING:
    from selftrain.runtime.upload import Upload

_OWN = frozenset({"help", "address", "storage", "detach"})  # options of `submit` itself

Words = Callable[["Upload"], list[str]]  # what is uploaded -> the command line on the cluster


class Submitted(NamedTuple):
    """A command that is submitted."""

    words: Words
    results: str = ""  # where they go, where that may be an address that is enough


def _run_words(options: argparse.Namespace) -> Submitted:
    training.check_run(options)
    if options.resume:
        return _resumed_words(options, "run", "resume")
    address, options.address = options.address, None  # of the dashboard, and no key of the experiment
    experiment = training.checked_options(load_experiment(options))
    options.address = address
    _say_what_stays(_keys_of_servers(experiment.augment.model_dump()))
    name = Path(options.experiment).name if options.experiment else f"{experiment.name}.yaml"

    def words(upload: Upload) -> list[str]:
        from selftrain.cli.placing import tracked
        from selftrain.config import parse

        document = upload.document(tracked(experiment.model_dump(mode="json"), upload))
        file = upload.keep(name, parse(document).to_yaml().encode(), "experiment")
        in_the_file = {"experiment", "data", "classes", "text_column", "label_column", "overrides", "promote"}
        return ["run", *_given(options, in_the_file), "--address=auto", file]

    return Submitted(words, experiment.output)


def _resumed_words(options: argparse.Namespace, command: str, parameter: str) -> Submitted:
    return Submitted(
        lambda upload: [command, f"--resume={upload.folder(options.resume, parameter)}", *_given(options, {"resume"}), "--address=auto"],
        options.resume,
    )


def _sweep_words(options: argparse.Namespace) -> Submitted:
    training.check_sweep(options)
    if options.resume:
        return _resumed_words(options, "sweep", "folder")
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
        from selftrain.cli.placing import placed_space

        placed = placed_space(document, upload)
        file = upload.keep(Path(options.space).name, placed.to_yaml().encode(), "path")
        return ["sweep", *_given(options, {"space", "small", "overrides"}), "--address=auto", file]

    return Submitted(words, str(document["base"].get("output", "")))


def _generate_words(options: argparse.Namespace) -> Submitted:
    from selftrain.config import load

    data = {"classes": classes_of(options.classes)} if options.classes is not None else {}
    experiment = load(None, options.overrides, {"data": data, "augment": {"model": options.model} if options.model else {}})
    _say_what_stays(_keys_of_servers(experiment.augment.model_dump()))

    def words(upload: Upload) -> list[str]:
        placed = experiment.augment.model_dump(mode="json", include={"cache", "model", "teachers"})
        augment = upload.document({"augment": placed})["augment"]
        places = [f"--set=augment.{key}={json.dumps(value)}" for key, value in augment.items() if value]
        return ["generate", *_given(options, {"out", "model"}), f"--out={upload.folder(options.out, 'out')}", *places, "--set=ray.address=auto"]

    return Submitted(words)


def _distill_words(options: argparse.Namespace) -> Submitted:
    distilling.check(options)

    def words(upload: Upload) -> list[str]:
        places = [f"--out={upload.folder(options.out, 'out')}"] if options.out else []
        if options.documents:
            places.append(f"--documents={upload.source(options.documents, 'documents')}")
        return ["distill", *_given(options, {"bundle", "out", "documents"}), *places, upload.bundle(options.bundle, "bundle")]

    return Submitted(words)


def _predict_words(options: argparse.Namespace) -> Submitted:
    if options.texts or not (options.file and options.out):
        raise ConfigError("selftrain submit predict takes --file with --out; a text needs no job.")
    cluster = ["--address=auto"] if models.is_pass(options.file, options.out) else []

    def words(upload: Upload) -> list[str]:
        out = options.out if "://" in options.out else upload.folder(options.out, "out")
        source = upload.bundle(options.file, "source") if os.path.isdir(options.file) else upload.source(options.file, "source")
        bundle = [f"--bundle={upload.bundle(options.bundle, 'bundle')}"] if options.bundle else []
        return ["predict", *_given(options, {"texts", "file", "out", "bundle"}), *bundle, f"--file={source}", f"--out={out}", *cluster]

    return Submitted(words)


def _audit_words(options: argparse.Namespace) -> Submitted:
    def words(upload: Upload) -> list[str]:
        places = [f"--documents={upload.source(options.documents, 'documents')}"]
        if options.answers:
            places.append(f"--answers={upload.source(options.answers, 'answers')}")
        if options.out:
            places.append(f"--out={options.out if '://' in options.out else upload.folder(options.out, 'out')}")
        bundle = options.bundle if options.bundle.startswith("models:/") else upload.bundle(options.bundle, "bundle")
        return ["audit", *_given(options, {"bundle", "documents", "answers", "out"}), *places, bundle]

    return Submitted(words)


WORDS: dict[str, Callable[[argparse.Namespace], Submitted]] = {
    "run": _run_words,
    "sweep": _sweep_words,
    "generate": _generate_words,
    "distill": _distill_words,
    "predict": _predict_words,
    "audit": _audit_words,
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


def _keys_of_servers(augment: Mapping[str, Any]) -> list[str]:
    """The environment variables with keys of the servers that the section `augment` of an experiment, or of a sweep's base, names."""
    servers = [one for one in (augment, *(augment.get("teachers") or ())) if one.get("server")]
    return list(dict.fromkeys(str(one.get("key_variable", KEY_VARIABLE)) for one in servers))


def _say_what_stays(keys: Sequence[str]) -> None:
    """Say which secrets of this process the job does not get, and who must have them; `keys` are variables that it would read."""
    shown = (
        "is not sent, because everybody who may list the jobs of the cluster would see it; the nodes must have it in the environment of `ray start`"
    )
    if has_password(os.environ.get(TRACKING_VARIABLE, "")):
        say(f"{TRACKING_VARIABLE} holds a password and {shown} (where they have none, the job's figures go to mlflow.db on the storage).")
    for variable in filter(os.environ.get, keys):
        say(f"{variable} {shown}.")
