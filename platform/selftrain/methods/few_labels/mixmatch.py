"""MixMatch: guessed, sharpened labels and mixed-up documents.

Paper: MixMatch: A Holistic Approach to Semi-Supervised Learning (Berthelot et al. 2019, arXiv:1905.02249).
Loss: cross-entropy on the mixed labeled documents, and the squared difference of probabilities and guessed labels on the mixed unlabeled ones.
Needs: labels of a few documents; two weak views; images, or a head on frozen embeddings (`model.train: head`).
Differs: text cannot be mixed, so the embeddings that the head gets are mixed (Guo et al. 2019, arXiv:1905.08941); images are mixed as they are. With
`ns3l_weight` the negative labels come from the mixed labels of the labeled and the unlabeled documents alike, X' and U' of NS3L's section 4.3. The weight of the
unlabeled losses rises in a line, as in its authors' code.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.errors import ConfigError
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch


class MixMatchOptions(NS3LHostOptions):
    """Options of MixMatch."""

    name: Literal["mixmatch"] = "mixmatch"
    temperature: float = Field(0.5, gt=0, le=1, description="T of sharpening")
    alpha: float = Field(0.75, gt=0, description="of the Beta distribution of the mixing weights")
    weight: float = Field(75.0, ge=0, description="lambda_U: of the squared difference on unlabeled documents")
    unlabeled_ratio: int = Field(1, ge=1, description="unlabeled documents a labeled one in a batch")
    ramp: float = Field(
        0.25, ge=0, le=1, description="share of the steps in which the weight of the unlabeled losses rises linearly (released: 1/64)"
    )


class MixMatch(NS3LHost):
    """See the module's docstring."""

    paper = "MixMatch: A Holistic Approach to Semi-Supervised Learning (Berthelot et al. 2019, arXiv:1905.02249); baseline of NS3L"
    summary = "guessed and sharpened labels on mixed-up embeddings"
    strong_views = 2
    image_views = "weak"
    learns_from_unlabeled = True
    Options = MixMatchOptions
    options: MixMatchOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if not self.encoder.continuous:
            raise ConfigError("model.train must be 'head': the method mixmatch mixes the embeddings that a head gets.", parameter="model.train")
        self._mixed: tuple[torch.Tensor, torch.Tensor] | None = None  # logits and targets of the step's mixed rows, labeled ones first

    @classmethod
    def check(cls, options: MixMatchOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        if options.ns3l_weight and options.ns3l_negatives != "threshold":
            raise ConfigError(
                "method.ns3l_negatives must be 'threshold' with mixmatch: NS3L's negative labels come from the guessed labels "
                f"(got {options.ns3l_negatives!r}).",
                parameter="method.ns3l_negatives",
            )

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        classes = len(self.corpus.labels)
        with torch.no_grad():
            guess = torch.stack([torch.softmax(self.classifier(self.encoder(view)), dim=1) for view in batch.strong]).mean(dim=0)
            sharp = guess ** (1.0 / self.options.temperature)
            sharp = sharp / sharp.sum(dim=1, keepdim=True)
        rows = torch.cat([self.encoder.inputs(batch.labeled_views), *[self.encoder.inputs(view) for view in batch.strong]])
        targets = torch.cat([F.one_hot(self.targets_of(batch), classes).to(sharp), *[sharp] * len(batch.strong)])
        order = torch.from_numpy(batch.rng.permutation(len(rows)))
        weight = torch.from_numpy(batch.rng.beta(self.options.alpha, self.options.alpha, size=(len(rows), 1))).to(rows)
        weight = torch.maximum(weight, 1.0 - weight)
        share = weight.view(-1, *[1] * (rows.dim() - 1))
        rows, targets = share * rows + (1 - share) * rows[order], weight * targets + (1 - weight) * targets[order]
        mixed = self.classifier(self.encoder.of_inputs(rows))
        self._mixed, count = (mixed, targets), len(batch.labeled)
        return {"ce": text_to_label(mixed[:count], targets[:count])}

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        assert self._mixed is not None
        logits, targets = (rows[len(batch.labeled) :] for rows in self._mixed)
        return {"mixmatch": self.options.weight * F.mse_loss(torch.softmax(logits, dim=1), targets)}

    def ramped(self, progress: float) -> float:
        return self.ramped_linearly(progress)

    def ns3l_rows(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._mixed is not None
        logits, targets = self._mixed
        return logits, targets < self.options.ns3l_threshold
