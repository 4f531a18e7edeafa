"""FixMatch: a confident prediction on the weak view is the label of the strong one.

Paper: FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence (Sohn et al. 2020, arXiv:2001.07685).
Loss: cross-entropy of the strong view with the weak view's class where its probability reaches the threshold, the mean over all unlabeled documents. With
`simclr_weight` the other documents' strong views go into SimCLR (Chen et al. 2020, arXiv:2002.05709), as in SSC's ablation.
Needs: labels of a few documents; one strong view, two with `simclr_weight`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import confident_cross_entropy, supervised_contrastive
from selftrain.methods.semisupervised import Batch


class FixMatchOptions(NS3LHostOptions):
    """Options of FixMatch."""

    name: Literal["fixmatch"] = "fixmatch"
    threshold: float = Field(0.95, ge=0, le=1, description="smallest probability of a pseudo-label")
    weight: float = Field(1.0, ge=0, description="of the unlabeled loss")
    ramp: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which the weight of the unlabeled losses rises: exp(-5 (1 - t)^2); theirs: none"
    )
    simclr_weight: float = Field(0.0, ge=0, description="of SimCLR on the strong views of the others (SSC's ablation: 0.2)")
    temperature: float = Field(0.1, gt=0, description="of SimCLR")


class FixMatch(NS3LHost):
    """See the module's docstring."""

    paper = "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence (Sohn et al. 2020, arXiv:2001.07685); baseline of SSC"
    summary = "a confident prediction on the weak view is the label of the strong view"
    strong_views = 2
    one_pass = True
    learns_from_unlabeled = True
    Options = FixMatchOptions
    options: FixMatchOptions

    @property
    def compared_views(self) -> int:
        return 2 if self.options.simclr_weight else 1

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        options = self.options
        first = self.strong_rows(batch, 0)
        losses = {"fixmatch": options.weight * confident_cross_entropy(self.classifier(first), batch.weak_logits, options.threshold)}
        if options.simclr_weight:
            rest = torch.softmax(batch.weak_logits.detach(), dim=1).max(dim=1).values < options.threshold
            views = F.normalize(torch.cat([first[rest], self.strong_rows(batch, 1)[rest]]), dim=1)
            own = torch.arange(int(rest.sum()), device=views.device).repeat(2)
            losses["simclr"] = options.simclr_weight * supervised_contrastive(views, own, options.temperature)
        return losses
