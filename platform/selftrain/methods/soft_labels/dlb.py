"""DLB: a document's prediction agrees with the one of the step before.

Paper: Self-Distillation from the Last Mini-Batch for Consistency Regularization (Shen et al. 2022, arXiv:2203.16172).
Loss: cross-entropy, and T^2 KL to the predictions of the step before: half of a batch are the new documents of the batch before it.
Needs: labels.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import distillation
from selftrain.methods.semisupervised import Batch


class DLBOptions(NS3LHostOptions):
    """Options of DLB."""

    name: Literal["dlb"] = "dlb"
    batch_size: int = Field(32, ge=2, description="labeled documents in a batch, half of them from the batch before")
    weight: float = Field(1.0, ge=0, description="alpha: of the agreement with the step before")
    temperature: float = Field(3.0, gt=0, description="T of the agreement")


class DLB(NS3LHost):
    """See the module's docstring."""

    paper = "Self-Distillation from the Last Mini-Batch for Consistency Regularization (Shen et al. 2022, arXiv:2203.16172); baseline of SEAL"
    summary = "half of each batch repeats the one before and keeps the predictions that it had there"
    remembered = (*NS3LHost.remembered, "_last", "_last_logits")
    Options = DLBOptions
    options: DLBOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._last: list[int] = []  # the new documents of the step before
        self._last_logits: torch.Tensor | None = None  # [len(_last), classes]

    def draw_labeled(self, size: int, rng: np.random.Generator) -> list[int]:
        new = super().draw_labeled(size - len(self._last), rng)
        return self._last + new

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = {"ce": F.cross_entropy(logits, self.targets_of(batch))}
        if self._last_logits is not None:
            losses["dlb"] = self.options.weight * distillation(logits[: len(self._last)], self._last_logits, self.options.temperature)
        half = -(-len(batch.labeled) // 2)
        self._last, self._last_logits = batch.labeled[half:], logits[half:].detach()
        return losses
