"""NS3L: a class that is improbable for an unlabeled document is a negative label, and no class is claimed to be the right one.

Paper: Negative sampling in semi-supervised learning (Chen, Shah & Kyrillidis 2020, arXiv:1911.05166).
Loss: -log(1 - the probability of the negative labels), those below T (algorithm 1); table 6 chooses them in other ways (`choose_negatives`).
Needs: labels of a few documents. Alone it is `{name: ns3l}`; `{name: vat, ns3l_weight: 0.3}` is the paper's VAT + NS3L, and so on for every `NS3LHost`.
Differs: mask and probabilities come from the same pass. The authors' code makes a second one, which in their host program sees another augmentation, and takes the
mean over labeled and unlabeled documents together.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError
from selftrain.methods.base import Options
from selftrain.methods.semisupervised import Batch, SemiSupervised, SemiSupervisedOptions

NEIGHBOURS = ("exclude_nearest", "furthest")  # negative labels chosen by the nearest labeled documents


def negative_sampling(logits: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """L_NS3L of NS3L's algorithm 1: the mean over the batch of -log(1 - the probability of the negative labels).

    Computed as a difference of log-sums, which is exact where the probability that is left goes to zero (the authors clamp it at 1e-8 instead). A document
    whose every class is negative gives no loss and no gradient; it is counted in the mean, as are those without negative labels.

    Args:
        logits: `[N, L]`, with gradient.
        negatives: mask `[N, L]`, True for the classes that a document is taken not to belong to.
    """
    left = logits.masked_fill(negatives, -torch.inf)
    decided = ~negatives.all(dim=1)
    safe = torch.where(decided.unsqueeze(1), left, logits)
    return ((torch.logsumexp(logits, dim=1) - torch.logsumexp(safe, dim=1)) * decided).mean()


def choose_negatives(
    how: str,
    documents: int,
    classes: int,
    count: int,
    rng: np.random.Generator,
    distances: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> torch.Tensor:
    """Negative labels that do not come from the model's own probabilities (NS3L, table 6).

    Args:
        how: `uniform` draws `count` classes; `exclude_nearest` draws them from all but the class of the nearest labeled document; `furthest` takes the
            `count` classes whose nearest labeled document is furthest; `oracle` draws them from all but the true class.
        documents: N.
        classes: L; at most L - 1 are negative.
        count: P.
        rng: of the draws.
        distances: to the nearest labeled document of each class, `[N, L]`; for `exclude_nearest` and `furthest`.
        truth: true classes, `[N]`; for `oracle`.

    Returns:
        mask `[N, L]`, True for negative labels.
    """
    keys = rng.random((documents, classes))  # the largest `count` are chosen
    if how == "furthest":
        assert distances is not None
        keys = distances
    elif how == "exclude_nearest":
        assert distances is not None
        keys[np.arange(documents), distances.argmin(axis=1)] = -1.0
    elif how == "oracle":
        assert truth is not None
        keys[np.arange(documents), truth] = -1.0
    chosen = np.argsort(-keys, axis=1, kind="stable")[:, : min(count, classes - 1)]
    mask = np.zeros((documents, classes), dtype=bool)
    np.put_along_axis(mask, chosen, True, axis=1)
    return torch.from_numpy(mask)


def check_threshold(threshold: float, corpus: Corpus) -> None:
    """Raise a `ConfigError` where T would leave an undecided prediction no class."""
    classes = len(corpus.labels)
    if threshold >= 1 / classes:
        raise ConfigError(
            f"method.ns3l_threshold must be below 1/{classes}, one over the number of classes (got {threshold:g}): an undecided prediction "
            "would have every class as a negative label, and a loss without gradient.",
            parameter="method.ns3l_threshold",
        )


class NS3LHostOptions(SemiSupervisedOptions):
    """Options of every method that NS3L's loss can be added to."""

    ns3l_weight: float = Field(0.0, ge=0, description="lambda_1 of NS3L's loss, added to the method's own (NS3L algorithm 1)")
    ns3l_threshold: float = Field(0.04, gt=0, lt=1, description="T: classes below this probability are negative labels (NS3L algorithm 1)")
    ns3l_negatives: Literal["threshold", "uniform", "exclude_nearest", "furthest", "oracle"] = Field(
        "threshold",
        description="how negative labels are chosen (NS3L table 6); oracle: never the true class, a bound that needs data.supervision: oracle",
    )
    ns3l_count: int = Field(1, ge=1, description="P: negative labels a document where they are not chosen by the threshold")


class NS3LHost(SemiSupervised):
    """A method that NS3L's loss can be added to (`ns3l_weight`)."""

    Options: ClassVar[type[Options]] = NS3LHostOptions
    options: NS3LHostOptions
    remembered: ClassVar[tuple[str, ...]] = ("_distances",)
    _distances: torch.Tensor | None = None  # [documents, classes], for negative labels by neighbours

    @classmethod
    def check(cls, options: Any, corpus: Corpus) -> None:
        super().check(options, corpus)
        if options.ns3l_weight:
            check_threshold(options.ns3l_threshold, corpus)
        if options.ns3l_weight and options.ns3l_negatives == "oracle" and not corpus.oracle:
            raise ConfigError(
                "method.ns3l_negatives: oracle looks at the true labels of unlabeled documents, which is a bound and no method; set data.supervision: oracle.",
                parameter="method.ns3l_negatives",
            )

    def added_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        weight = self.options.ns3l_weight
        return {"ns3l": weight * negative_sampling(*self.ns3l_rows(batch))} if weight else {}

    @property
    def uses_unlabeled(self) -> bool:
        return super().uses_unlabeled or self.options.ns3l_weight > 0

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        figures = super().refresh(round_, texts)
        if self._distances is None and self.options.ns3l_weight and self.options.ns3l_negatives in NEIGHBOURS:
            self._distances = self._class_distances()
        return figures

    def ns3l_rows(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[N, L]` of the unlabeled documents, and the mask `[N, L]` of their negative labels."""
        options = self.options
        if options.ns3l_negatives == "threshold":
            return batch.weak_logits, torch.softmax(batch.weak_logits.detach(), dim=1) < options.ns3l_threshold
        how = options.ns3l_negatives
        distances = None
        if how in NEIGHBOURS:
            assert self._distances is not None
            distances = self._distances[batch.unlabeled].cpu().numpy()
        ids = self.corpus.unlabeled.ids
        truth = np.array([self.corpus.oracle[ids[index]] for index in batch.unlabeled]) if how == "oracle" else None
        mask = choose_negatives(how, len(batch.unlabeled), len(self.corpus.labels), options.ns3l_count, batch.rng, distances, truth)
        return batch.weak_logits, mask.to(batch.weak_logits.device)

    def _class_distances(self) -> torch.Tensor:
        """Distance of every document to the nearest labeled one of each class, in the present embedding space, `[documents, classes]`.

        It is taken before training; a checkpoint holds it, since a resumed training has other embeddings.
        """
        rows = self.encoder.encode(self.corpus.unlabeled.contents)
        found = torch.full((len(rows), len(self.corpus.labels)), torch.inf, dtype=rows.dtype, device="cpu")
        for label in range(found.shape[1]):
            members = [index for index in self.labeled if self.targets[index] == label]
            if members:
                # Differences, not |a|^2 + |b|^2 - 2ab, which loses the digits that tell near ones apart; a block at a time is `[1024, members]`.
                blocks = [torch.cdist(block, rows[members], compute_mode="donot_use_mm_for_euclid_dist") for block in rows.split(1024)]
                found[:, label] = torch.cat([block.amin(dim=1) for block in blocks]).cpu()
        return found


class NS3LOptions(NS3LHostOptions):
    """Options of NS3L alone."""

    name: Literal["ns3l"] = "ns3l"
    ns3l_weight: float = Field(1.0, ge=0, description="lambda_1 of NS3L's loss (algorithm 1; section 4.4: 1 alone, 0.3 with VAT)")


class NS3L(NS3LHost):
    """See the module's docstring."""

    paper = "Negative sampling in semi-supervised learning (Chen, Shah & Kyrillidis 2020, arXiv:1911.05166)"
    summary = (
        "improbable classes become negative labels of the unlabeled documents; also an option (ns3l_weight) of the other methods with few labels"
    )
    Options = NS3LOptions
    options: NS3LOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if len(self.corpus.labels) == 2:
            warnings.warn("With two classes NS3L is pseudo-labeling with threshold 1 - T.", stacklevel=2)
