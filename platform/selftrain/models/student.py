"""The small classifier that training ends in: an encoder and one row of weights a class. It is what is evaluated, bundled and served."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from selftrain.models.encoder import Encoder, TextEncoder


@dataclass(frozen=True)
class Student:
    """softmax_j(scale * <f(x), w_j> + b_j): equations 3 and 4 of GenCo with prototypes for w and no b, or a linear classifier with both.

    Where a text may have several classes (`independent`), each class has the sigmoid of its own logit instead.
    With `cosine` f(x) is divided by its length, and w has length one; with a projection that is g(f(x)).
    """

    encoder: Encoder
    weights: torch.Tensor  # w, [classes, dimensions]
    scale: float = 1.0
    bias: torch.Tensor | None = None  # b, [classes]
    cosine: bool = False  # whatever the length of the encoder's embeddings
    projection: torch.nn.Module | None = None  # g, of images alone: no bundle holds one
    independent: bool = False  # each class by itself: sigmoid instead of softmax_j

    def probabilities(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`[texts, classes]` in float64 from embeddings `[texts, dimensions]`."""
        with torch.no_grad():
            rows = embeddings if self.projection is None else copy.deepcopy(self.projection).to(embeddings.device)(embeddings)
        rows = rows.double()
        if self.cosine:
            rows = F.normalize(rows, dim=1)
        logits = self.scale * rows @ self.weights.to(embeddings.device).double().T
        if self.bias is not None:
            logits = logits + self.bias.to(embeddings.device).double()
        return torch.sigmoid(logits) if self.independent else torch.softmax(logits, dim=-1)

    def predict(self, documents: Sequence[Any], continuations: Sequence[Sequence[str]] | None = None) -> torch.Tensor:
        """Probabilities, `[documents, classes]`.

        Args:
            documents: texts or images, as the encoder reads them.
            continuations: of each text; with them a text is read as in GenCo's equation 9.
        """
        if continuations is None:
            return self.probabilities(self.encoder.encode(documents))
        assert isinstance(self.encoder, TextEncoder)
        return self.probabilities(self.encoder.encode_augmented(documents, continuations))
