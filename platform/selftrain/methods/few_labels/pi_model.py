"""The Pi model (Laine & Aila 2017): two views of a document get the same probabilities. Baseline of NS3L."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.few_labels.semisupervised import Batch, SemiSupervised, SemiSupervisedOptions


class PiModelOptions(SemiSupervisedOptions):
    """Options of the Pi model."""

    name: Literal["pi_model"] = "pi_model"
    weight: float = Field(20.0, ge=0, description="of the mean squared difference of probabilities (Oliver et al. 2018)")


class PiModel(SemiSupervised):
    """See the module's docstring."""

    paper = "Laine & Aila 2017, Temporal Ensembling; baseline of NS3L"
    summary = "two views of a document get the same probabilities"
    strong_views = 1
    image_views = "weak"
    Options: ClassVar[type[Options]] = PiModelOptions

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        other = torch.softmax(self.logits(batch.strong[0]), dim=1)
        return {"pi": self.options.weight * F.mse_loss(other, torch.softmax(batch.weak_logits.detach(), dim=1))}
