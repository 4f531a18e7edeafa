"""Cross-entropy on the labeled documents alone: the baseline of NS3L, SSC and SEAL (their rows Supervised and CE), and with smoothing their LSR."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.few_labels.semisupervised import Batch, SemiSupervised, SemiSupervisedOptions


class CrossEntropyOptions(SemiSupervisedOptions):
    """Options of plain supervised training."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="epsilon of label smoothing regularisation (LSR, Szegedy et al. 2016)")


class CrossEntropy(SemiSupervised):
    """See the module's docstring."""

    paper = "baseline of NS3L, SSC and SEAL"
    summary = "a linear classifier on the encoder, trained on the labeled documents alone (label smoothing as an option)"
    Options: ClassVar[type[Options]] = CrossEntropyOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"ce": F.cross_entropy(logits, self.targets_of(batch), label_smoothing=self.options.label_smoothing)}
