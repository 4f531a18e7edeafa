"""PiCO: contrastive embeddings whose class prototypes say which candidate is the label.

Paper: PiCO: Contrastive Label Disambiguation for Partial Label Learning (Wang et al. 2022, arXiv:2201.08984).
A projection of the embedding is drawn to a slowly moving copy's projections of documents that are predicted to be of the same class (`pool_contrastive`); every
class has a prototype, the moving average of such projections; a document's weights move towards the candidate with the nearest prototype, and the classifier
learns by cross-entropy with these weights. In the first steps the only positive of a document is its own other view (MoCo, He et al. 2020, arXiv:1911.05722),
and the
weights stay uniform.
Needs: candidate sets; one strong view.
Differs: a queue that is not full yet is read as far as it is filled (released, it starts as random vectors), and the negatives of the first steps are the batch's
other documents too (released: the queue alone). As in the released code, prototypes take the classifier's best candidate from the first step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.methods.candidate_labels.partial import PartialLabelOptions, WeightedCandidates
from selftrain.methods.losses import similarity, text_to_label
from selftrain.methods.optimizers import MovingAverage
from selftrain.methods.semisupervised import Batch


def pool_contrastive(queries: torch.Tensor, pool: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
    """PiCO's contrastive loss: minus the mean log-share of a query's positives in the pool without itself, the mean over the queries.

    Args:
        queries: of length one, `[N, D]`, with gradient.
        pool: of length one, `[M, D]`; its first N rows are the queries themselves.
        positives: mask `[N, M]`; a query's own place in it does not count.
        temperature: tau.

    Returns:
        A number; a query without a positive adds nothing to the mean over the others.
    """
    itself = torch.eye(len(queries), len(pool), dtype=torch.bool, device=queries.device)
    scores = (similarity(queries, pool) / temperature).masked_fill(itself, float("-inf"))
    log_shares = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    positives = positives & ~itself
    counts = positives.sum(dim=1)
    found = -torch.where(positives, log_shares, 0.0).sum(dim=1) / counts.clamp(min=1)
    return found.sum() / (counts > 0).sum().clamp(min=1)


class PiCOOptions(PartialLabelOptions):
    """Options of PiCO; its values are those of the released code for CIFAR-10, where an epoch has 195 steps and there are 800 of them."""

    name: Literal["pico"] = "pico"
    weight: float = Field(0.5, ge=0, description="lambda: of the contrastive loss (released: 0.5)")
    temperature: float = Field(0.07, gt=0, description="tau of the contrastive loss")
    queue: int = Field(8192, ge=1, description="keys of earlier steps that a document is compared with")
    key_momentum: float = Field(0.999, ge=0, lt=1, description="of the moving average that the keys are made with; lower it where steps are few")
    prototype_momentum: float = Field(0.99, ge=0, lt=1, description="gamma: of the prototypes, for each document")
    weights_momentum: tuple[float, float] = Field((0.95, 0.8), description="phi: of a document's weights, at the start and at the end of training")
    start: float = Field(0.1, ge=0, le=1, description="share of the steps before classes count in the contrastive loss and weights move")
    projected: int = Field(128, ge=1, description="dimensions of the projection")


class PiCO(WeightedCandidates):
    """See the module's docstring. The views are the document itself (the query) and a strong one (the key)."""

    paper = "PiCO: Contrastive Label Disambiguation for Partial Label Learning (Wang et al. 2022, arXiv:2201.08984); baseline of SEAL"
    summary = "prototypes of contrastive embeddings choose among the candidates"
    stateful = (*WeightedCandidates.stateful, "projection", "key_encoder", "key_projection")
    remembered = (*WeightedCandidates.remembered, "class_prototypes", "keys", "key_classes")
    strong_views = 1
    Options = PiCOOptions
    options: PiCOOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._average = MovingAverage(self.encoder, self.projection, self.options.key_momentum)
        self.key_encoder, self.key_projection = self._average.encoder, self._average.classifier
        device, size = self.encoder.device, self.options.projected
        self.class_prototypes = torch.zeros(len(self.corpus.labels), size, device=device)
        self.keys = torch.zeros(0, size, device=device)  # the newest last
        self.key_classes = torch.zeros(0, dtype=torch.long, device=device)

    def make_classifier(self) -> torch.nn.Module:
        # Made here, where weights are made anew, and before the optimiser that is to change it.
        dimensions = self.encoder.dimensions
        self.projection = torch.nn.Sequential(
            torch.nn.Linear(dimensions, dimensions), torch.nn.ReLU(), torch.nn.Linear(dimensions, self.options.projected)
        ).to(self.encoder.device)
        return super().make_classifier()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*super().parameters(), *self.projection.parameters()]

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        options, candidates = self.options, self.candidates_of(batch)
        disambiguates = batch.progress >= options.start
        queries = F.normalize(self.projection(self.labeled_rows(batch)), dim=1)
        classes = torch.softmax(logits.detach(), dim=1).masked_fill(candidates == 0, -1.0).argmax(dim=1)
        nearest = (queries.detach() @ self.class_prototypes.T).masked_fill(candidates == 0, float("-inf")).argmax(dim=1)
        self._move_prototypes(queries.detach(), classes)
        (view,) = self.strong_views_of(batch.labeled, 1, batch.rng)
        keys = self._keys_of(view)
        if disambiguates:
            first, last = options.weights_momentum
            phi = first + (last - first) * batch.progress
            target = F.one_hot(nearest, candidates.shape[1]).to(self.weights)
            self.weights[batch.labeled] = phi * self.weights[batch.labeled] + (1.0 - phi) * target
        pool = torch.cat([queries, keys, self.keys])
        if disambiguates:
            positives = classes.unsqueeze(1) == torch.cat([classes, classes, self.key_classes]).unsqueeze(0)
        else:
            positives = torch.eye(len(queries), len(pool), device=pool.device).roll(len(queries), dims=1).bool()  # its own key
        losses = {
            "ce": text_to_label(logits, self.weights[batch.labeled]),
            "contrastive": options.weight * pool_contrastive(queries, pool, positives, options.temperature),
        }
        self.keys = torch.cat([self.keys, keys])[-options.queue :]
        self.key_classes = torch.cat([self.key_classes, classes])[-options.queue :]
        return losses

    @torch.no_grad()
    def _move_prototypes(self, queries: torch.Tensor, classes: torch.Tensor) -> None:
        """One document after the other, as released; of length one afterwards, but for a class that nothing was predicted to be."""
        gamma = self.options.prototype_momentum
        for query, label in zip(queries, classes.tolist(), strict=True):
            self.class_prototypes[label] = gamma * self.class_prototypes[label] + (1.0 - gamma) * query
        self.class_prototypes = F.normalize(self.class_prototypes, dim=1)

    @torch.no_grad()
    def _keys_of(self, documents: Sequence[Any]) -> torch.Tensor:
        """Projections of documents by the moving average of the net, `[N, projected]`."""
        self._average.follow(self.encoder, self.projection)
        rows = self.workers.encode(self.key_encoder.encode, documents, self.encoder.dimensions)
        return F.normalize(self.key_projection(rows), dim=1)
