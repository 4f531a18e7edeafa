"""The documents that export and distillation work on: those that are named, or those of the experiment that the bundle comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.config import DataConfig
from selftrain.data.corpus import Corpus, Documents, Truth
from selftrain.data.loading import load_corpus
from selftrain.errors import SelfTrainError


def load_documents(
    card: BundleCard, source: str | Path | None, *, text_column: str = "text", label_column: str | None = None, test_documents: int = 1000
) -> tuple[Corpus, Truth]:
    """The documents of `source`, a file or a name of the catalogue; without it those of the bundle's own experiment.

    Args:
        card: of the bundle; the classes have to be its own.
        source: a file, a catalogue name, or None.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file, where it has any.
        test_documents: labeled documents that are held out where the source has no test split.

    Raises:
        SelfTrainError: no such source, other classes than the bundle's, images, or a bundle that names no data and nothing given instead.
    """
    if source is not None:
        config = DataConfig(
            source=str(source), text_column=text_column, label_column=label_column, classes=card.labels, test_documents=test_documents
        )
    elif "data" in card.experiment:
        try:
            config = DataConfig.model_validate(card.experiment["data"])
        except ValidationError:
            raise SelfTrainError("The bundle's own data section is of another selftrain; name documents with --documents FILE.") from None
    else:
        raise SelfTrainError("The bundle does not say which documents it was trained on; name some with --documents FILE.")
    corpus, truth = load_corpus(config)
    if corpus.kind != "text":
        raise SelfTrainError(f"The documents of {corpus.name} are images, and a bundle reads texts; name other documents.")
    if corpus.class_names != tuple(card.labels):
        raise SelfTrainError(
            f"{corpus.name} has the classes {', '.join(corpus.class_names)}, the bundle {', '.join(card.labels)}; name documents of these."
        )
    return corpus, truth


def accuracy_of(bundle: Path, texts: Sequence[str], labels: np.ndarray, classes: Sequence[str]) -> float:
    """Share of `texts` to which a bundle gives the class of `labels`, indices into `classes`.

    Raises:
        SelfTrainError: no bundle, or one of other classes.
    """
    classifier = Classifier.load(bundle)
    if tuple(classifier.classes_) != tuple(classes):
        raise SelfTrainError("its classes are other ones")
    return float((classifier.predict_proba(texts).argmax(axis=1) == labels).mean())


def labels_of(documents: Documents, truth: dict[str, int]) -> np.ndarray | None:
    """True class indices `[documents]` in the order of `documents`; None unless every one of them has a label."""
    if not len(documents) or any(id_ not in truth for id_ in documents.ids):
        return None
    return np.array([truth[id_] for id_ in documents.ids])
