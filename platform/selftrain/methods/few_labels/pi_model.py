"""The Pi model: two views of a document get the same probabilities.

Paper: Temporal Ensembling for Semi-Supervised Learning (Laine & Aila 2017, arXiv:1610.02242).
Loss: the mean squared difference of the probabilities of two views; the gradient goes through one of them.
Needs: labels of a few documents; one strong view.
Settings: the weight, and the gradient through one view, are those of NS3L's experiments (Oliver et al. 2018, arXiv:1804.09170).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.semisupervised import Batch


class PiModelOptions(NS3LHostOptions):
    """Options of the Pi model."""

    name: Literal["pi_model"] = "pi_model"
    weight: float = Field(20.0, ge=0, description="of the mean squared difference of probabilities (Oliver et al. 2018)")


class PiModel(NS3LHost):
    """See the module's docstring."""

    paper = "Temporal Ensembling for Semi-Supervised Learning (Laine & Aila 2017, arXiv:1610.02242); baseline of NS3L"
    summary = "two views of a document get the same probabilities"
    strong_views = 1
    image_views = "weak"
    learns_from_unlabeled = True
    Options = PiModelOptions
    options: PiModelOptions

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        other = torch.softmax(self.logits(batch.strong[0]), dim=1)
        return {"pi": self.options.weight * F.mse_loss(other, torch.softmax(batch.weak_logits.detach(), dim=1))}
