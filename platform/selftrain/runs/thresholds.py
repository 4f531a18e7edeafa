"""The thresholds of a bundle with several labels a text, by answers given by hand: `selftrain thresholds`. The test is in evaluation/multi_label.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import restate
from selftrain.bundle.promise import FoundLabels, percent
from selftrain.config import DataConfig
from selftrain.data.describing import skipped_by_reason
from selftrain.data.loading import load_corpus
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.audit.estimate import LEVEL
from selftrain.evaluation.multi_label import ClassThreshold, thresholds_for


@dataclass(frozen=True)
class NewThresholds:
    """What came of asking for thresholds."""

    promise: FoundLabels | None  # None where the answers support none, and the bundle is as it was
    text: str


def set_thresholds(bundle: Path, answers: Path, *, risk: float, label_column: str, text_column: str = "text", separator: str = ",") -> NewThresholds:
    """Choose the thresholds of a bundle by answers, and keep them in it, with what is promised of them.

    A class of which there are too few answers keeps the threshold that it has. These answers alone decide, so the same file gives the same thresholds.

    Args:
        bundle: its folder.
        answers: a file of texts that were drawn at random from those that the promise is to be about, with all labels of each.
        risk: share of a class's texts that may lack it, at most.
        label_column: column of the labels; an empty cell is a text without an answer, a separator alone one of none of the classes.
        text_column: column of the texts.
        separator: between the labels of a cell.

    Raises:
        ConfigError: `risk` is out of range, or the bundle gives one label a text.
        DataError: no such file or column, or no text has an answer.
        BundleError: there is no bundle.
        OutputError: the bundle cannot be written to.
    """
    if not 0 < risk < 1:
        raise ConfigError(f"risk must be a share of missed labels above 0 and below 1, such as 0.1 (got {risk:g}).", parameter="risk")
    classifier = Classifier.load(bundle)
    card = classifier.card
    if not card.multi_label:
        raise ConfigError(f"thresholds are for several labels a text, and the bundle {card.name} gives one; audit it instead.", parameter="bundle")
    asked = {"text_column": text_column, "label_column": label_column, "label_separator": separator, "classes": card.labels, "multi_label": True}
    corpus, truth = load_corpus(DataConfig.model_validate({"source": str(answers), "test_documents": 0, "min_documents": 2, **asked}))
    known = [place for place, id_ in enumerate(corpus.unlabeled.ids) if id_ in truth.unlabeled]
    if not known:
        raise DataError(f"{answers} has no answer in the column {label_column!r}; fill in the labels of each text.")
    memberships = truth.memberships([corpus.unlabeled.ids[place] for place in known], len(card.labels))
    probabilities = classifier.predict_proba([corpus.unlabeled.contents[place] for place in known])
    found = thresholds_for(probabilities, memberships, risk=risk, level=LEVEL)
    lines = [_line(name, one, risk) for name, one in zip(card.labels, found, strict=True)]
    if odd := skipped_by_reason(corpus.skipped)[0].get("unknown label"):
        lines.append(f"Rows with a label that is no class (skip is none either), which do not count: {odd}.")
    there = [name for name, one in zip(card.labels, found, strict=True) if one.threshold is not None]
    if not there:
        return NewThresholds(None, "\n".join([*lines, "No threshold was changed."]))
    promise = FoundLabels(
        risk=risk,
        level=LEVEL,
        classes=tuple(there),
        answers=len(known),
        missed=sum(one.missed for one in found),
        backend=classifier.backend,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    limits = tuple(one.threshold if one.threshold is not None else before for one, before in zip(found, card.thresholds, strict=True))
    restate(Path(bundle), card.model_copy(update={"thresholds": limits, "found_labels": promise}))
    return NewThresholds(promise, "\n".join([*lines, f"Promise: {promise.sentence}. It is kept in the bundle."]))


def _line(name: str, found: ClassThreshold, risk: float) -> str:
    if found.threshold is None:
        return (
            f"{name}: no threshold for {percent(risk)}: {found.answers} answers have the class, and it takes {found.needed} even if none is missed."
        )
    return f"{name}: threshold {found.threshold:.4f}, {found.missed} of {found.answers} answers that have the class are missed."
