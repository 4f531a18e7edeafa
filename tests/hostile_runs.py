"""Runs a command on a hostile input in a process of its own, as the command line runs it, and says what became of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from hostile import GOOD_ROWS, Case
from tiny import tiny_backbone
from transformers.utils.logging import disable_progress_bar

LIMIT_MB = 1024
_SECONDS = 240


class Outcome(NamedTuple):
    """What a command did."""

    code: int | str
    said: str  # on the standard error stream
    peak_mb: float  # of memory above what the process had before the command
    seconds: float
    left: list[str]  # files that were not there before

    def problem(self, case: Case) -> str | None:
        """Why this is not how a hostile input has to end; None where it is."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        sentence = len(lines) == 1 and lines[0].startswith("selftrain: ") and "\x1b" not in self.said
        for wrong, words in (
            (self.code != case.code, f"exit code {self.code} and not {case.code}"),
            ("Traceback" in self.said, "a traceback"),
            (case.code == 2 and not sentence, "no one sentence"),
            (self.peak_mb >= LIMIT_MB, f"{self.peak_mb:.0f} MB more memory"),
            (bool(self.left), f"left {self.left}"),
        ):
            if wrong:
                return f"{words}: {self.said[-600:]}"
        return None


def kitchen(folder: Path) -> Path:
    """A folder with what the cases need: a good bundle and a good file."""
    import torch

    from selftrain.bundle.format import BundleCard, write_bundle

    folder.mkdir(parents=True, exist_ok=True)
    backbone = tiny_backbone(folder.parent / "hostile-encoder")
    prototypes = torch.nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    write_bundle(folder / "bundle", backbone=backbone, prototypes=prototypes, card=BundleCard(name="toy", labels=("a", "b"), method="genco"))
    (folder / "good.csv").write_text("text,label\n" + GOOD_ROWS, encoding="utf-8")
    return folder


def run(case: Case, home: Path, *, fresh: bool = False) -> Outcome:
    """Run a case in a copy of `home`, in a child of this process, which has imported what is heavy; `fresh`: as a program of its own, its memory unknown."""
    place = home.parent / "case"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(home, place)
    before = os.getcwd()
    os.chdir(place)
    try:
        case.make()
        there = _files()
        start = time.monotonic()
        code, said, peak = _program(case) if fresh else _child(case)
        seconds = time.monotonic() - start
        return Outcome(code, said, peak, seconds, sorted(_files() - there))
    finally:
        os.chdir(before)
        shutil.rmtree(place, ignore_errors=True)


def _files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


def _memory(key: str) -> float:
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))


def _child(case: Case) -> tuple[int | str, str, float]:
    home = Path.cwd().parent
    said, result = home / "case.stderr", home / "case.result"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code: int | str = "crash"
        peak = 0.0
        try:
            streams = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(streams, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            for name, number in (("stdout", 1), ("stderr", 2)):
                setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))
            disable_progress_bar()  # as the command line does before transformers is imported
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
            normal = _memory("VmRSS")
            from selftrain.cli import main

            try:
                code = main(list(case.arguments))
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            peak = _memory("VmHWM") - normal
        finally:
            result.write_text(json.dumps([code, peak]))
            os._exit(0)
    end = time.monotonic() + _SECONDS
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout", said.read_text(errors="replace"), 0.0
        time.sleep(0.01)
    code, peak = json.loads(result.read_text()) if result.is_file() else ["killed", 0.0]
    return code, said.read_text(encoding="utf-8", errors="replace"), max(0.0, peak)


def _program(case: Case) -> tuple[int | str, str, float]:
    try:
        arguments = [os.fsencode(argument) if "\udcff" in argument else argument for argument in case.arguments]
        done = subprocess.run([Path(sys.executable).parent / "selftrain", *arguments], capture_output=True, timeout=_SECONDS, check=False)
    except ValueError:  # the kernel's own arguments cannot hold a null byte
        return _child(case)
    return done.returncode, done.stderr.decode("utf-8", "replace"), 0.0
