"""Do two revisions compute the same numbers? `python benchmarks/same_figures.py REVISION [--only CASE]... [--demo]`.

Runs a set of small experiments on BBC News with the code of REVISION (a git commit, checked out aside) and with the code of this checkout, one after the
other, and compares every figure of their metrics.json, and of a sweep's table, digit for digit: scores, predicted shares, confidences, losses a round.
Times, folders, ids and versions are left out. `--demo` adds the experiment of `make demo`, with the texts of .selftrain/texts: fill that cache by `make demo` first.

Ends with exit code 1 and the first figures that differ. One thread computes, so that sums are added in one order.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HEAD = {"model": {"train": "head"}, "evaluation": {"map": "none"}, "training": {"threads": 1}}
SMALL = {"source": "bbc_news", "test_documents": 100, "unlabeled_documents": 150}

CASES: dict[str, dict[str, Any]] = {
    "zero_shot": HEAD
    | {
        "data": SMALL,
        "seeds": [0, 1],
        "method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False},
        "variants": {
            "pesco": {"method": {"name": "pesco", "rounds": 2}},
            "start": {"method": {"rounds": 0}},
            "supervised": {"method": {"name": "supervised"}, "data": {"supervision": "all"}},
        },
    },
    "few_labels": HEAD
    | {
        "data": SMALL | {"supervision": "few", "labels_per_class": 5, "validation_documents": 50},
        "method": {"name": "ns3l", "rounds": 2, "steps_per_round": 8},
        "variants": {
            name: {"method": {"name": name, "rounds": 2, "steps_per_round": 8} | options}
            for name, options in {
                "ssc": {"threshold": 0.8},
                "fixmatch": {"simclr_weight": 0.2},
                "mixmatch": {"ns3l_weight": 5.0, "ns3l_threshold": 0.05},
                "vat": {"entropy_weight": 0.06},
                "pi_model": {"ns3l_weight": 1.0},
                "mean_teacher": {},
                "pseudo_label": {},
                "cross_entropy": {},
            }.items()
        },
    },
    "label_noise": HEAD
    | {
        "data": SMALL | {"supervision": "all", "label_noise": 0.3},
        "method": {"name": "seal", "rounds": 2, "steps_per_round": 8},
        "variants": {
            name: {"method": {"name": name, "rounds": 2, "steps_per_round": 8} | options}
            for name, options in {
                "seal_nm": {"name": "seal", "learned": False},
                "cross_entropy": {"label_smoothing": 0.1},
                "tf_kd": {},
                "cs_kd": {},
                "ps_kd": {},
                "dlb": {},
                "uskd": {},
            }.items()
        },
    },
    "candidates": HEAD
    | {
        "data": SMALL | {"supervision": "candidates", "flip_probability": 0.3},
        "method": {"name": "seal_partial", "rounds": 2, "steps_per_round": 8},
        "variants": {name: {"method": {"name": name, "rounds": 2, "steps_per_round": 8}} for name in ("proden", "cc", "cavl", "plcr", "pico")},
    },
    "candidates_two_networks": HEAD  # not in 0.1.0
    | {
        "data": SMALL | {"supervision": "candidates", "flip_probability": 0.3},
        "method": {"name": "valen", "rounds": 2, "steps_per_round": 8},
        "variants": {"idgp": {"method": {"name": "idgp", "rounds": 2, "steps_per_round": 8}}},
    },
    "generated_texts": {
        "data": SMALL | {"supervision": "all", "label_noise": 0.2},
        "model": {"encoder": "bilstm", "similarity": "dot", "hidden": 8, "word_dimensions": 16, "vocabulary": 2000},
        "evaluation": {"map": "none"},
        "training": {"threads": 1},
        "method": {"name": "sungen", "outer_iterations": 3, "outer_samples": 200},
        "variants": {name: {"method": {"name": name}} for name in ("zerogen", "confidence", "co_teaching", "meta_weight_net", "temporal_ensembling")},
    },
    "whole_encoder": {
        "data": SMALL | {"unlabeled_documents": 120, "test_documents": 60},
        "evaluation": {"map": "none"},
        "training": {"threads": 1},
        "method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, "rounds": 2, "steps_per_round": 2},
    },
}
SWEEP: dict[str, Any] = {
    "name": "same_figures",
    "title": "self-training by tau",
    "base": HEAD | {"data": SMALL, "method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, "rounds": 2}},
    "axes": {"method.tau": [1.0, 0.1]},
    "datasets": {"BBC News": {"source": "bbc_news"}},
    "seeds": [0, 1],
    "metric": "accuracy",
}
# What no two runs share.
_APART = {"seconds", "train_seconds", "inference_ms", "peak_memory_mb", "tokens_per_second"}


def main() -> int:
    """Run both sides and compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="a git commit, such as HEAD~1")
    parser.add_argument("--only", action="append", default=[], choices=[*CASES, "sweep"], help="this case alone; may be given several times")
    parser.add_argument("--demo", action="store_true", help="also the experiment of make demo, with the texts of .selftrain/texts")
    options = parser.parse_args()
    wanted = options.only or [*CASES, "sweep"]
    differ = 0
    with tempfile.TemporaryDirectory(prefix="same_figures") as scratch:
        before = Path(scratch, "tree")
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", "--quiet", str(before), options.revision], check=True)
        try:
            for case in [*wanted, *(["demo"] if options.demo else [])]:
                found = [_figures(case, tree, Path(scratch, f"{side}-{case}")) for side, tree in (("before", before), ("after", ROOT))]
                different = list(_differences(*found))
                print(f"{case}: {len(list(_leaves(found[0])))} figures, {len(different)} differ", flush=True)
                for line in different[:5]:
                    print(f"  {line}", flush=True)
                differ += len(different)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(before)], check=True)
    return 1 if differ else 0


def _figures(case: str, tree: Path, folder: Path) -> Any:
    """What `case` computes with the code of `tree`, run in `folder`."""
    folder.mkdir()
    libraries = folder / "libraries"
    libraries.mkdir()
    (libraries / "selftrain").symlink_to(tree / "platform" / "selftrain")
    (libraries / "selftrain_serve").symlink_to(tree / "serve")
    environment = os.environ | {"PYTHONPATH": str(libraries), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    if case == "demo":
        shutil.copytree(ROOT / ".selftrain" / "texts", folder / ".selftrain" / "texts")
        arguments = ["run", str(tree / "jobs" / "experiments" / "bbc_news.yaml"), "--set", "training.threads=1"]
    else:
        file = folder / "asked.yaml"
        document = SWEEP if case == "sweep" else {"name": case} | CASES[case]
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        arguments = ["sweep" if case == "sweep" else "run", str(file)]
    program = "import sys; from selftrain.cli import main; sys.exit(main())"
    with (folder / "output").open("w") as output:
        ended = subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, env=environment, stdout=output, stderr=output)
    if ended.returncode:
        raise SystemExit(f"{case} of {tree} ended with exit code {ended.returncode}:\n{(folder / 'output').read_text()[-3000:]}")
    if case == "sweep":
        (journal,) = (folder / "runs").rglob("results.jsonl")
        results = [json.loads(line) for line in journal.read_text().splitlines()]
        return sorted(results, key=lambda one: json.dumps([one["setting"], one["data set"], one["seed"]], sort_keys=True))
    (file,) = (folder / "runs").glob("*/metrics.json")
    metrics = json.loads(file.read_text())
    return {"rows": metrics["rows"], "rounds": metrics["rounds"]}


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a JSON value, each with its path."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key not in _APART:
                yield from _leaves(below, f"{place}.{key}")
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _leaves(below, f"{place}[{number}]")
    elif isinstance(value, int | float):
        yield place, float(value)


def _differences(before: Any, after: Any) -> Iterator[str]:
    left, right = dict(_leaves(before)), dict(_leaves(after))
    for place in left.keys() | right.keys():
        one, other = left.get(place), right.get(place)
        same = one is not None and other is not None and (one == other or (math.isnan(one) and math.isnan(other)))
        if not same:
            yield f"{place}: {one!r} before, {other!r} after"


if __name__ == "__main__":
    sys.exit(main())
