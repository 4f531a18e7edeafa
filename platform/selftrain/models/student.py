"""The small classifier that training ends in: an encoder and one row of weights a class. It is what is evaluated, bundled and served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from selftrain.models.encoder import Encoder, TextEncoder


@dataclass(frozen=True)
class Student:
    """softmax_j(scale * <f(x), w_j> + b_j): equations 3 and 4 of GenCo with prototypes for w and no b, or a linear classifier with both."""

    encoder: Encoder
    weights: torch.Tensor  # w, [classes, dimensions]
    scale: float = 1.0
    bias: torch.Tensor | None = None  # b, [classes]

    def probabilities(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`[texts, classes]` in float64 from embeddings `[texts, dimensions]`."""
        logits = self.scale * embeddings.double() @ self.weights.to(embeddings.device).double().T
        if self.bias is not None:
            logits = logits + self.bias.to(embeddings.device).double()
        return torch.softmax(logits, dim=-1)

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
