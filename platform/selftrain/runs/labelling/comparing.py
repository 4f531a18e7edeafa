"""A successor against the bundle that an audit is about, on the audit's answers.

The questions are a random sample of each stratum whoever classifies them, so the same answers measure both. The interval of the difference is put together from
those of the two accuracies and their correlation (MOVER: Zou and Donner 2008, Construction of confidence limits about effect measures; for one stratum Newcombe
1998, Improved confidence intervals for the difference between binomial proportions based on paired data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from selftrain.bundle.classifier import Classifier
from selftrain.errors import DataError
from selftrain.evaluation.audit.estimate import LEVEL, Counts, anytime_z, share, share_interval
from selftrain.evaluation.audit.figures import Figure
from selftrain.runs.audit_design import AuditDesign
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import open_folder
from selftrain.runs.questions import SKIP


@dataclass(frozen=True)
class Compared:
    """Both accuracies, and what the successor has gained, with 95 % intervals.

    Attributes:
        answers: of the audit, skipped questions included.
        old: accuracy of the bundle that was audited.
        new: of the successor.
        gain: the difference; None where a stratum has no answer.
    """

    answers: int
    old: Figure
    new: Figure
    gain: Figure | None


def compare(bundle: Path, audit: Path, learned: frozenset[str]) -> Compared:
    """Classify the documents of an audit by a successor, and compare.

    Args:
        bundle: the successor.
        audit: folder of the audit.
        learned: ids of the documents whose labels it has learned from.

    Raises:
        DataError: there is no audit or no answer, a document of it was learned from, or the classes differ.
        BundleError: the bundle cannot be opened.
    """
    folder = open_folder(audit)
    design = folder.design
    if not isinstance(design, AuditDesign):
        raise DataError(f"{audit} holds no audit of one label a document; its answers cannot be compared.")
    answers = Desk(folder).answers()
    asked = max((place + 1 for place, one in enumerate(folder.questions) if one.key in answers), default=0)
    if not asked:
        raise DataError(f"The audit in {audit} has no answer yet; `selftrain label {audit}` asks its questions.")
    if both := sum(one.id in learned for one in design.questions[:asked]):
        raise DataError(
            f"{both} documents of the audit in {audit} were learned from, so that its answers do not measure the successor; audit it anew."
        )
    classifier = Classifier.load(bundle)
    names = [str(name) for name in classifier.classes_]
    if set(names) != set(design.classes):
        raise DataError(f"The audit in {audit} is about the classes {', '.join(design.classes)}, and the successor has others; audit it anew.")
    said = classifier.predict_proba([one.text for one in folder.questions[:asked]]).argmax(axis=1)
    given = [answers.get(one.key, SKIP) for one in folder.questions[:asked]]
    return compared(design, given, [names[index] for index in said])


def compared(design: AuditDesign, answers: Sequence[str], said: Sequence[str]) -> Compared:
    """The figures.

    Args:
        design: of the audit.
        answers: to its first questions, `[n]`: a class, "none of these" or "skip".
        said: the successor's classes, `[n]`.
    """
    asked = len(answers)
    z = float(norm.ppf((1 + LEVEL) / 2)) if asked == design.planned else float(anytime_z(asked, design.planned))
    sample = design.questions[:asked]
    strata = np.array([question.stratum for question in sample])
    documents = np.array(design.counts).sum(axis=1).astype(np.float64)
    weights = documents / documents.sum()
    skipped = np.array([answer == SKIP for answer in answers])
    hits = [
        np.array([answer == name for answer, name in zip(answers, names, strict=True)])
        for names in ([design.classes[question.predicted] for question in sample], said)
    ]

    def by_stratum(values: np.ndarray) -> np.ndarray:
        return np.bincount(strata, weights=values.astype(np.float64), minlength=len(documents))

    def figure(of: np.ndarray) -> Figure:
        counts = Counts(documents, by_stratum(np.ones(asked)), by_stratum(of), by_stratum(skipped))
        low, high = (min(max(float(end), 0.0), 1.0) for end in share_interval(counts, weights, z))
        estimate = float(share(counts, weights))
        return Figure(estimate if np.isfinite(estimate) else None, low, high)

    old, new = figure(hits[0]), figure(hits[1])
    answered = np.maximum(by_stratum(~skipped), 1)
    rates = [by_stratum(of) / answered for of in hits]
    both = by_stratum(hits[0] & hits[1]) / answered
    scale = weights**2 / answered
    variances = [float(np.sum(scale * rate * (1 - rate))) for rate in rates]
    covariance = float(np.sum(scale * (both - rates[0] * rates[1])))
    correlation = covariance / float(np.sqrt(variances[0] * variances[1])) if min(variances) > 0 else 0.0
    return Compared(asked, old, new, _difference(old, new, correlation))


def _difference(old: Figure, new: Figure, correlation: float) -> Figure | None:
    """`new` less `old`."""
    if old.estimate is None or new.estimate is None:
        return None
    gain = new.estimate - old.estimate

    def reach(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0)))

    low = gain - reach(new.estimate - new.low, old.high - old.estimate)
    high = gain + reach(new.high - new.estimate, old.estimate - old.low)
    return Figure(gain, max(low, -1.0), min(high, 1.0))
