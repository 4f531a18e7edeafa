"""IDGP: how a set comes about is a model of its own, first the label and then the classes that are taken with it, and says which candidate is the label.

Paper: Decompositional Generation Process for Instance-Dependent Partial Label Learning (Qiao, Xu & Geng 2023, ICLR, arXiv:2204.03845).
The classifier f gives the categorical distribution of the label; a second network g gives, for every class, the probability that it is taken into the set
though it is not the label. Both are estimated by maximum a posteriori: f's prior is a Dirichlet distribution, whose parameters are f's last prediction within
the set; g's are Beta distributions, whose parameters are what it last predicted for the candidates, and zero for the others. The likelihood of the set weighs
the candidates by `label_posterior` for f, and by f's prediction for g (`generation_likelihood`). First, in the warm-up, both learn from their priors alone.
Needs: candidate sets; two strong views.
Differs: written after the authors' code, since we hold no copy of the paper. Their temperatures of the two outputs are left out (1, their default). f and g
share one optimiser and its rate.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, TwoNetworks, within
from selftrain.methods.losses import consistency, text_to_label
from selftrain.methods.semisupervised import Batch


def label_posterior(scores: torch.Tensor, believed: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """IDGP's posterior of the label: a candidate's share of (1 - z_j) times the product of z_k over the other candidates.

    As in the released code z_j is g's output, but 1 minus it for the candidate that is believed to be the label. All z but one are common to the terms, so the
    shares are those of (1 - z_j) / z_j: the softmax over the set of the believed candidate's score, and of minus the others'.

    Args:
        scores: of g, `[N, L]`, before the sigmoid.
        believed: the candidate that has the largest weight now, `[N]`.
        candidates: `[N, L]`, as in `candidate_likelihood`.

    Returns:
        `[N, L]`, rows that sum to one, zero outside of the set.
    """
    is_believed = F.one_hot(believed, scores.shape[1]).bool()
    return within(torch.where(is_believed, scores, -scores), candidates)


def generation_likelihood(scores: torch.Tensor, shares: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """IDGP's loss of g by the likelihood of the set, as released: cross-entropy with the set, and -log(1 - z_j) of the candidates by their shares.

    Args:
        scores: of g, `[N, L]`, before the sigmoid, with gradient.
        shares: f's prediction within the set, `[N, L]`.
        candidates: `[N, L]`, as in `candidate_likelihood`.

    Returns:
        The sum over the classes, the mean over the batch.
    """
    of_label = -(shares * F.logsigmoid(-scores)).sum(dim=1).mean()
    return of_label + binary_cross_entropy(scores, candidates)


def binary_cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-sum over the classes of t log z + (1 - t) log(1 - z), z the sigmoid of the scores, the mean over the batch; both `[N, L]`."""
    return F.binary_cross_entropy_with_logits(scores, targets, reduction="sum") / len(scores)


class IDGPOptions(PartialLabelOptions):
    """Options of IDGP; the weights are the defaults of the authors' program, who searched them between 0.001 and 100 for each data set."""

    name: Literal["idgp"] = "idgp"
    warm_up: float = Field(
        0.2, ge=0, le=1, description="share of the steps in which f and g learn from their priors alone (released: 10 epochs before 500)"
    )
    prior_weight: float = Field(1.0, ge=0, description="alpha of the released code: of f's prior (CIFAR-10: 10)")
    likelihood_weight: float = Field(1.0, ge=0, description="beta of the released code: of the likelihood that f learns from (CIFAR-10: 1)")
    generation_prior_weight: float = Field(1.0, ge=0, description="theta of the released code: of g's prior (CIFAR-10: 0.001)")
    generation_likelihood_weight: float = Field(
        1.0, ge=0, description="gamma of the released code: of the likelihood that g learns from (CIFAR-10: 0.01)"
    )
    weight: float = Field(
        1.0, ge=0, description="delta and eta of the released code: of the views' consistency with the last predictions (released: 1)"
    )
    ramp: float = Field(
        0.2, ge=0, le=1, description="share of the steps, after the warm-up, in which that weight rises linearly (released: 100 of 500 epochs)"
    )


class IDGP(TwoNetworks):
    """See the module's docstring. The views are the document itself and two strong ones, and every loss is the sum over them.

    `weights` are the parameters of f's prior, `chances` of g's: how probable it was, when the document was last seen, that each candidate is taken into the set.
    """

    paper = "Decompositional Generation Process for Instance-Dependent Partial Label Learning (Qiao, Xu & Geng 2023, ICLR, arXiv:2204.03845); baseline of SEAL"
    summary = "a second network learns how sets come about, and with it which candidate is the label"
    remembered = (*TwoNetworks.remembered, "chances")
    strong_views = 2
    Options = IDGPOptions
    options: IDGPOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.chances = (self.weights > 0).to(self.weights.dtype)

    def make_second(self, classifier: torch.nn.Module) -> torch.nn.Module:
        if self.encoder.drawn:
            self.second_encoder.load_state_dict(self.encoder.fresh(), strict=False)  # running statistics are as they are
        return torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels))

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        options, candidates = self.options, self.candidates_of(batch)
        weights, chances = self.weights[batch.labeled], self.chances[batch.labeled]
        strong = self.strong_views_of(batch.labeled, self.strong_views, batch.rng)
        labels = torch.stack([logits, *(self.logits(view) for view in strong)])
        taken = torch.stack([self.second_logits(view) for view in (batch.labeled_views, *strong)])
        prior = torch.stack([text_to_label(view, weights) for view in labels]).sum()
        generation_prior = torch.stack([binary_cross_entropy(view, chances) for view in taken]).sum()
        self.weights[batch.labeled] = within(logits.detach(), candidates)
        self.chances[batch.labeled] = torch.sigmoid(taken[0].detach()) * candidates
        if batch.progress < options.warm_up:
            return {"prior": prior, "generation_prior": generation_prior}
        believed = weights.argmax(dim=1)
        likelihood = [text_to_label(view, label_posterior(scores.detach(), believed, candidates)) for view, scores in zip(labels, taken, strict=True)]
        generation = [
            generation_likelihood(scores, within(view.detach(), candidates), candidates) for view, scores in zip(labels, taken, strict=True)
        ]
        divergence = (torch.xlogy(chances, chances) - chances * F.logsigmoid(taken)).sum(dim=(0, 2)).mean()
        share = self.ramped_linearly(batch.progress - options.warm_up)
        return {
            "prior": options.prior_weight * prior,
            "likelihood": options.likelihood_weight * torch.stack(likelihood).sum(),
            "generation_prior": options.generation_prior_weight * generation_prior,
            "generation_likelihood": options.generation_likelihood_weight * torch.stack(generation).sum(),
            "consistency": share * options.weight * (consistency(labels, weights) + divergence),
        }
