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
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call

from selftrain.models.encoder import Encoder

Parameters = dict[str, torch.Tensor]  # of a net, by name


class Net(torch.nn.Module):
    """The second half of the encoder and the classifier as one module, which `called` takes; it shares their parameters."""

    def __init__(self, encoder: Encoder, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier
        # Where each parameter stands; None where a recurrent net keeps a second list of them.
        recurrent = any(isinstance(module, torch.nn.RNNBase) for module in self.modules())
        self._places = None if recurrent else {name: self._place(name) for name, _ in self.named_parameters()}

    def _place(self, name: str) -> tuple[dict[str, Any], str]:
        module, _, own = name.rpartition(".")
        return self.get_submodule(module)._parameters, own

    def at(self, parameters: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """`forward` with `parameters`, all of them, in place of its own; gradients reach these."""
        if self._places is None:
            found: torch.Tensor = functional_call(self, dict(parameters), (rows,), tie_weights=False)
            return found
        # As `functional_call` does it, which takes longer than a head computes.
        own = [(*self._places[name], value) for name, value in parameters.items()]
        before = [holder[name] for holder, name, _ in own]
        try:
            for holder, name, value in own:
                holder[name] = value
            found = self(rows)
        finally:
            for (holder, name, _), value in zip(own, before, strict=True):
                holder[name] = value
        return found

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits `[N, L]` of `Encoder.inputs` rows, `[N, ...]`."""
        found: torch.Tensor = self.classifier(self.encoder.of_inputs(rows))
        return found


def parameters_of(model: torch.nn.Module) -> Parameters:
    """A copy of the parameters, apart from every graph."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def called(model: torch.nn.Module, at: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Logits `[N, L]` of `rows`, with `at` in place of the model's parameters; gradients reach `at`."""
    if isinstance(model, Net):
        return model.at(at, rows)
    found: torch.Tensor = functional_call(model, dict(at), (rows,), tie_weights=False)  # no net of ours uses a parameter twice
    return found


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
        return torch.cat([called(model, at, part) for part in rows.split(chunk)])


def gradient(
    model: torch.nn.Module, at: Mapping[str, torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, chunk: int = 1024
) -> Parameters:
    """Gradient of `loss(logits of rows)` in the parameters, at `at`.

    Of more than a chunk, the loss is differentiated in the logits of all rows first, and these then chunk by chunk, which takes a forward pass more: the states of a
    recurrent net for all rows would fill the memory.

    Args:
        model: rows to logits.
        at: its parameters.
        loss: a function of the logits of all rows, `[N, L]`.
        rows: `[N, ...]`.
        chunk: rows in one pass.
    """
    found = {name: value.detach().requires_grad_(True) for name, value in at.items()}
    if len(rows) <= chunk:
        with torch.enable_grad():
            return dict(zip(found, torch.autograd.grad(loss(called(model, found, rows)), list(found.values())), strict=True))
    logits = logits_of(model, at, rows, chunk).requires_grad_(True)
    (slopes,) = torch.autograd.grad(loss(logits), logits)
    total = {name: torch.zeros_like(value) for name, value in at.items()}
    for part, slope in zip(rows.split(chunk), slopes.split(chunk), strict=True):
        with torch.enable_grad():
            values = torch.autograd.grad(called(model, found, part), list(found.values()), slope)
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
            log_probability = F.log_softmax(called(model, dual, part), dim=1)
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
