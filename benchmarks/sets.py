"""Do prediction sets hold what is promised? Where labels are known: `python benchmarks/sets.py [--splits 500] [--answers 100] [--keep FOLDER] [--out FILE.csv]`.

The classifiers and documents of benchmarks/audit.py are audited `--splits` times, with another seed each time; the true labels answer, and sets are asked for.
`--keep` is that of benchmarks/promise.py. A line has

questions    what they were chosen for: sets (`selftrain audit --sets`), the figures (`selftrain audit`) or a promise of 5 % (`selftrain audit --promise 0.05`)
risk         share of documents whose set may lack the true class
allowed      answers that may be missed
broken       share of audits that promise something that is not so: more documents are missed
no_sets      share of audits that promise nothing
covered      mean share of documents whose set holds the true class, over audits with sets
size         mean number of classes in a set, over audits with sets; estimated: what the bundle states, on average
best         the smallest mean size with which as many documents are covered as is promised, for who knows all labels
all          mean share of the documents whose set has every class, over audits with sets
quantile_*   broken, covered and size with the usual quantile of split conformal prediction, which takes the answers for drawn at random from all documents
by_word_*    covered and size where the probabilities are taken at their word: the most probable classes until they sum to 1 - risk
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from audit import SETS
from lines import tell
from promise import Population, populations

from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_at
from selftrain.evaluation.audit.design import drawn, plan, plan_for_promise, plan_for_sets
from selftrain.evaluation.audit.risk import look_at
from selftrain.evaluation.audit.sets import cover, mean_size, misses, score_of

RISKS = (0.05, 0.1, 0.2)


class Splits:
    """Many audits of one classifier."""

    def __init__(self, view: Population, splits: int, answers: int) -> None:
        self.probabilities, self.labels, self.splits, self.answers = view.probabilities, view.labels, splits, answers
        self.scores = score_of(view.probabilities, view.labels)
        self.sorted = np.sort(self.scores)
        self.others = np.sort(np.sort(view.probabilities, axis=1)[:, :-1], axis=None)  # of all classes but the most probable ones
        self.least = np.sort(view.probabilities.min(axis=1))

    def strata(self, questions: str) -> np.ndarray:
        """Of the documents, `[N]`; they are the same in every audit."""
        confidence, budget = self.probabilities.max(axis=1), self.answers
        if questions == "sets":
            return plan_for_sets(confidence, budget=budget, seed=0).strata
        if questions == "promise":
            return plan_for_promise(confidence, risk=0.05, budget=budget, seed=0).strata
        return plan(self.probabilities.argmax(axis=1), 1 - confidence_at(self.probabilities, ASSUMED_ACCURACY), budget=budget, seed=0).strata

    def covered(self, threshold: float) -> float:
        """Share of documents whose set holds the true class."""
        return 1 - float(np.searchsorted(self.sorted, threshold)) / len(self.sorted)

    def size(self, threshold: float) -> float:
        """Mean number of classes in a set."""
        return 1 + float(len(self.others) - np.searchsorted(self.others, threshold)) / len(self.sorted)

    def all_classes(self, threshold: float) -> float:
        """Share of documents whose set has every class."""
        return 1 - float(np.searchsorted(self.least, threshold)) / len(self.least)

    def by_word(self, risk: float) -> dict[str, float]:
        """Sets of probabilities that are taken at their word."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")
        before = np.cumsum(np.take_along_axis(self.probabilities, order, axis=1), axis=1) - np.take_along_axis(self.probabilities, order, axis=1)
        inside = np.zeros(self.probabilities.shape, dtype=bool)
        np.put_along_axis(inside, order, before < 1 - risk, axis=1)
        return {"by_word_covered": float(inside[np.arange(len(inside)), self.labels].mean()), "by_word_size": float(inside.sum(axis=1).mean())}

    def line(self, questions: str, risk: float) -> dict[str, Any]:
        """The figures of one way to ask."""
        strata = self.strata(questions)
        documents = np.bincount(strata)
        look = look_at(self.answers, self.answers)
        assert look is not None
        found, usual, estimated = [], [], []
        for seed in range(self.splits):
            asked = drawn(strata, seed).order[: self.answers]
            one = cover(documents, strata[asked], self.scores[asked], risk=risk, planned=self.answers)
            if one is not None:
                found.append(one.threshold)
                sizes = np.maximum(1, (self.probabilities[asked] >= one.threshold).sum(axis=1))
                estimated.append(mean_size(documents, strata[asked], sizes))
            usual.append(np.sort(self.scores[asked])[max(0, math.floor((self.answers + 1) * risk) - 1)])
        counts = np.bincount(strata[drawn(strata, 0).order[: self.answers]], minlength=len(documents))
        covered, quantile = np.array([self.covered(one) for one in found]), np.array([self.covered(one) for one in usual])
        figures = {
            "broken": float((covered < 1 - risk).sum()) / self.splits,
            "no_sets": 1 - len(found) / self.splits,
            "covered": mean(covered),
            "size": mean([self.size(one) for one in found]),
            "estimated": mean(estimated),
            "best": self.size(self.sorted[math.floor(risk * len(self.sorted))]),
            "all": mean([self.all_classes(one) for one in found]),
            "quantile_broken": float((quantile < 1 - risk).mean()),
            "quantile_covered": mean(quantile),
            "quantile_size": mean([self.size(one) for one in usual]),
            **self.by_word(risk),
        }
        rounded = {key: None if value is None else round(float(value), 4) for key, value in figures.items()}
        return {"questions": questions, "risk": risk, "allowed": misses(counts, documents, risk, look.chance), **rounded}


def mean(values: Any) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--questions", default="sets,figures,promise")
    parser.add_argument("--keep", type=Path, help="folder of what the classifiers say")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for classifier, view in populations(name, options.keep).items():
            splits = Splits(view, options.splits, options.answers)
            accuracy = round(float((view.probabilities.argmax(axis=1) == view.labels).mean()), 4)
            facts = {
                "set": name,
                "classifier": classifier,
                "documents": len(view.labels),
                "classes": view.probabilities.shape[1],
                "accuracy": accuracy,
            }
            asked = {"splits": options.splits, "answers": options.answers}
            for questions, risk in ((questions, risk) for questions in options.questions.split(",") for risk in RISKS):
                tell(facts | asked | splits.line(questions, risk), options.out)


if __name__ == "__main__":
    main()
