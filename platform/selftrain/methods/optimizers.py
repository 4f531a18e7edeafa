"""How a classifier's weights are moved: AdamW, or SGD with momentum; the course of the rate; which weights decay; the moving average of the weights.

decoupled (adamw)   w <- w - rate * (step of Adam + decay * w): with a constant rate MixMatch's form, which multiplies by 1 - decay * rate
coupled (sgd)       the gradient gets decay * w before momentum: the form of FixMatch, SSC and SEAL, whose decays mean nothing in the other one
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field

from selftrain.methods.base import Options
from selftrain.models.encoder import Encoder

SGD_RATE = 0.03  # of FixMatch and SSC


class OptimizerOptions(Options):
    """Options of a method whose optimiser can be chosen."""

    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw, also for Adam (weight_decay: 0); sgd: with momentum, the decay in the gradient"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="default: 1e-2 for a head, 5e-5 for a full encoder, 2e-3 for images; 0.03 for sgd (FixMatch and SSC)"
    )
    weight_decay: float = Field(
        0.01, ge=0, description="adamw: times the rate, taken off the weights in every step; sgd: times the weights, added to the gradient"
    )
    decayed: Literal["weights", "all"] | None = Field(
        None, description="weights: not biases and normalisation (all that is a vector); default: weights for images, all for texts"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(True, description="Nesterov's momentum, for sgd (FixMatch and SSC: true; SEAL's classifier: false)")
    schedule: Literal["linear", "cosine", "steps", "constant"] = Field(
        "linear",
        description="of the rate: linear to 0; cosine: cos(7 pi t / 16) (FixMatch, SSC); steps: times drop at every milestone; constant (MixMatch)",
    )
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5, 0.75), description="shares of the steps after which the rate drops, for steps (NS3L: 0.65)"
    )
    drop: float = Field(0.1, gt=0, le=1, description="factor of the rate at every milestone, for steps (NS3L: 0.2)")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which is evaluated and served (FixMatch, SSC, MixMatch: 0.999); 0: the last weights are",
    )


def start(
    options: OptimizerOptions, parameters: Iterable[torch.nn.Parameter], rate: float, steps: int, *, decayed: str, fused: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """A new optimiser, and what changes its rate after every step.

    Args:
        options: which one, its decay and momentum, and the course of the rate.
        parameters: what is trained.
        rate: of the first step.
        steps: of the training.
        decayed: `all`, or `weights`: what has at least two dimensions, so neither biases nor the factors of normalisation.
        fused: AdamW in one pass over all parameters.
    """
    groups: list[dict[str, object]] = [{"params": list(parameters)}]
    if decayed == "weights":
        everything = groups[0]["params"]
        assert isinstance(everything, list)
        groups = [
            {"params": [one for one in everything if one.dim() > 1]},
            {"params": [one for one in everything if one.dim() <= 1], "weight_decay": 0.0},
        ]
    optimizer: torch.optim.Optimizer
    if options.optimizer == "sgd":
        nesterov = options.nesterov and options.momentum > 0  # without momentum there is nothing to look ahead with
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=options.momentum, nesterov=nesterov, weight_decay=options.weight_decay)
    else:
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=options.weight_decay, fused=fused)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(options, step, steps))


def rate_factor(options: OptimizerOptions, step: int, steps: int) -> float:
    """The rate in a step, counted from 0, as a share of the first one's."""
    if options.schedule == "linear":
        return max(0.0, 1.0 - step / steps)
    if options.schedule == "cosine":
        return math.cos(7.0 * math.pi * step / (16.0 * steps))
    if options.schedule == "steps":
        return options.drop ** sum(step >= round(share * steps) for share in options.milestones)
    return 1.0


class MovingAverage(torch.nn.Module):
    """An encoder and a classifier whose weights follow those of others: average <- decay * average + (1 - decay) * latest.

    Args:
        encoder: is copied; embeddings that it caches are shared.
        classifier: is copied.
        decay: of the average.
    """

    def __init__(self, encoder: Encoder, classifier: torch.nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.encoder = copy.deepcopy(encoder)
        self.classifier = copy.deepcopy(classifier)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, encoder: Encoder, classifier: torch.nn.Module) -> None:
        """Take a step towards their weights; running statistics are averages already, so they are taken over."""
        for average, latest in zip(self.parameters(), [*encoder.parameters(), *classifier.parameters()], strict=True):
            average.lerp_(latest, 1.0 - self.decay)
        for kept, current in zip(self.buffers(), [*encoder.buffers(), *classifier.buffers()], strict=True):
            kept.copy_(current)
