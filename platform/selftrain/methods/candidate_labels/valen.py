"""VALEN: a second network infers every document's label distribution, and the classifier learns from what is drawn of it.

Paper: Instance-Dependent Partial Label Learning (Xu et al. 2021, NeurIPS, arXiv:2110.12911).
The label distribution d of a document is latent, with a Dirichlet prior. A second network gives the variational posterior Dir(alpha). It learns by the
evidence lower bound (what d says of the document's embedding, its set and its neighbours, `reconstruction`, and the divergence from the prior,
`dirichlet_divergence`), and by the cross-entropy with the classifier's last prediction (`agreement`). The classifier learns by the cross-entropy with d,
drawn when the document was last seen.
First, in the warm-up, the classifier learns as PRODEN's does; the neighbours are those of its embeddings at the end of it.
Needs: candidate sets.
Differs: written after the authors' code, since we hold no copy of the paper. As in it, the second network is one of the classifier's kind that reads the
document alone: no graph network, which would have to read all documents in every step. d is drawn from a Dirichlet distribution with other parameters than
the one that is held to the prior. What is reconstructed is the embedding, by its squared distance (released: pixels or attributes, by their mean square).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch.distributions import Dirichlet, kl_divergence

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, TwoNetworks, within
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch

OF_FEATURES, OF_SETS = 0.01, 0.01  # weights of the released code within the reconstruction
LEAST = 0.01  # added to every parameter of the distribution that d is drawn from
ROWS = 256  # of the distances that are held at once


def dirichlet_divergence(scores: torch.Tensor) -> torch.Tensor:
    """VALEN's divergence from the prior: KL(Dir(alpha) || Dir(1, ..., 1)), the mean over the batch.

    Args:
        scores: `[N, L]`, with gradient; alpha is exp(scores / 4), kept between 0.01 and 30 as released.
    """
    single = scores.to(torch.promote_types(scores.dtype, torch.float32))  # half precision would lose the difference of two large logarithms
    alpha = (single / 4.0).clamp(math.log(0.01), math.log(30.0)).exp()  # in this order: the gradient of an infinite exp(scores / 4) would be nan
    return kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha))).mean().to(scores.dtype)


def reconstruction(
    drawn: torch.Tensor, decoded: torch.Tensor, features: torch.Tensor, candidates: torch.Tensor, adjacency: torch.Tensor
) -> torch.Tensor:
    """VALEN's reconstruction: what a label distribution says of its document's features, set and neighbours, as weighted in the released code.

    Args:
        drawn: d, `[N, L]`, with gradient; taken as logits of the classes' being in the set, as released.
        decoded: features that were made from d, `[N, D]`, with gradient.
        features: of the documents, of length one, `[N, D]`.
        candidates: the sets, `[N, L]`.
        adjacency: between the documents, `[N, N]`; compared with the softmax of sigmoid(d_i . d_j) over j.
    """
    of_features = (decoded - features).square().sum(dim=1).mean()
    of_sets = F.binary_cross_entropy_with_logits(drawn, candidates)
    of_neighbours = F.mse_loss(torch.softmax(torch.sigmoid(drawn @ drawn.T), dim=1), adjacency)
    return OF_FEATURES * of_features + OF_SETS * of_sets + of_neighbours


class VALENOptions(PartialLabelOptions):
    """Options of VALEN; the weights are those that the authors' README has for uniform sets."""

    name: Literal["valen"] = "valen"
    warm_up: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the steps in which the classifier learns alone (released: 10 epochs before 500), so that every document was seen",
    )
    neighbours: int = Field(3, ge=1, description="nearest documents that one is joined with in the graph (released: 3)")
    reconstruction_weight: float = Field(1.0, ge=0, description="alpha of the released code: of the reconstruction")
    prior_weight: float = Field(0.1, ge=0, description="beta of the released code: of the divergence from the prior (released: 0.1)")
    agreement_weight: float = Field(
        10.0,
        ge=0,
        description="gamma of the released code: of the second network's cross-entropy with the classifier's last prediction (released: 10)",
    )
    inferred_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of d in what the classifier learns from; the rest is its own last prediction (released: 1; 0.2 for CIFAR-10's instance-dependent sets)",
    )


class VALEN(TwoNetworks):
    """See the module's docstring. `weights` are the classifier's last predictions within the sets, `inferred` the label distributions."""

    paper = "Instance-Dependent Partial Label Learning (Xu et al. 2021, NeurIPS, arXiv:2110.12911); baseline of SEAL"
    summary = "a second network infers label distributions by variational inference, and the classifier learns from them"
    stateful = (*TwoNetworks.stateful, "decoder")
    remembered = (*TwoNetworks.remembered, "inferred", "graph")
    Options = VALENOptions
    options: VALENOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.inferred = self.weights.clone()
        self.graph: torch.Tensor | None = None  # neighbours of each document with a set, [documents, k]; made when the warm-up is over

    def make_classifier(self) -> torch.nn.Module:
        classifier = super().make_classifier()
        classes, dimensions = len(self.corpus.labels), self.encoder.dimensions
        self.decoder = torch.nn.Sequential(torch.nn.Linear(classes, dimensions), torch.nn.ReLU(), torch.nn.Linear(dimensions, dimensions))
        self.decoder.to(self.encoder.device)
        return classifier

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*super().parameters(), *self.decoder.parameters()]

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        options, candidates = self.options, self.candidates_of(batch)
        losses = {"ce": text_to_label(logits, self.inferred[batch.labeled])}
        predicted = self.weights[batch.labeled]
        self.weights[batch.labeled] = within(logits.detach(), candidates)
        if batch.progress < options.warm_up:
            self.inferred[batch.labeled] = self.weights[batch.labeled]
            return losses
        scores = self.second_logits(batch.labeled_views)
        drawn = self.draw(scores, candidates, batch.rng)
        with torch.no_grad():
            features = F.normalize(self.labeled_rows(batch), dim=1)
        parts = drawn, self.decoder(drawn), features, candidates, self.adjacency(batch.labeled)
        losses |= {
            "reconstruction": options.reconstruction_weight * reconstruction(*parts),
            "prior": options.prior_weight * dirichlet_divergence(scores),
            "agreement": options.agreement_weight * text_to_label(scores, predicted),
        }
        kept = drawn.detach() * candidates
        kept = kept / kept.sum(dim=1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
        self.inferred[batch.labeled] = options.inferred_share * kept + (1.0 - options.inferred_share) * predicted
        return losses

    def draw(self, scores: torch.Tensor, candidates: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """d, `[N, L]`, a sample with gradient of Dir(softmax of the candidates' scores, as shares of the set, + 0.01).

        Args:
            scores: `[N, L]`.
            candidates: `[N, L]`.
            rng: of the draw, which is the same for all workers.
        """
        shares = torch.softmax(scores, dim=1) * candidates
        total = shares.detach().sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        parameters = (shares / total + LEAST).double()  # of parameters as small as these, samples are too small for single precision
        with torch.random.fork_rng(devices=[scores.device] if scores.is_cuda else []):
            torch.manual_seed(int(rng.integers(2**63)))
            drawn: torch.Tensor = Dirichlet(parameters).rsample()
        return drawn.to(scores.dtype)

    def adjacency(self, indices: list[int]) -> torch.Tensor:
        """Rows and columns of some documents in the graph, `[N, N]`: 1 / (k + 1) for a document itself and its k neighbours, where they are among these."""
        if self.graph is None:
            self.graph = self.nearest()
        places = torch.tensor(indices, device=self.graph.device)
        joined = places.unsqueeze(1) == places
        joined |= (self.graph[places].unsqueeze(2) == places).any(dim=1)
        return joined.to(self.weights.dtype) / (self.graph.shape[1] + 1)

    def nearest(self) -> torch.Tensor:
        """The documents nearest to each one that has a set, by its present embedding, `[documents, k]`; -1 for one without."""
        documents = [self.corpus.unlabeled.contents[index] for index in self.labeled]
        rows = self.workers.encode(self.encoder.encode, documents, self.encoder.dimensions)
        places = torch.tensor(self.labeled, device=rows.device)
        found = torch.full((len(self.corpus.unlabeled), min(self.options.neighbours, len(rows) - 1)), -1, device=rows.device)
        for first in range(0, len(rows), ROWS):
            block = rows[first : first + ROWS]
            distances = torch.cdist(block, rows, compute_mode="donot_use_mm_for_euclid_dist")
            own = torch.arange(len(block), device=rows.device)
            distances[own, first + own] = torch.inf
            found[places[first : first + ROWS]] = places[distances.topk(found.shape[1], dim=1, largest=False).indices]
        return found
