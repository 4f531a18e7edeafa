"""MultiMatch: three classifiers on one encoder, each taught what the other two agree on, or what one of them alone is sure of.

Paper: MultiMatch: Multihead Consistency Regularization Matching for Semi-Supervised Text Classification (Sirbu et al. 2025, arXiv:2506.07801).
Loss: cross-entropy of each head's strong view with a class that the other two name on the weak view, times a weight: 1 where both name it with a high average
pseudo-margin (MarginMatch), 3 where one alone has such a margin, 0 otherwise and where neither of them passes FreeMatch's self-adaptive threshold.
Needs: labels of a few documents; one strong view.
Differs: the text of the paper is not at hand, so this follows the released code. Heads are linear, and what is served is one linear classifier: the mean of their
logits, by which the released code predicts. A round of ours is an epoch of theirs. Thresholds of FreeMatch follow every step once (theirs twice: every head is
asked by both others), and a class on which no two heads agree has the margin 0 to pass (theirs leaves the classes after it as they were).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.texts import TextChannel
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.semisupervised import Batch
from selftrain.models.student import Student

HEADS = 3
OTHERS = ((1, 2), (0, 2), (0, 1))  # the heads that teach each one


def pseudo_margins(logits: torch.Tensor) -> torch.Tensor:
    """The pseudo-margin of each class: how far its logit is above the largest of all others, `[..., L]` (MarginMatch, Sosea & Caragea 2023, arXiv:2308.09037)."""
    values, classes = logits.topk(2, dim=-1)
    margins = logits - values[..., :1]
    return margins.scatter(-1, classes[..., :1], values[..., :1] - values[..., 1:])


class MultiMatchOptions(NS3LHostOptions):
    """Options of MultiMatch."""

    name: Literal["multimatch"] = "multimatch"
    weight: float = Field(1.0, ge=0, description="of the unlabeled loss")
    difficult_weight: float = Field(3.0, ge=0, description="of a document whose class one of the two other heads alone has a high margin for")
    percentile: float = Field(
        0.05, ge=0, le=1, description="of the average margins of the documents that two heads agree on: the margin to pass, at least 0"
    )
    smoothing: float = Field(0.997, gt=0, le=1, description="share of a step's margin in the average of the first round; in round t, divided by t")
    threshold_momentum: float = Field(0.999, ge=0, lt=1, description="of the self-adaptive thresholds (FreeMatch)")
    ramp: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which the weight of the unlabeled loss rises: exp(-5 (1 - t)^2); theirs: none"
    )


class MultiMatch(NS3LHost):
    """See the module's docstring."""

    paper = "MultiMatch: Multihead Consistency Regularization Matching for Semi-Supervised Text Classification (Sirbu et al. 2025, arXiv:2506.07801)"
    summary = "three classifiers on one encoder, each taught by the other two, weighted by their agreement and average margins"
    strong_views = 1
    one_pass = True
    learns_from_unlabeled = True
    remembered = (*NS3LHost.remembered, "margins", "predicted", "confidence", "class_means")
    Options = MultiMatchOptions
    options: MultiMatchOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        documents, classes, device = len(self.unlabeled), len(self.corpus.labels), self.encoder.device
        self._round = 0
        self._place = {index: place for place, index in enumerate(self.unlabeled)}
        self.margins = torch.zeros(HEADS, documents, classes, device=device)  # average pseudo-margins
        self.predicted = torch.full((HEADS, documents), -1, device=device)  # class of the last step that drew the document
        self.thresholds = torch.zeros(HEADS, classes, device=device)  # of the margins of the two that teach a head
        self.confidence = torch.full((HEADS,), 1 / classes, device=device)  # mean of the highest probabilities
        self.class_means = torch.full((HEADS, classes), 1 / classes, device=device)  # mean probabilities

    def make_classifier(self) -> torch.nn.Module:
        return torch.nn.Linear(self.encoder.dimensions, HEADS * len(self.corpus.labels))

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits of every head, `[N, heads, L]`."""
        return super().scores(rows).unflatten(1, (HEADS, -1))

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        figures = super().refresh(round_, texts)
        self._round = round_
        if round_:
            self.thresholds = torch.stack([self._margins_to_pass(*others) for others in OTHERS])
        return figures

    def _margins_to_pass(self, one: int, other: int) -> torch.Tensor:
        """Of each class, `[L]`: the percentile of both heads' average margins over the documents that both file under it."""
        found = self.thresholds.new_zeros(self.thresholds.shape[1])
        for label in range(len(found)):
            agreed = (self.predicted[one] == label) & (self.predicted[other] == label)
            if agreed.any():
                margins = self.margins[[one, other]][:, agreed, label]
                found[label] = margins.flatten().quantile(self.options.percentile).clamp(min=0)
        return found

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sum of the heads' cross-entropies, as in the released code."""
        targets = self.targets_of(batch)
        return {"ce": sum((F.cross_entropy(logits[:, head], targets) for head in range(HEADS)), torch.zeros((), device=logits.device))}

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        weak = batch.weak_logits.detach().transpose(0, 1)  # [heads, U, L]
        places = torch.tensor([self._place[index] for index in batch.unlabeled], device=weak.device)
        share = self.options.smoothing / (1 + self._round)
        self.margins[:, places] = (1 - share) * self.margins[:, places] + share * pseudo_margins(weak).to(self.margins)
        self.predicted[:, places] = weak.argmax(dim=2)
        confident = self._confident(torch.softmax(weak, dim=2))
        strong = self.scores(self.strong_rows(batch, 0))
        terms = []
        for head in range(HEADS):
            labels, weights = self._taught(head, places, confident)
            terms.append((F.cross_entropy(strong[:, head], labels, reduction="none") * weights).mean())
        return {"multimatch": self.options.weight * torch.stack(terms).mean()}

    def ns3l_rows(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return super().ns3l_rows(replace(batch, weak_logits=batch.weak_logits.mean(dim=1)))

    def _confident(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Whether a head passes its self-adaptive threshold, `[heads, U]`, which follows these `[heads, U, L]` first (FreeMatch, arXiv:2205.07246)."""
        old, (highest, classes) = self.options.threshold_momentum, probabilities.max(dim=2)
        self.confidence = old * self.confidence + (1 - old) * highest.mean(dim=1).to(self.confidence)
        self.class_means = old * self.class_means + (1 - old) * probabilities.mean(dim=1).to(self.class_means)
        relative = self.class_means / self.class_means.amax(dim=1, keepdim=True)
        return highest >= self.confidence[:, None] * relative.gather(1, classes)

    def _taught(self, head: int, places: torch.Tensor, confident: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `head` is taught of the documents at `places`: (classes, weights), `[U]` each."""
        named, passed = [], []
        for teacher in OTHERS[head]:
            labels = self.predicted[teacher, places]
            named.append(labels)
            passed.append(self.margins[teacher, places, labels] >= self.thresholds[head, labels])
        first, second = passed
        easy = (named[0] == named[1]) & first & second
        weights = easy + self.options.difficult_weight * (first ^ second)
        useful = confident[list(OTHERS[head])].any(dim=0) & (self._round > 0)  # the first round has no margins to pass yet
        return torch.where(first, named[0], named[1]), weights * useful

    def student(self) -> Student:
        encoder, classifier = self.served
        assert isinstance(classifier, torch.nn.Linear)
        weights, bias = (part.detach().unflatten(0, (HEADS, -1)).mean(dim=0) for part in (classifier.weight, classifier.bias))
        return Student(encoder, weights, 1.0, bias)
