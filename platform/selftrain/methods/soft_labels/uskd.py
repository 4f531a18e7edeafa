"""USKD (Yang et al. 2023): soft labels without a teacher, one for the label and one for the other classes. Baseline of SEAL.

From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels. To the cross-entropy come two
losses: the label's own soft label is the squared prediction, shifted to a mean of one over the batch; the other classes share one by Zipf's law, 1 / rank.

Left out is what needs feature maps from inside the net: a second, weak classifier on them, trained with smoothed labels (mu), whose prediction is added to the
own one before the ranks are taken. A head on frozen embeddings has no such maps, so ranks are those of the own prediction. Everything else is as released.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.few_labels.semisupervised import Batch, SemiSupervised, SemiSupervisedOptions
from selftrain.methods.losses import customized_soft_labels, text_to_label


class USKDOptions(SemiSupervisedOptions):
    """Options of USKD."""

    name: Literal["uskd"] = "uskd"
    alpha: float = Field(1.0, ge=0, description="of the loss on the label (released: 1; 0.1 for ResNet-18 on CIFAR-100)")
    beta: float = Field(0.1, ge=0, description="of the loss on the other classes (released: 0.1)")


class USKD(SemiSupervised):
    """See the module's docstring. With two classes the other one has probability one among the others, and the second loss is zero."""

    paper = "Yang et al. 2023, Unified Self-Knowledge Distillation; baseline of SEAL"
    summary = "soft labels of the label and, by rank, of the other classes come from the model's own prediction"
    Options: ClassVar[type[Options]] = USKDOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        labels = self.targets_of(batch)
        own, others = customized_soft_labels(logits, labels)
        hard = F.cross_entropy(logits, labels, reduction="none")
        # Normalized as the paper's NKD: the other classes among themselves, whatever is left to them.
        among_others = logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), torch.finfo(logits.dtype).min)
        return {
            "ce": hard.mean(),
            "uskd_label": self.options.alpha * (own * hard).mean(),
            "uskd_others": self.options.beta * text_to_label(among_others, others),
        }
