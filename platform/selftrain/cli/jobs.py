"""Commands for jobs of a Ray cluster: submit, jobs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from selftrain.cli import audit, models, training
from selftrain.cli.common import Parser, add_command
from selftrain.errors import ServiceError, printable, say

if TYPE_CHECKING:
    from selftrain.runtime.jobs import Job, Jobs

_ADDRESS = "of the cluster's dashboard (default: RAY_ADDRESS, else http://127.0.0.1:8265)"


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    submit = add_command(
        commands,
        "submit",
        _submit,
        "run, sweep, generate, distill, predict or audit as a job of a Ray cluster, and follow it",
        examples=(
            "selftrain submit run jobs/experiments/bbc_news.yaml --set output=s3://bucket/runs",
            "selftrain submit sweep tune_spaces/genco_tau.yaml --storage /mnt/shared --detach",
        ),
    )
    kinds = submit.add_subparsers(metavar="COMMAND", required=True, parser_class=_SubmittedParser)
    training.add_commands(kinds)
    models.add_distill(kinds)
    models.add_predict(kinds)
    audit.add_commands(kinds)
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
        "the working folder); not needed where output is an address",
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
    from selftrain.cli.submitted import WORDS

    words, results = WORDS[options.kind](options)
    from selftrain.runtime.jobs import Jobs
    from selftrain.runtime.upload import Upload, storage_of

    jobs = Jobs(options.address)
    here = jobs.here()
    upload = Upload(storage_of(options.storage, here=here, results=results), here=here, results=results)
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
