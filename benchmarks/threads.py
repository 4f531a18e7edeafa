"""What a number of threads costs beside other work: `python benchmarks/threads.py [--busy 0,1,2,4] [--repeats 7] [--out FILE.csv]`.

The same small training (a head on the frozen embeddings of 100 documents of BBC News, 20 steps of equation 5 of GenCo) with two threads, and with as many as
`selftrain run` chooses (`runtime/threads.py`), while N other processes compute. Both take turns in one process, the one that begins changing from pair to pair; a
ratio above 1 says how much longer two threads took. Seconds are those of the clock: a thread that waits for a core is what is measured. Before every pair it is
looked at what others compute, as a run does while it reads the documents.

The N processes are planted, and have the priority of this one; `busy_cores` is what was seen, so it has in it whatever else the machine did, with N = 0 too.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

os.environ.pop("OMP_NUM_THREADS", None)  # as where nobody has thought of threads

import torch
from lines import tell
from training import bbc_news, recipe_of

from selftrain.models.encoder import Encoder
from selftrain.models.open import open_encoder
from selftrain.runtime.threads import OtherWork, choose_threads, cores_here
from selftrain.training.fit import fit

TWO = 2
METHOD = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, "start_check": False, "rounds": 1, "steps_per_round": 20}


@contextmanager
def others(count: int) -> Iterator[None]:
    """`count` processes that compute, for the length of a `with` block."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: sum(range(100_000))"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def training() -> Callable[[int, int], float]:
    """A training by its threads and seed; returns its seconds."""
    corpus, _ = bbc_news(100)
    recipe = recipe_of(METHOD, train="head", cache=".selftrain/embeddings")
    opened = open_encoder(recipe.model, corpus)
    opened.encode([*corpus.unlabeled.contents, *(prompt for group in corpus.label_prompts() for prompt in group)])  # no part of what is timed

    def seconds(threads: int, seed: int) -> float:
        torch.set_num_threads(threads)
        encoder = copy.deepcopy(opened)

        def again() -> Encoder:
            return encoder

        start = time.perf_counter()
        fit(recipe, corpus, lambda requests: {}, seed=seed, opened=again)
        return time.perf_counter() - start

    return seconds


def measured(seconds: Callable[[int, int], float], busy: int, repeats: int) -> dict[str, Any]:
    """A line: the training with two threads and with what is chosen, beside `busy` processes."""
    two: list[float] = []
    chosen: list[float] = []
    counts: list[int] = []
    seen: list[float] = []
    with others(busy):
        for pair in range(repeats):
            seen.append(OtherWork().busy_cores())
            counts.append(choose_threads(None, seen[-1]).count)
            for side, count in ((two, TWO), (chosen, counts[-1])) if pair % 2 else ((chosen, counts[-1]), (two, TWO)):
                side.append(seconds(count, pair))
    low, middle, high = quantiles([slow / fast for slow, fast in zip(two, chosen, strict=True)], n=4, method="inclusive")
    return {
        "training": "head",
        "other_processes": busy,
        "busy_cores": f"{mean(seen):.2f}",
        "threads_chosen": " ".join(map(str, sorted(set(counts)))),
        "seconds_with_two": f"{median(two):.3g}",
        "seconds_with_chosen": f"{median(chosen):.3g}",
        "ratio": f"{middle:.2f}",
        "q1": f"{low:.2f}",
        "q3": f"{high:.2f}",
        "least": f"{min(slow / fast for slow, fast in zip(two, chosen, strict=True)):.2f}",
        "most": f"{max(slow / fast for slow, fast in zip(two, chosen, strict=True)):.2f}",
        "n": repeats,
        "cores": cores_here(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", default="0,1,2,4", help="numbers of other processes, separated by commas")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of turns")
    parser.add_argument("--out", type=Path, help="CSV that a line each is added to")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f"--repeats must be at least 2, for a spread (got {options.repeats})")
    seconds = training()
    seconds(1, options.repeats)  # one turn that does not count
    for busy in map(int, options.busy.split(",")):
        tell(measured(seconds, busy, options.repeats), options.out)


if __name__ == "__main__":
    main()
