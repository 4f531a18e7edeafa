"""DLB (Shen et al. 2022): a document's prediction agrees with the one of the step before. Baseline of SEAL.

Self-Distillation from the Last Mini-Batch: half of a batch are the new documents of the batch before, and their predictions from then are the teacher.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.few_labels.semisupervised import Batch, SemiSupervised, SemiSupervisedOptions
from selftrain.methods.losses import distillation


class DLBOptions(SemiSupervisedOptions):
    """Options of DLB."""

    name: Literal["dlb"] = "dlb"
    batch_size: int = Field(32, ge=2, description="labeled documents in a batch, half of them from the batch before")
    weight: float = Field(1.0, ge=0, description="alpha: of the agreement with the step before")
    temperature: float = Field(3.0, gt=0, description="T of the agreement")


class DLB(SemiSupervised):
    """See the module's docstring."""

    paper = "Shen et al. 2022, Self-Distillation from the Last Mini-Batch; baseline of SEAL"
    summary = "half of each batch repeats the one before and keeps the predictions that it had there"
    Options: ClassVar[type[Options]] = DLBOptions

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

    def state(self) -> dict[str, Any]:
        return super().state() | {"last": list(self._last), "last_logits": self._last_logits}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._last = list(state["last"])
        self._last_logits = None if state["last_logits"] is None else state["last_logits"].to(self.encoder.device)
