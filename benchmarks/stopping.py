"""Does the labelling page say "stop" too early? `python benchmarks/stopping.py [--sets ag_news,bbc_news,sst2,trec] [--labelings 125] [--first 0] [--out FILE.csv]`.

Of a set's unlabeled documents 1,000 are drawn at random (of BBC News, which has fewer, three quarters). Questions are chosen among them as `selftrain label
--training` does, the true labels answer, and after every answer each rule is asked. The resulting classifier is scored on up to 5,000 documents that were not
drawn when the rule first says "stop", and when every question has an answer; where the rule never says it, the two are one. A line is a set, a number of
questions and a rule:

false        share of labelings in which the accuracy at the stop is more than one point below that with all answers
false_best   the same, below the best accuracy from the stop on, which nobody could choose without labels
false_lr     as false, where the resulting classifier is a logistic regression instead of the page's least squares; of the page's rule
early        share of labelings with a stop before the last question
stop         mean number of answers at the stop
lost         mean accuracy, in points, that the stop costs
could        mean number of answers from which on nothing more than a point below the end is met, for who knows all labels

Rules: settled K, of the page: kappa K with the model of the first n^2 / N answers after ten answers in a row (runs/labelling/stopping.py); once: after one
answer.
kappa K, of Bloodgood and Vijay-Shanker 2009: Cohen's kappa of the models of ten answers apart, mean of the last three, is K or more (they take .99 on 2,000
documents).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lines import add
from scipy.linalg import solve_triangular
from sklearn.linear_model import LogisticRegression

from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.methods.recipe import resolve
from selftrain.runs.labelling.selection import choose
from selftrain.runs.labelling.stopping import FEWEST, LOOKS, PENALTY, SETTLED, Agreed, earlier, predicted

BUDGETS = (100, 200, 400)
POOL, TESTED = 1000, 5000
RULES = ((SETTLED, LOOKS), (0.96, LOOKS), (0.98, LOOKS), (SETTLED, 1))  # kappa, answers in a row
PAGE = f"settled {SETTLED:g}"
KAPPAS = (0.98, 0.99)
APART, WINDOWS = 10, 3  # answers between the models that are compared; comparisons
POINT = 0.01


class Source(NamedTuple):
    """A set, embedded: its unlabeled documents first, then its test documents."""

    rows: np.ndarray  # [N, D], units
    labels: np.ndarray
    unlabeled: int


class Labeling(NamedTuple):
    """One simulated labeling: what the models after 1, 2, ... answers say."""

    said: np.ndarray  # of the pool, [answers, pool]
    right: np.ndarray  # on the test documents, [answers]
    ready: np.ndarray  # whether there is an answer of every class, [answers]
    rows: np.ndarray  # of the questions, in their order
    labels: np.ndarray
    tested: np.ndarray  # places of the documents that are scored on


def source(name: str) -> Source:
    """A set's documents by the frozen encoder, from its cache where they are in there."""
    method = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False}
    experiment = load(None, [], {"data": {"source": name}, "model": {"train": "head"}, "training": {"threads": 1}, "method": method})
    corpus, truth = load_corpus(experiment.data)
    encoder = resolve(experiment).untrained(corpus, seed=0).encoder
    labels = [truth.unlabeled[id_] for id_ in corpus.unlabeled.ids] + [truth.test[id_] for id_ in corpus.test.ids]
    rows = encoder.inputs([*corpus.unlabeled.contents, *corpus.test.contents]).cpu().numpy()
    return Source(rows, np.array(labels), len(corpus.unlabeled))


def labeling(found: Source, seed: int, choice: str) -> Labeling:
    """One labeling with as many questions as the largest budget."""
    rng = np.random.default_rng(seed)
    count = min(POOL, 3 * found.unlabeled // 4)
    drawn = rng.permutation(found.unlabeled)
    pool, rest = drawn[:count], np.concatenate([drawn[count:], np.arange(found.unlabeled, len(found.rows))])
    tested = rng.permutation(rest)[:TESTED]
    asked = pool[choose(found.rows[pool], max(BUDGETS)) if choice == "spread" else slice(max(BUDGETS))]
    rows, labels = found.rows[asked], found.labels[asked]
    classes = int(found.labels.max()) + 1
    seen = np.logical_or.accumulate(labels[:, None] == np.arange(classes), axis=0)
    everything = scores(rows, labels, seen, found.rows[np.concatenate([pool, tested])])
    right = (everything[:, count:] == found.labels[tested]).mean(axis=1)
    if seed % 125 == 0:  # what is simulated is what the page computes
        assert np.mean(predicted(found.rows[pool], rows[:50], labels[:50]) == everything[49, :count]) > 0.998
    return Labeling(everything[:, :count], right, seen.all(axis=1), rows, labels, tested)


def scores(rows: np.ndarray, labels: np.ndarray, seen: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """What `stopping.predicted` says of documents after 1, 2, ... answers, `[answers, documents]`, all at once.

    With the Cholesky factor L of the kernel, the scores of the first t answers are V[:t]' Z[:t], where L V is the kernel with the documents and L Z the indicators:
    one more answer adds one product.

    Args:
        rows: embeddings of the answers, units.
        labels: the answers.
        seen: whether a class has an answer yet, `[answers, classes]`.
        documents: their embeddings, units.
    """
    kernel = rows.astype(np.float64) @ rows.T + 1 + PENALTY * np.eye(len(rows))
    factor = np.linalg.cholesky(kernel)
    with_documents = solve_triangular(factor, rows.astype(np.float64) @ documents.T + 1, lower=True)
    with_classes = solve_triangular(factor, (labels[:, None] == np.arange(seen.shape[1])).astype(np.float64), lower=True)
    found, total = np.empty(with_documents.shape, dtype=np.int16), np.zeros((documents.shape[0], seen.shape[1]))
    for place in range(len(rows)):
        total += with_documents[place][:, None] * with_classes[place]
        found[place] = np.where(seen[place], total, -np.inf).argmax(axis=1)
    return found


def stops(of: Labeling, budget: int) -> dict[str, int]:
    """Rule -> answers at its first stop; the budget where it never stops."""
    agreed = np.zeros(budget)
    for answers in range(FEWEST, budget):
        if of.ready[answers - 1]:
            before = earlier(answers, budget - answers)
            agreed[answers] = Agreed.of(of.said[answers - 1], of.said[before - 1]).kappa
    kappas = {answers: Agreed.of(of.said[answers - 1], of.said[answers - APART - 1]).kappa for answers in range(2 * APART, budget, APART)}
    means = {one: np.mean([kappas.get(one - APART * back, 0) for back in range(WINDOWS)]) for one in kappas}
    found = {}
    for least, looks in RULES:
        high = np.lib.stride_tricks.sliding_window_view(agreed >= least, looks).all(axis=1)
        at = int(high.argmax()) + looks - 1 if high.any() else budget
        found[f"settled {least:g}" + (" once" if looks == 1 else "")] = at
    return found | {f"kappa {least:g}": next((one for one, mean in means.items() if mean >= least), budget) for least in KAPPAS}


def regression(of: Labeling, found: Source, answers: int) -> float:
    """Accuracy of a logistic regression on the first answers."""
    model = LogisticRegression(C=10, max_iter=1000).fit(of.rows[:answers], of.labels[:answers])
    return float((model.predict(found.rows[of.tested]) == found.labels[of.tested]).mean())


def lines(name: str, seeds: range, choice: str) -> Iterator[dict[str, Any]]:
    """All lines of a set."""
    found = source(name)
    kept: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for seed in seeds:
        of = labeling(found, seed, choice)
        for budget in BUDGETS:
            end = of.right[budget - 1]
            near = np.flatnonzero(of.right[:budget] < end - POINT)
            could = int(near[-1]) + 2 if len(near) else 1
            for rule, at in stops(of, budget).items():
                lost, lost_best = end - of.right[at - 1], of.right[at - 1 : budget].max() - of.right[at - 1]
                false_lr = float("nan")
                if rule == PAGE:
                    false_lr = at < budget and regression(of, found, budget) - regression(of, found, at) > POINT
                kept.setdefault((budget, rule), []).append((lost > POINT, lost_best > POINT, false_lr, at < budget, at, 100 * lost, could, end))
    for (budget, rule), values in kept.items():
        false, false_best, false_lr, early, stop, lost, could, end = np.mean(np.array(values, dtype=np.float64), axis=0).tolist()
        yield {
            **{
                "set": name,
                "questions": budget,
                "rule": rule,
                "seeds": f"{seeds[0]} to {seeds[-1]}",
                "accuracy": round(end, 4),
                "false": round(false, 4),
            },
            **{
                "false_best": round(false_best, 4),
                "false_lr": round(false_lr, 4) if rule == PAGE else "",
                "early": round(early, 4),
                "stop": round(stop, 1),
            },
            **{"lost": round(lost, 3), "could": round(could, 1)},
        }


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="ag_news,bbc_news,sst2,trec")
    parser.add_argument("--labelings", type=int, default=125, help="of each set")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--choice", choices=("spread", "random"), default="spread", help="of the questions; spread: as `selftrain label --training`")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for line in lines(name, range(options.first, options.first + options.labelings), options.choice):
            line["date"] = time.strftime("%Y-%m-%d")
            print(line, flush=True)
            if options.out:
                add(options.out, line)


if __name__ == "__main__":
    main()
