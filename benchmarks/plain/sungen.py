"""SunGen (arXiv:2205.12679, algorithm 1) with a BiLSTM, written down in plain PyTorch for one data set: what `benchmarks/training.py` compares the library with.

Nothing of selftrain is imported. Word ids are one tensor that is indexed. There are no rounds to resume from, no reports and no options. The
order of random draws is the library's, so both sides take the same steps and end with the same losses, which the benchmark checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

State = dict[str, Tensor]
SIZE, RATE = 32, 1e-3  # of inner and last training


class BiLSTM(nn.Module):
    """Word ids `[N, T]` to logits: the mean over the states of a bidirectional LSTM, and a linear layer."""

    def __init__(self, words: int, dimensions: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(words, dimensions), nn.LSTM(dimensions, hidden, bidirectional=True, batch_first=True)
        self.classifier = nn.Linear(2 * hidden, classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits."""
        lengths, order = (rows != 0).sum(1).sort(descending=True, stable=True)
        steps = torch.arange(int(lengths[0])).unsqueeze(1)
        there = steps < lengths.unsqueeze(0)
        packed = nn.utils.rnn.PackedSequence(self.words(rows[order, : len(steps)].T[there]), there.sum(1))
        states = self.lstm(packed)[0].data
        total = torch.zeros(len(rows), states.shape[1]).index_add(0, order.expand_as(there)[there], states)
        return self.classifier(total / (rows != 0).sum(1, keepdim=True))


def by_length(places: np.ndarray, size: int, rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """An epoch in batches of like length, as SunGen's code has it (of at most a hundred batches)."""
    order = rng.permutation(places)
    order = order[np.argsort(-lengths[order], kind="stable")]
    whole = len(order) // size * size
    return np.concatenate([rng.permutation(order[:whole].reshape(-1, size)).reshape(-1), order[whole:]])


def epoch(
    model: BiLSTM, rows: Tensor, labels: Tensor, weights: Tensor, order: np.ndarray, optimizer: torch.optim.Optimizer, schedule: Any = None
) -> list[float]:
    """A pass of weighted cross-entropy; the loss of every step."""
    losses = []
    for batch in torch.from_numpy(order).split(SIZE):
        loss = (weights[batch] * F.cross_entropy(model(rows[batch]), labels[batch], reduction="none")).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if schedule is not None:
            schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def robust(logits: Tensor, labels: Tensor) -> Tensor:
    """Reverse cross-entropy, the outer loss."""
    return 10.0 * (logits.softmax(1) * (F.one_hot(labels, logits.shape[1]) == 0)).sum(1).mean()


def slope(model: BiLSTM, at: State, loss: Callable[[Tensor], Tensor], rows: Tensor) -> State:
    """Gradient of `loss(logits)` in the weights `at`."""
    free = {name: value.detach().requires_grad_() for name, value in at.items()}
    return dict(zip(free, torch.autograd.grad(loss(functional_call(model, free, (rows,))), list(free.values())), strict=True))


def meta_gradient(model: BiLSTM, at: State, rows: Tensor, labels: Tensor, weights: Tensor, subset: Tensor) -> Tensor:
    """Equation 11: of the outer loss on `subset` in the weights of all texts, `[N]`."""
    total = weights.sum()
    step = slope(model, at, lambda found: (weights * F.cross_entropy(found, labels, reduction="none")).sum() / total, rows)
    ahead = {name: value - RATE * step[name] for name, value in at.items()}
    direction = slope(model, ahead, lambda found: robust(found, labels[subset]), rows[subset])
    # oneDNN's recurrent nets have no derivative in forward mode.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False, allow_tf32=None, fp32_precision=None), forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value, direction[name]) for name, value in at.items()}
        each = -functional_call(model, dual, (rows,)).log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
        return -RATE / total * forward_ad.unpack_dual(each).tangent


def sungen(model: BiLSTM, rows: Tensor, labels: Tensor, *, iterations: int, epochs: int, seed: int) -> list[float]:
    """SunGen, then weighted training on all texts; the loss of every step of the latter.

    Args:
        model: with its first weights.
        rows: word ids, `[N, T]`.
        labels: right or wrong, `[N]`.
        iterations: of the outer level, each after an inner epoch.
        epochs: of the training that follows.
        seed: of all draws.
    """
    count, lengths, members = len(rows), (rows != 0).sum(1).numpy(), F.one_hot(labels).float()
    first = {name: value.detach().clone() for name, value in model.named_parameters()}
    subset = torch.from_numpy(np.random.default_rng([seed, 1_000_002]).permutation(count))
    theta = torch.zeros(count, requires_grad=True)
    outer = torch.optim.Adam([theta], lr=0.25)

    def relative() -> Tensor:
        weights = theta.sigmoid()
        return weights / (weights @ members / members.sum(0))[labels]

    for iteration in range(iterations):
        weights = relative()
        model.load_state_dict(first)
        order = by_length(np.arange(count), SIZE, np.random.default_rng([seed, 1_000_003, iteration]), lengths)
        epoch(model, rows, labels, weights.detach(), order, torch.optim.Adam(model.parameters(), lr=RATE, fused=True))
        at = {name: value.detach() for name, value in model.named_parameters()}
        with torch.no_grad():
            robust(model(rows[subset]), labels[subset])  # the outer loss, which is reported
        gradient = meta_gradient(model, at, rows, labels, weights.detach(), subset)
        outer.zero_grad(set_to_none=True)
        weights.backward(gradient * (math.sqrt(count) / gradient.norm()))
        outer.step()
    model.load_state_dict(first)
    steps = epochs * -(-count // SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / steps))
    losses = []
    for number in range(epochs):
        order = by_length(np.arange(count), SIZE, np.random.default_rng([seed, number]), lengths)
        losses += epoch(model, rows, labels, relative().detach(), order, optimizer, schedule)
    return losses
