"""Which score sees documents of no class? `python benchmarks/none_of_these.py [--sets ag_news,bbc_news,trec] [--classifiers "zero-shot,equation 5"]
[--documents N] [--left-out N] [--keep FOLDER] [--out FILE.csv]`.

One class of a set is left out in turn: the classifier does not know it, and documents of it are of no class. 70 % of the unlabeled documents are trained on, without
a label, and the rest is scored. A line is a set, a left-out class, a way to train, and a score:

classifier  zero-shot: the encoder and the prompts; equation 5: of GenCo, with a head; equation 5 full: the same with all weights of the encoder
training    clean: no document of the left-out class is trained on; mixed: they are in there, as they would be
auroc       the chance that a document of no class has the higher score than one of a class (ties count half); low, high: 95 %, by bootstrap over the documents

Scores, high where a document fits no class. The first is what abstaining goes by. Neighbours and distances are those of the frozen encoder's embeddings, among what
was trained on; a rank is among the same. None but the last two uses a label:

    softmax       1 - the highest probability
    entropy       of the probabilities
    energy        - log sum exp of the classes' logits (Liu et al. 2020, arXiv:2010.03759)
    logit         - the highest logit; of the zero-shot classifier - the highest cosine to a prompt
    neighbours    cosine distance to the tenth-nearest document that was trained on (Sun et al. 2022, arXiv:2204.06507)
    mahalanobis   distance to the nearest mean of a predicted class, with one covariance (Lee et al. 2018, arXiv:1807.03888), shrunk by Ledoit and Wolf
    relative      the same less the distance to the mean of all documents with their covariance (Ren et al. 2021, arXiv:2106.09022)
    sum           the ranks of softmax and mahalanobis, added
    smoothed      1 - the highest of the mean probabilities of the 100 nearest documents
    prompts       - the highest of their mean logits
    unsure        1 - the mean rank of their highest probabilities: whether a document lies among those that the classifier is least sure of
    unsure_own    the same among the nearest by the trained encoder's embeddings; all_own and neighbours_own likewise, and the latter is what
                  the product has (evaluation/typicality.py)
    clusters      the same of all documents of a cluster (k-means, four a class); within one, softmax
    core          distance to the tenth-nearest of the two fifths of each predicted class that are surest
    either        the higher rank of unsure and neighbours
    all           - log(1 - rank) of softmax, unsure and neighbours, added (Fisher's method)
    answers       logistic regression on the ranks of softmax, unsure and neighbours, from 100 documents that were trained on, drawn at random, of which somebody has
                  said whether they are of a class: mean of 20 draws, and low and high are percentiles over these; mixed alone
    answers_embedded   the same on the embedding too
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lines import tell
from scipy.special import logsumexp
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from selftrain.config import load
from selftrain.data.corpus import Corpus, Documents
from selftrain.data.loading import load_corpus
from selftrain.methods.recipe import resolve
from selftrain.models.student import Student
from selftrain.training.fit import fit

SETS = "ag_news,bbc_news,trec"
CLASSIFIERS = {"zero-shot": (0, "head"), "equation 5": (1, "head"), "equation 5 full": (1, "full")}  # -> whether it is trained, and what
WAYS = tuple((classifier, training) for classifier in CLASSIFIERS for training in ("clean", "mixed"))
TRAINED_ON = 0.7
NEIGHBOUR = 10
NEAREST = 100
CLUSTERS = 4  # a class
CORE = 0.4
DRAWS = 100
ANSWERS, SPLITS = 100, 20


def experiment(name: str, rounds: int, train: str = "head") -> Any:
    """The classifiers of benchmarks/audit.py."""
    method = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False} | ({} if rounds else {"rounds": 0})
    data = {"source": name, "test_documents": 0}
    return load(None, [], {"data": data, "model": {"train": train}, "training": {"threads": 1}, "method": method})


def part(documents: Documents, places: np.ndarray) -> Documents:
    """Some of the documents."""
    return Documents(tuple(documents.ids[place] for place in places), tuple(documents.contents[place] for place in places))


def trained(name: str, corpus: Corpus, rounds: int, train: str = "head") -> Student:
    """A classifier of the corpus, seed 0."""
    return fit(resolve(experiment(name, rounds, train)), corpus, seed=0).student


def logits_of(student: Student, rows: torch.Tensor) -> np.ndarray:
    """`[documents, classes]`, of its encoder's embeddings."""
    logits = student.scale * (torch.nn.functional.normalize(rows, dim=1) if student.cosine else rows) @ student.weights.double().T
    return (logits if student.bias is None else logits + student.bias.double()).detach().numpy()


def distances(rows: np.ndarray, means: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distances of `rows` to the nearest of `means`, with the covariance of `within`, the deviations that it is estimated from."""
    shrinkage = ledoit_wolf_shrinkage(within, assume_centered=True)
    covariance = within.T @ within / len(within)
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitened = np.linalg.cholesky(np.linalg.inv((1 - shrinkage) * covariance + shrinkage * target))
    return np.min([np.square((rows - mean) @ whitened).sum(axis=1) for mean in means], axis=0)


def scores(logits: np.ndarray, rows: np.ndarray, known: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of documents.

    Args:
        logits: of the documents, `[N, L]`.
        rows: their embeddings, `[N, D]`, of length one.
        known: embeddings of what was trained on, `[M, D]`.
        classes: their predicted classes, `[M]`.
    """
    log_probabilities = logits - logsumexp(logits, axis=1, keepdims=True)
    softmax = 1 - np.exp(log_probabilities.max(axis=1))
    means = {index: known[classes == index].mean(axis=0) for index in np.unique(classes)}
    within = known - np.stack([means[index] for index in classes])
    mahalanobis = distances(rows, np.stack(list(means.values())), within)
    center = known.mean(axis=0)
    return {
        "softmax": softmax,
        "entropy": -(np.exp(log_probabilities) * log_probabilities).sum(axis=1),
        "energy": -logsumexp(logits, axis=1),
        "logit": -logits.max(axis=1),
        "neighbours": 1 - np.partition(rows @ known.T, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR],
        "mahalanobis": mahalanobis,
        "relative": mahalanobis - distances(rows, center[None], known - center),
        "sum": rankdata(softmax) + rankdata(mahalanobis),
    }


def nearest(rows: np.ndarray, known: np.ndarray, count: int, *, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest of `known` to each of `rows`, and their cosines, nearest first, `[N, count]` each; with `same` no row is its own."""
    cosines = rows @ known.T
    if same:
        np.fill_diagonal(cosines, -np.inf)
    found = np.argpartition(-cosines, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, found, axis=1), axis=1)
    found = np.take_along_axis(found, order, axis=1)
    return found, np.take_along_axis(cosines, found, axis=1)


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1]."""
    return rankdata(values) / len(values)


class Among:
    """Scores of documents by what they lie among.

    Args:
        logits: of what was trained on, `[M, L]`.
        known: its embeddings, `[M, D]`, of length one.
    """

    def __init__(self, logits: np.ndarray, known: np.ndarray) -> None:
        self.known, self.logits = known, logits
        self.probabilities = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
        self.sure = ranked(self.probabilities.max(axis=1))
        self.places, self.cosines = nearest(known, known, NEAREST, same=True)

    def facts(self, softmax: np.ndarray, places: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """softmax, unsure and neighbours, `[N, 3]`, as shares of what was trained on that has less."""
        own = (1 - self.probabilities.max(axis=1), 1 - self.sure[self.places].mean(axis=1), 1 - self.cosines[:, NEIGHBOUR - 1])
        theirs = (softmax, 1 - self.sure[places].mean(axis=1), 1 - cosines[:, NEIGHBOUR - 1])
        return np.stack([np.searchsorted(np.sort(mine), values) / len(mine) for mine, values in zip(own, theirs, strict=True)], axis=1)

    def scores(self, softmax: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The scores that need no answer.

        Args:
            softmax: the score of that name, `[N]`.
            rows: embeddings, `[N, D]`.
        """
        places, cosines = nearest(rows, self.known, NEAREST)
        clusters = KMeans(CLUSTERS * self.logits.shape[1], n_init=3, random_state=0).fit(self.known)
        means = np.bincount(clusters.labels_, weights=self.sure) / np.bincount(clusters.labels_)
        facts = self.facts(softmax, places, cosines)
        return {
            "smoothed": 1 - self.probabilities[places].mean(axis=1).max(axis=1),
            "prompts": -self.logits[places].mean(axis=1).max(axis=1),
            "unsure": 1 - self.sure[places].mean(axis=1),
            "clusters": 1 - means[clusters.predict(rows)] + 1e-3 * ranked(softmax),
            "core": 1 - nearest(rows, self.known[self.core()], NEIGHBOUR)[1][:, -1],
            "either": facts[:, 1:].max(axis=1),
            "all": -np.log(1 - np.minimum(facts, 1 - 0.5 / len(self.known))).sum(axis=1),
        }

    def core(self) -> np.ndarray:
        """Places of the surest documents of each predicted class."""
        classes, best = self.probabilities.argmax(axis=1), self.probabilities.max(axis=1)
        members = (np.flatnonzero(classes == index) for index in range(self.logits.shape[1]))
        return np.concatenate([of[np.argsort(-best[of])[: max(NEIGHBOUR, round(CORE * len(of)))]] for of in members if len(of)])

    def answered(self, none: np.ndarray, softmax: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The scores from answers, `[SPLITS, N]`.

        Args:
            none: whether a document that was trained on is of no class, `[M]`.
            softmax, rows: as in `scores`.
        """
        own = self.facts(1 - self.probabilities.max(axis=1), self.places, self.cosines)
        facts = self.facts(softmax, *nearest(rows, self.known, NEAREST))
        found: dict[str, list[np.ndarray]] = {"answers": [], "answers_embedded": []}
        for seed in range(SPLITS):
            asked = np.random.default_rng(seed).choice(len(none), ANSWERS, replace=False)
            for score, mine, theirs in (
                ("answers", own, facts),
                ("answers_embedded", np.hstack([own, 3 * self.known]), np.hstack([facts, 3 * rows])),
            ):
                both = none[asked].any() and not none[asked].all()  # else nothing can be learned
                model = LogisticRegression(max_iter=1000).fit(mine[asked], none[asked]) if both else None
                found[score].append(np.zeros(len(rows)) if model is None else model.decision_function(theirs))
        return {score: np.stack(values) for score, values in found.items()}


def area(none: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """The area under the curve, and its interval: by bootstrap of one score, `[N]`, over draws of several, `[draws, N]`."""
    if score.ndim == 1:
        low, high = interval(none, score)
        return {"auroc": float(roc_auc_score(none, score)), "low": low, "high": high}
    areas = [roc_auc_score(none, one) for one in score]
    low, high = np.percentile(areas, [2.5, 97.5])
    return {"auroc": float(np.mean(areas)), "low": float(low), "high": float(high)}


def interval(none: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """95 % of the bootstrap's areas."""
    rng = np.random.default_rng(0)
    inside, outside = np.flatnonzero(~none), np.flatnonzero(none)
    drawn = (np.concatenate([rng.choice(of, len(of)) for of in (inside, outside)]) for _ in range(DRAWS))
    values, ranks = np.unique(score, return_inverse=True)
    areas = []
    for places in drawn:  # scikit-learn's function takes ten times as long
        with_class, without = (np.bincount(ranks[places[none[places] == of]], minlength=len(values)) for of in (False, True))
        areas.append(without @ (np.cumsum(with_class) - with_class / 2) / (with_class.sum() * without.sum()))
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def views(name: str, ways: Sequence[tuple[str, str]], most: int | None, classes: int | None, keep: Path | None) -> dict[str, np.ndarray]:
    """What the classifiers of a set say of its documents, from `keep` where it is there.

    Args:
        name: of the set.
        ways: of `WAYS`.
        most: documents, drawn at random; None: all.
        classes: that are left out in turn, the first ones; None: all.
        keep: folder of what the classifiers say; None for none.

    Returns:
        `labels` `[N]`; `learned` and `scored`, places; `names` of the classes; `frozen`, embeddings `[N, D]` of length one; for each left-out class and way
        `CLASS|CLASSIFIER|TRAINING`, logits `[N, L - 1]`; and where something was trained the embeddings by that, `rows|...`.
    """
    file = keep / f"{name}.npz" if keep else None
    if file is not None and file.is_file():
        with np.load(file) as kept:
            return dict(kept)
    corpus, truth = load_corpus(experiment(name, 0).data)
    if most is not None:
        corpus = replace(corpus, unlabeled=part(corpus.unlabeled, np.random.default_rng(0).permutation(len(corpus.unlabeled))[:most]))
    labels = np.array([truth.unlabeled[id_] for id_ in corpus.unlabeled.ids])
    embeddings = trained(name, corpus, 0).encoder.encode(corpus.unlabeled.contents).double()
    learned, scored = np.split(np.random.default_rng(0).permutation(len(labels)), [round(TRAINED_ON * len(labels))])
    found = {"labels": labels, "learned": learned, "scored": scored, "names": np.array([one.name for one in corpus.labels[:classes]])}
    found["frozen"] = torch.nn.functional.normalize(embeddings, dim=1).detach().numpy().astype(np.float32)
    for left_out, label in enumerate(corpus.labels[:classes]):
        names = tuple(one for one in corpus.labels if one is not label)
        for classifier, training in ways:
            places = learned if training == "mixed" else learned[labels[learned] != left_out]
            known = replace(corpus, labels=names, unlabeled=part(corpus.unlabeled, places))
            student = trained(name, known, *CLASSIFIERS[classifier])
            rows = embeddings if classifier == "zero-shot" else student.encoder.encode(corpus.unlabeled.contents).double()
            key = f"{left_out}|{classifier}|{training}"
            found[key] = logits_of(student, rows)
            if classifier != "zero-shot":
                found[f"rows|{key}"] = rows.detach().numpy().astype(np.float32)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **found)
    return found


def lines(name: str, ways: Sequence[tuple[str, str]], most: int | None, classes: int | None, keep: Path | None) -> Iterator[dict[str, Any]]:
    """All lines of a set; the arguments are those of `views`."""
    view = views(name, ways, most, classes, keep)
    labels, learned, scored, frozen = (view[key] for key in ("labels", "learned", "scored", "frozen"))
    for (left_out, label), (classifier, training) in ((one, way) for one in enumerate(view["names"].tolist()) for way in ways):
        none, key = labels[scored] == left_out, f"{left_out}|{classifier}|{training}"
        places = learned if training == "mixed" else learned[labels[learned] != left_out]
        logits = view[key]
        found = scores(logits[scored], frozen[scored], frozen[places], logits[places].argmax(axis=1))
        among = Among(logits[places], frozen[places])
        found |= among.scores(found["softmax"], frozen[scored])
        if classifier != "zero-shot":
            own = view[f"rows|{key}"] / np.linalg.norm(view[f"rows|{key}"], axis=1, keepdims=True)
            theirs = Among(logits[places], own[places]).scores(found["softmax"], own[scored])
            found |= {f"{score}_own": theirs[score] for score in ("unsure", "all")}
            found["neighbours_own"] = scores(logits[scored], own[scored], own[places], logits[places].argmax(axis=1))["neighbours"]
        if training == "mixed":
            found |= among.answered(labels[places] == left_out, found["softmax"], frozen[scored])
        facts = {"set": name, "left_out": label, "classifier": classifier, "training": training}
        counts = {"documents": int((~none).sum()), "none": int(none.sum())}
        for score, values in found.items():
            yield facts | {"score": score} | counts | {key: round(value, 4) for key, value in area(none, values).items()}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--classifiers", default="zero-shot,equation 5")
    parser.add_argument("--documents", type=int, help="of each set, drawn at random; default: all")
    parser.add_argument("--left-out", type=int, help="classes of each set that are left out in turn, the first ones; default: all")
    parser.add_argument("--keep", type=Path, help="folder of what the classifiers say, so that a second run trains nothing")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        ways = [way for way in WAYS if way[0] in options.classifiers.split(",")]
        for found in lines(name, ways, options.documents, options.left_out, options.keep):
            tell(found, options.out)


if __name__ == "__main__":
    main()
