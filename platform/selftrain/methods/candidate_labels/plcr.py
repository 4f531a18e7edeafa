"""PLCR: a document's views agree on a label distribution over its candidates. seal_partial.py builds on it.

Paper: Revisiting Consistency Regularization for Deep Partial Label Learning (Wu et al. 2022, ICML).
Loss: -sum of log(1 - p_j) over the classes that are no candidates (`negative_candidates`), plus lambda(t) times equation 15 of SEAL (`consistency`) with the
distribution that the views agreed on when the document was last seen (at first: uniform over its set).
Needs: candidate sets; two strong views.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, WeightedCandidates
from selftrain.methods.losses import agreed_labels, consistency
from selftrain.methods.semisupervised import Batch


def negative_candidates(logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """PLCR's supervised loss: -sum of log(1 - p_j) over the classes that are no candidates, the mean over the batch.

    Args:
        logits: `[N, L]`, with gradient.
        candidates: `[N, L]`, as in `candidate_likelihood`.
    """
    # log(1 - p_j) is the log of the other classes' sum: no difference of nearly equal numbers.
    others = logits.unsqueeze(1).expand(-1, logits.shape[1], -1).masked_fill(torch.eye(logits.shape[1], device=logits.device).bool(), float("-inf"))
    rest = torch.logsumexp(others, dim=2) - torch.logsumexp(logits, dim=1, keepdim=True)
    return -((candidates == 0) * rest).sum(dim=1).mean()


class PLCROptions(PartialLabelOptions):
    """Options of PLCR."""

    name: Literal["plcr"] = "plcr"
    weight: float = Field(1.0, ge=0, description="lambda: of the consistency of the views (the paper: 1)")
    ramp: float = Field(0.5, ge=0, le=1, description="share of the steps in which lambda rises linearly (the paper: 100 of 200 epochs)")


class PLCR(WeightedCandidates):
    """See the module's docstring. The views are the document itself and two strong ones."""

    paper = "Revisiting Consistency Regularization for Deep Partial Label Learning (Wu et al. 2022, ICML); baseline of SEAL"
    summary = "views of a document agree on a distribution over its candidates"
    strong_views = 2
    Options = PLCROptions
    options: PLCROptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        candidates = self.candidates_of(batch)
        strong = [self.logits(view) for view in self.strong_views_of(batch.labeled, self.strong_views, batch.rng)]
        views = torch.stack([logits, *strong])
        share = self.ramped_linearly(batch.progress)
        losses = {
            "negatives": negative_candidates(logits, candidates),
            "consistency": share * self.options.weight * consistency(views, self.weights[batch.labeled]),
        }
        self.weights[batch.labeled] = agreed_labels(views.detach(), candidates)
        return losses
