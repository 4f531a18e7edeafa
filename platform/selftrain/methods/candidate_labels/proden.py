"""PRODEN: the candidates' weights are the classifier's own, ever newer predictions.

Paper: Progressive Identification of True Labels for Partial-Label Learning (Lv et al. 2020, arXiv:2002.08053).
Loss: cross-entropy with the weights that the document's last step left (algorithm 1), uniform over the set at first.
Needs: candidate sets.
"""

from __future__ import annotations

from typing import Literal

import torch

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, WeightedCandidates
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch


class PRODENOptions(PartialLabelOptions):
    """Options of PRODEN; its paper has none of its own."""

    name: Literal["proden"] = "proden"


class PRODEN(WeightedCandidates):
    """See the module's docstring. A document's weights are those that its last step left, as in the paper's algorithm 1."""

    paper = "Progressive Identification of True Labels for Partial-Label Learning (Lv et al. 2020, arXiv:2002.08053); baseline of SEAL"
    summary = "candidates weighted by the classifier's last prediction"
    Options = PRODENOptions
    options: PRODENOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = text_to_label(logits, self.weights[batch.labeled])
        shares = torch.softmax(logits.detach(), dim=1).masked_fill(self.candidates_of(batch) == 0, 0.0)
        self.weights[batch.labeled] = shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        return {"proden": loss}
