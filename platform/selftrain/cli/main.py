"""The command line's frame: parse, run one command, and turn what goes wrong into one sentence and an exit code.

Whatever is heavy is imported inside the command that needs it, so that `selftrain --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from selftrain.cli import audit, checking, inspection, jobs, labelling, models, serving, thresholds, training, watching
from selftrain.cli.common import Parser, flag_of, in_flags
from selftrain.errors import ConfigError, ProcessDied, SelfTrainError, say
from selftrain.passwords import has_password
from selftrain.runtime.signals import interruptible

DESCRIPTION = "Unlabeled documents and class names in; a small, fast, served classifier out."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words, without the program's name; default: those of this process.

    Returns:
        0; 1 for a sweep with failed cells; 2 for what the user can fix, with one sentence on the standard error stream; 3 for an alarm of `watch`; 130 after Ctrl-C
        or SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for every file that is opened hides the one that matters
    try:
        _require_text(arguments)
        build_parser().parse_args(arguments, options)
        _require_no_password(options)
        command: Callable[[argparse.Namespace], int] = options.command
        options.asked = shlex.join(["selftrain", *arguments])
        with interruptible():
            return command(options)
    except SelfTrainError as error:
        say(in_flags(error, options))
        if isinstance(error, ProcessDied):
            from selftrain.runtime.watch import leave

            leave(2)
        return 2
    except KeyboardInterrupt:
        continues = getattr(options, "continues", None)
        say(f"stopped; {continues}." if continues else "stopped.")
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (problem := _disk_problem(error)) is None:
            raise
        say(problem)
        return 2


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="selftrain", description=DESCRIPTION)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for group in (training, checking, models, audit, thresholds, labelling, jobs, serving, watching, inspection):
        group.add_commands(commands)
    return parser


def _disk_problem(error: OSError) -> str | None:
    """What the user can fix about a file's name or a full disk, in a sentence; None for any other error."""
    from selftrain.files.durable import is_full, is_no_name

    if is_no_name(error):
        return f"{error.filename}: {error.strerror}; choose another file or folder."
    if is_full(error):
        return f"{error.strerror}{f' while {error.filename} was written' if error.filename else ''}; free some space, or work on another disk."
    return None


def _require_text(arguments: Sequence[str]) -> None:
    """The arguments are written into reports, the registry and logs, all of them UTF-8."""
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise ConfigError(f"Argument {number} ({argument[:100]!r}) is not UTF-8; write it in UTF-8, or rename the file.") from None


def _require_no_password(options: argparse.Namespace) -> None:
    """Every user of the machine can read command lines, and reports and MLflow show them."""
    for name, value in vars(options).items():
        if isinstance(value, str) and has_password(value):
            raise ConfigError(
                f"{flag_of(options, name) or name} holds a password, and every user of this machine can read command lines; set the address by an environment "
                "variable (MLFLOW_TRACKING_URI), or keep the password in ~/.pgpass."
            )
