"""`selftrain register`: a bundle that was exported, distilled or received becomes a version of a registered model, and champion if it is more accurate.

What compares the two is labeled documents, or the answers of an audit (audited.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import accuracy_of, labels_of, load_documents
from selftrain.bundle.format import BundleMetrics, read_card
from selftrain.compress.onnx import CheckDocuments, documents_to_check
from selftrain.config import TrackingConfig
from selftrain.errors import BundleError, ConfigError
from selftrain.evaluation.metrics import evaluate
from selftrain.runs.audited import audited_documents
from selftrain.tracking import KIND_TAG, Lead, RegisteredVersion, Tracker, check_tracking, require_mlflow, tracking_uri


@dataclass(frozen=True)
class _Basis:
    """What a bundle is measured on, and compared with the champion."""

    source: str | None = None  # in words
    figures: Mapping[str, float | None] = field(default_factory=dict)  # of the bundle; empty where there are no labels
    champion: Callable[[Path], float | Lead] | None = None  # the accuracy of the champion in this folder, or the bundle's lead over it


def register(
    folder: Path,
    name: str | None = None,
    *,
    documents: str | None = None,
    text_column: str = "text",
    label_column: str | None = None,
    audit: Path | None = None,
    answers: Path | None = None,
    promote: bool = False,
    why: str = "",
    uri: str | None = None,
) -> RegisteredVersion:
    """Upload a bundle as a new version. It becomes champion if it is more accurate than the champion on the same labeled documents, or by `promote`.

    With `audit`, by the estimate from the same audited documents; which bundle was audited does not matter.

    Args:
        folder: the bundle.
        name: in the registry; default: the bundle's own.
        documents: a file with labeled documents, or with those of the audit; default: the test documents of the bundle's own experiment.
        text_column: column of the texts in the file.
        label_column: column of the true labels in the file.
        audit: the folder of an audit (design.json), whose answers are the labels; it needs `documents` and `answers`.
        answers: the audit's questions, with labels.
        promote: make it champion and compare nothing: a smaller model may be worth a little accuracy. With `audit`, make it champion where the champion cannot be
            compared.
        why: what it is promoted for, in words, where nothing is compared.
        uri: the registry; default as in `tracking.tracking_uri`.

    Raises:
        BundleError: `folder` is not a bundle, or the bundle does not work.
        ConfigError: the registry does not accept the name, `uri` is not an address, or of `audit`, `answers` and `documents` one is missing.
        DataError: there are no such documents, no such audit, or its answers are wrong or too few.
        ServiceError: the registry does not answer.
    """
    folder = Path(folder)
    card = read_card(folder)
    if documents is not None or not promote:
        card.check_one_label("comparisons at registration")
    name = name or card.name
    config = _config(name, uri)
    classifier = Classifier.load(folder)
    if audit is not None or answers is not None:
        basis = _audited(classifier, folder, documents, audit, answers, text_column)
    else:
        basis = _unlabeled(classifier, folder) if promote else _labeled(classifier, folder, documents, text_column, label_column)
    tracker = Tracker(config, folder.absolute(), f"register {name}")
    tracker.start(
        f"register-{uuid.uuid4().hex}",
        {"bundle": str(folder), "documents": basis.source},
        {KIND_TAG: "register"},
    )
    try:
        tracker.run.log_metrics(basis.figures)
        tags = {"data_fingerprint": card.data_fingerprint, "method": card.method} | ({"labels": "audit"} if audit is not None else {})
        found = tracker.log_bundle_and_register(
            folder, name, basis.figures, labeled=bool(basis.figures), promote=promote, why=why, evaluate=basis.champion, tags=tags
        )
    except BaseException:
        tracker.run.finish("FAILED")
        raise
    tracker.run.finish()
    return found


def check_registry(name: str, uri: str | None) -> None:
    """Raise what `register` would raise for the registry alone: to be called before work of which the result is registered."""
    require_mlflow()
    check_tracking(tracking_uri(_config(name, uri).uri))


def _config(name: str, uri: str | None) -> TrackingConfig:
    try:
        return TrackingConfig(uri=uri, registered_model=name)
    except ValidationError:
        raise ConfigError(f"name must be 1 to 128 letters, digits, dots, dashes and underscores (got {name!r}).", parameter="name") from None


def _probabilities(classifier: Classifier, folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Of `texts`; the bundle must classify."""
    found = classifier.predict_proba(texts)
    if not np.isfinite(found).all():
        raise BundleError(f"The bundle {folder} gives probabilities that are not finite; train it again.")
    return found


def _unlabeled(classifier: Classifier, folder: Path) -> _Basis:
    _probabilities(classifier, folder, ["a text"])
    return _Basis()


def _labeled(classifier: Classifier, folder: Path, documents: str | None, text_column: str, label_column: str | None) -> _Basis:
    """Labeled documents, where there are some."""
    card = classifier.card
    if documents is not None:
        found = documents_to_check(card, documents, text_column=text_column, label_column=label_column)
    else:
        corpus, truth = load_documents(card, None)
        test = corpus.test
        found = CheckDocuments(list(test.contents), f"the test documents of {corpus.name}", labels_of(test, dict(truth.test)))
    labels = found.labels
    if labels is None:
        return _unlabeled(classifier, folder)
    scores: dict[str, Any] = dict(evaluate(_probabilities(classifier, folder, found.texts), labels, card.labels).to_json())
    figures = BundleMetrics.figures(scores)
    return _Basis(found.source, figures, lambda other: accuracy_of(other, found.texts, labels, card.labels))


def _audited(classifier: Classifier, folder: Path, documents: str | None, audit: Path | None, answers: Path | None, text_column: str) -> _Basis:
    """The documents of an audit."""
    for name, value in (("audit", audit), ("answers", answers), ("documents", documents)):
        if value is None:
            raise ConfigError(f"{name} must be passed too: an audit compares by its folder, its answers and its documents.", parameter=name)
    assert documents is not None and audit is not None and answers is not None
    found = audited_documents(classifier.card, documents, audit, answers, text_column=text_column)
    predicted = np.asarray(_probabilities(classifier, folder, found.texts).argmax(axis=1))
    accuracy = found.accuracy(predicted)
    figures = {"accuracy": accuracy.estimate, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high, "documents": found.sample.answered}
    return _Basis(f"an audit of {found.source}", figures, lambda other: found.lead(predicted, other))
