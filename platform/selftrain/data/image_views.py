"""Weak and strong views of images, made anew in every step for a whole batch.

Weak (FixMatch section 2.3): flipped left to right with probability one half, and shifted by up to an eighth of the side (4 pixels of 32), the border reflected.
Strong: a weak view, then RandAugment in FixMatch's form (two operations of fourteen, each with a strength drawn uniformly from the range of FixMatch's
table 12), then Cutout: a grey square with half of the side.

Every choice is drawn from the generator that is given, and no operation looks at other images of the batch. Images are uint8 arrays or tensors
`[3, H, W]`; views are uint8 tensors of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import kornia.enhance as ke
import kornia.geometry.transform as kt
import numpy as np
import torch
import torch.nn.functional as F

OPERATIONS_OF_A_VIEW = 2
GREY = 0.5

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (images [n, 3, H, W] in [0, 1], strengths [n] in [0, 1]) -> images


def as_batch(images: Sequence[Any], device: torch.device | str = "cpu") -> torch.Tensor:
    """`[N, 3, H, W]` in uint8."""
    if isinstance(images[0], torch.Tensor):
        return torch.stack(list(images)).to(device)
    return torch.from_numpy(np.stack(list(images))).to(device)


def weak_views(images: Sequence[Any], rng: np.random.Generator, *, mirrored: bool = True, device: torch.device | str = "cpu") -> list[torch.Tensor]:
    """A weak view of each image.

    Args:
        images: at least one.
        rng: of every choice.
        mirrored: whether a flipped image keeps its class; false: it is shifted alone.
        device: where views are made, and stay.
    """
    return list(_weak(as_batch(images, device), rng, mirrored))


def strong_views(images: Sequence[Any], rng: np.random.Generator, *, mirrored: bool = True, device: torch.device | str = "cpu") -> list[torch.Tensor]:
    """A strong view of each image.

    Args:
        images: at least one.
        rng: of every choice.
        mirrored: whether a flipped image keeps its class.
        device: where views are made, and stay.
    """
    batch = _weak(as_batch(images, device), rng, mirrored).float() / 255.0
    batch = cutout(rand_augment(batch, rng), rng)
    return list((batch * 255.0).round().clamp(0, 255).to(torch.uint8))


def _weak(batch: torch.Tensor, rng: np.random.Generator, mirrored: bool) -> torch.Tensor:
    count, _, height, width = batch.shape
    flip = torch.from_numpy(rng.random(count) < 0.5).to(batch.device)
    if mirrored:
        batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
    down, right = height // 8, width // 8
    # Reflection has no uint8 kernel; whole numbers up to 255 are exact in float32.
    padded = F.pad(batch.float(), (right, right, down, down), mode="reflect").to(torch.uint8).permute(0, 2, 3, 1)
    top = torch.from_numpy(rng.integers(2 * down + 1, size=count)).to(batch.device)
    left = torch.from_numpy(rng.integers(2 * right + 1, size=count)).to(batch.device)
    rows = top[:, None, None] + torch.arange(height, device=batch.device)[None, :, None]
    columns = left[:, None, None] + torch.arange(width, device=batch.device)[None, None, :]
    return padded[torch.arange(count, device=batch.device)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()


def rand_augment(batch: torch.Tensor, rng: np.random.Generator, operations: int = OPERATIONS_OF_A_VIEW) -> torch.Tensor:
    """Each image after random operations of its own.

    Args:
        batch: `[N, 3, H, W]` in [0, 1].
        rng: of every choice.
        operations: how many an image goes through, one after the other.
    """
    for _ in range(operations):
        chosen = rng.integers(len(OPERATIONS), size=len(batch))
        strengths = torch.from_numpy(rng.random(len(batch))).to(batch)
        result = batch.clone()
        for number, operation in enumerate(OPERATIONS.values()):
            members = torch.from_numpy(np.flatnonzero(chosen == number)).to(batch.device)
            if len(members):
                result[members] = operation(batch[members], strengths[members]).clamp(0.0, 1.0)
        batch = result
    return batch


def cutout(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A grey square with half of the side around a random pixel of each image; what lies outside of the image is lost (DeVries & Taylor 2017)."""
    count, _, height, width = batch.shape
    reach = min(height, width) // 4
    row = torch.from_numpy(rng.integers(height, size=count)).to(batch.device)[:, None]
    column = torch.from_numpy(rng.integers(width, size=count)).to(batch.device)[:, None]
    rows, columns = torch.arange(height, device=batch.device), torch.arange(width, device=batch.device)
    inside = ((rows >= row - reach) & (rows < row + reach))[:, :, None] & ((columns >= column - reach) & (columns < column + reach))[:, None, :]
    return torch.where(inside[:, None], torch.full_like(batch, GREY), batch)


def _between(low: float, high: float, strengths: torch.Tensor) -> torch.Tensor:
    return low + (high - low) * strengths


def _autocontrast(batch: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to the whole range; one without contrast stays."""
    low, high = batch.amin(dim=(2, 3), keepdim=True), batch.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (batch - low) / (high - low).clamp_min(1e-6), batch)


def _blend(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operation:
    """An enhancement with a factor from 0.05 to 0.95, 1 being the image as it is."""
    return lambda batch, strengths: change(batch, _between(0.05, 0.95, strengths))


def _contrast(batch: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    return mean + factors[:, None, None, None] * (batch - mean)


def _shift(axis: int) -> Operation:
    def apply(batch: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
        shifts = torch.zeros(len(batch), 2, device=batch.device)
        shifts[:, axis] = _between(-0.3, 0.3, strengths) * batch.shape[3 - axis]
        return kt.translate(batch, shifts)

    return apply


def _shear(axis: int) -> Operation:
    def apply(batch: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
        shears = torch.zeros(len(batch), 2, device=batch.device)
        shears[:, axis] = _between(-0.3, 0.3, strengths)
        return kt.shear(batch, shears)

    return apply


OPERATIONS: dict[str, Operation] = {
    "identity": lambda batch, strengths: batch,
    "autocontrast": _autocontrast,
    "equalize": lambda batch, strengths: ke.equalize(batch),
    "brightness": _blend(lambda batch, factors: batch * factors[:, None, None, None]),
    "color": _blend(ke.adjust_saturation_with_gray_subtraction),
    "contrast": _blend(_contrast),
    "sharpness": _blend(ke.sharpness),
    "posterize": lambda batch, strengths: ke.posterize(batch, _between(4, 9, strengths).long().clamp(4, 8)),
    "solarize": lambda batch, strengths: torch.where(batch < strengths[:, None, None, None], batch, 1.0 - batch),
    "rotate": lambda batch, strengths: kt.rotate(batch, _between(-30.0, 30.0, strengths)),
    "shear_x": _shear(0),
    "shear_y": _shear(1),
    "translate_x": _shift(0),
    "translate_y": _shift(1),
}
