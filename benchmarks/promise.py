"""Do promises hold? On sets whose labels are known: `python benchmarks/promise.py [--splits 500] [--answers 100] [--keep FOLDER] [--out FILE.csv]`.

The classifiers and documents of benchmarks/audit.py are audited `--splits` times, with another seed each time; the true labels answer, and a promise is asked for.
`--keep` holds what the classifiers say, so that a second run trains nothing. A line has

questions    what they were chosen for: the figures (`selftrain audit`) or the promise (`selftrain audit --promise`)
risk         share of wrong answers that is promised; "smallest": of 5 %, 10 %, ..., the smallest that the answers support, chosen after they were seen
broken       share of audits that promise something that is not so: among all documents above the threshold more are wrong
no_promise   share of audits that promise nothing
answered     mean share of the documents that are answered, 0 where nothing is promised; answered_if: over audits with a promise
wrong        mean share of wrong answers, over audits with a promise
best         share of documents that the best threshold of this risk answers, for who knows all labels
by_word      share of wrong answers where the probability is taken at its word, and a text is answered from 1 - risk on
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from audit import SETS, predicted
from lines import tell

from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_at
from selftrain.evaluation.audit.design import drawn, plan, plan_for_promise
from selftrain.evaluation.audit.risk import Chosen, choose, grid

RISKS = (0.05, 0.1, 0.2)
SMALLEST = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


class Population(NamedTuple):
    """A classifier's view of a set, and the truth."""

    probabilities: np.ndarray  # [N, L]
    labels: np.ndarray  # [N]


def populations(name: str, keep: Path | None) -> dict[str, Population]:
    """Both classifiers of a set, from `keep` where they are there."""
    file = keep / f"{name}.npz" if keep else None
    if file is not None and file.is_file():
        with np.load(file) as kept:
            return {key: Population(kept[key], kept["labels"]) for key in kept.files if key != "labels"}
    found = {classifier: Population(view.probabilities, view.labels) for classifier, view in predicted(name).items()}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, labels=next(iter(found.values())).labels, **{key: one.probabilities for key, one in found.items()})
    return found


class Splits:
    """Many audits of one classifier."""

    def __init__(self, view: Population, splits: int, answers: int) -> None:
        self.scores, self.predicted = view.probabilities.max(axis=1), view.probabilities.argmax(axis=1)
        self.wrong = self.predicted != view.labels
        self.error = 1 - confidence_at(view.probabilities, ASSUMED_ACCURACY)
        self.splits, self.answers = splits, answers

    def strata(self, questions: str, risk: float) -> np.ndarray:
        """Of the documents, `[N]`; they are the same in every audit."""
        if questions == "figures":
            return plan(self.predicted, self.error, budget=self.answers, seed=0).strata
        return plan_for_promise(self.scores, risk=risk, budget=self.answers, seed=0).strata

    def promised(self, questions: str, risks: tuple[float, ...]) -> list[tuple[float, Chosen] | None]:
        """What each audit promises: the first of `risks` that is supported, with questions chosen for the first of them."""
        found: list[tuple[float, Chosen] | None] = []
        strata = self.strata(questions, risks[0])
        thresholds = grid(self.scores, strata)
        for seed in range(self.splits):
            asked = drawn(strata, seed).order[: self.answers]
            facts = thresholds, strata[asked], self.scores[asked], self.wrong[asked]
            tried = ((risk, choose(*facts, risk=risk, planned=self.answers)) for risk in risks)
            found.append(next(((risk, one) for risk, one in tried if one is not None), None))
        return found

    def risk_of(self, threshold: float) -> float:
        """Share of wrong answers above a threshold, in truth."""
        return float(self.wrong[self.scores >= threshold].mean())

    def best(self, risk: float) -> float:
        """The largest share of documents above a threshold of this risk."""
        order = np.argsort(-self.scores, kind="stable")
        risks = np.cumsum(self.wrong[order]) / np.arange(1, len(order) + 1)
        last = np.append(self.scores[order][1:] < self.scores[order][:-1], True)  # ties go together
        held = np.flatnonzero(last & (risks <= risk))
        return (held[-1] + 1) / len(order) if len(held) else 0.0

    def line(self, questions: str, risks: tuple[float, ...]) -> dict[str, Any]:
        """The figures of one way to ask."""
        made = [one for one in self.promised(questions, risks) if one is not None]
        true = np.array([self.risk_of(one.threshold) for _, one in made])
        answered = np.array([one.answered for _, one in made])
        single = len(risks) == 1
        figures = {
            "broken": float((true > np.array([risk for risk, _ in made])).sum()) / self.splits,
            "no_promise": 1 - len(made) / self.splits,
            "answered": float(answered.sum()) / self.splits,
            "answered_if": float(answered.mean()) if made else None,
            "wrong": float(true.mean()) if made else None,
            "best": self.best(risks[0]) if single else None,
            "by_word": self.risk_of(1 - risks[0]) if single and (self.scores >= 1 - risks[0]).any() else None,
        }
        rounded = {key: None if value is None else round(float(value), 4) for key, value in figures.items()}
        return {"questions": questions, "risk": risks[0] if single else "smallest", **rounded}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--questions", default="promise,figures")
    parser.add_argument("--keep", type=Path, help="folder of what the classifiers say")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for classifier, view in populations(name, options.keep).items():
            splits = Splits(view, options.splits, options.answers)
            facts = {"set": name, "classifier": classifier, "documents": len(view.labels), "accuracy": round(1 - float(splits.wrong.mean()), 4)}
            asked = {"splits": options.splits, "answers": options.answers}
            ways = [(questions, risks) for questions in options.questions.split(",") for risks in (*((risk,) for risk in RISKS), SMALLEST)]
            for questions, risks in ways:
                tell(facts | asked | splits.line(questions, risks), options.out)


if __name__ == "__main__":
    main()
