"""USKD: soft labels without a teacher, one for the label and one for the other classes.

Paper: From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels (Yang et al. 2023,
arXiv:2303.13005).
Loss: cross-entropy and two more terms (`customized_soft_labels`). The label's own soft label is the squared prediction, shifted to a mean of one over the
batch; the
other classes share one by Zipf's law, 1 / rank.
Needs: labels.
Differs: left out is a second, weak classifier on feature maps inside the net, trained with smoothed labels (mu), whose prediction is added to the own one
before the
ranks are taken. A head on frozen embeddings has no such maps, so the ranks are those of the own prediction. Everything else is as released.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch


def customized_soft_labels(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The customized soft labels of USKD, from the prediction s itself, without gradient.

    Args:
        logits: `[N, L]`.
        labels: `[N]`, class indices.

    Returns:
        Of the label, `[N]`: s_y^2 + 1 - the batch's mean of s_y^2, which is 1 on average. Of the other classes, `[N, L]`: in proportion to 1 / rank, the rank
        in the whole prediction, with sum one and zero for the label (no other class: all zero).
    """
    logits = logits.detach()
    squares = torch.softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1) ** 2
    ranks = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    zipf = (1.0 / ranks.to(logits)) * (F.one_hot(labels, logits.shape[1]) == 0)
    return squares + 1.0 - squares.mean(), zipf / zipf.sum(dim=1, keepdim=True).clamp(min=torch.finfo(zipf.dtype).tiny)


class USKDOptions(NS3LHostOptions):
    """Options of USKD."""

    name: Literal["uskd"] = "uskd"
    alpha: float = Field(1.0, ge=0, description="of the loss on the label (released: 1; 0.1 for ResNet-18 on CIFAR-100)")
    beta: float = Field(0.1, ge=0, description="of the loss on the other classes (released: 0.1)")


class USKD(NS3LHost):
    """See the module's docstring. With two classes the other one has probability one among the others, and the second loss is zero."""

    paper = (
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels "
        "(Yang et al. 2023, arXiv:2303.13005); baseline of SEAL"
    )
    summary = "soft labels of the label and, by rank, of the other classes come from the model's own prediction"
    Options = USKDOptions
    options: USKDOptions

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
