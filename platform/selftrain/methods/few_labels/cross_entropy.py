"""Cross-entropy on the labeled documents alone: the rows Supervised of NS3L and SSC, and CE and LSR of SEAL.

Paper: Rethinking the Inception Architecture for Computer Vision (Szegedy et al. 2016, arXiv:1512.00567) for label smoothing (LSR), which is an
option; plain cross-entropy has none.
Loss: cross-entropy; with `label_smoothing` the label keeps 1 - epsilon, and all classes share epsilon.
Needs: labels, of few documents or of all.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.semisupervised import Batch


class CrossEntropyOptions(NS3LHostOptions):
    """Options of plain supervised training."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="epsilon of label smoothing regularisation (LSR, Szegedy et al. 2016)")


class CrossEntropy(NS3LHost):
    """See the module's docstring."""

    paper = "Rethinking the Inception Architecture for Computer Vision (Szegedy et al. 2016, arXiv:1512.00567); baseline of NS3L, SSC and SEAL"
    summary = "a linear classifier on the encoder, trained on the labeled documents alone (label smoothing as an option)"
    Options = CrossEntropyOptions
    options: CrossEntropyOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"ce": F.cross_entropy(logits, self.targets_of(batch), label_smoothing=self.options.label_smoothing)}
