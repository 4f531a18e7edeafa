"""Binary relevance, self-trained: a yes/no question for each class, so that a document has none, one or several of them; zero-shot.

Paper: Classifier Chains: A Review and Perspectives (Read, Pfahringer, Holmes & Frank 2021, arXiv:1912.13405), whose baseline it is: each class has a classifier of
its own, and none knows of the others. That they are trained without a label, and how, is our own; docs/howto/multi_label.md measures it.
The encoder stays as it is. Before the first round a class's score is

    s_j(x) = sim(f(x), f(p_j)) - 1/L sum_k sim(f(x), f(p_k))

its similarity against that of all classes: without what they share, since a text of no class is unlike all prompts and one of two classes is like both. A round
takes, for each class by itself, the documents with the highest scores as positives and those with the lowest as negatives, a share of all documents that grows from
`first_share` to `last_share`; 1/L of them are positives. Their least squares fit, with the targets 1 and -1 and a penalty on the weights, gives the next scores:

    (w_j, b_j) = argmin  1/n sum_i (<w, f(x_i)> + b - y_ij)^2 + penalty * v * |w|^2          v = mean variance of a dimension

It is one equation a class, without learning rate or seed. After the last round the scores of a class are cut in two where the variance between both parts
is highest (Otsu 1979), and that cut becomes the probability 1/2. The slope is that of two normal distributions with the parts' means and their common variance.
No label has a say, so nothing is promised of the cut: `selftrain thresholds` moves it by answers given by hand.
Needs: the names of at least three classes, and data.multi_label. (Against the mean of two each class is the opposite of the other.)
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError
from selftrain.methods.base import ClassifierMethod, Options
from selftrain.methods.zero_shot.selection import shares_grow
from selftrain.models.names import NameScores
from selftrain.models.student import Student

_STEEPEST = 1e3  # slope of a logit at most: where both parts hold one value each, their variance is 0


class BinaryRelevanceOptions(Options):
    """Options of binary relevance."""

    name: Literal["binary_relevance"] = "binary_relevance"
    rounds: int = Field(5, ge=0, le=1000, description="times that pseudo-labels are made anew; 0: the label prompts alone, with the same cut")
    first_share: float = Field(0.2, gt=0, le=1, description="documents that a class is fitted to in the first round, as a share of all")
    last_share: float = Field(1.0, gt=0, le=1, description="in the last round; linear in between")
    penalty: float = Field(3.0, gt=0, description="on the squared weights, as a multiple of the mean variance of an embedding's dimension")

    _shares_grow = model_validator(mode="after")(shares_grow)

    @property
    def trains(self) -> bool:
        """Without rounds the classifier is the label prompts with a cut."""
        return self.rounds > 0


class BinaryRelevance(ClassifierMethod):
    """See the module's docstring."""

    paper = (
        "Classifier Chains: A Review and Perspectives (Read, Pfahringer, Holmes & Frank 2021, arXiv:1912.13405); its baseline, trained without labels in "
        "our own way"
    )
    summary = "several labels a document: a yes/no question for each class, fitted to its surest positives and negatives on the encoder as it is"
    supervision = "none"
    multi_label = True
    Options = BinaryRelevanceOptions
    options: BinaryRelevanceOptions
    classifier: torch.nn.Linear

    @classmethod
    def check(cls, options: BinaryRelevanceOptions, corpus: Corpus) -> None:
        if len(corpus.labels) < 3:
            raise ConfigError(
                f"data.classes must be at least 3 for the method binary_relevance (got {len(corpus.labels)}): against the mean of two classes each is the "
                "opposite of the other, and no document could have both; add a class.",
                parameter="data.classes",
            )

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.classifier = torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels)).to(self.encoder.device).requires_grad_(False)
        self._embeddings: torch.Tensor | None = None
        prototypes = self.prototypes().double()
        self._set(prototypes - prototypes.mean(dim=0), torch.zeros(len(prototypes), dtype=torch.float64))
        if not self.rounds:
            self._cut()

    @property
    def rounds(self) -> int:
        return self.options.rounds

    def steps(self, round_: int) -> int:
        return 1

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        embeddings = self._documents()
        if round_ == 0 and self.name_scores is None:
            self.name_scores = NameScores.of(embeddings, self.prototypes(), range(len(embeddings)))
        return {"positives": float(self._counts(round_)[0]), "negatives": float(self._counts(round_)[1])}

    def step(self, round_: int, step: int) -> dict[str, float]:
        """Fit every class to its surest documents; the last round ends with the cut."""
        rows, (positives, negatives) = self._documents(), self._counts(round_)
        scores = self._scores(rows)
        weights, offsets = [], []
        for label in range(scores.shape[1]):
            order = torch.argsort(scores[:, label], descending=True, stable=True)
            chosen = torch.cat([order[:positives], order[len(order) - negatives :]])
            targets = torch.cat([torch.ones(positives), -torch.ones(negatives)]).to(rows)
            weight, offset = least_squares(rows[chosen], targets, self.options.penalty)
            weights.append(weight)
            offsets.append(offset)
        self._set(torch.stack(weights), torch.stack(offsets))
        change = float((self._scores(rows) - scores).square().mean())
        if round_ == self.rounds - 1:
            self._cut()
        return {"change": change}

    def student(self) -> Student:
        return Student(self.encoder, self.classifier.weight.detach(), 1.0, self.classifier.bias.detach(), independent=True)

    def _documents(self) -> torch.Tensor:
        """Embeddings of the unlabeled documents, `[N, D]` in float64; made once, since the encoder does not change."""
        if self._embeddings is None:
            found = self.workers.encode(self.encoder.encode, list(self.corpus.unlabeled.contents), self.encoder.dimensions)
            self._embeddings = found.double()
        return self._embeddings

    def _scores(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.classifier.weight.double().T + self.classifier.bias.double()

    def _counts(self, round_: int) -> tuple[int, int]:
        """Positives and negatives of a class in a round, at least one of each."""
        first, last = self.options.first_share, self.options.last_share
        share = last if self.rounds == 1 else first + (last - first) * round_ / (self.rounds - 1)
        documents, classes = len(self.corpus.unlabeled), len(self.corpus.labels)
        positives = max(1, round(share * documents / classes))
        return positives, max(1, min(documents - positives, round(share * documents * (1 - 1 / classes))))

    def _set(self, weights: torch.Tensor, offsets: torch.Tensor) -> None:
        self.classifier.weight.copy_(weights)
        self.classifier.bias.copy_(offsets)

    def _cut(self) -> None:
        """Move and stretch the scores of every class, so that the sigmoid is 1/2 at its cut."""
        scores = self._scores(self._documents())
        cuts = [cut_in_two(scores[:, label].cpu().numpy()) for label in range(scores.shape[1])]
        places, slopes = (torch.tensor(column, dtype=torch.float64, device=scores.device) for column in zip(*cuts, strict=True))
        self._set(slopes.unsqueeze(1) * self.classifier.weight.double(), slopes * (self.classifier.bias.double() - places))


def least_squares(rows: torch.Tensor, targets: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights and the offset of a linear function with small weights that comes nearest to the targets.

    Args:
        rows: `[n, D]`.
        targets: `[n]`.
        penalty: on the squared weights, as a multiple of the mean variance of a column.
    """
    mean, middle = rows.mean(dim=0), targets.mean()
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    added = (penalty * covariance.diagonal().mean()).clamp(min=torch.finfo(rows.dtype).tiny)
    weights = torch.linalg.solve(
        covariance + added * torch.eye(len(covariance), dtype=rows.dtype, device=rows.device), centred.T @ (targets - middle) / len(rows)
    )
    return weights, middle - mean @ weights


def cut_in_two(values: np.ndarray) -> tuple[float, float]:
    """Where to cut values in two so that the variance between both parts is highest (Otsu 1979), and the slope of the log odds there.

    The slope is (m1 - m0) / v, with the means of the parts and the variance within them: that of two normal distributions with one variance.

    Args:
        values: `[n]`, at least two different ones; of equal ones the cut is at their value, with the slope 1.
    """
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (high - low) ** 2
    between[ordered[1:] == ordered[:-1]] = -1.0  # equal values are not parted
    if not len(between) or between.max() < 0:
        return float(values[0]), 1.0
    place = int(between.argmax())
    cut = (ordered[place] + ordered[place + 1]) / 2
    parts = ordered[: place + 1], ordered[place + 1 :]
    within = sum(float(((part - part.mean()) ** 2).sum()) for part in parts) / len(ordered)
    gap = float(high[place] - low[place])
    return float(cut), _STEEPEST if within * _STEEPEST <= gap else gap / within
