"""The trained classifier as one uses it: `Classifier.load(folder).predict(texts)`, with scikit-learn's habits and without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from selftrain.errors import UserError
from selftrain.export.bundle import BundleCard, read_card, read_prototypes
from selftrain.models.encoder import TextEncoder
from selftrain.models.student import Student


def problem_with(text: object) -> str | None:
    """Why `text` cannot be classified, in a few words; None where it can."""
    if not isinstance(text, str):
        return f"not a string but {type(text).__name__}"
    if not text.strip():
        return "empty"
    if "\x00" in text:
        return "binary"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "not valid Unicode"
    return None


class Classifier:
    """`argmax_j sim(f(x), p_j)` of GenCo's equations 1 and 2, with the probabilities of its equation 3.

    Args:
        backbone: the encoder f.
        prototypes: p, `[classes, dimensions]`; an embedding is multiplied by them as they are.
        card: class names, similarity, scale and tokens to read.
        bias: `[classes]`, added to the scaled similarities; None for none.
        batch_size: texts that the encoder gets at once.

    Attributes:
        classes_: class names, `[classes]`, in the order of `predict_proba`'s columns.
        card: what the bundle states about itself.
    """

    def __init__(
        self, backbone: SentenceTransformer, prototypes: torch.Tensor, card: BundleCard, *, bias: torch.Tensor | None = None, batch_size: int = 64
    ) -> None:
        self.card = card
        self.classes_ = np.array(card.labels)
        encoder = TextEncoder(backbone, max_tokens=card.max_tokens, batch_size=batch_size, normalize=card.similarity == "cosine").eval()
        self._student = Student(encoder, prototypes.to(backbone.device), card.scale, bias)

    @classmethod
    def load(cls, source: str | Path, *, device: str | None = None, batch_size: int = 64, tracking_uri: str | None = None) -> Classifier:
        """Open a bundle.

        Args:
            source: its folder, or `models:/NAME@ALIAS` or `models:/NAME/VERSION` of an MLflow registry.
            device: default: a GPU where there is one, else the CPU.
            batch_size: texts that the encoder gets at once.
            tracking_uri: the registry; default: MLFLOW_TRACKING_URI, else the local SQLite file.

        Raises:
            UserError: no bundle there, a damaged one, or no such registered model.
        """
        if isinstance(source, str) and source.startswith("models:/"):
            from selftrain.tracking import registered_bundle  # MLflow takes seconds to import, and a folder needs none

            source = registered_bundle(source, tracking_uri).folder
        folder = Path(source)
        card = read_card(folder)
        prototypes, bias = read_prototypes(folder, card)
        try:
            backbone = SentenceTransformer(str(folder), device=device or ("cuda" if torch.cuda.is_available() else "cpu"), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"The encoder of the bundle {folder} cannot be opened ({' '.join(str(error).split())[:200]}); write the bundle again."
            ) from None
        return cls(backbone, prototypes, card, bias=bias, batch_size=batch_size)

    def predict(self, texts: Iterable[str]) -> np.ndarray:
        """The name of each text's most probable class, `[texts]`.

        Raises:
            UserError: `texts` is one string, or holds something that is no text; the message says which.
        """
        return self.classes_[self.predict_proba(texts).argmax(axis=1)]

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Probability of every class, `[texts, classes]` in float64, each row of sum 1: the softmax of scale times the cosines (equation 4).

        Raises:
            UserError: as `predict`.
        """
        checked = _checked(texts)
        if not checked:
            return np.zeros((0, len(self.classes_)))
        return self._student.predict(checked).cpu().numpy()


def _checked(texts: Any) -> list[str]:
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"predict got a {type(texts).__name__}, not a list of texts; for one text write predict([text]).")
    checked = list(texts)
    for index, text in enumerate(checked):
        if (problem := problem_with(text)) is not None:
            raise UserError(f"Text {index} of {len(checked)} cannot be classified, it is {problem}; leave it out or mend it.")
    return [str(text) for text in checked]  # numpy's own strings become plain ones
