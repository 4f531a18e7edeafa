"""SEAL (ICML 2024, algorithm 1) on frozen embeddings, written down in plain PyTorch for one data set: what `benchmarks/training.py` compares the library with.

Nothing of selftrain is imported. Embeddings are one tensor that is indexed. There are no rounds to resume from, no reports and no options. The
order of random draws is the library's, so both sides take the same steps and end with the same losses, which the benchmark checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


def head(parameters: State, rows: Tensor) -> Tensor:
    """Logits of a residual layer and a linear classifier on embeddings."""
    found = torch.tanh(F.linear(rows, parameters["w"], parameters["b"])) + rows
    return F.linear(F.normalize(found, dim=-1), parameters["v"], parameters["c"])


def objective(layers: Sequence[Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    """h of SEAL's equation 3."""
    found = torch.stack([logits.softmax(1), targets], dim=2)
    for layer in layers[:-1]:
        found = F.linear(found, layer)
        found = 0.01 * found + 0.99 * F.softplus(found, beta=10.0)
    return F.softplus(F.linear(found, layers[-1])).sum((1, 2)).mean()


def descended(loss: Tensor, parameters: State, rate: float, *, differentiable: bool) -> State:
    """One step of SGD, as a function of what `loss` depends on."""
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=differentiable)
    return {name: value - rate * gradient for (name, value), gradient in zip(parameters.items(), gradients, strict=True)}


class Objective:
    """h, and Adam on it."""

    def __init__(self, layers: Sequence[Tensor]) -> None:
        self.layers = [nn.Parameter(layer) for layer in layers]
        self.adam = torch.optim.Adam(self.layers, lr=1e-3)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Equation 4."""
        return objective(self.layers, logits, F.one_hot(labels, logits.shape[1]).float())

    def learn(self, loss: Tensor, adam: torch.optim.Optimizer) -> None:
        """A step that lowers `loss`."""
        for layer, gradient in zip(self.layers, torch.autograd.grad(loss, self.layers), strict=True):
            layer.grad = gradient
        adam.step()
        adam.zero_grad(set_to_none=True)


def warm_up(h: Objective, rows: Tensor, labels: Tensor, classes: int, *, steps: int, size: int, seed: int) -> None:
    """h learns to train generators that are new in every step."""
    rng, adam, width = np.random.default_rng([seed, 2**32]), torch.optim.Adam(h.layers, lr=1e-3), rows.shape[1]
    for _ in range(steps):
        drawn = torch.from_numpy(rng.choice(len(rows), size=2 * size, replace=len(rows) < 2 * size))
        found, known = rows[drawn], labels[drawn]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            new = nn.Linear(width, classes)
        fresh = {"w": torch.zeros(width, width), "b": torch.zeros(width), "v": new.weight.detach(), "c": new.bias.detach()}
        fresh = {name: value.requires_grad_() for name, value in fresh.items()}
        trained = descended(h(head(fresh, found[:size]), known[:size]), fresh, 10.0, differentiable=True)
        h.learn(F.cross_entropy(head(trained, found[size:]), known[size:]), adam)


def seal(
    f: State,
    g: State,
    layers: Sequence[Tensor],
    rows: Tensor,
    labels: Tensor,
    task: Callable[[Tensor, Tensor], Tensor],
    *,
    rounds: int,
    steps: int,
    warm_up_steps: int,
    seed: int,
) -> list[float]:
    """SEAL; the loss of f in every step.

    Args:
        f: the classifier's weights: `w`, `b`, `v`, `c` of `head`.
        g: the generator's.
        layers: h's.
        rows: embeddings, `[N, D]`.
        labels: `[N]`.
        task: logits and labels to equation 14.
        rounds, steps: so many steps together, numbered by round.
        warm_up_steps: of h, before the first.
        seed: of all draws.
    """
    size, total = 32, rounds * steps
    f = {name: nn.Parameter(value) for name, value in f.items()}
    g = {name: value.clone().requires_grad_() for name, value in g.items()}
    h = Objective(layers)
    optimizer = torch.optim.AdamW(f.values(), lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / total))
    warm_up(h, rows, labels, len(f["v"]), steps=warm_up_steps, size=size, seed=seed)
    losses = []
    for number in range(total):
        rng = np.random.default_rng([seed, number // steps, number % steps])
        drawn = torch.from_numpy(rng.choice(len(rows), size=size, replace=len(rows) < size))
        found, known = rows[drawn], labels[drawn]
        logits = head(f, found)
        stepped = descended(h(head(g, found), known), g, 10.0, differentiable=True)
        copied = {name: value.detach().clone().requires_grad_() for name, value in f.items()}
        one, two = head(copied, found).log_softmax(1), head(stepped, found).log_softmax(1)
        copied = descended(((one.exp() - two.exp()) * (one - two)).sum(1).mean(), copied, 10.0, differentiable=True)
        h.learn(task(head(copied, found), known), h.adam)
        stepped = descended(h(head(g, found), known), g, 10.0, differentiable=False)
        g = {name: value.detach().requires_grad_() for name, value in stepped.items()}
        with torch.no_grad():
            soft = head(g, found).softmax(1)
        loss = F.cross_entropy(logits, known) + min(1.0, number / total / 0.25) * -(soft * logits.log_softmax(1)).sum(1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(float(loss.detach()))
    return losses
