"""SEAL for candidate sets: the task loss is that a document's views agree.

Paper: Aligned Objective for Soft-Pseudo-Label Generation in Supervised Learning (Xu et al. 2024, ICML), section 3.4 and table 3.
Task loss: equation 15 (`consistency`) with u of equation 16 (`agreed_labels`). The paper changes the task loss and says no more. Here the label vector that h and
equation 1 get is the indicator of the set; cross-entropy on a set is the likelihood of the set (the usual one where the set has one class); and a soft
pseudo-label is g's prediction, normalised over the set.
Needs: candidate sets; two strong views; images, or a head on frozen embeddings (`model.train: head`).
Differs: the released form for sets is another one (f learns by PLCR's loss, g starts anew from f in every epoch) and is not offered.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.candidate_labels.partial import PartialLabels
from selftrain.methods.losses import agreed_labels, candidate_likelihood, consistency
from selftrain.methods.semisupervised import Batch
from selftrain.methods.soft_labels.seal import SEAL, Parameters, SEALOptions


class SEALPartialOptions(SEALOptions):
    """Options of SEAL for candidate sets: those of SEAL but for the released form, which is another one for sets (see docs/methods/seal.md)."""

    name: Literal["seal_partial"] = "seal_partial"  # type: ignore[assignment]
    unlabeled_ratio: int = Field(
        1, ge=1, description="documents without their sets to one with its set in a batch (for NS3L's loss, where it is added)"
    )
    form: Literal["paper"] = Field("paper", description="the released form of seal needs one label a document")
    objective_steps: int = Field(0, ge=0, le=0, description="the first phase of the released code needs one label a document")
    agreement: Literal["candidates", "all"] = Field(
        "candidates", description="u of equation 16 over the candidates alone, as in PLCR and the released code, or over all classes as printed"
    )


class SEALPartial(PartialLabels, SEAL):
    """See the module's docstring. The views are the document itself and two strong ones."""

    paper = SEAL.paper
    summary = "SEAL for candidate sets: h is judged by how well a document's views agree"
    strong_views = 2
    Options: ClassVar[type[Options]] = SEALPartialOptions
    options: SEALPartialOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._views: list[torch.Tensor] = []  # inputs of the strong views of the step's documents

    def targets_of(self, batch: Batch) -> torch.Tensor:
        return self.candidates_of(batch)

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return candidate_likelihood(logits, labels)

    def generator_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.objective(logits, labels) if self.options.learned else self.label_loss(logits, labels)
        return found

    def task_loss_of(self, classifier: Parameters, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Equation 15 of the net with these parameters."""
        views = torch.stack([self.call(classifier, view) for view in (rows, *self._views)])
        return consistency(views, agreed_labels(views, labels if self.options.agreement == "candidates" else None))

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        self._views = [self.encoder.inputs(self.strong_views_of(batch.labeled, view, batch.rng)) for view in range(self.strong_views)]
        return super().labeled_losses(batch, logits)

    def soft_labels(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.softmax(logits.masked_fill(self.candidates_of(batch) == 0, float("-inf")), dim=1)
