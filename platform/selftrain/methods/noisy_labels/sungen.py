"""SunGen: a weight for every generated text, learned with no clean label at hand.

Paper: Self-Guided Noise-Free Data Generation for Efficient Zero-Shot Learning (Gao et al. 2023, arXiv:2205.12679).

    for t in 1..T:  theta(w)  <- weighted cross-entropy from the same first weights        (inner level)
                    w         <- Adam on the robust loss at theta(w), on the same noisy texts  (outer level, algorithm 1)
    then:           plain training on a subset that is drawn by w, or weighted training on all

A bounded outer loss (`reverse_cross_entropy`) has its minimum where a clean one would have it, as long as most labels are right (section 4). The gradient in w
goes
through one virtual step (equation 11, bilevel.py). The model of both levels is the one that is trained in the end.
Needs: a label for every text, right or wrong; a head on frozen embeddings or a BiLSTM.
Differs: `balance` keeps a class from losing its weight, which is not in the paper; inclusion probabilities above one are cut and the rest is rescaled. The
released
code takes the outer gradient before the virtual step: `virtual_step: false`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.methods.bilevel import Net, Parameters, called, logits_of, meta_gradient, parameters_of
from selftrain.methods.losses import reverse_cross_entropy
from selftrain.methods.noisy_labels.noisy import NoisyLabelOptions, NoisyLabels, check_budget, epoch_order


def mean_absolute_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """MAE of Ghosh et al. 2017 (arXiv:1712.09482), SunGen's table 7: sum_k |p_k - q(k)| with a one-hot q, which is 2 (1 - p_y); the mean over the batch.

    It is `reverse_cross_entropy` but for a factor.

    Args:
        logits: `[N, L]`, with gradient.
        labels: `[N]`, class indices.
    """
    return (torch.softmax(logits, dim=1) - F.one_hot(labels, logits.shape[1])).abs().sum(dim=1).mean()


OUTER_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "rce": reverse_cross_entropy,
    "ce": F.cross_entropy,
    "mae": mean_absolute_error,
}


class SunGenOptions(NoisyLabelOptions):
    """Options of SunGen."""

    name: Literal["sungen"] = "sungen"
    outer: Literal["rce", "ce", "mae"] = Field("rce", description="outer loss (table 7; rce and mae are the same but for a factor)")
    outer_iterations: int = Field(50, ge=1, description="T of algorithm 1 (paper: 50; released: 100)")
    outer_samples: int = Field(50_000, ge=1, description="texts of the outer loss, a random subset of the training texts drawn once (paper: 50,000)")
    outer_learning_rate: float = Field(0.25, gt=0, description="Adam on the logits of the weights (paper: 0.25, 0.1 or 0.01 by the outer loss)")
    inner_epochs: int = Field(1, ge=1, description="passes of the inner training (paper: 1)")
    inner_batch_size: int = Field(32, ge=1)
    inner_learning_rate: float = Field(
        1e-3,
        gt=0,
        description="Adam of the inner training, and the rate of the virtual step (paper: 1e-3 for 6,250 steps an epoch; too low for a few hundred)",
    )
    virtual_step: bool = Field(True, description="the outer gradient is taken after the virtual step (equation 11); false: before it, as released")
    balance: bool = Field(True, description="weights are relative to the mean of their class, so that no class can lose its weight (paper: false)")
    budget: int | None = Field(
        None, ge=2, description="D: expected size of the clean subset that is drawn and trained on without weights; default: all texts, weighted"
    )


@dataclass(frozen=True)
class Learned:
    """Sample weights, and the outer losses on the way to them."""

    weights: torch.Tensor  # sigmoid of the logits, [N], from 0 to 1
    outer: list[float]  # the outer loss at theta(w) of every iteration


_LEARNED: dict[bytes, Learned] = {}  # by a hash of what they follow from
_AFTERWARDS = {*NoisyLabelOptions.model_fields, "budget"}  # options of what is done with the weights


class SunGen(NoisyLabels):
    """See the module's docstring. The weights are learned before the first round, which is the first epoch of the final training."""

    paper = "Self-Guided Noise-Free Data Generation for Efficient Zero-Shot Learning (Gao et al. 2023, arXiv:2205.12679)"
    summary = "weights of generated texts, learned by a robust outer loss on the same texts; then training by weight, or on a clean subset"
    Options = SunGenOptions
    options: SunGenOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.check_two_levels()

    @classmethod
    def check(cls, options: SunGenOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        check_budget(options.budget, corpus)

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        figures: dict[str, float] = {}
        if round_ == 0:
            learned = self.learned()
            figures = weight_figures(learned, self.targets)
            relative = relative_weights(learned.weights, self.targets, balance=self.options.balance)
            if self.options.budget is None:
                self.choose(np.arange(len(self.texts)), relative)
            else:
                inclusion = inclusion_probabilities(relative.double(), self.options.budget).cpu().numpy()
                drawn = np.flatnonzero(np.random.default_rng([self.seed, _SUBSET]).random(len(inclusion)) < inclusion)
                # Where the budget is tiny a draw may be empty; the likeliest text is then the subset.
                self.choose(drawn if len(drawn) else inclusion.argsort()[-1:], torch.ones(len(self.texts)))
        return super().refresh(round_, texts) | figures

    def learned(self) -> Learned:
        """The weights from the model as it is, or those of an earlier call of this process where everything that they depend on is the same.

        The rows of table 4 differ in what the final training does with the weights, so they learn them once.
        """
        model, rows = Net(self.encoder, self.classifier), self.encoder.inputs(self.texts)
        digest = hashlib.sha256(self.options.model_dump_json(exclude=_AFTERWARDS).encode() + str(self.seed).encode())
        for tensor in (rows, self.targets, *parameters_of(model).values()):
            digest.update(tensor.cpu().numpy().tobytes())
        key = digest.digest()
        if key not in _LEARNED:
            _LEARNED[key] = learn_weights(model, rows, self.targets, self.options, seed=self.seed, lengths=self.lengths)
        return _LEARNED[key]


def weight_figures(learned: Learned, targets: torch.Tensor) -> dict[str, float]:
    """What a round reports about weights of texts with these labels, `[N]`."""
    means = [float(learned.weights[targets == label].mean()) for label in targets.unique()]
    return {
        "outer_first": learned.outer[0],
        "outer_last": learned.outer[-1],
        "weight_mean": float(learned.weights.mean()),
        "weight_below_half": float((learned.weights < 0.5).float().mean()),
        "class_weight_min": min(means),
        "class_weight_max": max(means),
    }


_SUBSET, _OUTER, _INNER = 1_000_001, 1_000_002, 1_000_003  # streams of random numbers, apart from those of the epochs


def learn_weights(
    model: torch.nn.Module, rows: torch.Tensor, targets: torch.Tensor, options: SunGenOptions, *, seed: int, lengths: np.ndarray | None = None
) -> Learned:
    """SunGen's algorithm 1: the weights of all samples.

    Args:
        model: rows to logits; its parameters are where every inner training starts, and stay as they are.
        rows: inputs of all samples, `[N, ...]`.
        targets: their labels, right or wrong, `[N]`.
        options: see `SunGenOptions`.
        seed: of the outer subset and of the order of the inner batches.
        lengths: of all samples, `[N]`, where batches hold samples of like length.
    """
    first = parameters_of(model)
    count = len(rows)
    subset = torch.from_numpy(np.random.default_rng([seed, _OUTER]).permutation(count)[: options.outer_samples]).to(rows.device)
    outer_rows, outer_targets = rows[subset], targets[subset]

    def outer(logits: torch.Tensor) -> torch.Tensor:
        return OUTER_LOSSES[options.outer](logits, outer_targets)

    theta = torch.zeros(count, device=rows.device, requires_grad=True)  # logits: every weight starts at 1/2
    optimizer = torch.optim.Adam([theta], lr=options.outer_learning_rate)
    history = []
    for iteration in range(options.outer_iterations):
        weights = relative_weights(torch.sigmoid(theta), targets, balance=options.balance)
        rng = np.random.default_rng([seed, _INNER, iteration])
        at = _train_inner(model, first, rows, targets, weights.detach(), options, rng, lengths)
        history.append(float(outer(logits_of(model, at, outer_rows))))
        rate, virtual = options.inner_learning_rate, options.virtual_step
        gradient = meta_gradient(model, at, rows, targets, weights, outer, outer_rows, rate, virtual=virtual)
        # Adam divides by the gradient's size, and one sample's among N is near Adam's epsilon: the length is set to that of N ones, the direction is kept.
        gradient = gradient * (count**0.5 / gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny))
        optimizer.zero_grad(set_to_none=True)
        weights.backward(gradient)
        optimizer.step()
    return Learned(torch.sigmoid(theta.detach()), history)


def relative_weights(weights: torch.Tensor, targets: torch.Tensor, *, balance: bool) -> torch.Tensor:
    """Weights over their mean, `[N]`: the mean of all of them, or with `balance` of those of the same class, so that every class keeps its share.

    Without it the outer loss can be lowered by giving up a class (a known failure of the released code): the gradient of a balanced weight has no part that is
    common to its class.

    Args:
        weights: above zero, `[N]`; a gradient passes through.
        targets: `[N]`.
        balance: by class.
    """
    if not balance:
        return weights / weights.mean()
    members = F.one_hot(targets).to(weights)
    means = weights @ members / members.sum(dim=0).clamp(min=1)
    return weights / means[targets]


def inclusion_probabilities(weights: torch.Tensor, budget: int) -> torch.Tensor:
    """w' of SunGen's section 3.1: proportional to the weights, with sum `budget`, for the Bernoulli draw of the clean subset.

    The paper's w' may exceed one, where the draw would fall short of D; here what exceeds one is one, and the others share the rest in proportion.

    Args:
        weights: above zero, `[N]`.
        budget: D, at most N.
    """
    descending, order = weights.sort(descending=True)
    remaining = descending.flip(0).cumsum(0).flip(0)  # sum of this weight and all smaller ones
    sure = torch.arange(len(weights), device=weights.device)
    # With k samples certain, the others are scaled by (D - k) / their sum; the smallest k for which none of these exceeds one.
    fits = (budget - sure) * descending <= remaining
    k = int(fits.to(torch.int8).argmax())
    scaled = torch.ones_like(weights)
    scaled[k:] = (descending[k:] * ((budget - k) / remaining[k])).clamp(max=1.0)
    found = torch.empty_like(weights)
    found[order] = scaled
    return found


def _train_inner(
    model: torch.nn.Module,
    first: Parameters,
    rows: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    options: SunGenOptions,
    rng: np.random.Generator,
    lengths: np.ndarray | None,
) -> Parameters:
    """theta(w): Adam on the weighted cross-entropy, from `first`."""
    found = {name: value.clone().requires_grad_(True) for name, value in first.items()}
    optimizer = torch.optim.Adam(found.values(), lr=options.inner_learning_rate, fused=True)
    for _ in range(options.inner_epochs):
        order = epoch_order(np.arange(len(rows)), options.inner_batch_size, rng, lengths)
        for batch in torch.from_numpy(order).to(rows.device).split(options.inner_batch_size):
            losses = F.cross_entropy(called(model, found, rows[batch]), targets[batch], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            (weights[batch] * losses).mean().backward()
            optimizer.step()
    return {name: value.detach() for name, value in found.items()}
