"""Pseudo-labeling (Lee 2013): confident predictions on unlabeled documents are taken as labels in the same pass. Baseline of NS3L."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.few_labels.semisupervised import Batch, SemiSupervised, SemiSupervisedOptions
from selftrain.methods.losses import confident_cross_entropy


class PseudoLabelOptions(SemiSupervisedOptions):
    """Options of pseudo-labeling."""

    name: Literal["pseudo_label"] = "pseudo_label"
    threshold: float = Field(0.95, ge=0, le=1, description="smallest probability of a pseudo-label")
    weight: float = Field(1.0, ge=0, description="of the unlabeled loss")


class PseudoLabel(SemiSupervised):
    """See the module's docstring."""

    paper = "Lee 2013, Pseudo-Label; baseline of NS3L"
    summary = "confident predictions become labels"
    Options: ClassVar[type[Options]] = PseudoLabelOptions

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"pseudo": self.options.weight * confident_cross_entropy(batch.weak_logits, batch.weak_logits, self.options.threshold)}
