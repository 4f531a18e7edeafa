"""Which texts are of none of a bundle's classes: those that are less typical of the documents that it keeps (reference.py) than whoever asks lets pass.

The typicality (evaluation/typicality.py) is made from the embedding of the text, which a graph does not give.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from selftrain.bundle.checking import REFERENCE
from selftrain.bundle.promise import NoneOfThese, kept
from selftrain.bundle.reference import ReferenceFacts, read_reference
from selftrain.errors import ConfigError
from selftrain.evaluation.typicality import Surroundings

PROMISE: Literal["promise"] = "promise"
Wanted = float | Literal["promise"]  # share of the known documents that may be taken for none of the classes, or what an audit has promised
_NAME = "none_of_these"


def known_documents(folder: Path | None, facts: ReferenceFacts | None, labels: Sequence[str], backend: str) -> Surroundings:
    """The documents of a bundle, which texts are compared with.

    Args:
        folder: of the bundle; None for one that was never written.
        facts: of its card.
        labels: class names.
        backend: what computes it.

    Raises:
        ConfigError: it keeps none, or `backend` gives no embeddings.
        BundleError: the file is damaged.
    """
    if backend not in ("torch", "numpy"):
        raise ConfigError(
            f"{_NAME} is not possible with the backend {backend}, a graph that gives no embeddings; open the bundle with the backend torch.",
            parameter=_NAME,
        )
    if folder is None or facts is None or not (folder / REFERENCE).is_file():
        raise ConfigError(
            f"{_NAME} needs documents to compare with, and this bundle keeps none; train it with evaluation.reference above 0 and at least 200 documents.",
            parameter=_NAME,
        )
    embeddings = read_reference(folder / REFERENCE, facts, labels).embeddings
    if embeddings is None:
        raise ConfigError(f"{_NAME} needs the embeddings of documents, and {folder / REFERENCE} holds probabilities alone.", parameter=_NAME)
    return Surroundings(embeddings)


def threshold_of(wanted: Wanted, promise: NoneOfThese | None, documents: int, backend: str) -> float:
    """The typicality up to which a text is of none of the classes.

    Args:
        wanted: a share of the known documents, which is the threshold, for a typicality is such a share; or `PROMISE`.
        promise: of the card.
        documents: that are known.
        backend: what computes the classifier.

    Raises:
        ConfigError: the share cannot be told from none, or is not one; or there is no promise.
    """
    if wanted == PROMISE:
        return kept(promise, backend, _NAME).threshold
    if isinstance(wanted, str) or not 1 / (documents + 1) <= wanted < 1:
        raise ConfigError(
            f"{_NAME} must be a share of the {documents:,} known documents, such as 0.05, below 1 and at least one of them, or {PROMISE!r} (got {wanted!r}).",
            parameter=_NAME,
        )
    return wanted
