"""Rows of two classes of which some labels are wrong, and which ones."""

from __future__ import annotations

import torch


def flipped(share: float, count: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two overlapping clouds of which a share of the labels is wrong: rows, given labels, which are right."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % 2
    rows = torch.randn(count, 8, generator=generator)
    rows[:, 0] += 4.0 * truth - 2.0
    wrong = torch.rand(count, generator=generator) < share
    return rows, torch.where(wrong, 1 - truth, truth), ~wrong
