"""SSC on images (arXiv:2409.07292), written down in plain PyTorch for one data set: what `benchmarks/training.py` compares the library with.

Nothing of selftrain is imported. Images are one tensor that is indexed. There are no rounds to resume from, no reports and no options. The
order of random draws is the library's, so both sides take the same steps and end with the same losses, which the benchmark checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Views = Callable[[Tensor, np.random.Generator], Tensor]


def ssc(
    network: nn.Module, prototypes: Tensor, projection: nn.Module, pixels: Tensor, labels: Tensor, labeled: list[int], *,
    weak: Views, strong: Views, steps: Sequence[int], seed: int,
) -> list[float]:  # fmt: skip
    """SSC on images (arXiv:2409.07292); the loss of every step.

    Args:
        network: images to features `[N, D, H, W]`.
        prototypes: `[L, P]`.
        projection: the layers between the two.
        pixels: `[N, 3, H, W]` in uint8.
        labels: of all images; those of `labeled` alone are looked at.
        labeled: which images have one.
        weak, strong: views of a batch of images, `[N, 3, H, W]` to the same.
        steps: of each round.
        seed: of all draws.
    """
    unlabeled = np.setdiff1d(np.arange(len(pixels)), labeled)
    sample = pixels[:2000].double() / 255.0
    mean, deviation = sample.mean((0, 2, 3)).float().view(1, 3, 1, 1), sample.std((0, 2, 3), correction=0).clamp(min=1e-3).float().view(1, 3, 1, 1)
    prototypes = nn.Parameter(prototypes)
    trained = [*network.parameters(), prototypes, *projection.parameters()]
    groups = [{"params": [one for one in trained if one.dim() > 1]}, {"params": [one for one in trained if one.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.01)
    total, threshold, temperature, sharpness = sum(steps), 0.95, 0.1, 0.08
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / total))
    classes, losses = torch.arange(len(prototypes)), []
    network.train()
    for round_, count in enumerate(steps):
        for step in range(count):
            rng = np.random.default_rng([seed, round_, step])
            known = np.array(labeled)[rng.choice(len(labeled), size=32, replace=len(labeled) < 32)]
            others = unlabeled[rng.choice(len(unlabeled), size=96, replace=len(unlabeled) < 96)]
            read = torch.cat([weak(pixels[np.concatenate([known, others])], rng), *(strong(pixels[others], rng) for _ in range(2))])
            rows = ((read.float() / 255.0 - mean) / deviation).contiguous(memory_format=torch.channels_last)
            embeddings = network(rows).float().mean((2, 3))
            unit = F.normalize(prototypes, dim=1)
            first, weak_rows, *views = embeddings.split([32, 96, 96, 96])
            with torch.no_grad():
                confidence, pseudo = (F.normalize(projection(weak_rows), dim=1) @ unit.T / sharpness).softmax(1).max(1)
                sure = confidence >= threshold
                own = torch.where(sure, pseudo, len(prototypes) + torch.arange(96))
                quiet = torch.where(sure, 1.0, 0.2)
            placed = torch.cat([unit, F.normalize(projection(torch.cat([first, *views])), dim=1)])
            everyone = torch.cat([classes, labels[known], own, own])
            weights = torch.cat([torch.ones(len(prototypes) + 32), quiet, quiet])
            itself = torch.eye(len(placed), dtype=torch.bool)
            scores = (placed @ placed.T / temperature).masked_fill(itself, -torch.inf)
            positives = (everyone.unsqueeze(0) == everyone.unsqueeze(1)) & ~itself
            number = positives.sum(1)
            log_probability = scores - scores.logsumexp(1, keepdim=True)
            anchors = -torch.where(positives, log_probability, 0.0).sum(1) / number.clamp(min=1)
            shares = (number > 0) * weights
            loss = (anchors * shares).sum() / shares.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(float(loss.detach()))
    return losses
