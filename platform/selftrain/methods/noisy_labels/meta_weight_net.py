"""Meta-Weight-Net: a small network turns a text's loss into its weight, and a validation set teaches it.

Paper: Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting (Shu et al. 2019, arXiv:1902.07379); in SunGen's table 3.
A step takes a virtual step of the model with the present weights, improves the weight network by the validation loss there (bilevel.py; equations 3 and 4), and
then
takes the real step with the new weights.
Loss: weighted cross-entropy.
Needs: a label for every document, right or wrong; a head or a BiLSTM.
Differs: there is no clean validation set. As in SunGen's table 3, a held-out part of the same labels, right or wrong, stands for it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError
from selftrain.methods.bilevel import Net, meta_gradient, parameters_of
from selftrain.methods.noisy_labels.noisy import NoisyLabelOptions, NoisyLabels

_VALIDATION = 1_000_004  # stream of random numbers, apart from that of the batches


class MetaWeightNetOptions(NoisyLabelOptions):
    """Options of Meta-Weight-Net."""

    name: Literal["meta_weight_net"] = "meta_weight_net"
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of the labeled documents that teaches the weights and is not trained on")
    hidden: int = Field(100, ge=1, description="hidden units of the weight network (Shu et al.: 100)")
    weight_learning_rate: float = Field(1e-3, gt=0, description="Adam of the weight network (Shu et al.: 1e-3)")
    virtual_rate: float = Field(0.1, gt=0, description="alpha: rate of the virtual step (Shu et al.: that of their SGD, 0.1)")


class MetaWeightNet(NoisyLabels):
    """See the module's docstring."""

    paper = "Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting (Shu et al. 2019, arXiv:1902.07379); baseline of SunGen"
    summary = "a small network turns losses into weights, taught by a held-out part of the labels"
    stateful = (*NoisyLabels.stateful, "weight_net", "weight_optimizer")
    Options = MetaWeightNetOptions
    options: MetaWeightNetOptions

    @classmethod
    def check(cls, options: MetaWeightNetOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        count = len(corpus.granted)
        if not 0 < round(options.validation_share * count) < count:
            raise ConfigError(
                f"method.validation_share must leave labeled documents on both sides (got {options.validation_share:g} of {count} labeled documents).",
                parameter="method.validation_share",
            )

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.check_two_levels()
        count = len(self.texts)
        held = round(self.options.validation_share * count)
        order = np.random.default_rng([self.seed, _VALIDATION]).permutation(count)
        self.validation, training = order[:held], np.sort(order[held:])
        self.model = Net(self.encoder, self.classifier)
        hidden = self.options.hidden
        layers = torch.nn.Linear(1, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1), torch.nn.Sigmoid()
        self.weight_net = torch.nn.Sequential(*layers).to(self.encoder.device)
        self.weight_optimizer = torch.optim.Adam(self.weight_net.parameters(), lr=self.options.weight_learning_rate)
        self.choose(training, self.weights)

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        self._rng = np.random.default_rng([self.seed, _VALIDATION, round_])
        trained = self.weights[torch.from_numpy(self.chosen)]
        return super().refresh(round_, texts) | {"validation": float(len(self.validation)), "weight_mean": float(trained.mean())}

    def losses(self, batch: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        self._improve_weights(batch, logits.detach())
        losses = F.cross_entropy(logits, self.targets[batch], reduction="none")
        with torch.no_grad():
            weights = self.weight_net(losses.detach().unsqueeze(1)).squeeze(1)
            self.weights[batch] = weights
        return {"ce": (weights * losses).sum() / weights.sum()}

    def _improve_weights(self, batch: torch.Tensor, logits: torch.Tensor) -> None:
        """One step of the weight network on a batch of the validation documents (equations 3 and 4)."""
        size = min(len(self.validation), self.options.batch_size)
        places = torch.from_numpy(self._rng.choice(self.validation, size=size, replace=False)).to(batch.device)
        targets = self.targets[places]
        weights = self.weight_net(F.cross_entropy(logits, self.targets[batch], reduction="none").unsqueeze(1)).squeeze(1)
        gradient = meta_gradient(
            self.model,
            parameters_of(self.model),
            self.encoder.inputs(self.texts_of(batch)),
            self.targets[batch],
            weights,
            lambda found: F.cross_entropy(found, targets),
            self.encoder.inputs(self.texts_of(places)),
            self.options.virtual_rate,
        )
        self.weight_optimizer.zero_grad(set_to_none=True)
        weights.backward(gradient)
        self.weight_optimizer.step()
