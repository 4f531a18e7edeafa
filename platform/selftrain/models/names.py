"""How the class names lie among the documents before anything is trained: cosines of documents and label prompts, from embeddings that a method has made anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

MOST_DOCUMENTS = 2000  # that are looked at; documents come in the order of their hashes, so the first are a random sample


@dataclass(frozen=True)
class NameScores:
    """What is known of the names without a label."""

    documents: tuple[int, ...]  # indices among the unlabeled documents, [N]
    scores: torch.Tensor  # cosines of documents and names, [N, L], on the CPU
    names: torch.Tensor  # cosines of names and names, [L, L]

    @classmethod
    def of(cls, embeddings: torch.Tensor, prototypes: torch.Tensor, documents: Sequence[int], most: int = MOST_DOCUMENTS) -> NameScores:
        """The cosines of the first documents.

        Args:
            embeddings: of documents, `[N, D]`.
            prototypes: of the classes, `[L, D]`.
            documents: their indices, `[N]`.
            most: of them that are looked at.
        """
        rows, names = (F.normalize(part.detach().double(), dim=-1) for part in (embeddings[:most], prototypes))
        return cls(tuple(documents[:most]), (rows @ names.T).cpu(), (names @ names.T).cpu())
