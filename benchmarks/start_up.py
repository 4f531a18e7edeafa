"""What it costs to start: `python benchmarks/start_up.py [--repeats 9] [--bundle FOLDER ...] [--code NAME] [--out FILE.csv]`.

Python itself, `import selftrain`, `--help` of every command, and `selftrain predict` on one text with the same classifier three ways: as it was trained
(PyTorch), as a graph (`selftrain export`), and its static student (`selftrain distill`); `--bundle` measures others. The classifier is all-MiniLM-L6-v2 as it is,
with two class names. Every repeat starts all of them, one after the other, so that what the machine does besides falls on all alike.

`processor` is processor time of the process and its children, which other work hardly changes; `wall` is the clock. Both are medians, with quartiles; `python` is
what a bare Python takes of it. `torch` says whether PyTorch was imported. Another version of the library is measured by the Python of its environment, with a name
for it in `--code`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import quantiles

from lines import add

MAIN = (
    "import sys; from selftrain.cli import main; code = main(sys.argv[1:]); sys.stderr.write(f'\\ntorch={\"torch\" in sys.modules}'); sys.exit(code)"
)
COMMANDS = (
    "",
    "run",
    "sweep",
    "generate",
    "distill",
    "export",
    "predict",
    "serve",
    "submit",
    "jobs",
    "audit",
    "check",
    "label",
    "register",
    "doctor",
)
WORDS = {"sport": ("match", "goal", "coach", "league"), "business": ("bank", "profit", "shares", "market")}


def measured(command: Sequence[str]) -> tuple[float, float, bool]:
    """(wall, processor) seconds of a command that has to succeed, and whether it says that PyTorch was imported."""
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for what has been waited for
        said.seek(0)
        words = said.read()
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}: {words[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, "torch=True" in words


def classifiers(folder: Path) -> dict[str, Path]:
    """The three bundles."""
    from selftrain import SelfTrainer, distill, export

    texts = [f"the {words[a]} and the {words[b]} of day {day}" for words in WORDS.values() for a in range(4) for b in range(4) for day in range(4)]
    (folder / "texts.csv").write_text("\n".join(["text", *texts]), encoding="utf-8")
    SelfTrainer(options={"rounds": 0}).fit(texts, classes=list(WORDS)).save(folder / "trained")
    export(folder / "trained", folder / "texts.csv", out=folder / "exported")
    distill(folder / "trained", folder / "texts.csv", students=("static",), out=folder / "students")
    return {"PyTorch": folder / "trained", "exported": folder / "exported", "static": folder / "students" / "static"}


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--bundle", type=Path, nargs="*")
    parser.add_argument("--code", default="now", help="name of the version that is measured")
    parser.add_argument("--out", type=Path, help="CSV that the lines are added to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {one.name: one for one in options.bundle} if options.bundle else classifiers(Path(scratch))
        python = [sys.executable, "-c"]
        started = {"python": [*python, "pass"], "import selftrain": [*python, "import selftrain"]}
        started |= {f"selftrain {name} --help".replace("  ", " "): [*python, MAIN, *([name] if name else []), "--help"] for name in COMMANDS}
        started |= {f"predict, {name}": [*python, MAIN, "predict", "--bundle", str(path), "the coach"] for name, path in bundles.items()}
        found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in started}
        for _ in range(options.repeats):
            for name, command in started.items():
                found[name].append(measured(command))
    bare = quantiles([processor for _, processor, _ in found["python"]], n=4)[1]
    print(f"{'':28} processor s            wall s               of it python   torch")
    for name, taken in found.items():
        wall, processor = (quantiles(column, n=4) for column in ([one[0] for one in taken], [one[1] for one in taken]))
        torch = "yes" if taken[0][2] else "no"
        print(
            f"{name:28} {processor[1]:.3f} ({processor[0]:.3f}-{processor[2]:.3f})   {wall[1]:.3f} ({wall[0]:.3f}-{wall[2]:.3f})   {bare:.3f}   {torch}"
        )
        if options.out is not None:
            quartiles = {"processor": processor[1], "processor_q1": processor[0], "processor_q3": processor[2], "wall": wall[1]}
            figures = {column: round(value, 4) for column, value in ({**quartiles, "wall_q1": wall[0], "wall_q3": wall[2], "python": bare}).items()}
            line = {"code": options.code, "started": name, "repeats": options.repeats, **figures, "torch": torch}
            add(options.out, {**line, "load": round(os.getloadavg()[0], 1), "date": date.today().isoformat()})


if __name__ == "__main__":
    main()
