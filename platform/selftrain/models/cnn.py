"""Encoders of images: small convolutional networks, trained from weights that the seed draws.

    small-cnn              three convolutions, 0.1 million parameters: minutes on two CPU cores
    wrn-28-2, wrn-28-8     wide residual networks (Zagoruyko & Komodakis 2016) as in Oliver et al. 2018: NS3L, SSC and FixMatch
    resnet-20, -32, -44    for 32 x 32 pixels (He et al. 2016, section 4.2): SEAL
    resnet-18              with a first layer for small images: SEAL on Tiny ImageNet

All end in the mean over the picture, so any size of at least 8 x 8 pixels fits. They normalise over the batch while training: an embedding then depends on the other
images of its pass, and the running means that evaluation uses follow the passes of training (`Encoder.fixed_statistics` stops them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from selftrain.models.encoder import Encoder

_MEASURED = 2000  # images whose channels give mean and standard deviation


def _convolution(width_in: int, width_out: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    found = nn.Conv2d(width_in, width_out, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(found.weight, mode="fan_out", nonlinearity="relu")
    return found


class SmallCNN(nn.Sequential):
    """Convolutions of 32, 64 and 128 channels, each normalised and rectified; the first and the last step over every other pixel, the second is pooled."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 32, 2), (32, 64, 1), (64, 128, 2)):
            layers += [_convolution(before, after, stride), nn.BatchNorm2d(after), nn.ReLU()]
        layers.insert(6, nn.MaxPool2d(2))
        super().__init__(*layers)
        self.dimensions = 128


class WideBlock(nn.Module):
    """Two convolutions after their normalisations; where the width changes, the shortcut starts behind the first activation."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(before), nn.BatchNorm2d(after)])
        self.convolutions = nn.ModuleList([_convolution(before, after, stride), _convolution(after, after)])
        self.shortcut = _convolution(before, after, stride, size=1) if before != after else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:  # noqa: D102
        active = F.leaky_relu(self.norms[0](rows), 0.1)
        found = self.convolutions[1](F.leaky_relu(self.norms[1](self.convolutions[0](active)), 0.1))
        summed: torch.Tensor = found + (rows if self.shortcut is None else self.shortcut(active))
        return summed


class WideResNet(nn.Sequential):
    """WRN-28-k: a first convolution and three groups of four blocks, 16k, 32k and 64k channels wide."""

    def __init__(self, widen: int) -> None:
        layers: list[nn.Module] = [_convolution(3, 16)]
        before = 16
        for group, after in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for block in range(4):
                layers.append(WideBlock(before, after, 2 if group and not block else 1))
                before = after
        super().__init__(*layers, nn.BatchNorm2d(before), nn.LeakyReLU(0.1))
        self.dimensions = before


class BasicBlock(nn.Module):
    """Two normalised convolutions and a shortcut: without parameters (every other pixel, new channels zero) or projected."""

    def __init__(self, before: int, after: int, stride: int, *, projected: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(before, after, stride), nn.BatchNorm2d(after), nn.ReLU(), _convolution(after, after), nn.BatchNorm2d(after)
        )
        self.stride, self.added = stride, after - before
        changed = stride > 1 or before != after
        self.shortcut = nn.Sequential(_convolution(before, after, stride, size=1), nn.BatchNorm2d(after)) if projected and changed else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:  # noqa: D102
        thinner = rows[:, :, :: self.stride, :: self.stride]
        kept = self.shortcut(rows) if self.shortcut is not None else F.pad(thinner, (0, 0, 0, 0, 0, self.added))
        return torch.relu(self.body(rows) + kept)


class ResNet(nn.Sequential):
    """Groups of `blocks` basic blocks; every group after the first halves the side."""

    def __init__(self, widths: Sequence[int], blocks: int, *, projected: bool) -> None:
        layers: list[nn.Module] = [_convolution(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        before = widths[0]
        for group, after in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(before, after, 2 if group and not block else 1, projected=projected))
                before = after
        super().__init__(*layers)
        self.dimensions = before


NETWORKS: dict[str, Callable[[], Any]] = {
    "small-cnn": SmallCNN,
    "wrn-28-2": lambda: WideResNet(2),
    "wrn-28-8": lambda: WideResNet(8),
    "resnet-20": lambda: ResNet((16, 32, 64), 3, projected=False),
    "resnet-32": lambda: ResNet((16, 32, 64), 5, projected=False),
    "resnet-44": lambda: ResNet((16, 32, 64), 7, projected=False),
    "resnet-18": lambda: ResNet((64, 128, 256, 512), 2, projected=True),
}


class ImageEncoder(Encoder):
    """f(x) of images: uint8 `[3, H, W]` in, embeddings out; all weights are trained.

    Args:
        name: one of `NETWORKS`; its weights are drawn from torch's generator.
        images: `[N, 3, H, W]` in uint8, of which the first 2,000 give the mean and standard deviation of each channel.
        batch_size: images in one inference batch.
        device: where it computes.
        precision: of convolutions (autocast); weights and embeddings are float32 either way.
    """

    tensors = True
    continuous = True
    couples = True
    drawn = True
    default_rate = 2e-3

    def __init__(
        self, name: str, images: Sequence[Any], *, batch_size: int = 64, device: str = "cpu", precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        self.precision = precision
        self.network = NETWORKS[name]()
        sample = np.asarray(images[:_MEASURED], dtype=np.float64) / 255.0
        mean, deviation = sample.mean(axis=(0, 2, 3)), np.maximum(sample.std(axis=(0, 2, 3)), 1e-3)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).view(1, 3, 1, 1))
        # The memory layout that convolutions of these widths are fastest in, on a CPU and on a GPU.
        self.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return int(self.network.dimensions)

    @property
    def device(self) -> torch.device:
        """Where embeddings are."""
        return self.get_buffer("mean").device

    def inputs(self, documents: Sequence[Any]) -> torch.Tensor:
        """Pixels with mean 0 and standard deviation 1 a channel, `[documents, 3, H, W]`."""
        first = documents[0]
        raw = torch.stack(list(documents)) if isinstance(first, torch.Tensor) else torch.from_numpy(np.stack(list(documents)))
        rows = (raw.to(self.device).float() / 255.0 - self.get_buffer("mean")) / self.get_buffer("deviation")
        return rows.contiguous(memory_format=torch.channels_last)

    def of_inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Embeddings `[documents, dimensions]` of (perturbed or mixed) `inputs`, with gradient."""
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            found = self.network(rows)
        return found.float().mean(dim=(2, 3))

    def forward(self, documents: Sequence[Any]) -> torch.Tensor:
        """Embeddings `[documents, dimensions]`, with gradient."""
        return self.of_inputs(self.inputs(documents))

    def encode(self, documents: Sequence[Any]) -> torch.Tensor:
        """Embeddings `[documents, dimensions]` without gradient, with the running statistics; the mode of the module is left as it was."""
        if not len(documents):
            return torch.empty(0, self.dimensions, device=self.device)
        training = self.training
        self.eval()
        with torch.no_grad():
            parts = [self(documents[start : start + self.batch_size]) for start in range(0, len(documents), self.batch_size)]
        self.train(training)
        return torch.cat(parts)

    @contextmanager
    def fixed_statistics(self) -> Iterator[None]:
        """See `Encoder.fixed_statistics`."""
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum

    def fresh(self) -> dict[str, torch.Tensor]:
        """See `Encoder.fresh`: new weights from torch's generator."""
        network = NETWORKS[self.name]().to(device=self.device, memory_format=torch.channels_last)
        return {f"network.{name}": value.detach() for name, value in network.named_parameters()}
