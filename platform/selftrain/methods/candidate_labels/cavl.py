"""CAVL: the candidate with the largest class activation value is taken for the label.

Paper: Exploiting Class Activation Value for Partial-Label Learning (Zhang et al. 2022, ICLR).
Loss: cross-entropy with the candidate of the largest |v_j - 1| v_j, v_j the logit of class j. In the first steps, before logits say anything, all candidates
count alike.
Needs: candidate sets.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, PartialLabels
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch


class CAVLOptions(PartialLabelOptions):
    """Options of CAVL."""

    name: Literal["cavl"] = "cavl"
    uniform: float = Field(0.1, ge=0, le=1, description="share of the steps in which all candidates count alike (the paper: the first epoch)")


class CAVL(PartialLabels):
    """See the module's docstring."""

    paper = "Exploiting Class Activation Value for Partial-Label Learning (Zhang et al. 2022, ICLR); baseline of SEAL"
    summary = "the candidate with the largest class activation value is the label"
    Options = CAVLOptions
    options: CAVLOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        candidates = self.candidates_of(batch)
        if batch.progress < self.options.uniform:
            return {"cavl": text_to_label(logits, candidates / candidates.sum(dim=1, keepdim=True))}
        values = (logits.detach() - 1.0).abs() * logits.detach()
        return {"cavl": F.cross_entropy(logits, values.masked_fill(candidates == 0, float("-inf")).argmax(dim=1))}
