"""Temporal ensembling: a text's prediction stays near the average of its own earlier ones.

Paper: Temporal Ensembling for Semi-Supervised Learning (Laine & Aila 2017, arXiv:1610.02242); in SunGen's table 8.
A wrong label is learned late, and the average holds what the model predicted before.
Loss: cross-entropy, and the mean squared difference of the probabilities from the average Z, corrected for its start at zero.
Needs: a label for every document, right or wrong.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.texts import TextChannel
from selftrain.methods.noisy_labels.noisy import NoisyLabelOptions, NoisyLabels


class TemporalEnsemblingOptions(NoisyLabelOptions):
    """Options of temporal ensembling."""

    name: Literal["temporal_ensembling"] = "temporal_ensembling"
    momentum: float = Field(0.6, ge=0, lt=1, description="alpha: of the average of predictions (Laine & Aila: 0.6)")
    weight: float = Field(30.0, ge=0, description="w_max: of the mean squared difference of probabilities (Laine & Aila: 30 where all are labeled)")


class TemporalEnsembling(NoisyLabels):
    """See the module's docstring. The average starts with the second epoch; its weight rises as exp(-5 (1 - t)^2) over the epochs."""

    paper = "Temporal Ensembling for Semi-Supervised Learning (Laine & Aila 2017, arXiv:1610.02242); baseline of SunGen"
    summary = "predictions stay near the average of a text's own earlier ones"
    remembered = ("average", "epochs_seen")
    Options = TemporalEnsemblingOptions
    options: TemporalEnsemblingOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.average = torch.zeros(len(self.texts), len(self.corpus.labels), device=self.encoder.device)  # Z
        self.epochs_seen = 0

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        if round_ > 0:
            momentum = self.options.momentum
            self.average = momentum * self.average + (1.0 - momentum) * self.probabilities()
            self.epochs_seen = round_
        return super().refresh(round_, texts)

    def losses(self, batch: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = super().losses(batch, logits)
        if self.epochs_seen:
            target = self.average[batch] / (1.0 - self.options.momentum**self.epochs_seen)  # the average starts at zero
            share = self.epochs_seen / max(1, self.options.epochs - 1)
            losses["ensemble"] = self.options.weight * math.exp(-5.0 * (1.0 - share) ** 2) * F.mse_loss(torch.softmax(logits, dim=1), target)
        return losses
