"""What a sweep costs beside its trainings: `python benchmarks/sweep_overhead.py [SPACE.yaml] [--small] [--at-once N]`.

Runs the sweep in a folder of its own (embeddings are made before the clock starts) and prints its wall time, the trainings' own time divided by the trials at
once, their ratio (goal: at most 1.3) and the overhead a trial (goal: at most 3 s). The ratio counts the start of Ray, so it falls with the length of the sweep.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from selftrain.data.loading import load_corpus
from selftrain.models.shared import open_shared_encoder
from selftrain.sweeps.plan import prepare_sweep
from selftrain.sweeps.results import Results
from selftrain.sweeps.space import load_space, parse_space
from selftrain.sweeps.sweep import run_sweep

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the sweep and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space", nargs="?", default=str(ROOT / "tune_spaces" / "genco_tau.yaml"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    document = load_space(options.space, small=options.small).model_dump(mode="json")
    with tempfile.TemporaryDirectory() as scratch:
        document["base"] |= {"output": scratch, "tracking": {"uri": f"sqlite:///{scratch}/mlflow.db"}}
        space = parse_space(document)
        prepared = prepare_sweep(space)
        for cell in prepared.cells:
            corpus, _ = load_corpus(cell.experiment.data)
            if cell.experiment.model.train == "head":
                open_shared_encoder(cell.experiment.model, corpus).encode([*corpus.unlabeled.contents, *corpus.test.contents])
        result = run_sweep(space, at_once=options.at_once)
        results = Results(result.folder / "results.jsonl", "")
        found = [results.get(cell) or {} for cell in prepared.cells]
    training = sum(one["train_seconds"] for one in found) / options.at_once
    whole = sum(one["seconds"] for one in found) / options.at_once
    print(result.text)
    print(f"\n{len(found)} trials, {options.at_once} at once")
    print(f"wall time                               {result.seconds:8.1f} s")
    print(f"training alone / trials at once         {training:8.1f} s   ratio {result.seconds / training:.2f}")
    print(f"training and evaluation / trials at once{whole:8.1f} s   ratio {result.seconds / whole:.2f}")
    print(f"overhead a trial                        {(result.seconds - whole) / (len(found) / options.at_once):8.2f} s, the start of Ray in it")


if __name__ == "__main__":
    main()
