"""Co-teaching: two networks, each trained on the texts of a batch whose loss is small to the other.

Paper: Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels (Han et al. 2018, arXiv:1804.06872); in SunGen's table 3.
Networks learn right labels before wrong ones, so a small loss is a sign of a right one; since the other network chooses, a network's own errors do not grow.
Loss: cross-entropy on the share R(T) of a batch (algorithm 1).
Needs: a label for every document, right or wrong.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.noisy_labels.noisy import NoisyLabelOptions, NoisyLabels
from selftrain.models.encoder import Encoder


class CoTeachingOptions(NoisyLabelOptions):
    """Options of co-teaching."""

    name: Literal["co_teaching"] = "co_teaching"
    noise_rate: float = Field(0.2, ge=0, lt=1, description="tau: share of a batch that is left out in the end; the (supposed) share of wrong labels")
    ramp_epochs: int = Field(2, ge=1, description="T_k: epochs in which that share rises from 0 (Han et al.: 10 of 200)")

    @property
    def settled_rounds(self) -> int:
        """Those in which too few examples are left out."""
        return self.ramp_epochs


class CoTeaching(NoisyLabels):
    """See the module's docstring. The first is what is evaluated and served.

    Each starts from weights of its own: all of them where the encoder's are drawn at random, else those of the classifier behind the pre-trained encoder.
    """

    paper = "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels (Han et al. 2018, arXiv:1804.06872); baseline of SunGen"
    summary = "two networks, each trained on what has a small loss to the other"
    stateful = (*NoisyLabels.stateful, "peer_encoder", "peer_classifier")
    Options = CoTeachingOptions
    options: CoTeachingOptions

    def __init__(self, **common: Any) -> None:
        self.peer_encoder: Encoder | None = None
        super().__init__(**common)
        self.peer_encoder = copy.deepcopy(self.encoder)
        if self.encoder.drawn:
            self.peer_encoder.load_state_dict(self.encoder.fresh(), strict=False)  # running statistics are as they are
        self.peer_classifier = self.make_classifier()
        self.choose(self.chosen, self.weights)  # once more: the optimiser trains both

    def parameters(self) -> list[torch.nn.Parameter]:
        own = super().parameters()
        return own if self.peer_encoder is None else [*own, *self.peer_encoder.parameters(), *self.peer_classifier.parameters()]

    def kept(self, count: int, round_: int) -> int:
        """Texts of a batch of `count` that are learned from: R(T) of algorithm 1."""
        left_out = self.options.noise_rate * min(1.0, round_ / self.options.ramp_epochs)
        return max(1, round((1.0 - left_out) * count))

    def step(self, round_: int, step: int) -> dict[str, float]:
        assert self.peer_encoder is not None
        self.peer_encoder.train()
        batch = self.batch(round_, step)
        texts, targets = self.texts_of(batch), self.targets[batch]
        other = self.embed(texts, self.peer_encoder)
        first = F.cross_entropy(self.classifier(self.embed(texts)), targets, reduction="none")
        second = F.cross_entropy(self.peer_classifier(other), targets, reduction="none")
        count = self.kept(len(texts), round_)
        losses = {
            "ce": first[second.detach().argsort(stable=True)[:count]].mean(),
            "ce_peer": second[first.detach().argsort(stable=True)[:count]].mean(),
        }
        value = self.backward(losses["ce"] + losses["ce_peer"])
        self.update()
        return {name: float(part.detach()) for name, part in losses.items()} | {"loss": value}
