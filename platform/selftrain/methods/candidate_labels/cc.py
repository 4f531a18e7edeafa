"""CC, the classifier-consistent method (Feng et al. 2020): the likelihood that the label is one of the candidates. Baseline of SEAL's table 3."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from selftrain.methods.base import Options
from selftrain.methods.candidate_labels.partial import PartialLabelOptions, PartialLabels
from selftrain.methods.few_labels.semisupervised import Batch
from selftrain.methods.losses import candidate_likelihood


class CCOptions(PartialLabelOptions):
    """Options of CC; its paper has none of its own."""

    name: Literal["cc"] = "cc"


class CC(PartialLabels):
    """See the module's docstring."""

    paper = "Feng et al. 2020, Provably Consistent Partial-Label Learning; baseline of SEAL"
    summary = "the likelihood that the label is one of the candidates"
    Options: ClassVar[type[Options]] = CCOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"cc": candidate_likelihood(logits, self.candidates_of(batch))}
