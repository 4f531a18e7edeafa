"""Virtual adversarial training: probabilities stay the same in the direction in which they would change most.

Paper: Virtual Adversarial Training: A Regularization Method for Supervised and Semi-Supervised Learning (Miyato et al. 2018, arXiv:1704.03976).
Loss: KL of the predictions at x and at x + r_adv (equations 5 and 8); r_adv by power iteration. Options add the entropy of the predictions (EntMin: Semi-
supervised
Learning by Entropy Minimization, Grandvalet & Bengio 2004) and pseudo-labeling (NS3L's table 2).
Needs: labels of a few documents; images, or a head on frozen embeddings (`model.train: head`).
Differs: on text the paper perturbs the input embeddings; here the frozen embedding that the head gets is perturbed. Of an image the pixels are.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.errors import ConfigError
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import confident_cross_entropy
from selftrain.methods.semisupervised import Batch


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """The mean conditional entropy of the predictions, which EntMin minimises (Grandvalet & Bengio 2004)."""
    log_probability = F.log_softmax(logits, dim=1)
    return -(log_probability.exp() * log_probability).sum(dim=1).mean()


class VATOptions(NS3LHostOptions):
    """Options of VAT."""

    name: Literal["vat"] = "vat"
    weight: float = Field(0.3, ge=0, description="of the local distributional smoothness (NS3L section 4.4: 0.3)")
    radius: float = Field(
        0.5, gt=0, description="epsilon: length of the perturbation; an embedding has length one, an image of 32 x 32 about 55 (Oliver et al.: 6)"
    )
    probe: float = Field(0.01, gt=0, description="xi: length of the probe in the power iteration")
    iterations: int = Field(1, ge=1, description="power iterations")
    entropy_weight: float = Field(0.0, ge=0, description="VAT + EntMin: weight of the entropy of the predictions (Oliver et al. 2018: 0.06)")
    pseudo_weight: float = Field(0.0, ge=0, description="VAT + PL: weight of pseudo-labeling (NS3L table 2)")
    pseudo_threshold: float = Field(0.95, ge=0, le=1, description="smallest probability of a pseudo-label")


class VAT(NS3LHost):
    """See the module's docstring."""

    paper = (
        "Virtual Adversarial Training: A Regularization Method for Supervised and Semi-Supervised Learning "
        "(Miyato et al. 2018, arXiv:1704.03976); baseline of NS3L"
    )
    summary = "probabilities stay the same in the direction in which they would change most (entropy minimisation and pseudo-labels as options)"
    learns_from_unlabeled = True
    Options = VATOptions
    options: VATOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if not self.encoder.continuous:
            raise ConfigError("model.train must be 'head': the method vat perturbs the embedding that a head gets.", parameter="model.train")

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        options = self.options
        losses = {"vat": options.weight * self._smoothness(batch)}
        if options.entropy_weight:
            losses["entropy"] = options.entropy_weight * entropy(batch.weak_logits)
        if options.pseudo_weight:
            losses["pseudo"] = options.pseudo_weight * confident_cross_entropy(batch.weak_logits, batch.weak_logits, options.pseudo_threshold)
        return losses

    def _smoothness(self, batch: Batch) -> torch.Tensor:
        """KL of the predictions at x and at x + r_adv, the mean over the batch (equations 5 and 8)."""
        rows = self.encoder.inputs(batch.texts)
        # The difference at a tiny perturbation must come from the perturbation alone, so the pass holds the same documents as the first one.
        beside = self.encoder.inputs(batch.labeled_views) if self.encoder.couples else rows[:0]
        target = torch.softmax(batch.weak_logits.detach(), dim=1)
        noise = torch.from_numpy(batch.rng.standard_normal(tuple(rows.shape))).to(rows)
        direction = _unit(noise)
        for _ in range(self.options.iterations):
            direction.requires_grad_(True)
            difference = self._difference(rows + self.options.probe * direction, target, beside)
            (gradient,) = torch.autograd.grad(difference, direction)
            direction = _unit(gradient).detach()
        return self._difference(rows + self.options.radius * direction, target, beside)

    def _difference(self, rows: torch.Tensor, target: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        found = self.classifier(self.encoder.of_inputs(torch.cat([beside, rows])))[len(beside) :]
        return F.kl_div(F.log_softmax(found, dim=1), target, reduction="batchmean")


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Each document's values `[N, ...]` divided by their length."""
    return F.normalize(rows.flatten(1), dim=1).view_as(rows)
