"""Do SunGen's weights tell right pseudo-labels from wrong ones? `python benchmarks/pseudo_label_weights.py [--seeds 0,1,2] [--out FILE.csv]`.

The method `combined` with `weighted` alone, a head, on the documents of `tune_spaces/factorial.yaml --small`. A line is a round of a set and a seed. Of the
documents and views that its batches hold, with their true labels, which the training does not see:

wrong        share whose pseudo-label is wrong
right_mean   mean weight of those whose pseudo-label is right; wrong_mean: of the others (the mean within a pseudo-label is 1)
auc          chance that one with a right pseudo-label has a larger weight than one with a wrong one: .5 tells nothing, below it the wrong ones weigh more
outer_first  the outer loss at equal weights; outer_last: at those that were learned
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lines import add

from selftrain.data.loading import load_corpus
from selftrain.data.texts import no_texts
from selftrain.evaluation.metrics import area_under_curve
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.combined import Combined
from selftrain.sweeps.space import load_space

SPACE = Path(__file__).resolve().parents[1] / "tune_spaces/factorial.yaml"


def lines_of(column: str, seed: int) -> Iterator[dict[str, Any]]:
    """A line for each round of a training."""
    space = load_space(SPACE, small=True)
    setting = next(one for one in space.settings() if one.name == "weights")
    experiment = space.experiment(setting, column)
    corpus, truth = load_corpus(experiment.data)
    method = resolve(experiment).untrained(corpus, seed=seed)
    assert isinstance(method, Combined)
    for round_ in range(method.rounds):
        figures = method.refresh(round_, no_texts)
        label_of = method.selection.label_of
        weights, right = [], []
        for drawn in method.drawn:
            assert drawn.weights is not None
            hits = [truth.unlabeled[corpus.unlabeled.ids[index]] == label_of[index] for index in drawn.confident]
            weights += drawn.weights.flatten().tolist()
            right += hits * len(drawn.weights)
        w, hit = torch.tensor(weights), torch.tensor(right)
        auc = area_under_curve(torch.stack([-w, w], dim=1).numpy(), hit.long().numpy())
        found = {"wrong": float((~hit).float().mean()), "right_mean": float(w[hit].mean()), "wrong_mean": float(w[~hit].mean()), "auc": auc}
        found |= {name: figures[name] for name in ("outer_first", "outer_last")}
        yield {
            "set": column,
            "seed": seed,
            "round": round_ + 1,
            **{name: None if value is None else round(value, 4) for name, value in found.items()},
        }
        for step in range(method.steps(round_)):
            method.step(round_, step)


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="AG News,TREC")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for column in options.sets.split(","):
        for seed in options.seeds.split(","):
            for line in lines_of(column, int(seed)):
                print(line, flush=True)
                if options.out:
                    add(options.out, line)


if __name__ == "__main__":
    main()
