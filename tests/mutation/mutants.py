"""`make mutants`: how many small changes of our code the tests notice, file by file; docs/howto/mutants.md says how to read it.

mutmut makes the mutants, all of them in one copy of the code that asks at every call which one is on. Everything else is made for tests that import torch: one
process collects the tests once and forks for every mutant; the child runs only the tests that reach the changed function, until one fails. Verdicts are kept
by the changed function's text, so that the work can stop after any of them, and a change of the code or of a test asks again only about what it touches.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

import pytest
from report import ROOT, Mutant, read_explanations, summary, write_explanation, write_report
from slices import Slice
from verdicts import CODE, HOME, Verdicts

STAGED = {"selftrain": "platform/selftrain", "selftrain_serve": "serve", "tests": "tests", "pyproject.toml": "pyproject.toml"}


def make_mutants() -> list[Mutant]:
    """Every mutant of the files and functions in pyproject.toml, made anew where the source changed."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    fingerprint = hashlib.sha256(json.dumps(options["mutmut"], sort_keys=True).encode()).hexdigest()
    HOME.mkdir(exist_ok=True)
    mark = HOME / "fingerprint"
    if not mark.is_file() or mark.read_text() != fingerprint:
        shutil.rmtree(CODE, ignore_errors=True)
        mark.write_text(fingerprint)
    shutil.rmtree(CODE / "tests", ignore_errors=True)  # the copy must not keep what is gone
    for name, target in STAGED.items():
        (HOME / name).unlink(missing_ok=True)
        (HOME / name).symlink_to(os.path.relpath(ROOT / target, HOME))
    for package in ("selftrain", "selftrain_serve"):
        for file in (CODE / package).rglob("*.py"):
            if not (HOME / file.relative_to(CODE)).is_file():
                file.unlink()
    os.chdir(HOME)
    from mutmut.__main__ import create_mutants
    from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData
    from mutmut.mutation.trampoline import set_mutant_under_test
    from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, walk_mutatable_files

    set_mutant_under_test("mutant_generation")
    CODE.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        copy_src_dir()
        copy_also_copy_files()
        create_mutants(os.cpu_count() or 1)
    found = []
    for path in walk_mutatable_files():
        data, spans = SourceFileMutationData(path=path), MutantLineSpans.load(path)
        data.load()
        if spans is None:  # no mutant in this file
            continue
        functions = list(spans.span_by_function_name)
        source = dict(zip(functions, spans.read_function_sources(functions), strict=True))
        for name in data.exit_code_by_key:
            short = name.rpartition(".")[2]
            mangled = short.partition("__mutmut_")[0]
            found.append(Mutant(name, str(path), original=source[f"{mangled}__mutmut_orig"], changed=source[short]))
    parts = options["mutation"]["only_functions"]  # of files that are tested otherwise in the main
    return [mutant for mutant in found if mutant.path not in parts or any(fnmatch(mutant.function, f"*{name}") for name in parts[mutant.path])]


@contextlib.contextmanager
def _in_copy() -> Iterator[None]:
    """Tests import the copy: from its folder, and before the installed package."""
    os.chdir(CODE)
    sys.path.insert(0, str(CODE))
    from mutmut.mutation.trampoline import set_mutant_under_test

    set_mutant_under_test("")
    yield


def _chosen(mutants: Sequence[Mutant], only: Sequence[str]) -> list[Mutant]:
    """The mutants of files that end like one of `only`, or whose name matches it."""
    if not only:
        return list(mutants)
    found = [mutant for mutant in mutants if any(fnmatch(mutant.path, f"*{part}") or fnmatch(mutant.name, f"*{part}*") for part in only)]
    if not found:
        sys.exit(
            f"No file or mutant is named {' '.join(only)}; files are given like methods/base.py, and [tool.mutmut] in pyproject.toml says which have mutants."
        )
    return found


def run(options: argparse.Namespace) -> None:
    """Work for some minutes, then say how things stand."""
    mutants = make_mutants()
    if options.anew:
        for name in ("verdicts.jsonl", "reach.json"):
            (HOME / name).unlink(missing_ok=True)
    chosen, verdicts = _chosen(mutants, options.only), Verdicts()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
    tests = options.tests or settings["tests"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a slice as Ctrl-C does
    piece = Slice(mutants, chosen, verdicts, options)
    arguments = ["--rootdir=.", "-qq", "--tb=native", "-p", "no:cacheprovider", "--capture=sys", "--hypothesis-seed=0", "-m", settings["markers"]]
    arguments += [f"--deselect={name}" for name in settings["left_out"]]
    with _in_copy():
        code = pytest.main([*arguments, *tests], plugins=[piece])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(int(code))
    verdicts.index()
    print(summary(chosen, verdicts.known, read_explanations(), survivors=bool(options.only)))


def main() -> None:
    """The commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    slice_ = commands.add_parser("run", help="test mutants for some minutes, from where the last slice stopped")
    slice_.add_argument("--minutes", type=float, default=30.0)
    slice_.add_argument("--only", nargs="*", default=[], help="files such as methods/zero_shot/genco.py, or parts of mutants' names")
    slice_.add_argument(
        "--tests",
        nargs="*",
        default=[],
        help="ask these test files alone: quick while they are written; what others might notice is shown and not kept",
    )
    slice_.add_argument("--children", type=int, default=2)
    slice_.add_argument("--anew", action="store_true", help="forget every verdict first")
    commands.add_parser("report", help="write docs/howto/mutants.md's table and docs/results/mutants*.csv")
    show = commands.add_parser("show", help="what a mutant changes")
    show.add_argument("name")
    explain = commands.add_parser("explain", help="say why a survivor changes nothing that could be noticed")
    explain.add_argument("name")
    explain.add_argument("reason")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
        return
    mutants = make_mutants()
    verdicts = Verdicts()
    verdicts.index()
    if options.command == "report":
        print(summary(mutants, verdicts.known, read_explanations()))
        write_report(mutants, verdicts.known, read_explanations())
        return
    mutant = next((one for one in mutants if one.name == options.name), None)
    if mutant is None:
        sys.exit(f"There is no mutant {options.name}; a change of the function numbers its mutants anew.")
    print(f"{mutant.name}: {(verdicts.known(mutant) or {'status': 'not tested'})['status']}\n{mutant.change}")
    if options.command == "explain":
        write_explanation(mutant, options.reason)


if __name__ == "__main__":
    main()
