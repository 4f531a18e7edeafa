"""Pseudo-labeling: confident predictions on unlabeled documents are taken as labels in the same pass.

Paper: Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks (Lee 2013, ICML workshop).
Loss: cross-entropy with the predicted class where its probability reaches the threshold.
Needs: labels of a few documents.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import confident_cross_entropy
from selftrain.methods.semisupervised import Batch


class PseudoLabelOptions(NS3LHostOptions):
    """Options of pseudo-labeling."""

    name: Literal["pseudo_label"] = "pseudo_label"
    threshold: float = Field(0.95, ge=0, le=1, description="smallest probability of a pseudo-label")
    weight: float = Field(1.0, ge=0, description="of the unlabeled loss")


class PseudoLabel(NS3LHost):
    """See the module's docstring."""

    paper = (
        "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks (Lee 2013, ICML workshop); baseline of NS3L"
    )
    summary = "confident predictions become labels"
    learns_from_unlabeled = True
    Options = PseudoLabelOptions
    options: PseudoLabelOptions

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"pseudo": self.options.weight * confident_cross_entropy(batch.weak_logits, batch.weak_logits, self.options.threshold)}
