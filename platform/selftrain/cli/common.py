"""What the commands share: the parser, options of several commands, and the flags of parameters.

The library speaks to Python callers and names parameters; a command's users know flags. Each command therefore states which of its options set which parameter
(`sets`, option -> parameter; an option of the parameter's own name needs no entry), and `in_flags` puts flags into an error's sentence.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from selftrain.errors import ConfigError, SelfTrainError, say

if TYPE_CHECKING:
    from selftrain.config import Experiment

_PARAMETER = re.compile(r"""(?<![\w./'"-])[a-z]\w*[_.][\w.]*\w(?!['"/]|\.?\w)""")  # unquoted, and no word of an English sentence
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
TRACKING_URI = "tracking server; default: MLFLOW_TRACKING_URI, else the local SQLite file"
CLASSES = "class names, separated by commas, or a tree: '{sport: [football, tennis], politics: [elections, laws]}' (data.classes)"
DATA_KEYS = {
    "data": "data.source",
    "classes": "data.classes",
    "text_column": "data.text_column",
    "label_column": "data.label_column",
    "multi_label": "data.multi_label",
    "address": "ray.address",
    "promote": "tracking.promote",
}


class Parser(argparse.ArgumentParser):
    """argparse, with its errors in the form of all others."""

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigError` instead of leaving the program."""
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help.")

    def flags(self) -> dict[str, str]:
        """The flag of every option, the metavar of every positional argument: dest -> what the user types."""
        return {action.dest: action.option_strings[-1] if action.option_strings else str(action.metavar) for action in self._actions}


def add_command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    *,
    examples: Sequence[str],
    sets: Mapping[str, str] | None = None,
    continues: str | None = None,
) -> Parser:
    """Add a command.

    Args:
        commands: what `add_subparsers` returned.
        name: of the command.
        function: what runs it; returns the exit code.
        text: what it does, for both helps, in lower case and without a full stop.
        examples: one or two commands that end its help.
        sets: option -> parameter of the library, where the two have different names; a parameter with dots is a key of the experiment.
        continues: how a stopped command is continued, for the message after Ctrl-C.
    """
    epilog = "\n".join(["example:" if len(examples) == 1 else "examples:", *(f"  {example}" for example in examples)])
    parser: Parser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=function, parser=parser, sets=dict(sets or {}), continues=continues, examples=tuple(examples))
    return parser


def add_experiment(parser: Parser) -> None:
    """The options that make an experiment; `load_experiment` reads them."""
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT.yaml", help="experiment file; default: every default")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="catalogue name, CSV/JSONL/Parquet file or several ('texts/*.parquet'), folder, s3:// address, or hub name (data.source)",
    )
    parser.add_argument("--classes", metavar="A,B,...", help=CLASSES)
    parser.add_argument("--text-column", help="column of the text (data.text_column)")
    parser.add_argument("--label-column", help="column of the true label, for evaluation (data.label_column)")
    parser.add_argument(
        "--multi-label",
        action="store_true",
        help="a document has none, one or several of the classes (data.multi_label, with method.name=binary_relevance and model.train=head)",
    )
    add_overrides(parser, "method.tau=0.05")


def add_overrides(parser: Parser, example: str) -> None:
    """`--set KEY=VALUE`, with an example for its help."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=f"override a key, e.g. --set {example}")


def add_tracking_uri(parser: Parser) -> None:
    """`--tracking-uri`."""
    parser.add_argument("--tracking-uri", help=TRACKING_URI)


def add_listening(parser: Parser, token: str, proxy: str = "") -> None:
    """The options of a command that listens: `--host`, `--port`, `--token-file`, `--no-token`, `--allowed-host`.

    Args:
        parser: of the command.
        token: what the bearer token is for.
        proxy: more about further names of the host.
    """
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1); beyond this machine a token is needed")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--token-file", metavar="FILE", help=f"bearer token that {token}; default: the variable SELFTRAIN_SERVE_TOKEN, if set")
    parser.add_argument("--no-token", action="store_true", help="listen beyond this machine without a token")
    further = f"a further name that requests may have in the header host{proxy}"
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=further)


def load_experiment(options: argparse.Namespace) -> Experiment:
    """The experiment of a command with `add_experiment`."""
    from selftrain.config import load, merge, nested

    base: dict[str, Any] = {}
    for option, key in DATA_KEYS.items():
        value = getattr(options, option, None)
        if value not in (None, False) and (option, value) != ("address", ""):
            base = merge(base, nested(key, classes_of(value) if option == "classes" else value))
    if getattr(options, "multi_label", False):
        base = merge({"method": {"name": "binary_relevance"}, "model": {"train": "head"}}, base)
    return load(options.experiment, options.overrides, base)


def names_of(listed: str) -> list[str]:
    """The names of "a, b"."""
    return [name.strip() for name in listed.split(",")]


def classes_of(listed: str) -> Any:
    """The classes of `--classes`: the names of "a, b", or the tree of "{group: [a, b], other: [c, d]}".

    Raises:
        ConfigError: a tree is no YAML.
    """
    if not listed.lstrip().startswith("{"):
        return names_of(listed)
    from selftrain.files.parsing import yaml_of

    try:
        found = yaml_of(listed)
    except ValueError as error:
        must = "data.classes must be names separated by commas, or a tree such as {sport: [football, tennis]}"
        raise ConfigError(f"{must} ({error}).", parameter="data.classes") from None
    return [{name: below} for name, below in found.items()]  # a list: a mapping would be laid over that of the experiment's file


def say_unsent(unsent: str | None) -> int:
    """Say what the tracking store did not take, if anything; returns the exit code."""
    if unsent is not None:
        say(unsent)
    return 0 if unsent is None else 2


def flag_of(options: argparse.Namespace, parameter: str) -> str | None:
    """What the user of a command types for a parameter of the library.

    Args:
        options: of the command, as parsed.
        parameter: a parameter's name, or a key of the experiment (`data.source`) or of something below it (`data.classes.0`).

    Returns:
        The flag; None where the command has none, or where the key was set by the experiment's file or by `--set`.
    """
    parser: Parser | None = getattr(options, "parser", None)
    if parser is None:
        return None
    flags = parser.flags()
    for option, known in options.sets.items():
        if option in flags and (parameter == known or (known.count(".") and parameter.startswith(f"{known}."))):
            return flags[option] if "." not in known or _by_flag(options, parser, option, known) else None
    return flags.get(parameter)


def _by_flag(options: argparse.Namespace, parser: Parser, option: str, key: str) -> bool:
    if getattr(options, option) != parser.get_default(option):
        return True
    return getattr(options, "experiment", None) is None and not any(
        override.strip().startswith(key) for override in getattr(options, "overrides", ())
    )


def in_flags(error: SelfTrainError, options: argparse.Namespace) -> str:
    """The error's sentence with the command's flags: for the parameter that it begins with, and for the ones with an underscore or a dot in the rest of it."""
    said = str(error)
    if error.parameter is None:
        return said

    def flag(found: re.Match[str]) -> str:
        return flag_of(options, found[0]) or found[0]

    return _PARAMETER.sub(flag, re.sub(rf"^{re.escape(error.parameter)}(?!\.?\w)", flag, said))
