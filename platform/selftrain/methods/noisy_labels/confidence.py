"""Confidence filtering: train once, keep the texts whose label was most probable, train again.

Paper: Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics (Swayamdipta et al. 2020, arXiv:2009.10795); as used in
SunGen's table 3. Confidence is the mean over the first training's epochs of the probability that the model gives the label of a text (SunGen appendix F.2).
Loss: cross-entropy, in both trainings.
Needs: a label for every document, right or wrong.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from selftrain.data.texts import TextChannel
from selftrain.methods.noisy_labels.noisy import NoisyLabelOptions, NoisyLabels


class ConfidenceOptions(NoisyLabelOptions):
    """Options of confidence filtering."""

    name: Literal["confidence"] = "confidence"
    keep: float = Field(0.5, gt=0, le=1, description="share of the texts of each class that is kept (SunGen: 200,000 of 1,000,000)")


class Confidence(NoisyLabels):
    """See the module's docstring. The first half of the rounds is the training that measures confidence, the second the one that counts."""

    paper = (
        "Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics (Swayamdipta et al. 2020, arXiv:2009.10795); baseline of SunGen"
    )
    summary = "train, keep the texts whose label was most probable on average, train again on them"
    remembered = ("confidence", "_first")
    Options = ConfidenceOptions
    options: ConfidenceOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._first = copy.deepcopy((self.encoder.state_dict(), self.classifier.state_dict()))
        self.confidence = torch.zeros(len(self.texts), device=self.encoder.device)

    @property
    def rounds(self) -> int:
        return 2 * self.options.epochs

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        epochs = self.options.epochs
        if 1 <= round_ <= epochs:
            self.confidence += self.probabilities().gather(1, self.targets.unsqueeze(1)).squeeze(1) / epochs
        if round_ == epochs:
            encoder, classifier = self._first
            self.encoder.load_state_dict(encoder)
            self.classifier.load_state_dict(classifier)
            self.choose(self._kept(), self.weights)
        return super().refresh(round_, texts)

    def _kept(self) -> np.ndarray:
        """Places of the most confident documents of each class, at least one of each."""
        kept = []
        for label in self.targets.unique():
            members = torch.nonzero(self.targets == label).squeeze(1)
            best = members[self.confidence[members].argsort(descending=True, stable=True)]
            kept.append(best[: max(1, round(self.options.keep * len(members)))])
        return np.sort(torch.cat(kept).cpu().numpy())
