"""The documents that export, distillation and registration work on: the caller's, or those of the bundle's own experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.config import DataConfig
from selftrain.data.corpus import Corpus, Documents, TrueLabels
from selftrain.data.loading import load_corpus
from selftrain.errors import BundleError, DataError


def load_documents(
    card: BundleCard, source: str | Path | None, *, text_column: str = "text", label_column: str | None = None, test_documents: int = 1000
) -> tuple[Corpus, TrueLabels]:
    """Documents with the classes of a bundle.

    Args:
        card: of the bundle.
        source: a file or a name of the catalogue; None for the documents of the bundle's own experiment.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file, where it has any.
        test_documents: labeled documents that are held out where the source has no test split.

    Raises:
        DataError: there is no such source, it has other classes than the bundle, or it holds images.
        BundleError: `source` is None, and the bundle does not say which documents it was trained on.
    """
    if source is not None:
        config = DataConfig(
            source=str(source), text_column=text_column, label_column=label_column, classes=card.labels, test_documents=test_documents
        )
    elif "data" in card.experiment:
        try:
            config = DataConfig.model_validate(card.experiment["data"])
        except ValidationError:
            raise BundleError(
                "documents must be passed, because the bundle's own data section is of another selftrain.", parameter="documents"
            ) from None
    else:
        raise BundleError("documents must be passed, because the bundle does not say what it was trained on.", parameter="documents")
    corpus, truth = load_corpus(config)
    if corpus.kind != "text":
        raise DataError(f"The documents of {corpus.name} are images, and a bundle reads texts; pass other documents.")
    if corpus.class_names != tuple(card.labels):
        raise DataError(
            f"{corpus.name} has the classes {', '.join(corpus.class_names)}, the bundle {', '.join(card.labels)}; pass documents of these classes."
        )
    return corpus, truth


def accuracy_of(bundle: Path, texts: Sequence[str], labels: np.ndarray, classes: Sequence[str]) -> float:
    """Accuracy of a bundle.

    Args:
        bundle: its folder.
        texts: to classify.
        labels: true class indices `[texts]`, into `classes`; of several labels which classes each text has, boolean `[texts, classes]`.
        classes: class names; they have to be the bundle's.

    Raises:
        BundleError: there is no bundle, or it has other classes.
    """
    classifier = Classifier.load(bundle)
    if tuple(classifier.classes_) != tuple(classes):
        raise BundleError(f"the classes of {bundle} are {', '.join(map(str, classifier.classes_))}, not {', '.join(classes)}")
    if classifier.card.multi_label != (labels.ndim == 2):
        raise BundleError(f"{bundle} gives {'several labels' if classifier.card.multi_label else 'one label'} a text, and the documents do not")
    found = classifier.predict_proba(texts)
    if labels.ndim == 2:
        return float(((found >= np.array(classifier.card.thresholds)) == labels).all(axis=1).mean())
    return float((found.argmax(axis=1) == labels).mean())


def labels_of(documents: Documents, truth: dict[str, int]) -> np.ndarray | None:
    """True class indices `[documents]` in the order of `documents`; None unless every one of them has a label."""
    if not len(documents) or any(id_ not in truth for id_ in documents.ids):
        return None
    return np.array([truth[id_] for id_ in documents.ids])
