"""One look at a stream of texts, as figures: the evidence of each kind of change, and what the texts of late are like beside the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from selftrain.evaluation.drift.bets import Detector
from selftrain.evaluation.drift.scores import KINDS, Sample, Scores
from selftrain.evaluation.drift.shares import Shares, shares
from selftrain.evaluation.drift.topics import far_from_known, topics

FEWEST = 20  # texts that are described
TITLES = {
    "classes": "the shares of the classes",
    "confidence": "the confidence",
    "topics": "how far texts are from known ones",
    "domain": "what texts are like",
}


@dataclass(frozen=True)
class Evidence:
    """Of one kind of change."""

    kind: str
    what: str  # the score with most of it
    level: float  # share of the alarm's: at 1 there is one


@dataclass(frozen=True)
class Alarm:
    """The first alarm since the stream began."""

    kind: str
    what: str
    text: int  # number of the text at which it was raised
    since: int  # texts before the change, as far as the bets tell
    raised: float  # seconds since 1970: of that text
    began: float  # of the first text of the change


@dataclass(frozen=True)
class ClassShares:
    """One class."""

    name: str
    before: float  # share of the reference's predictions
    predicted: float
    estimated: float
    low: float
    high: float


@dataclass(frozen=True)
class FarGroup:
    """Texts that are far from all known ones, and near each other."""

    texts: int
    share: float  # of those that are described
    example: int  # place of the text in its middle among those that are described
    classes: tuple[tuple[str, int], ...]  # what they are taken for, most first


@dataclass(frozen=True)
class Described:
    """The texts of late."""

    texts: int
    classes: tuple[ClassShares, ...]
    confidence: tuple[float, float]  # mean: of the reference, and now
    far: float  # share that is farther from the known texts than 99 % of the reference is
    groups: tuple[FarGroup, ...]
    apart: float  # area under the curve of a linear classifier that tells them from the reference: .5 where it cannot


@dataclass(frozen=True)
class Look:
    """Everything that a look says."""

    texts: int  # of the stream
    embedded: bool  # whether embeddings were compared, or probabilities alone
    evidence: tuple[Evidence, ...]  # of every kind
    alarm: Alarm | None
    described: Described | None  # None where there are too few texts

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        if (alarm := self.alarm) is not None:
            place = f"after about {alarm.since:,} texts; seen at text {alarm.text:,} of {self.texts:,}"
            return f"Alarm: {TITLES[alarm.kind]} changed ({alarm.what}), {place}."
        most = max(self.evidence, key=lambda one: one.level)
        share = f"{100 * most.level:.2g} % of an alarm's ({TITLES[most.kind]}: {most.what})"
        return f"No change in {self.texts:,} texts; the most evidence is {share}."


def evidence_of(detector: Detector, scores: Scores) -> tuple[Evidence, ...]:
    """The evidence of every kind, that of its most telling score."""
    level = detector.level()
    found = []
    for kind in KINDS:
        places = [place for place, score in enumerate(scores.scores) if score.kind == kind]
        if places:
            best = max(places, key=lambda place: level[place])
            found.append(Evidence(kind, scores.scores[best].what, float(level[best])))
    return tuple(found)


def describe(reference: Sample, recent: Sample, scores: Scores, classes: Sequence[str]) -> Described:
    """What texts are like beside the reference.

    Args:
        reference: both halves.
        recent: at least `FEWEST` texts.
        scores: made from the reference's first half.
        classes: names of the L classes.
    """
    half = reference[len(reference) // 2 :]
    predicted = recent.probabilities.argmax(axis=1)
    found = shares(recent.probabilities, reference.probabilities.astype(np.float64).mean(axis=0))
    far = far_from_known(scores.distances(recent), scores.distances(half))
    points = scores.points(recent)
    groups = topics(points, predicted, far, _spread(scores.points(reference), reference.probabilities.argmax(axis=1)), len(classes))
    return Described(
        texts=len(recent),
        classes=_shares_of(found, reference, classes),
        confidence=(float(reference.probabilities.max(axis=1).mean()), float(recent.probabilities.max(axis=1).mean())),
        far=float(far.mean()),
        groups=tuple(
            FarGroup(
                one.texts,
                one.texts / len(recent),
                one.example,
                tuple((classes[place], int(one.classes[place])) for place in np.argsort(-one.classes, kind="stable").tolist() if one.classes[place]),
            )
            for one in groups
        ),
        apart=_apart(scores.points(half), points),
    )


def _shares_of(found: Shares, reference: Sample, classes: Sequence[str]) -> tuple[ClassShares, ...]:
    before = np.bincount(reference.probabilities.argmax(axis=1), minlength=len(classes)) / len(reference)
    columns = zip(classes, before.tolist(), *(column.tolist() for column in found), strict=True)
    return tuple(ClassShares(*one) for one in columns)


def _spread(points: np.ndarray, predicted: np.ndarray) -> float:
    """Mean squared distance of two of the reference's texts with the same prediction."""
    within = [2 * points[predicted == one].var(axis=0).sum() * (predicted == one).sum() for one in np.unique(predicted)]
    return max(float(np.sum(within) / len(points)), 1e-9)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """How well a linear classifier tells two samples apart on texts that it has not seen, as area under the curve."""
    labels = np.repeat([0, 1], [len(one), len(other)])
    folds = min(5, len(one), len(other))
    margins = cross_val_predict(
        RidgeClassifier(alpha=1.0, class_weight="balanced"), np.concatenate([one, other]), labels, cv=folds, method="decision_function"
    )
    return float(roc_auc_score(labels, margins))
