"""How good audits are, on sets whose labels are known: `python benchmarks/audit.py [--sets ag_news,bbc_news,trec,sst2] [--audits 1000] [--keep FOLDER]
[--out FILE.csv]`.

Two classifiers of each set are trained without a label (a head on frozen all-MiniLM-L6-v2, seed 0): the zero-shot start, and equation 5 of GenCo. They are audited
on the documents that they were trained on, and the true labels answer. An audit has another seed each time. A line has

accuracy                 true, on all documents
coverage, width          of the 95 % interval of the accuracy after `--answers` answers: share of audits that it holds the truth in, and its mean width
simple_*                 the same for as many documents drawn at random (Wilson's interval), and how many of these have the same mean width
saved                    1 - answers / simple_answers
anytime_*                share of audits in which the interval that is valid at every number of answers was wrong at any of them; its mean width at the end
class_coverage, lowest   of precision, recall and share of the classes: mean, and the lowest
confidence, with_start, with_seeds
                         what could be said of the accuracy without an answer: the mean confidence, the share of documents on which both classifiers agree, and
                         that on which equation 5 agrees with two more seeds of it

`--keep` has what the classifiers say, so that a second run trains nothing.

With `--pairs` a line is two classifiers that the same audit compares, as `selftrain register --audit` does. `champion` is the one that it was planned for:

lead                     how much more accurate the other one is, in truth
coverage, width          of the 95 % interval of the lead
right, promoted          share of audits whose estimate has the sign of the lead; and that would make the other one champion
settled, settled_wrong   share of audits whose interval does not hold 0; and of those with the wrong sign
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lines import tell
from scipy import stats

from selftrain.config import Experiment, load
from selftrain.data.corpus import Corpus
from selftrain.data.loading import load_corpus
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_among_neighbours
from selftrain.evaluation.audit.design import Design, plan
from selftrain.evaluation.audit.estimate import LEVEL, Counts, Interval, anytime_z, ratio_interval, share_interval
from selftrain.evaluation.audit.paired import lead_interval
from selftrain.methods.recipe import resolve
from selftrain.training.fit import fit, probabilities

SETS = "ag_news,bbc_news,trec,sst2"
CLASSIFIERS = {"zero-shot": {"rounds": 0}, "equation 5": {"start_check": False}}  # the check would hand over the start of SST-2
DATA = {"sst2": {"test_split": "test"}}
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
EDGE = 1e-9  # of rounding, where the truth is the end of an interval


class Predicted(NamedTuple):
    """A classifier's view of a set, and the truth."""

    probabilities: np.ndarray  # [N, L]
    labels: np.ndarray  # [N]
    texts: tuple[str, ...]  # [N]
    others: dict[str, np.ndarray]  # what `with_start` and `with_seeds` compare it with -> their classes, [classifiers, N]


def experiment_of(name: str, options: Mapping[str, Any]) -> Experiment:
    """The experiment of a set, with options of GenCo."""
    document = {
        "data": {"source": name, "test_documents": 0, **DATA.get(name, {})},
        "model": {"train": "head"},
        "training": {"threads": 1},
        "method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, **options},
    }
    return load(None, [], document)


def said(name: str, corpus: Corpus, keep: Path | None) -> dict[str, list[np.ndarray]]:
    """Probabilities by both classifiers of a set, `[N, L]` for each seed; from `keep` where they are there."""
    file = keep / f"{name}.npz" if keep else None
    if file is not None and file.is_file():
        with np.load(file) as kept:
            return {classifier: list(kept[classifier]) for classifier in CLASSIFIERS}
    found = {}
    for classifier, options in CLASSIFIERS.items():
        recipe, seeds = resolve(experiment_of(name, options)), (0, 1, 2) if classifier == "equation 5" else (0,)
        found[classifier] = [probabilities(fit(recipe, corpus, seed=seed).student, corpus.unlabeled) for seed in seeds]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{classifier: np.stack(of) for classifier, of in found.items()})
    return found


def predicted(name: str, keep: Path | None = None) -> dict[str, Predicted]:
    """Both classifiers of a set; see `said` for `keep`."""
    corpus, truth = load_corpus(experiment_of(name, {}).data)
    found = said(name, corpus, keep)
    labels = np.array([truth.unlabeled[id_] for id_ in corpus.unlabeled.ids])
    views = {}
    for classifier, (first, *more) in found.items():
        (other,) = (of[0] for one, of in found.items() if one != classifier)
        others = {"with_start": [other], "with_seeds": more}
        classes = {key: np.array([of.argmax(axis=1) for of in kept]) for key, kept in others.items()}
        views[classifier] = Predicted(first, labels, corpus.unlabeled.contents, classes)
    return views


class Audits:
    """Many audits of one classifier: `[audits, ...]` arrays of what each of them asks."""

    def __init__(self, view: Predicted, audits: int, answers: int) -> None:
        self.labels, self.predicted = view.labels, view.probabilities.argmax(axis=1)
        error = 1 - confidence_among_neighbours(view.probabilities, view.texts, ASSUMED_ACCURACY)
        designs: list[Design] = [plan(self.predicted, error, budget=answers, seed=seed) for seed in range(audits)]
        self.strata = designs[0].strata  # they do not depend on the seed
        self.asked = np.stack([design.order[:answers] for design in designs])
        self.count = int(self.strata.max()) + 1

    def counts(self, hits: np.ndarray, answers: int, among: np.ndarray | None = None) -> Counts:
        """Of `hits`, `[N]`, in each stratum, after so many answers, among some documents."""
        among = np.ones(len(self.labels), dtype=bool) if among is None else among
        asked = self.asked[:, :answers]
        inside = (self.strata[asked][..., None] == np.arange(self.count)) & among[asked][..., None]
        documents = np.bincount(self.strata[among], minlength=self.count).astype(np.float64)
        hit = (inside & hits[asked][..., None]).sum(axis=1).astype(np.float64)
        number = inside.sum(axis=1).astype(np.float64)
        return Counts(np.broadcast_to(documents, number.shape), number, hit, np.zeros_like(number))

    def share(self, hits: np.ndarray, answers: int, z: Any, among: np.ndarray | None = None) -> Interval:
        """The interval of the share of `hits`."""
        counts = self.counts(hits, answers, among)
        return share_interval(counts, counts.documents / counts.documents.sum(axis=-1, keepdims=True), z)

    def recall(self, index: int, answers: int, z: Any) -> Interval:
        """The interval of a class's recall."""
        hits, top = self.labels == index, self.predicted == index
        parts = [self.counts(hits, answers, among) for among in (top, ~top)]
        counts = Counts(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in ("documents", "asked", "hits", "skipped")))
        weights = counts.documents / counts.documents.sum(axis=-1, keepdims=True)
        return ratio_interval(counts, weights, np.arange(2 * self.count) < self.count, z)


def covers(interval: Interval, truth: float) -> np.ndarray:
    """Which of the intervals hold `truth`."""
    return np.asarray((interval.low <= truth + EDGE) & (truth - EDGE <= interval.high))


def simple(correct: int, documents: int, answers: int) -> tuple[float, float]:
    """(coverage, mean width) of the interval of as many documents drawn at random: exact, over all that may come of it."""
    hits = np.arange(answers + 1)
    chance = stats.hypergeom(documents, correct, answers).pmf(hits)
    counts = Counts(*(np.full((len(hits), 1), float(value)) for value in (documents, answers)), hits[:, None].astype(float), np.zeros((len(hits), 1)))
    found = share_interval(counts, np.ones(1), Z)
    return float(chance @ covers(found, correct / documents)), float(chance @ (found.high - found.low))


def line(name: str, classifier: str, view: Predicted, audits: int, answers: int) -> dict[str, Any]:
    """The figures of one classifier."""
    work = Audits(view, audits, answers)
    correct = work.predicted == work.labels
    truth, documents = float(correct.mean()), len(correct)
    found = work.share(correct, answers, Z)
    width = float((found.high - found.low).mean())
    coverage_simple, width_simple = simple(int(correct.sum()), documents, answers)
    counts = range(answers // 2, min(4 * answers, documents))
    equal = counts[bisect_left(counts, -width, key=lambda count: -simple(int(correct.sum()), documents, count)[1])]
    missed = np.zeros(audits, dtype=bool)
    for count in range(1, answers + 1):
        anytime = work.share(correct, count, anytime_z(count, answers))
        missed |= ~covers(anytime, truth)
    classes = []
    for index in range(view.probabilities.shape[1]):
        ours, is_class = work.predicted == index, work.labels == index
        classes.append(covers(work.share(is_class, answers, Z), is_class.mean()).mean())
        if ours.any():
            classes.append(covers(work.share(is_class, answers, Z, ours), is_class[ours].mean()).mean())
        classes.append(covers(work.recall(index, answers, Z), ours[is_class].mean()).mean())
    figures = {
        "accuracy": truth,
        "coverage": covers(found, truth).mean(),
        "width": width,
        "simple_coverage": coverage_simple,
        "simple_width": width_simple,
        "simple_answers": equal,
        "saved": 1 - answers / equal,
        "anytime_missed": missed.mean(),
        "anytime_width": (anytime.high - anytime.low).mean(),
        "class_coverage": np.mean(classes),
        "class_coverage_lowest": min(classes),
        "confidence": view.probabilities.max(axis=1).mean(),
        **{key: (kept == work.predicted).mean() if len(kept) else None for key, kept in view.others.items()},
    }
    rounded = {key: round(float(value), 4) if isinstance(value, float) else value for key, value in figures.items()}
    return {"set": name, "classifier": classifier, "documents": documents, "audits": audits, "answers": answers, "strata": work.count, **rounded}


def pair_lines(name: str, views: dict[str, Predicted], audits: int, answers: int) -> Iterator[dict[str, Any]]:
    """The figures of pairs of classifiers: each against the other, and equation 5 against another seed of it."""
    start, trained = (view.probabilities.argmax(axis=1) for view in views.values())
    pairs = {("zero-shot", "equation 5"): trained, ("equation 5", "zero-shot"): start}
    pairs["equation 5", "equation 5, seed 1"] = views["equation 5"].others["with_seeds"][0]
    for (champion, other), second in pairs.items():
        work = Audits(views[champion], audits, answers)
        won = (second == work.labels) & (work.predicted != work.labels)
        lost = (second != work.labels) & (work.predicted == work.labels)
        truth = float(won.mean() - lost.mean())
        wins, losses = work.counts(won, answers), work.counts(lost, answers)
        found = lead_interval(wins.documents, wins.asked, wins.hits, losses.hits, wins.skipped, Z)
        estimate = np.sum(wins.documents / len(won) * (wins.hits - losses.hits) / wins.asked, axis=-1)
        settled, wrong = (found.low > 0) | (found.high < 0), (found.low > 0) if truth < 0 else (found.high < 0)
        figures = {
            "lead": truth,
            "coverage": covers(found, truth).mean(),
            "width": (found.high - found.low).mean(),
            "right": (np.sign(estimate.round(12)) == np.sign(truth)).mean(),
            "promoted": (estimate > EDGE).mean(),
            "settled": settled.mean(),
            "settled_wrong": wrong.mean(),
        }
        rounded = {key: round(float(value), 4) for key, value in figures.items()}
        yield {"set": name, "champion": champion, "other": other, "documents": len(won), "audits": audits, "answers": answers, **rounded}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--audits", type=int, default=1000)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="folder of what the classifiers say")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--pairs", action="store_true", help="compare two classifiers by one audit")
    options = parser.parse_args()
    for name in options.sets.split(","):
        views = predicted(name, options.keep)
        audited = (line(name, classifier, view, options.audits, options.answers) for classifier, view in views.items())
        for figures in pair_lines(name, views, options.audits, options.answers) if options.pairs else audited:
            tell(figures, options.out)


if __name__ == "__main__":
    main()
