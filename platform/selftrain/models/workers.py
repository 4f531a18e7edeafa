"""The processes that train together, as a method sees them: which part of a batch is this process's, and how the parts are put together again.

A contrastive loss couples all examples of a batch, so averaging the gradients of two half batches is not the gradient of the whole. Here every worker
embeds its part, `gather` puts the parts together with their gradient, and every worker computes the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")


class _Gather(torch.autograd.Function):
    """All workers' rows, `[workers, rows, dimensions]`; backward sums what every worker's loss says about my rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


@dataclass(frozen=True)
class Workers:
    """This process's place among the workers; the default is the only one."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """My part of a global batch: every `size`-th item."""
        return items[self.rank :: self.size]

    def part(self, total: int) -> tuple[list[int], float]:
        """My rows of a batch whose mean loss is wanted, and the factor on the sum of my rows' losses: averaged gradients are then those of the mean."""
        rows = list(self.share(range(total)))
        # With more workers than rows, one without a row computes the first with a weight of 0, so that all take part in the average.
        return (rows, self.size / total) if rows else ([0], 0.0)

    def mean(self, value: float) -> float:
        """The mean of the workers' `value`s: of losses that each has of its own part, the loss of the batch."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.size

    def gather(self, part: torch.Tensor, total: int) -> torch.Tensor:
        """Put `share`d rows together again, with gradient.

        Args:
            part: my rows, `[len(share), dimensions]`.
            total: rows of the global batch.

        Returns:
            `[total, dimensions]`, in the order of the global batch.
        """
        if self.size == 1:
            return part
        longest = -(-total // self.size)
        padded = torch.cat([part, part.new_zeros(longest - len(part), part.shape[1])])
        # [workers, rows, dimensions] -> row i of the global batch is row i // size of worker i % size
        return _Gather.apply(padded).transpose(0, 1).reshape(longest * self.size, -1)[:total]

    def encode(self, encode: Callable[[Sequence[Item]], torch.Tensor], items: Sequence[Item], dimensions: int) -> torch.Tensor:
        """`encode(items)` without gradient, the work divided among the workers.

        Args:
            encode: embeddings of some items, `[items, dimensions]`.
            items: all of them.
            dimensions: length of an embedding.

        Returns:
            `[items, dimensions]`.
        """
        mine = self.share(items)
        if not items:
            return torch.empty(0, dimensions)
        # A worker without an item encodes the first and keeps no row of it: an empty tensor made here would not be on the encoder's device.
        return self.gather(encode(mine or items[:1])[: len(mine)], len(items)).detach()

    def together(self, mine: Sequence[Item]) -> list[Item]:
        """The items of all workers, those of the first one first; they are sent as pickles."""
        if self.size == 1:
            return list(mine)
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, list(mine))
        return [item for items in everyone for item in items]

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """The mean of the workers' gradients: with `gather`, exactly the gradient of the whole batch."""
        if self.size == 1:
            return
        # All workers compute the same loss, so a parameter without a gradient (an unused pooler) has none anywhere; a zero would start its weight decay.
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
            own = [gradient for gradient in gradients if gradient.dtype == dtype]
            together = torch.cat(
                [gradient.reshape(-1) for gradient in own]
            )  # one message instead of one a parameter, which waits for the last each time
            dist.all_reduce(together)
            together /= self.size
            for gradient, mean in zip(own, together.split([gradient.numel() for gradient in own]), strict=True):
                gradient.copy_(mean.view_as(gradient))
