"""PLCR (Wu et al. 2022): a document's views agree on a label distribution over its candidates. Baseline of SEAL's table 3; seal_partial.py builds on it.

The loss is -sum of log(1 - p_j) over the classes that are no candidates, plus lambda(t) times equation 15 of SEAL with the distribution that the views agreed
on when the document was last seen (at first: uniform over its set).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.candidate_labels.partial import PartialLabelOptions, WeightedCandidates
from selftrain.methods.few_labels.semisupervised import Batch
from selftrain.methods.losses import agreed_labels, consistency, negative_candidates


class PLCROptions(PartialLabelOptions):
    """Options of PLCR."""

    name: Literal["plcr"] = "plcr"
    weight: float = Field(1.0, ge=0, description="lambda: of the consistency of the views (the paper: 1)")
    ramp: float = Field(0.5, ge=0, le=1, description="share of the steps in which lambda rises linearly (the paper: 100 of 200 epochs)")


class PLCR(WeightedCandidates):
    """See the module's docstring. The views are the document itself and two strong ones."""

    paper = "Wu et al. 2022, Revisiting Consistency Regularization for Deep Partial Label Learning; baseline of SEAL"
    summary = "views of a document agree on a distribution over its candidates"
    strong_views = 2
    Options: ClassVar[type[Options]] = PLCROptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        candidates = self.candidates_of(batch)
        strong = [self.logits(self.strong_views_of(batch.labeled, view, batch.rng)) for view in range(self.strong_views)]
        views = torch.stack([logits, *strong])
        share = min(1.0, batch.progress / self.options.ramp) if self.options.ramp else 1.0
        losses = {
            "negatives": negative_candidates(logits, candidates),
            "consistency": share * self.options.weight * consistency(views, self.weights[batch.labeled]),
        }
        self.weights[batch.labeled] = agreed_labels(views.detach(), candidates)
        return losses
