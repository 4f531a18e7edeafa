"""CC, the classifier-consistent method: the likelihood that the label is one of the candidates.

Paper: Provably Consistent Partial-Label Learning (Feng et al. 2020, arXiv:2007.08929).
Loss: `candidate_likelihood` (equation 8 with uniform sets).
Needs: candidate sets.
"""

from __future__ import annotations

from typing import Literal

import torch

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, PartialLabels
from selftrain.methods.losses import candidate_likelihood
from selftrain.methods.semisupervised import Batch


class CCOptions(PartialLabelOptions):
    """Options of CC; its paper has none of its own."""

    name: Literal["cc"] = "cc"


class CC(PartialLabels):
    """See the module's docstring."""

    paper = "Provably Consistent Partial-Label Learning (Feng et al. 2020, arXiv:2007.08929); baseline of SEAL"
    summary = "the likelihood that the label is one of the candidates"
    Options = CCOptions
    options: CCOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"cc": candidate_likelihood(logits, self.candidates_of(batch))}
