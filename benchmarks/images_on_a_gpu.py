"""An experiment on images in one process, without Ray, vLLM and MLflow, for an hour on a borrowed GPU.

    python benchmarks/images_on_a_gpu.py jobs/experiments/cifar10_250-gpu.yaml --out fixmatch.csv --steps 4000
    python benchmarks/images_on_a_gpu.py jobs/experiments/cifar10_noise-gpu.yaml --out noise.csv --steps 6000
    python benchmarks/images_on_a_gpu.py jobs/experiments/cifar10_250-gpu.yaml --profile 20

Needs torch, numpy, pyarrow, pydantic, scikit-learn, kornia, Pillow and PyYAML, with `PYTHONPATH=platform`. Trains every variant with the first seed, then
every variant with the second: what is cut short still compares all variants. A row a training, written as soon as it is scored, with the test accuracy of every
round; a file that is there already is gone on with. `--steps` makes trainings shorter, and the schedule with them. `--profile` prints where the time of a step goes
instead, on the device and on the host.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from lines import add
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from selftrain.config import load
from selftrain.errors import SelfTrainError
from selftrain.methods.recipe import Recipe
from selftrain.runs.plan import RunPlan, Variant, prepare
from selftrain.training.fit import fit

_WARM_STEPS = 10  # before a profile: kernels are chosen, memory is taken


def main() -> int:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--out", type=Path, help="CSV, a row a training")
    parser.add_argument("--steps", type=int, help="optimiser steps of a training; default: the experiment's")
    parser.add_argument("--profile", type=int, metavar="STEPS", help="profile so many steps of each variant, and train nothing to the end")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as selftrain run")
    asked = parser.parse_args()
    if (asked.out is None) == (asked.profile is None):
        parser.error("set either --out FILE or --profile STEPS")
    try:
        plan = prepare(load(asked.experiment, asked.set))
        if asked.profile:
            for name, variant in plan.variants.items():
                profile(name, variant, plan.experiment.seeds[0], asked.profile)
        else:
            measure(plan, asked.steps, asked.out)
    except SelfTrainError as problem:
        print(f"images_on_a_gpu: {problem}", file=sys.stderr)
        return 2
    return 0


def measure(plan: RunPlan, steps: int | None, out: Path) -> None:
    """Trains and scores what `out` does not hold yet."""
    there = finished(out)
    for seed in plan.experiment.seeds:
        for name, variant in plan.variants.items():
            if (name, str(seed)) not in there:
                add(out, trained(name, variant, seed, steps))


def finished(out: Path) -> set[tuple[str, str]]:
    """(variant, seed) of the rows that `out` holds."""
    if not out.exists():
        return set()
    with out.open(newline="", encoding="utf-8") as opened:
        return {(row["variant"], row["seed"]) for row in csv.DictReader(opened)}


def trained(name: str, variant: Variant, seed: int, steps: int | None) -> dict[str, object]:
    """A row: one training, scored on the test images after every round."""
    recipe = shortened(variant.recipe, steps)
    start = time.monotonic()

    def progress(round_: int, rounds: int, step: int, of: int) -> None:
        done = (round_ - 1) * of + step
        if done == _WARM_STEPS or step == of:
            each = (time.monotonic() - start) / done
            print(
                f"{name}, seed {seed}: step {done:,} of {rounds * of:,}, {1000 * each:.0f} ms a step, {each * (rounds * of - done) / 60:.1f} min left",
                flush=True,
            )

    fitted = fit(recipe, variant.granted(seed), seed=seed, tested=variant.tested, step_done=progress)
    accuracies = [figures["test_accuracy"] for figures in fitted.rounds]
    return {
        "variant": name,
        "seed": seed,
        "accuracy": round(accuracies[-1], 4),
        "rounds": " ".join(f"{one:.4f}" for one in accuracies),
        "steps": fitted.method.planned_steps,
        "seconds": round(fitted.seconds, 1),
        "test_images": len(variant.corpus.test),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "date": date.today().isoformat(),
    }


def shortened(recipe: Recipe, steps: int | None) -> Recipe:
    """`recipe` with so few rounds that it comes to about `steps` optimiser steps."""
    if steps is None:
        return recipe
    each = min(steps, recipe.options.steps_per_round)
    return with_options(recipe, rounds=max(1, round(steps / each)), steps_per_round=each)


def with_options(recipe: Recipe, **options: int) -> Recipe:
    """`recipe` with other `options` of the method, checked as those of a file."""
    asked = recipe.options.model_dump(exclude_unset=True) | options
    return replace(recipe, options=type(recipe.options).model_validate(asked))


def profile(name: str, variant: Variant, seed: int, steps: int) -> None:
    """Prints where the time of `steps` steps goes, on the device and on the host."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    profiler = torch_profile(activities=activities)
    started = 0.0

    def step_done(_round: int, _rounds: int, step: int, of: int) -> None:
        nonlocal started
        if step == _WARM_STEPS:
            profiler.start()
            started = time.monotonic()
        elif step == of:
            if on_gpu:
                torch.cuda.synchronize()
            wall = time.monotonic() - started
            profiler.stop()
            print(f"\n{name}: {1000 * wall / steps:.1f} ms a step, profiled")
            for key in ("self_cuda_time_total", "self_cpu_time_total") if on_gpu else ("self_cpu_time_total",):
                print(profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=60))

    fit(with_options(variant.recipe, rounds=1, steps_per_round=_WARM_STEPS + steps), variant.granted(seed), seed=seed, step_done=step_done)


if __name__ == "__main__":
    sys.exit(main())
