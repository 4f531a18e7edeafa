"""The gradient of an outer loss in the weights of the inner one, without a second backward pass. SunGen and Meta-Weight-Net use it.

One virtual step with weights v, theta' = theta - rate * sum_i v_i grad CE_i(theta) / total, gives by the chain rule (equation 11 of SunGen)

    d outer(theta') / d v_i = -rate / total * <grad CE_i(theta), grad outer(theta')>

An inner product of each sample's gradient with one vector is the derivative of its loss in that direction: one forward-mode pass gives all of them, and no
gradient of a single sample, nor any graph of gradients, is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from selftrain.models.encoder import Encoder

Weights = dict[str, torch.Tensor]


class HeadModel(torch.nn.Module):
    """Frozen embeddings to logits: the residual layer and the classifier as one module that `torch.func.functional_call` takes."""

    def __init__(self, encoder: Encoder, classifier: torch.nn.Linear) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits `[N, L]` of `Encoder.inputs` rows `[N, D]`."""
        found: torch.Tensor = self.classifier(self.encoder.of_inputs(rows))
        return found


def weights_of(model: torch.nn.Module) -> Weights:
    """A copy of the parameters, apart from every graph."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def gradient(model: torch.nn.Module, at: Mapping[str, torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> Weights:
    """Gradient of `loss(logits of rows)` in the parameters, at `at`."""
    found = {name: value.detach().requires_grad_(True) for name, value in at.items()}
    value = loss(torch.func.functional_call(model, found, (rows,)))
    return dict(zip(found, torch.autograd.grad(value, list(found.values())), strict=True))


def directional(
    model: torch.nn.Module, at: Weights, direction: Weights, rows: torch.Tensor, targets: torch.Tensor, chunk: int = 4096
) -> torch.Tensor:
    """<grad CE_i(at), direction> of every sample, `[N]`, by forward-mode differentiation.

    Args:
        model: rows `[N, D]` to logits `[N, L]`.
        at: where its parameters are.
        direction: one tensor a parameter.
        rows: `[N, D]`.
        targets: class indices, `[N]`.
        chunk: rows in one pass; the result does not depend on it.
    """
    parts = []
    for part, labels in zip(rows.split(chunk), targets.split(chunk), strict=True):

        def losses(found: Weights, part: torch.Tensor = part, labels: torch.Tensor = labels) -> torch.Tensor:
            # Written out, since the fused cross-entropy has no forward-mode derivative on all devices.
            log_probability = F.log_softmax(torch.func.functional_call(model, found, (part,)), dim=1)
            return -log_probability.gather(1, labels.unsqueeze(1)).squeeze(1)

        with torch.no_grad():
            parts.append(torch.func.jvp(losses, (at,), (direction,))[1])
    return torch.cat(parts)


def meta_gradient(
    model: torch.nn.Module,
    at: Weights,
    rows: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    outer: Callable[[torch.Tensor], torch.Tensor],
    outer_rows: torch.Tensor,
    rate: float,
) -> torch.Tensor:
    """d outer(theta') / d weights, `[N]`: see the module's docstring; total is the sum of the weights, held fixed as in the released code.

    Args:
        model: rows `[N, D]` to logits `[N, L]`.
        at: theta.
        rows, targets: the inner loss's samples, `[N, D]` and `[N]`.
        weights: v, `[N]`.
        outer: logits of `outer_rows` to the outer loss.
        outer_rows: `[M, D]`.
        rate: of the virtual step.
    """
    weights = weights.detach()
    total = weights.sum()
    inner = gradient(model, at, lambda logits: (weights * F.cross_entropy(logits, targets, reduction="none")).sum() / total, rows)
    stepped = {name: value - rate * inner[name] for name, value in at.items()}
    return -rate / total * directional(model, at, gradient(model, stepped, outer, outer_rows), rows, targets)
