"""What methods for candidate sets share: a document comes with a set of classes, one of which is its label (`data.supervision: candidates`).

This is partial-label learning. A linear classifier on the encoder is trained on the documents that have a set; a method's file says what it makes of the set.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.errors import ConfigError, DataError
from selftrain.methods.base import Options
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.semisupervised import Batch


class PartialLabelOptions(NS3LHostOptions):
    """Options of the family."""

    unlabeled_ratio: int = Field(
        1, ge=1, description="documents without their sets to one with its set in a batch (for NS3L's loss, where it is added)"
    )


class PartialLabels(NS3LHost):
    """Base of the family; see the module's docstring."""

    supervision = "candidates"
    Options: ClassVar[type[Options]] = PartialLabelOptions

    @classmethod
    def check_supervision(cls, options: Any, corpus: Corpus) -> None:
        if not corpus.candidates:
            raise DataError(f"The method {cls.name} needs candidate sets; set data.supervision: candidates (and data.flip_probability).")
        if options.ns3l_negatives in ("exclude_nearest", "furthest"):
            raise ConfigError(
                f"method.ns3l_negatives: {options.ns3l_negatives} needs documents with one label, and here they have sets; leave it out.",
                parameter="method.ns3l_negatives",
            )

    def granted(self) -> Mapping[str, Any]:
        return self.corpus.candidates

    @property
    def viewed(self) -> list[int]:
        return self.labeled

    def candidates_of(self, batch: Batch) -> torch.Tensor:
        """The sets of the step's documents, `[N, L]`: 1 for a candidate, 0 for any other class."""
        return self.candidates_at(batch.labeled)

    def candidates_at(self, indices: Sequence[int]) -> torch.Tensor:
        """The sets of documents that have one, `[N, L]`."""
        mask = torch.zeros(len(indices), len(self.corpus.labels))
        for row, index in enumerate(indices):
            mask[row, list(self.targets[index])] = 1.0
        return mask.to(self.encoder.device)

    def uniform_weights(self) -> torch.Tensor:
        """A weight for each candidate of each document, uniform over its set, `[documents, L]`; zero for documents without a set."""
        mask = torch.zeros(len(self.corpus.unlabeled), len(self.corpus.labels), device=self.encoder.device)
        mask[self.labeled] = self.candidates_at(self.labeled)
        return mask / mask.sum(dim=1, keepdim=True).clamp(min=1.0)


class WeightedCandidates(PartialLabels):
    """A method that keeps a weight for each candidate of each document, `[documents, L]`, uniform over the set at first."""

    remembered = (*PartialLabels.remembered, "weights")

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.weights = self.uniform_weights()


class TwoNetworks(WeightedCandidates):
    """A method that trains a second network, of the classifier's kind, beside it; neither evaluated nor served."""

    stateful = (*WeightedCandidates.stateful, "second_encoder", "second_classifier")

    def make_classifier(self) -> torch.nn.Module:
        # Made here, before the optimiser that is to change them; the first classifier is drawn first, as by every other method.
        classifier = super().make_classifier()
        self.second_encoder = copy.deepcopy(self.encoder)
        self.second_classifier = self.make_second(classifier).to(self.encoder.device)
        return classifier

    def make_second(self, classifier: torch.nn.Module) -> torch.nn.Module:
        """The second network's classifier: a copy of the first one."""
        return copy.deepcopy(classifier)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*super().parameters(), *self.second_encoder.parameters(), *self.second_classifier.parameters()]

    def second_logits(self, documents: Sequence[Any]) -> torch.Tensor:
        """Logits `[N, L]` of the second network, with gradient."""
        self.second_encoder.train()
        found: torch.Tensor = self.second_classifier(self.embed(documents, self.second_encoder))
        return found


def within(logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """The softmax over each document's candidates alone, `[N, L]`: zero for the other classes.

    Args:
        logits: `[N, L]`.
        candidates: `[N, L]`, as in `candidate_likelihood`.
    """
    return torch.softmax(logits.masked_fill(candidates == 0, float("-inf")), dim=1)
