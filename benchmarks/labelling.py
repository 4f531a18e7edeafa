"""What a hundred answers are worth: `python benchmarks/labelling.py [--sets ag_news] [--answers 100] [--seeds 0,1,2,3,4] [--out FILE.csv]`.

The documents of a set are unlabeled, and equation 5 of GenCo trains a head on them without a label. It chooses which documents to ask about, and the true labels
answer. A successor is trained on these answers (and on the other documents, without labels). All is scored on test documents that nothing has seen. A line has

start       accuracy of the classifier without labels
choice      random; frozen: facility location on the frozen encoder's embeddings, as `selftrain label --training`; spread: on those of the start, with its trained
            head; unsure: as spread, with the start's doubts as weights
method      of the successor: logistic regression on the frozen embeddings, or a method with few labels on a head
accuracy    of the successor
bound       accuracy of the same method with the labels of all documents
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lines import tell
from sklearn.linear_model import LogisticRegression

from selftrain.config import load
from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.data.loading import load_corpus
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_at
from selftrain.methods.recipe import resolve
from selftrain.runs.labelling.selection import choose
from selftrain.training.fit import fit, probabilities

START = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False}
# Rate and threshold: those of the table of docs/methods/ssc.md, chosen on validation documents of AG News.
METHODS: dict[str, dict[str, Any]] = {
    "SupCon without the unconfident": {"name": "ssc", "threshold": 0.8, "learning_rate": 0.003, "unconfident": False},
    "SSC": {"name": "ssc", "threshold": 0.8, "learning_rate": 0.003},
}
DOUBTS = (0.05, 0.5)  # of the chance to be wrong, as in the design of an audit
CHOICES = ("random", "spread", "frozen", "unsure")
REGRESSION = "logistic regression"


class Bench:
    """One set, and what is trained on it."""

    def __init__(self, name: str, documents: int) -> None:
        self.document = {
            "data": {"source": name, "unlabeled_documents": documents},
            "model": {"train": "head"},
            "training": {"threads": 1},
        }
        self.corpus: Corpus
        self.truth: TrueLabels
        self.corpus, self.truth = load_corpus(load(None, [], self.document | {"method": START}).data)
        self.labels = np.array([self.truth.unlabeled[id_] for id_ in self.corpus.unlabeled.ids])
        self.tested = np.array([self.truth.test[id_] for id_ in self.corpus.test.ids])
        self.rows = np.empty((0, 0))

    def trained(self, method: dict[str, Any], chosen: np.ndarray, seed: int) -> Any:
        """A classifier that got the labels of `chosen`."""
        granted = {self.corpus.unlabeled.ids[place]: int(self.labels[place]) for place in chosen.tolist()}
        corpus = replace(self.corpus, granted=granted)
        supervision = {"data": self.document["data"] | {"supervision": "few"}} if granted else {}
        return fit(resolve(load(None, [], self.document | supervision | {"method": method})), corpus, seed=seed).student

    def accuracy(self, student: Any) -> float:
        """On the test documents."""
        return float((probabilities(student, self.corpus.test).argmax(axis=1) == self.tested).mean())

    def regression(self, chosen: np.ndarray, student: Any) -> float:
        """Accuracy of a logistic regression on frozen embeddings."""
        if not len(self.rows):
            self.rows = student.encoder.inputs(self.corpus.unlabeled.contents).cpu().numpy()
            self.test_rows = student.encoder.inputs(self.corpus.test.contents).cpu().numpy()
        model = LogisticRegression(C=10, max_iter=1000).fit(self.rows[chosen], self.labels[chosen])
        return float((model.predict(self.test_rows) == self.tested).mean())


def lines(
    bench: Bench, answers: int, seed: int, methods: dict[str, dict[str, Any]], choices: Sequence[str], bounds: dict[str, float]
) -> list[dict[str, Any]]:
    """All lines of a seed.

    Args:
        bench: the set.
        answers: labels that a successor gets.
        seed: of start, successors and random choice.
        methods: of the successors, besides logistic regression.
        choices: which documents get the labels.
        bounds: method -> accuracy with all labels; that of the regression is added where it is missing.
    """
    everything = np.arange(len(bench.labels))
    start = bench.trained(START, everything[:0], seed)
    said = probabilities(start, bench.corpus.unlabeled)
    rows = start.encoder.encode(bench.corpus.unlabeled.contents).cpu().numpy()
    bounds.setdefault(REGRESSION, bench.regression(everything, start))
    every = {
        "random": np.random.default_rng(seed).permutation(len(everything))[:answers],
        "spread": choose(rows, answers),
        "frozen": choose(start.encoder.inputs(bench.corpus.unlabeled.contents).cpu().numpy(), answers),
        "unsure": choose(rows, answers, weights=(1 - confidence_at(said, ASSUMED_ACCURACY)).clip(*DOUBTS)),
    }
    found = []
    for choice in choices:
        chosen = every[choice]
        scored = {REGRESSION: bench.regression(chosen, start)}
        for name, method in methods.items():
            scored[name] = bench.accuracy(bench.trained(method, chosen, seed))
        counts = np.bincount(bench.labels[chosen], minlength=len(bench.corpus.labels))
        found += [
            {
                "seed": seed,
                "start": round(bench.accuracy(start), 4),
                "choice": choice,
                "rarest_class": int(counts.min()),
                "method": name,
                "accuracy": round(value, 4),
                "bound": round(bounds[name], 4) if name in bounds else None,
            }
            for name, value in scored.items()
        ]
    return found


def main() -> None:
    """Every set and seed in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="ag_news")
    parser.add_argument("--documents", type=int, default=1000, help="unlabeled ones")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--methods", default=",".join(METHODS), help="besides logistic regression; empty for none")
    parser.add_argument("--choices", default=",".join(CHOICES))
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    methods = {name: METHODS[name] for name in options.methods.split(",") if name}
    for name in options.sets.split(","):
        bench, bounds = Bench(name, options.documents), {}
        for seed in map(int, options.seeds.split(",")):
            for line in lines(bench, options.answers, seed, methods, options.choices.split(","), bounds):
                tell({"set": name, "documents": options.documents, "answers": options.answers, **line}, options.out)


if __name__ == "__main__":
    main()
