"""How soon a run trains: `python benchmarks/first_step.py [--before PYTHON --name NAME] [--turns 5] [--out FILE.csv]`.

Seconds by the clock from the start of `selftrain run` until its first training step is done: a sentence encoder that is trained whole, by Ray Train, on 256 short
documents, without a language model. The run has one round of one step, and the step counts as done when the round's checkpoint is there. Afterwards the run goes on
to its end, which is the second figure: evaluation, bundle, report and registration.

`--before` is the Python of an environment with another version of the library, which takes turns with this one: every pair of turns gives a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from lines import tell
from start_up import WORDS

RUN = "import sys; from selftrain.cli import main; sys.exit(main(sys.argv[1:]))"


def write_experiment(folder: Path) -> None:
    """documents.csv and experiment.yaml, which versions since 2026-11-22 read."""
    rows = [
        f"the {words[a]} and the {words[b]} of day {day},{name}"
        for name, words in WORDS.items()
        for a in range(4)
        for b in range(4)
        for day in range(8)
    ]
    (folder / "documents.csv").write_text("\n".join(["text,topic", *rows]), encoding="utf-8")
    document = {
        "name": "first",
        "data": {"source": "documents.csv", "label_column": "topic", "classes": list(WORDS), "test_documents": 20},
        "method": {
            "name": "genco",
            "input_augmentation": False,
            "conditional_augmentation": False,
            "rounds": 1,
            "steps_per_round": 1,
            "per_class": 4,
        },
        "evaluation": {"map": "none"},
    }
    (folder / "experiment.yaml").write_text(json.dumps(document), encoding="utf-8")


def seconds(python: str) -> tuple[float, float]:
    """(until the first step is done, until the run has ended) of one run in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="first-") as place:
        folder = Path(place)
        write_experiment(folder)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/tracking.db"}
        with (folder / "log").open("w") as log:
            start = time.perf_counter()
            process = subprocess.Popen([python, "-c", RUN, "run", "experiment.yaml"], cwd=folder, env=environment, stdout=log, stderr=log)
            trained = None
            while process.poll() is None:
                if trained is None and any(folder.glob("runs/*/checkpoints/*/checkpoint_*")):
                    trained = time.perf_counter() - start
                time.sleep(0.05)
            ended = time.perf_counter() - start
        if process.returncode or trained is None:
            raise SystemExit(f"the run of {python} ended with {process.returncode}: {(folder / 'log').read_text(encoding='utf-8')[-3000:]}")
    return trained, ended


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="Python of another version's environment")
    parser.add_argument("--name", default="before", help="of that version, such as its commit")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    versions = {"this": sys.executable} | ({options.name: options.before} if options.before else {})
    for python in versions.values():  # what the system has read once, it has in memory
        seconds(python)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in versions}
    for turn in range(options.turns):
        for name in list(versions)[:: 1 if turn % 2 else -1]:
            found[name].append(seconds(versions[name]))
            trained, ended = found[name][-1]
            tell(
                {"version": name, "turn": turn, "first_step": round(trained, 2), "end": round(ended, 2), "load": round(os.getloadavg()[0], 1)},
                options.out,
            )
    for name, figures in found.items():
        print(f"{name}: first step after {median(one for one, _ in figures):.1f} s, the end after {median(one for _, one in figures):.1f} s")
    if options.before:
        for place, what in enumerate(("first step", "end")):
            low, middle, high = quantiles(
                [ours[place] / theirs[place] for ours, theirs in zip(found["this"], found[options.name], strict=True)], n=4, method="inclusive"
            )
            print(f"{what}: {middle:.3f} of {options.name}'s time ({low:.3f} to {high:.3f}, n {options.turns})")


if __name__ == "__main__":
    main()
