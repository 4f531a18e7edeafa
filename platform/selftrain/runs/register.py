"""`selftrain register`: a bundle that was exported, distilled or received becomes a version of a registered model, and champion if it is more accurate."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import accuracy_of, labels_of, load_documents
from selftrain.bundle.format import BundleCard, BundleMetrics, read_card
from selftrain.compress.onnx import CheckDocuments, documents_to_check
from selftrain.config import TrackingConfig
from selftrain.errors import BundleError, ConfigError
from selftrain.evaluation.metrics import evaluate
from selftrain.tracking import KIND_TAG, RegisteredVersion, Tracker


def register(
    folder: Path,
    name: str | None = None,
    *,
    documents: str | None = None,
    text_column: str = "text",
    label_column: str | None = None,
    promote: bool = False,
    uri: str | None = None,
) -> RegisteredVersion:
    """Upload a bundle as a new version. It becomes champion if it is more accurate than the champion on the same labeled documents, or by `promote`.

    Args:
        folder: the bundle.
        name: in the registry; default: the bundle's own.
        documents: a file with labeled documents; default: the test documents of the bundle's own experiment.
        text_column: column of the texts in the file.
        label_column: column of the true labels in the file.
        promote: make it champion and compare nothing: a smaller model may be worth a little accuracy.
        uri: the registry; default as in `tracking.tracking_uri`.

    Raises:
        BundleError: `folder` is not a bundle, or the bundle does not work.
        ConfigError: the registry does not accept the name, or `uri` is not an address.
        DataError: there are no such documents.
        ServiceError: the registry does not answer.
    """
    folder = Path(folder)
    card = read_card(folder)
    name = name or card.name
    try:
        config = TrackingConfig(uri=uri, registered_model=name)
    except ValidationError:
        raise ConfigError(f"name must be 1 to 128 letters, digits, dots, dashes and underscores (got {name!r}).", parameter="name") from None
    classifier = Classifier.load(folder)
    compared = None if promote else _labeled(card, documents, text_column=text_column, label_column=label_column)
    scores = _scores(classifier, folder, compared)
    labels = compared.labels if compared is not None else None

    def champions_accuracy(folder: Path) -> float:
        assert compared is not None and labels is not None
        return accuracy_of(folder, compared.texts, labels, card.labels)

    tracker = Tracker(config, folder.absolute(), f"register {name}")
    tracker.start(
        f"register-{uuid.uuid4().hex}",
        {"bundle": str(folder), "documents": compared.source if compared is not None else None},
        {KIND_TAG: "register"},
    )
    try:
        figures = {figure: scores.get(figure) for figure in BundleMetrics.model_fields}
        tracker.run.log_metrics(figures)
        tags = {"data_fingerprint": card.data_fingerprint, "method": card.method}
        found = tracker.log_bundle_and_register(
            folder, name, figures, labeled=labels is not None, promote=promote, evaluate=champions_accuracy, tags=tags
        )
    except BaseException:
        tracker.run.finish("FAILED")
        raise
    tracker.run.finish()
    return found


def _scores(classifier: Classifier, folder: Path, compared: CheckDocuments | None) -> dict[str, Any]:
    """The scores on labeled documents; none without them. Either way the bundle must classify."""
    probabilities = classifier.predict_proba(list(compared.texts) if compared is not None else ["a text"])
    if not np.isfinite(probabilities).all():
        raise BundleError(f"The bundle {folder} gives probabilities that are not finite; train it again.")
    if compared is None or compared.labels is None:
        return {}
    return dict(evaluate(probabilities, compared.labels, classifier.card.labels).to_json())


def _labeled(card: BundleCard, documents: str | None, *, text_column: str, label_column: str | None) -> CheckDocuments | None:
    """The documents that bundles are compared on; None where they have no labels."""
    if documents is not None:
        found = documents_to_check(card, documents, text_column=text_column, label_column=label_column)
        return found if found.labels is not None else None
    corpus, truth = load_documents(card, None)
    labels = labels_of(corpus.test, dict(truth.test))
    return CheckDocuments(list(corpus.test.contents), f"the test documents of {corpus.name}", labels) if labels is not None else None
