"""What a bundle remembers of the texts that it was made with, so that `selftrain watch` can say whether those that it sees now are like them, and a classifier
which texts are of none of its classes (typicality.py).

    reference.safetensors   "probabilities" [n, classes] in float32; "embeddings" [n, dimensions] in float16, of length one; in random order

No text and no id is kept. From an embedding a good part of a text's words can be guessed, though: who does not want that sets `evaluation.reference` to 0, or
removes the file, which nothing else needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from selftrain.errors import BundleError

TEXTS = 2000  # that are kept
FEWEST = 200  # with fewer hardly a change could be told from chance: half of them is what new texts are ranked among
CONFIDENCE_BINS = 20


class ReferenceFacts(BaseModel, frozen=True, allow_inf_nan=False):
    """The card's part: what the reference is of, in short."""

    documents: int = Field(ge=1, description="that the shares and the histogram are of")
    held_out: bool = Field(description="whether training saw none of them")
    kept: int = Field(ge=1, description="of them, in reference.safetensors")
    shares: tuple[float, ...] = Field(description="of the predictions, class by class")
    confidence: tuple[int, ...] = Field(description=f"documents by the probability of the predicted class, {CONFIDENCE_BINS} bins from 0 to 1")
    backend: str = Field(default="torch", description="what computed it")
    sha256: str = Field(description="of reference.safetensors")


@dataclass(frozen=True)
class Reference:
    """Texts as the classifier sees them, in random order."""

    probabilities: np.ndarray  # [n, classes], float32
    embeddings: np.ndarray | None  # [n, dimensions], float16, of length one; None where the backend gives none

    def content(self) -> bytes:
        """reference.safetensors."""
        tensors = {"probabilities": np.ascontiguousarray(self.probabilities, dtype=np.float32)}
        if self.embeddings is not None:
            tensors["embeddings"] = np.ascontiguousarray(self.embeddings, dtype=np.float16)
        return save(tensors)

    def facts(self, all_probabilities: np.ndarray, *, held_out: bool, backend: str = "torch") -> ReferenceFacts:
        """The card's part.

        Args:
            all_probabilities: of all documents that the reference was drawn from, `[documents, classes]`.
            held_out: whether training saw none of them.
            backend: what computed it.
        """
        classes = all_probabilities.shape[1]
        counted = np.bincount(all_probabilities.argmax(axis=1), minlength=classes) / len(all_probabilities)
        confidence, _ = np.histogram(all_probabilities.max(axis=1).clip(0, 1), CONFIDENCE_BINS, (0, 1))
        return ReferenceFacts(
            documents=len(all_probabilities),
            held_out=held_out,
            kept=len(self.probabilities),
            shares=tuple(counted.round(6).tolist()),
            confidence=tuple(confidence.tolist()),
            backend=backend,
            sha256=hashlib.sha256(self.content()).hexdigest(),
        )


def units(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings as they are kept: of length one, in float16."""
    rows = embeddings.astype(np.float32)
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float16)


def drawn(documents: int, most: int = TEXTS) -> np.ndarray:
    """Which of so many documents are kept, in random order: whoever reads the reference takes its halves apart."""
    return np.random.default_rng(0).permutation(documents)[:most]


def read_reference(file: Path, facts: ReferenceFacts | None, labels: Sequence[str]) -> Reference:
    """The content of a reference.safetensors.

    Args:
        file: in the bundle, or a later one beside what the endpoint has seen.
        facts: of the bundle's card; None for a later one.
        labels: class names.

    Raises:
        BundleError: it is missing, damaged, not the one that was written, or of other classes.
    """
    try:
        content = file.read_bytes()
        if facts is not None and hashlib.sha256(content).hexdigest() != facts.sha256:
            raise BundleError(f"{file} is not the file that was written; write the bundle again, or remove the file.")
        tensors = load_file(str(file))
        found = Reference(tensors["probabilities"], tensors.get("embeddings"))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{file} cannot be read ({' '.join(str(error).split())[:150]}); write it again.") from None
    shapes = [tensor.shape for tensor in (found.probabilities, found.embeddings) if tensor is not None]
    floats = all(
        np.issubdtype(one.dtype, np.floating) and np.isfinite(one).all() for one in (found.probabilities, found.embeddings) if one is not None
    )
    if not floats or any(len(shape) != 2 or not FEWEST <= shape[0] == shapes[0][0] <= TEXTS for shape in shapes) or shapes[0][1] != len(labels):
        raise BundleError(f"{file} must hold probabilities of {len(labels)} classes, and embeddings, of {FEWEST} to {TEXTS:,} texts; write it again.")
    return found
