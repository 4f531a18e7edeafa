"""What guesses best where a classifier is wrong, before any answer? `python benchmarks/audit_confidence.py [--sets sst2,trec] [--keep FOLDER] [--out FILE.csv]`.

The 25 sets of `benchmarks/harm.py`, of at most 400 documents each, and two classifiers of each: the zero-shot start, and equation 5 of GenCo, seed 0 (heads on
frozen all-MiniLM-L6-v2, no start check). A line is a guess, a chance of each document that it is predicted right:

confidence     after the temperature that brings its mean to .8
words          the mean of that and of what the 30 documents with the most alike words give to the predicted class: what an audit goes by
words_alone    the latter alone
embeddings     the mean of confidence and of what the ten nearest by the classifier's own embeddings give to the predicted class
frozen         the same by the embeddings before training (of equation 5)
start          the mean of confidence and of what the start gives to the predicted class (of equation 5)
words_and_embeddings   the mean of confidence and of what both kinds of neighbours give

auroc          the chance that a wrong document has the lower guess than a right one
saved          share of 100 answers that strata by the guess save of a simple random sample, as its variance is known from the true labels: that of a large
               population of such documents, without the correction for a finite one
held           of 1,000 audits of 100 answers, share whose 95 % interval holds the accuracy (of words)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from audit import Z, covers
from harm import SETS, WITHOUT_TEXTS, documents_of, experiment_of
from lines import tell
from sklearn.metrics import roc_auc_score

from selftrain.data.corpus import Corpus
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_among_neighbours, tempered_at
from selftrain.evaluation.audit.design import drawn, plan
from selftrain.evaluation.audit.estimate import Counts, share_interval
from selftrain.evaluation.neighbours import nearest
from selftrain.methods.recipe import resolve
from selftrain.training.fit import fit

DOCUMENTS, ANSWERS, AUDITS = 400, 100, 1000
CLASSIFIERS = {"zero-shot": {"rounds": 0}, "equation 5": {**WITHOUT_TEXTS, "start_check": False}}


def said(name: str, corpus: Corpus, keep: Path | None) -> dict[str, np.ndarray]:
    """`CLASSIFIER` -> probabilities `[N, L]`, and `CLASSIFIER rows` -> embeddings `[N, D]`; from `keep` where they are there."""
    file = keep / f"{name}.npz" if keep else None
    if file is not None and file.is_file():
        with np.load(file) as kept:
            return dict(kept)
    found = {}
    for classifier, options in CLASSIFIERS.items():
        student = fit(resolve(experiment_of(SETS[name], **options)), corpus, seed=0).student
        found[classifier] = student.predict(corpus.unlabeled.contents).cpu().numpy()
        found[f"{classifier} rows"] = student.encoder.encode(corpus.unlabeled.contents).cpu().numpy()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **found)
    return found


def guesses(classifier: str, views: dict[str, np.ndarray], texts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every guess, `[N]`.

    Args:
        classifier: whose predictions.
        views: of `said`.
        texts: the documents.
    """
    tempered = tempered_at(views[classifier], ASSUMED_ACCURACY)
    predicted, confidence = tempered.argmax(axis=1), tempered.max(axis=1)
    place = np.arange(len(predicted))

    def near(rows: np.ndarray) -> np.ndarray:
        return np.asarray(tempered[nearest(rows)].mean(axis=1)[place, predicted])

    words, embeddings = confidence_among_neighbours(views[classifier], texts, ASSUMED_ACCURACY), near(views[f"{classifier} rows"])
    alone = 2 * words - confidence
    found = {"confidence": confidence, "words": words, "words_alone": alone, "embeddings": (confidence + embeddings) / 2}
    found["words_and_embeddings"] = (confidence + alone + embeddings) / 3
    if classifier != "zero-shot":
        found["frozen"] = (confidence + near(views["zero-shot rows"])) / 2
        found["start"] = (confidence + tempered_at(views["zero-shot"], ASSUMED_ACCURACY)[place, predicted]) / 2
    return found


def saved(strata: np.ndarray, right: np.ndarray) -> float:
    """1 - answers of the strata / answers of a simple random sample with the same variance."""
    documents, hits = np.bincount(strata).astype(float), np.bincount(strata, weights=right)
    variance = hits * (documents - hits) / documents / np.maximum(documents - 1, 1)  # of one answer
    whole = right.mean() * (1 - right.mean()) * len(right) / (len(right) - 1)
    return float(1 - len(documents) * np.sum((documents / len(right)) ** 2 * variance) / whole)


def held(strata: np.ndarray, right: np.ndarray) -> float:
    """Share of audits whose interval holds the accuracy."""
    asked = np.stack([drawn(strata, seed).order[:ANSWERS] for seed in range(AUDITS)])
    inside = strata[asked][..., None] == np.arange(int(strata.max()) + 1)
    number, hits = inside.sum(axis=1).astype(float), (inside & right[asked][..., None]).sum(axis=1).astype(float)
    documents = np.broadcast_to(np.bincount(strata).astype(float), number.shape)
    found = share_interval(Counts(documents, number, hits, np.zeros_like(hits)), documents / len(right), Z)
    return float(covers(found, float(right.mean())).mean())


def lines(name: str, keep: Path | None) -> Iterator[dict[str, Any]]:
    """All lines of a set."""
    corpus, truth = documents_of(SETS[name], DOCUMENTS)
    labels = np.array([truth.unlabeled[id_] for id_ in corpus.unlabeled.ids])
    views = said(name, corpus, keep)
    for classifier in CLASSIFIERS:
        predicted = views[classifier].argmax(axis=1)
        right = predicted == labels
        facts = {"set": name, "classifier": classifier, "documents": len(labels), "accuracy": round(float(right.mean()), 4)}
        for guess, likely in guesses(classifier, views, corpus.unlabeled.contents).items():
            strata = plan(predicted, 1 - likely, budget=ANSWERS, seed=0).strata
            auroc = round(float(roc_auc_score(right, likely)), 4)
            figures = {"guess": guess, "auroc": auroc, "saved": round(saved(strata, right), 4)}
            yield facts | figures | {"held": held(strata, right) if guess == "words" else None}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--keep", type=Path, help="folder of what the classifiers say, so that a second run trains nothing")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for found in lines(name, options.keep):
            tell(found, options.out)


if __name__ == "__main__":
    main()
