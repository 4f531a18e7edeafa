"""What becomes of hostile inputs: `python benchmarks/hostile_inputs.py` gives each of them to the command line and writes docs/results/hostile_inputs.csv.

Each command runs in a child of this process, which has imported everything before, so that the memory above normal is the input's own; every tenth one runs a
second time as a program of its own, with the same outcome. Exit code 1 where one ends in another way than with one sentence and exit code 2, leaves a file behind,
or takes a gibibyte. `--only WORD` tries those whose kind or name holds the word, and writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "results" / "hostile_inputs.csv"
_EVERY = 10  # of the commands run as programs too


def main() -> int:
    """Try them all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD")
    only = parser.parse_args().only
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from hostile import inputs
    from hostile_runs import kitchen, run

    rows, bad = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        home = kitchen(Path(scratch) / "home")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/tracking.db"
        for number, case in enumerate(case for case in inputs() if only in case.kind or only in case.name):
            outcome = run(case, home)
            problem = outcome.problem(case)
            if problem is None and number % _EVERY == 0 and not only:
                again = run(case, home, fresh=True)
                problem = again.problem(case) or (None if again.said == outcome.said else f"said as a program: {again.said}")
            bad += problem is not None
            command = " ".join(argument if len(argument) <= 60 else f"{argument[:57]}..." for argument in ["selftrain", *case.arguments])
            said = " ".join(outcome.said.removeprefix("selftrain: ").split())
            printable = command.encode("unicode_escape").decode()
            rows.append(
                [case.kind, case.name, printable, outcome.code, said[:300], round(outcome.peak_mb, 1), round(outcome.seconds, 2), problem is None]
            )
            figures = f"{outcome.peak_mb:7.1f} MB {outcome.seconds:6.2f} s"
            print(f"{'ok ' if problem is None else 'BAD'} {case.kind:8} {case.name[:50]:50} {figures}  {(problem or said)[:400]}", flush=True)
    print(f"{len(rows)} inputs, {bad} of them ended badly; largest memory {max(row[5] for row in rows):.0f} MB")
    if not only:
        with RESULT.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["kind", "input", "command", "exit_code", "sentence", "peak_mb_above_normal", "seconds", "as_promised"])
            writer.writerows(rows)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
