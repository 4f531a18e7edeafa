"""`selftrain register`: a bundle that was exported, distilled or received becomes a version of a registered model, and champion where it has earned that."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import accuracy_of, labels_of, load_documents
from selftrain.bundle.format import BundleCard, read_card
from selftrain.compress.onnx import CheckedOn, documents_to_check
from selftrain.config import TrackingConfig
from selftrain.errors import SelfTrainError
from selftrain.evaluation.metrics import evaluate
from selftrain.tracking import KIND_TAG, Registered, Tracker

FIGURES = ("accuracy", "macro_f1", "ece", "documents")


def register(
    folder: Path,
    name: str | None = None,
    *,
    documents: str | None = None,
    text_column: str = "text",
    label_column: str | None = None,
    promote: bool = False,
    uri: str | None = None,
) -> Registered:
    """Upload a bundle as a new version; it becomes champion if it is more accurate than the champion on the same labeled documents, or by `promote`.

    Args:
        folder: the bundle.
        name: in the registry; default: the bundle's own.
        documents: a file with labeled documents; default: the test documents of the bundle's own experiment.
        text_column: column of the texts in it.
        label_column: column of the true labels in it.
        promote: make it champion and compare nothing: a smaller model may be worth a little accuracy.
        uri: the registry; default as in `tracking.tracking_uri`.

    Raises:
        SelfTrainError: no bundle, one that does not open, a name that the registry cannot take, no such documents, or a registry that does not answer.
    """
    folder = Path(folder)
    card = read_card(folder)
    name = name or card.name
    try:
        config = TrackingConfig(uri=uri, registered_model=name)
    except ValidationError:
        raise SelfTrainError(f"{name!r} cannot be a name in the registry; use up to 128 letters, digits, dots, dashes and underscores.") from None
    classifier = Classifier.load(folder)
    compared = None if promote else _labeled(card, documents, text_column=text_column, label_column=label_column)
    probabilities = classifier.predict_proba(list(compared.texts) if compared is not None else ["a text"])
    if not np.isfinite(probabilities).all():
        raise SelfTrainError(f"The bundle {folder} answers numbers that are not finite; train it again.")
    labels = compared.labels if compared is not None else None
    scores = evaluate(probabilities, labels, card.labels).to_json() if labels is not None else {}

    def accuracy_of_champion(other: Path) -> float:
        assert compared is not None and labels is not None
        return accuracy_of(other, compared.texts, labels, card.labels)

    tracker = Tracker(config, folder.absolute(), f"register {name}")
    tracker.start(
        f"register-{uuid.uuid4().hex}",
        {"bundle": str(folder), "documents": compared.source if compared is not None else None},
        {KIND_TAG: "register"},
    )
    try:
        figures = {figure: scores.get(figure) for figure in FIGURES}
        tracker.log_metrics(figures)
        tags = {"data_fingerprint": card.data_fingerprint, "method": card.method}
        found = tracker.log_bundle_and_register(
            folder, name, figures, labeled=labels is not None, promote=promote, evaluate=accuracy_of_champion, tags=tags
        )
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()
    return found


def _labeled(card: BundleCard, documents: str | None, *, text_column: str, label_column: str | None) -> CheckedOn | None:
    """What bundles are compared on; None where there is no label."""
    if documents is not None:
        found = documents_to_check(card, documents, text_column=text_column, label_column=label_column)
        return found if found.labels is not None else None
    corpus, truth = load_documents(card, None)
    labels = labels_of(corpus.test, dict(truth.test))
    return CheckedOn(list(corpus.test.texts), f"the test documents of {corpus.name}", labels) if labels is not None else None
