"""Commands that train: run, sweep, generate."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli.common import CLASSES, DATA_KEYS, add_command, add_experiment, add_overrides, classes_of, load_experiment, say_unsent
from selftrain.errors import ConfigError, ProcessDied

if TYPE_CHECKING:
    from selftrain.config import Experiment

_GENERATE_USES = ("augment.", "ray.", "cost.", "data.classes", "data.descriptions")  # keys that `generate` reads


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    run = add_command(
        commands,
        "run",
        _run,
        "run an experiment: generate texts, train, evaluate, register",
        examples=(
            'selftrain run --data documents.csv --classes "billing,delivery,returns" --set augment.model=gemma-3-270m',
            "selftrain run jobs/experiments/bbc_news.yaml --dry-run",
        ),
        sets=DATA_KEYS,
        continues="`selftrain run --resume FOLDER` continues the run",
    )
    add_experiment(run)
    run.add_argument("--dry-run", action="store_true", help="print the resolved config and what it will cost, and start nothing")
    run.add_argument(
        "--resume",
        metavar="FOLDER",
        help="continue a killed run (its folder or s3:// address), or add seeds or variants to a finished one (--set); finished work is not repeated",
    )
    run.add_argument("--address", help="a Ray cluster (auto, or an address); default: a local Ray for the length of the run (ray.address)")
    run.add_argument(
        "--at-once", type=int, metavar="N", help="trainings at the same time (default: as many as a cluster has room for, one on this machine)"
    )
    run.add_argument("--promote", action="store_true", help="make the new model champion even where no labels can compare it (tracking.promote)")

    sweep = add_command(
        commands,
        "sweep",
        _sweep,
        "train one experiment over settings, data sets and seeds: a table like those of the papers",
        examples=("selftrain sweep tune_spaces/genco_tau.yaml --small", "selftrain sweep --resume runs/sweeps/genco_tau-0123456789ab"),
        sets={"space": "path", "resume": "folder", "address": "ray.address"},
        continues="`selftrain sweep --resume FOLDER` continues the sweep",
    )
    sweep.add_argument("space", nargs="?", metavar="SPACE.yaml", help="what to sweep, such as the files of tune_spaces/")
    sweep.add_argument("--small", action="store_true", help="at the size of the file's `small` block, for two CPU cores")
    sweep.add_argument("--dry-run", action="store_true", help="validate every cell, print what is to do and what it will cost, and start nothing")
    sweep.add_argument(
        "--resume", metavar="FOLDER", help="continue a killed sweep from its folder or s3:// address; finished trainings are not repeated"
    )
    sweep.add_argument("--at-once", type=int, metavar="N", help="trials at the same time (default: one a core, one a GPU where trials use one)")
    sweep.add_argument("--address", help="a Ray cluster (auto, or an address); default: a local Ray for the length of the sweep")
    add_overrides(sweep, "data.test_documents=500, or --set seeds=[0,1]")

    generate = add_command(
        commands,
        "generate",
        _generate,
        "write a training set for class names with the language model",
        examples=(
            'selftrain generate --classes "negative,positive" --template review --per-class 200 --model gemma-3-270m --out reviews',
            "selftrain generate --data sst2 --per-class 100 --model gemma-3-270m --out sst2_written",
        ),
        sets={"data": "named", "classes": "data.classes", "model": "augment.model", "seed": "augment.engine_seed"},
        continues="the same command continues, finished texts are in the cache",
    )
    generate.add_argument("--classes", metavar="A,B,...", help=CLASSES)
    generate.add_argument("--data", metavar="NAMED_SET", help="a set of the catalogue whose classes and prompts are used, e.g. sst2")
    generate.add_argument("--per-class", type=int, required=True, metavar="N", help="texts a class")
    generate.add_argument("--model", help="language model: a folder, a hub name, or gemma-3-270m (augment.model)")
    generate.add_argument("--out", required=True, metavar="FOLDER", help="a new folder for train.parquet and dataset.json")
    generate.add_argument("--template", help="review, restaurant, product, news, text, subject; default: what fits --data, else text")
    generate.add_argument("--dry-run", action="store_true", help="print what is asked for and what it will cost, and start nothing")
    generate.add_argument("--seed", type=int, help="another seed gets other texts (augment.engine_seed; default: 0)")
    add_overrides(generate, "augment.temperature=1.0")


def check_run(options: argparse.Namespace) -> None:
    """Raise a `ConfigError` where `run` is asked both for a new run and for an old one."""
    if options.resume and (options.experiment or options.data or options.classes or options.text_column or options.label_column or options.promote):
        raise ConfigError(
            "--resume continues a run as it was started; pass no experiment, --data, --classes, columns or --promote beside it. "
            "More seeds and variants can be added with --set."
        )


def _run(options: argparse.Namespace) -> int:
    check_run(options)
    asked = None if options.resume else checked_options(load_experiment(options))  # before torch is imported, which takes seconds
    from selftrain.runs import run as story
    from selftrain.runs.resume import resumed_experiment

    overrides = [*options.overrides, *([f"ray.address={options.address}"] if options.address else [])]
    experiment = asked or resumed_experiment(options.resume, overrides)
    if options.dry_run:
        print(story.plan(story.prepare(experiment)))
        return 0
    result = story.run(experiment, command=options.asked, resume=options.resume, at_once=options.at_once)
    facts = result.metrics
    print(result.table)
    print(f"\nreport      {result.folder}/report.html")
    if facts.get("labeled"):
        print(f"labeled     {facts['labeled']}")
    print(f"MLflow run  {facts['run']['mlflow_run_id']}  (selftrain ui)")
    if registered := facts["registered"]:
        champion = "champion" if registered["champion"] else "not champion"
        print(f"model       {registered['model']} version {registered['version']}, {champion}: {registered['reason']}")
    if result.bundle is None:
        print("bundle      none: a bundle reads texts, and the documents are images")
    else:
        print(f"bundle      {result.bundle}")
    if facts["serve"]:
        print(f"\nserve it:   {facts['serve'][0]}")
    return say_unsent(result.unsent)


def checked_options(experiment: Experiment) -> Experiment:
    """`experiment`, once its method, the method's options and its variants are known to be right."""
    from selftrain.methods.recipe import resolve

    for name in experiment.variants:
        resolve(experiment.variant(name))
    resolve(experiment)
    return experiment


def check_sweep(options: argparse.Namespace) -> None:
    """Raise a `ConfigError` unless `sweep` is asked either for a new sweep or for an old one."""
    if bool(options.space) == bool(options.resume):
        raise ConfigError("selftrain sweep takes either a file (selftrain sweep tune_spaces/genco_tau.yaml) or --resume FOLDER.")
    if options.resume and options.small:
        raise ConfigError("--resume continues a sweep at the size that it was started with; leave out --small.")
    if options.resume and options.overrides:
        raise ConfigError("--resume continues a sweep with the settings that it was started with; leave out --set.")


def _sweep(options: argparse.Namespace) -> int:
    check_sweep(options)
    from selftrain.sweeps.cost import describe_sweep
    from selftrain.sweeps.plan import prepare_sweep, resumed_space
    from selftrain.sweeps.space import load_space
    from selftrain.sweeps.sweep import run_sweep

    space = resumed_space(options.resume) if options.resume else load_space(options.space, small=options.small, overrides=options.overrides)
    if options.dry_run:
        print(describe_sweep(prepare_sweep(space), options.at_once))
        return 0
    result = run_sweep(space, folder=options.resume, at_once=options.at_once, address=options.address, command=options.asked)
    print(f"\n{space.title}\n\n{result.text}\n")
    print(f"report      {result.folder}/report.html")
    print(f"table       {result.folder}/table.md")
    print(f"MLflow run  {result.mlflow_run_id}  (selftrain ui)")
    return say_unsent(result.unsent) or (0 if result.table is None or result.table.complete else 1)


def _generate(options: argparse.Namespace) -> int:
    from selftrain.config import load
    from selftrain.files.durable import check_folder
    from selftrain.texts.dataset.generation import describe_filter, describe_generation, generate

    if unused := next((override for override in options.overrides if not override.strip().startswith(_GENERATE_USES)), None):
        raise ConfigError(f"--set {unused!r} has no effect here; selftrain generate uses {', '.join(_GENERATE_USES)}.")
    check_folder(Path(options.out), "out")
    asked = {"model": options.model, "engine_seed": options.seed}
    data = {"classes": classes_of(options.classes)} if options.classes is not None else {}
    experiment = load(None, options.overrides, {"data": data, "augment": {key: value for key, value in asked.items() if value is not None}})
    wanted: dict[str, Any] = {"per_class": options.per_class, "template": options.template, "named": options.data}
    if options.dry_run:
        print(describe_generation(experiment, Path(options.out), **wanted))
        return 0
    try:
        made = generate(experiment, Path(options.out), command=options.asked, **wanted)
    except ProcessDied as error:
        raise ProcessDied(f"{error} The same command continues.") from None
    counts = ", ".join(f"{count} {name}" for name, count in made.facts["generated"]["written"].items())
    print(f"{'nothing to do: ' if made.found else ''}{counts} in {made.folder}; filtered and replaced: {describe_filter(made.facts)}")
    say_unsent(made.shortfall)
    print(f"train on it: selftrain run --data {shlex.quote(options.out)} --set data.supervision=all --set model.train=head --set method.name=sungen")
    return 0
