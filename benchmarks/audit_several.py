"""How good audits of several labels a document are: `python benchmarks/audit_several.py [--sets news,leads,questions] [--audits 1000] [--out FILE.csv]`.

Documents are those of `benchmarks/multi_label.py`, joined from sets whose labels are known. Two classifiers are trained on all of them without a label: the label
prompts alone (zero-shot), and `binary_relevance`. They are audited on these documents, and the true labels answer. An audit has another seed each time. A line has

exact_match, micro_f1      true, on all documents; with the coverage and the mean width of the 95 % interval after `--answers` answers
*_ever_wrong               share of audits in which the interval that is valid at every number of answers, from ten on, was wrong at any of them
class_coverage, lowest     of precision, recall and share of the classes: mean, and the lowest
thresholds, broken         of thresholds that the same answers set (`selftrain thresholds --risk`): classes that get one, on average, and share of audits in which
                           any of these classes is missed in more than that share of its documents
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from audit import Z, covers
from lines import tell
from multi_label import SETS, WAYS, experiment, written

from selftrain.data.loading import load_corpus
from selftrain.evaluation.audit.estimate import Counts, Interval, anytime_z, share_interval
from selftrain.evaluation.audit.several import class_cells, micro_f1_interval, precision_interval, recall_interval, share_of_class_interval
from selftrain.evaluation.multi_label import thresholds_for
from selftrain.methods.recipe import resolve
from selftrain.training.fit import fit, probabilities

FIRST = 10  # answers from which an interval is looked at after every one
RISK = 0.2


def classified(name: str, documents: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(classifier, probabilities, which classes the documents have), the last two `[N, L]`."""
    with tempfile.TemporaryDirectory() as folder:
        file, source = written(name, documents, Path(folder))
        for way in ("zero-shot", "trained"):
            asked = experiment(file, source.class_names, source.prompts, WAYS[way])
            corpus, truth = load_corpus(asked.data)
            corpus = replace(corpus, labels=source.labels)
            found = probabilities(fit(resolve(asked), corpus, seed=0).student, corpus.unlabeled)
            yield way, found, truth.memberships(corpus.unlabeled.ids, len(source.labels))


def exact_interval(right: np.ndarray, documents: int, z: float) -> Interval:
    """Of the share of documents whose set is right, of audits with these answers, `[audits, n]`."""
    hits = right.sum(axis=1, keepdims=True).astype(np.float64)
    asked = np.full_like(hits, right.shape[1])
    return share_interval(Counts(np.full_like(hits, documents), asked, hits, np.zeros_like(hits)), np.ones(1), z)


def f1_interval(right: np.ndarray, labels: np.ndarray, documents: int, z: float) -> Interval:
    """Of micro-F1, likewise."""
    ends = [micro_f1_interval(documents, np.stack([a, a]), np.stack([b, b]), z) for a, b in zip(right, labels, strict=True)]
    return Interval(np.array([one.low for one in ends]), np.array([one.high for one in ends]))


def line(found: np.ndarray, truth: np.ndarray, audits: int, answers: int) -> dict[str, Any]:
    """The figures of one classifier."""
    documents, predicted = len(truth), found >= 0.5
    asked = np.stack([np.random.default_rng(seed).permutation(documents)[:answers] for seed in range(audits)])
    exact, right, labels = (predicted == truth).all(axis=1), 2.0 * (predicted & truth).sum(axis=1), 1.0 * predicted.sum(axis=1) + truth.sum(axis=1)
    true = {"exact_match": float(exact.mean()), "micro_f1": float(right.sum() / labels.sum())}

    def intervals(count: int, z: float) -> dict[str, Interval]:
        first = asked[:, :count]
        return {"exact_match": exact_interval(exact[first], documents, z), "micro_f1": f1_interval(right[first], labels[first], documents, z)}

    figures: dict[str, float] = {}
    missed = {name: np.zeros(audits, dtype=bool) for name in true}
    for count in range(FIRST, answers + 1):
        for name, one in intervals(count, float(anytime_z(count, answers))).items():
            missed[name] |= ~covers(one, true[name])
    for name, one in intervals(answers, Z).items():
        figures |= {name: true[name], f"{name}_coverage": covers(one, true[name]).mean(), f"{name}_width": (one.high - one.low).mean()}
        figures[f"{name}_ever_wrong"] = missed[name].mean()
    cells = class_cells(documents, predicted.sum(axis=0).astype(np.float64), predicted[asked], truth[asked], np.zeros(asked.shape, dtype=bool))
    both = (predicted & truth).sum(axis=0)
    held = [
        covers(find(cells, Z)[1], value).mean(axis=0)
        for find, value in (
            (precision_interval, both / predicted.sum(axis=0)),
            (recall_interval, both / truth.sum(axis=0)),
            (share_of_class_interval, truth.mean(axis=0)),
        )
    ]
    figures |= {"class_coverage": np.mean(held), "class_coverage_lowest": np.min(held)}
    made, broken = 0, 0
    for one in asked:
        set_ = [threshold.threshold for threshold in thresholds_for(found[one], truth[one], risk=RISK)]
        missed_shares = [(found[truth[:, label], label] < value).mean() for label, value in enumerate(set_) if value is not None]
        made, broken = made + len(missed_shares), broken + any(share > RISK for share in missed_shares)
    figures |= {"thresholds": made / audits, "broken": broken / audits}
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    return {"documents": documents, "classes": truth.shape[1], "audits": audits, "answers": answers, **rounded}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--audits", type=int, default=1000)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--documents", type=int, default=900)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for way, found, truth in classified(name, options.documents):
            tell({"set": name, "classifier": way} | line(found, truth, options.audits, options.answers), options.out)


if __name__ == "__main__":
    main()
