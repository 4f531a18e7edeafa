"""SSC: one contrastive loss for labeled, confident and unconfident examples.

Paper: A Unified Contrastive Loss for Self-Training (Gauffre et al. 2024, arXiv:2409.07292).
Class prototypes are trained weights in the embedding space. The probability of a class is the softmax of the weak view's cosines with the prototypes; where it
is confident, both strong views get that pseudo-label, and otherwise a label of their own, so that each is the other's only positive. One SupCon loss
(`supervised_contrastive`) over prototypes, labeled documents and both strong views does all the training; there is no cross-entropy.
Needs: labels of a few documents; two strong views.
Differs: the threshold is the paper's. It says nothing of the temperature of the probabilities (0.08 on cosines), the temperature of the loss (0.1), the weight of
unconfident anchors (0.2) and the two layers between network and prototypes; these are the released code's. Texts have no such layers: what a bundle serves is the
encoder's embedding and one row a class. The moving average that the released code evaluates is an option (`average: 0.999`), for trainings that are long enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.errors import ConfigError
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import supervised_contrastive
from selftrain.methods.semisupervised import Batch
from selftrain.models.student import Student


def unified_contrastive(
    prototypes: torch.Tensor,
    labeled: torch.Tensor,
    views: Sequence[torch.Tensor],
    *,
    labels: torch.Tensor,
    view_labels: torch.Tensor,
    temperature: float,
    labeled_weights: torch.Tensor,
    view_weights: Sequence[torch.Tensor],
) -> torch.Tensor:
    """SSC's unified loss: one SupCon over prototypes, labeled documents and the strong views of the others.

    Args:
        prototypes: one a class, `[L, D]`; all rows are of length one.
        labeled: `[B, D]`.
        views: the same documents in every one, `[U, D]` each.
        labels: of the labeled documents, `[B]`.
        view_labels: `[U]`: the pseudo-label of a confident document; of an unconfident one a number from L on that no other document has.
        temperature: T.
        labeled_weights: of these anchors, `[B]`; a prototype has 1.
        view_weights: of these anchors, `[U]` for each view.
    """
    classes = torch.arange(len(prototypes), device=prototypes.device)
    everyone = torch.cat([classes, labels, *[view_labels] * len(views)])
    weights = torch.cat([labeled_weights.new_ones(len(prototypes)), labeled_weights, *view_weights])
    return supervised_contrastive(torch.cat([prototypes, labeled, *views]), everyone, temperature, weights)


class SSCOptions(NS3LHostOptions):
    """Options of SSC."""

    name: Literal["ssc"] = "ssc"
    threshold: float = Field(0.95, ge=0, le=1, description="smallest probability of a confident pseudo-label")
    temperature: float = Field(0.1, gt=0, description="T of the contrastive loss (released: the library's default)")
    confidence_temperature: float = Field(0.08, gt=0, description="of the probabilities over prototypes (released: 0.04 on (cosine + 1) / 2)")
    unconfident: bool = Field(True, description="false: SupCon without the unconfident examples (ablation)")
    unconfident_weight: float = Field(0.2, ge=0, description="of unconfident anchors; all others have 1 (released: 0.2)")
    projection: int | None = Field(
        None,
        ge=0,
        description="width of the two layers between an image's embedding and the prototypes (released: 128, as wide as the embedding); 0: none; "
        "default: as wide as the embedding for images, none for texts",
    )


class Prototypes(torch.nn.Module):
    """Cosines of embeddings with trained prototypes, `[N, L]`; with `projected`, of what two layers of that width make of them."""

    def __init__(self, classes: int, dimensions: int, projected: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(classes, projected or dimensions))
        self.projection: torch.nn.Module | None = None
        if projected:
            self.projection = torch.nn.Sequential(torch.nn.Linear(dimensions, projected), torch.nn.ReLU(), torch.nn.Linear(projected, projected))

    def normalized(self) -> torch.Tensor:
        """Prototypes of length one, `[L, P]`."""
        return F.normalize(self.weight, dim=1)

    def placed(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Where embeddings `[N, D]` are among the prototypes, of length one, `[N, P]`."""
        return F.normalize(embeddings if self.projection is None else self.projection(embeddings), dim=1)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.placed(embeddings) @ self.normalized().T


class SSC(NS3LHost):
    """See the module's docstring."""

    paper = "A Unified Contrastive Loss for Self-Training (Gauffre et al. 2024, arXiv:2409.07292)"
    summary = "one contrastive loss over prototypes, labeled, confident and unconfident documents, and no cross-entropy"
    strong_views = 2
    one_pass = True
    learns_from_unlabeled = True
    Options = SSCOptions
    options: SSCOptions

    @classmethod
    def check(cls, options: SSCOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        if corpus.kind == "text" and options.projection:
            raise ConfigError(
                "method.projection must be 0 for texts: what is served compares the encoder's own embedding with one row a class; leave it out "
                f"(got {options.projection}).",
                parameter="method.projection",
            )

    def make_classifier(self) -> torch.nn.Module:
        width = self.options.projection
        if width is None:
            width = self.encoder.dimensions if self.corpus.kind == "image" else 0
        return Prototypes(len(self.corpus.labels), self.encoder.dimensions, width)

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        return super().scores(rows) / self.options.confidence_temperature

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def ramped(self, progress: float) -> float:
        return 1.0  # the labeled documents are in the same loss

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        options, classes = self.options, len(self.corpus.labels)
        assert isinstance(self.classifier, Prototypes)
        confidence, pseudo = torch.softmax(batch.weak_logits.detach(), dim=1).max(dim=1)
        confident = confidence >= options.threshold
        own = classes + torch.arange(len(pseudo), device=pseudo.device)
        labels = torch.where(confident, pseudo, own)
        used = confident | torch.full_like(confident, options.unconfident)
        anchors = torch.where(confident, 1.0, options.unconfident_weight)[used]

        labeled = self.labeled_rows(batch)
        views = [self.strong_rows(batch, view)[used] for view in range(len(batch.strong))]
        placed, *others = self.classifier.placed(torch.cat([labeled, *views])).split([len(labeled), *map(len, views)])
        ones = torch.ones(len(labeled), device=placed.device)
        loss = unified_contrastive(
            self.classifier.normalized(),
            placed,
            others,
            labels=self.targets_of(batch),
            view_labels=labels[used],
            temperature=options.temperature,
            labeled_weights=ones,
            view_weights=[anchors.to(ones)] * len(others),
        )
        return {"ssc": loss}

    def student(self) -> Student:
        encoder, classifier = self.served
        assert isinstance(classifier, Prototypes)
        weights, scale = classifier.normalized().detach(), 1.0 / self.options.confidence_temperature
        return Student(encoder, weights, scale, cosine=True, projection=classifier.projection)
