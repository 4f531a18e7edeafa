"""Training steps as functions of parameters, for methods with two levels: SEAL, SunGen and Meta-Weight-Net.

`meta_gradient` is the gradient of an outer loss in the weights of the inner one, without a second backward pass. One virtual step with weights v,
theta' = theta - rate * sum_i v_i grad CE_i(theta) / total, gives by the chain rule (equation 11 of SunGen)

    d outer(theta') / d v_i = -rate / total * <grad CE_i(theta), grad outer(theta')>

An inner product of each sample's gradient with one vector is the derivative of its loss in that direction: one forward-mode pass gives all of them. No gradient of
a single sample, and no graph of gradients, is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from selftrain.models.encoder import Encoder

Parameters = dict[str, torch.Tensor]  # of a net, by name


class Net(torch.nn.Module):
    """The second half of the encoder and the classifier as one module, which `torch.func.functional_call` takes; it shares their parameters."""

    def __init__(self, encoder: Encoder, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits `[N, L]` of `Encoder.inputs` rows, `[N, ...]`."""
        found: torch.Tensor = self.classifier(self.encoder.of_inputs(rows))
        return found


def parameters_of(model: torch.nn.Module) -> Parameters:
    """A copy of the parameters, apart from every graph."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logits_of(model: torch.nn.Module, at: Mapping[str, torch.Tensor], rows: torch.Tensor, chunk: int = 1024) -> torch.Tensor:
    """Logits without gradient.

    Args:
        model: rows to logits.
        at: its parameters.
        rows: `[N, ...]`.
        chunk: rows in one pass.

    Returns:
        `[N, L]`.
    """
    with torch.no_grad():
        return torch.cat([torch.func.functional_call(model, dict(at), (part,)) for part in rows.split(chunk)])


def gradient(
    model: torch.nn.Module, at: Mapping[str, torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, chunk: int = 1024
) -> Parameters:
    """Gradient of `loss(logits of rows)` in the parameters, at `at`.

    The loss is differentiated in the logits of all rows first, and these then chunk by chunk: the states of a recurrent net for all rows would fill the memory.

    Args:
        model: rows to logits.
        at: its parameters.
        loss: a function of the logits of all rows, `[N, L]`.
        rows: `[N, ...]`.
        chunk: rows in one pass.
    """
    found = {name: value.detach().requires_grad_(True) for name, value in at.items()}
    logits = logits_of(model, at, rows, chunk).requires_grad_(True)
    (slopes,) = torch.autograd.grad(loss(logits), logits)
    total = {name: torch.zeros_like(value) for name, value in at.items()}
    for part, slope in zip(rows.split(chunk), slopes.split(chunk), strict=True):
        with torch.enable_grad():
            values = torch.autograd.grad(torch.func.functional_call(model, found, (part,)), list(found.values()), slope)
        for name, value in zip(found, values, strict=True):
            total[name] += value
    return total


@contextmanager
def _composed_of_operations() -> Iterator[None]:
    """The recurrent nets of cuDNN and oneDNN have no forward-mode derivative; without these torch composes them of operations that have one."""
    with torch.backends.cudnn.flags(enabled=False), torch.backends.mkldnn.flags(enabled=False, allow_tf32=None, fp32_precision=None):
        yield


def directional(
    model: torch.nn.Module, at: Parameters, direction: Parameters, rows: torch.Tensor, targets: torch.Tensor, chunk: int = 1024
) -> torch.Tensor:
    """<grad CE_i(at), direction> of every sample, `[N]`, by forward-mode differentiation.

    It uses dual tensors because packed sequences, which an LSTM gets, do not pass through `torch.func.jvp`.

    Args:
        model: rows `[N, ...]` to logits `[N, L]`.
        at: where its parameters are.
        direction: one tensor a parameter.
        rows: `[N, ...]`.
        targets: class indices, `[N]`.
        chunk: rows in one pass; the result does not depend on it.
    """
    parts = []
    with torch.no_grad(), _composed_of_operations(), forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value, direction[name]) for name, value in at.items()}
        for part, labels in zip(rows.split(chunk), targets.split(chunk), strict=True):
            # Written out, since the fused cross-entropy has no forward-mode derivative on all devices.
            log_probability = F.log_softmax(torch.func.functional_call(model, dual, (part,)), dim=1)
            losses = -log_probability.gather(1, labels.unsqueeze(1)).squeeze(1)
            parts.append(forward_ad.unpack_dual(losses).tangent)
    return torch.cat(parts)


def meta_gradient(
    model: torch.nn.Module,
    at: Parameters,
    rows: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    outer: Callable[[torch.Tensor], torch.Tensor],
    outer_rows: torch.Tensor,
    rate: float,
    *,
    virtual: bool = True,
) -> torch.Tensor:
    """d outer(theta') / d weights, `[N]`: SunGen's equation 11, see the module's docstring. `total` is the sum of the weights, held fixed as in the released code.

    Args:
        model: rows `[N, ...]` to logits `[N, L]`.
        at: theta.
        rows: inputs of the inner loss's samples, `[N, ...]`.
        targets: their labels, `[N]`.
        weights: v, `[N]`.
        outer: logits of `outer_rows` to the outer loss.
        outer_rows: `[M, ...]`.
        rate: of the virtual step.
        virtual: take grad outer at theta'; False: at theta, as SunGen's released code does, which saves two passes.
    """
    weights = weights.detach()
    total = weights.sum()
    stepped = at
    if virtual:
        inner = gradient(model, at, lambda logits: (weights * F.cross_entropy(logits, targets, reduction="none")).sum() / total, rows)
        stepped = {name: value - rate * inner[name] for name, value in at.items()}
    return -rate / total * directional(model, at, gradient(model, stepped, outer, outer_rows), rows, targets)
