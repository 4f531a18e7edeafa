"""CS-KD: predictions of two documents of the same class agree.

Paper: Regularizing Class-wise Predictions via Self-knowledge Distillation (Yun et al. 2020, arXiv:2003.13964).
Loss: cross-entropy, and T^2 KL to the prediction of another labeled document with the same label, which gets no gradient.
Needs: labels.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import distillation
from selftrain.methods.semisupervised import Batch


class CSKDOptions(NS3LHostOptions):
    """Options of CS-KD."""

    name: Literal["cs_kd"] = "cs_kd"
    weight: float = Field(1.0, ge=0, description="lambda_cls: of the agreement")
    temperature: float = Field(4.0, gt=0, description="T of the agreement")


class CSKD(NS3LHost):
    """See the module's docstring."""

    paper = "Regularizing Class-wise Predictions via Self-knowledge Distillation (Yun et al. 2020, arXiv:2003.13964); baseline of SEAL"
    summary = "two labeled documents of the same class get the same prediction"
    Options = CSKDOptions
    options: CSKDOptions

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        options = self.options
        with torch.no_grad():
            teacher = self.logits(self.weak_views([self.partner(batch, index) for index in batch.labeled], batch.rng))
        return {
            "ce": F.cross_entropy(logits, self.targets_of(batch)),
            "cs_kd": options.weight * distillation(logits, teacher, options.temperature),
        }

    def partner(self, batch: Batch, index: int) -> int:
        """Another labeled document with the label of `index`; the document itself where it is the only one."""
        others = self._members[self.targets[index]]
        place = int(batch.rng.integers(max(1, len(others) - 1)))
        return others[place] if others[place] != index else others[-1]

    @cached_property
    def _members(self) -> dict[int, list[int]]:
        """Labeled documents by label."""
        found: dict[int, list[int]] = {}
        for index in self.labeled:
            found.setdefault(self.targets[index], []).append(index)
        return found
