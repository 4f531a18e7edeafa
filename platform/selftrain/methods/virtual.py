"""A net at given parameters and what it says of a batch, and the same after an SGD step that is not taken for good: SEAL's virtual steps.

`VirtualNet` keeps the parameters. Its step has the gradients with their graph, so that what comes after it can be differentiated through it.

`VirtualHead` is that of a head, exactly and without its weights. All rows that matter are known, X of shape [M, D]. The layer computes A = X W^T + b, and the
gradient of a loss of them in W and b is S^T X and the sum of S's rows, where S is the gradient in A. So a step of SGD makes of A

    A' = X (W - rate S^T X)^T + b - rate S^T 1 = A - rate (X X^T + 1) S

A [M, M] matrix, once a batch, takes the place of products with [D, D] weights and of copies of these in every step and in every derivative.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from selftrain.methods.bilevel import Net, Parameters, called
from selftrain.models.head import HeadEncoder

_WEIGHT, _BIAS, _CLASSIFIER, _OFFSET = "encoder.layer.linear.weight", "encoder.layer.linear.bias", "classifier.weight", "classifier.bias"
_OF_A_HEAD = {_WEIGHT, _BIAS, _CLASSIFIER, _OFFSET}


class Virtual(ABC):
    """A net at one place of its parameters."""

    @abstractmethod
    def logits(self, part: int = 0) -> torch.Tensor:
        """Of a part of the batch, `[N, L]`, with gradient to the parameters or to what stands for them."""

    @abstractmethod
    def stepped(self, loss: torch.Tensor, rate: float, *, differentiable: bool = True) -> Virtual:
        """The net after one plain SGD step; it is left as it is.

        Args:
            loss: of its `logits`.
            rate: of the step.
            differentiable: the result is a function of all that `loss` depends on.
        """

    @abstractmethod
    def parameters(self) -> Parameters:
        """By name, apart from every graph."""


def virtual(net: Net, parameters: Parameters, parts: Sequence[torch.Tensor]) -> Virtual:
    """`net` with `parameters` in place of its own, which no step changes.

    Args:
        net: the second half of an encoder, and a classifier.
        parameters: of it, all of them.
        parts: `Encoder.inputs` rows, `[N, ...]` each; a net with batch normalisation takes each part by itself.
    """
    own = {name: value.detach() for name, value in parameters.items()}
    if isinstance(net.encoder, HeadEncoder) and isinstance(net.classifier, torch.nn.Linear) and own.keys() == _OF_A_HEAD:
        return VirtualHead.of(net.encoder, own, parts)
    return VirtualNet(net, {name: value.requires_grad_() for name, value in own.items()}, parts)


class VirtualNet(Virtual):
    """See the module's docstring.

    Args:
        net: rows to logits.
        at: its parameters, with gradient.
        parts: rows, `[N, ...]` each.
    """

    def __init__(self, net: Net, at: Parameters, parts: Sequence[torch.Tensor]) -> None:
        self._net, self._at, self._parts = net, at, parts
        self._logits: dict[int, torch.Tensor] = {}

    def logits(self, part: int = 0) -> torch.Tensor:
        """See `Virtual`."""
        if part not in self._logits:
            self._logits[part] = called(self._net, self._at, self._parts[part])
        return self._logits[part]

    def stepped(self, loss: torch.Tensor, rate: float, *, differentiable: bool = True) -> VirtualNet:
        """See `Virtual`."""
        return VirtualNet(self._net, sgd_step(loss, self._at, rate, differentiable=differentiable), self._parts)

    def parameters(self) -> Parameters:
        """See `Virtual`."""
        return {name: value.detach() for name, value in self._at.items()}


class VirtualHead(Virtual):
    """See the module's docstring.

    Args:
        encoder: whose layer it is; of it the activation and the normalisation are used.
        parts: X, `[N, D]` each.
        coupling: X X^T + 1, `[M, M]`.
        at: A, `[M, D]`, the classifier's weight and its bias, with gradient.
        layer: makes the layer's weight and bias.
    """

    def __init__(
        self,
        encoder: HeadEncoder,
        parts: Sequence[torch.Tensor],
        coupling: torch.Tensor,
        at: tuple[torch.Tensor, ...],
        layer: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self._encoder, self._parts, self._coupling, self._at, self._layer = encoder, parts, coupling, at, layer
        self._values = at[0].split([len(part) for part in parts]) if len(parts) > 1 else at[:1]
        self._logits: dict[int, torch.Tensor] = {}

    @classmethod
    def of(cls, encoder: HeadEncoder, parameters: Parameters, parts: Sequence[torch.Tensor]) -> VirtualHead:
        """At `parameters`."""
        rows, weight, bias = torch.cat(list(parts)), parameters[_WEIGHT], parameters[_BIAS]
        with torch.no_grad():
            values, coupling = F.linear(rows, weight, bias), rows @ rows.T + 1.0
        at = tuple(one.detach().requires_grad_() for one in (values, parameters[_CLASSIFIER], parameters[_OFFSET]))
        return cls(encoder, parts, coupling, at, lambda: (weight, bias))

    def logits(self, part: int = 0) -> torch.Tensor:
        """See `Virtual`."""
        if part not in self._logits:
            self._logits[part] = F.linear(self._encoder.of_linear(self._values[part], self._parts[part]), *self._at[1:])
        return self._logits[part]

    def stepped(self, loss: torch.Tensor, rate: float, *, differentiable: bool = True) -> VirtualHead:
        """See `Virtual`."""
        slopes = torch.autograd.grad(loss, self._at, create_graph=differentiable)
        values, weight, bias = self._at if differentiable else (one.detach() for one in self._at)
        at = torch.addmm(values, self._coupling, slopes[0], alpha=-rate), weight - rate * slopes[1], bias - rate * slopes[2]
        before, slope = self._layer, slopes[0].detach()

        def layer() -> tuple[torch.Tensor, torch.Tensor]:
            weight, bias = before()
            return torch.addmm(weight, slope.T, torch.cat(list(self._parts)), alpha=-rate), bias - rate * slope.sum(dim=0)

        return VirtualHead(self._encoder, self._parts, self._coupling, at, layer)

    def parameters(self) -> Parameters:
        """See `Virtual`."""
        weight, bias = self._layer()
        return {_WEIGHT: weight, _BIAS: bias, _CLASSIFIER: self._at[1].detach(), _OFFSET: self._at[2].detach()}


def sgd_step(loss: torch.Tensor, parameters: Parameters, rate: float, *, differentiable: bool) -> Parameters:
    """`parameters` after one plain SGD step.

    Args:
        loss: of the parameters.
        parameters: where the step starts.
        rate: of the step.
        differentiable: the result is a function of all that `loss` depends on.
    """
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=differentiable)
    return {name: value - rate * gradient for (name, value), gradient in zip(parameters.items(), gradients, strict=True)}
