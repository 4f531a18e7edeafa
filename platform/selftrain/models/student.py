"""The small classifier that training ends in: an encoder and one row of weights a class. It is what is evaluated, bundled and served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from selftrain.models.encoder import Encoder


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

    def predict(self, texts: Sequence[str]) -> torch.Tensor:
        """Probabilities of texts, `[texts, classes]`."""
        return self.probabilities(self.encoder.encode(texts))
