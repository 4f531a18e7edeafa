"""The bound that zero-shot methods are measured against: the same encoder and the same loss, trained on true labels.

Paper: Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM (Zhang, Wang & Yang 2023,
arXiv:2304.11872), the row Supervised of table 2.
Loss: equation 6, the limit tau -> 0 of equation 5, with the granted labels in place of pseudo-labels.
Needs: labels of all documents (`data.supervision: all`), or of some.
Differs: cosines lie between -1 and 1, so the loss pulls at every document for ever and the bound would be a weak one: a factor on them is trained along.
`fit_scale: false` is the equation as printed.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import DataError
from selftrain.methods.base import Method, Options
from selftrain.methods.losses import similarity, text_to_label
from selftrain.methods.orders import LatestOrder
from selftrain.models.encoder import TextEncoder


class SupervisedOptions(Options):
    """Options of supervised training."""

    name: Literal["supervised"] = "supervised"
    epochs: int = Field(3, ge=1, description="passes over the labeled documents")
    batch_size: int = Field(16, ge=1)
    tau: float = Field(
        0.1,
        gt=0,
        le=1,
        description="1 / tau is what the factor on a cosine starts from; with fit_scale: false the temperature of the reported probabilities",
    )
    fit_scale: bool = Field(True, description="train a factor on cosines along, which the reported probabilities have too; a dot product needs none")
    scale_learning_rate: float = Field(0.01, gt=0, description="Adam of the factor's logarithm, constant")
    learning_rate: float | None = Field(None, gt=0, description="AdamW, linear decay to 0; default: 5e-5, and 3e-3 for a head")
    weight_decay: float = Field(0.01, ge=0)


class Factor(torch.nn.Module):
    """A factor on similarities, kept as its logarithm."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.logarithm = torch.nn.Parameter(torch.tensor(math.log(first)))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """`scores` times the factor."""
        return self.logarithm.exp() * scores


class Supervised(Method):
    """See the module's docstring. A round is an epoch."""

    paper = (
        "Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM "
        "(Zhang, Wang & Yang 2023, arXiv:2304.11872)"
    )
    summary = "the same encoder trained on all true labels: what a zero-shot method is measured against"
    supervision = "labels"
    stateful = ("factor", "factor_optimizer")
    Options = SupervisedOptions
    options: SupervisedOptions

    @classmethod
    def check(cls, options: SupervisedOptions, corpus: Corpus) -> None:
        if not corpus.granted:
            raise DataError(
                "The method supervised needs labels; set data.supervision: all (or few), and data.label_column where the source is a file."
            )

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        pairs = [
            (text, self.corpus.granted[id_])
            for id_, text in zip(self.corpus.unlabeled.ids, self.corpus.unlabeled.contents, strict=True)
            if id_ in self.corpus.granted
        ]
        self.texts = [text for text, _ in pairs]
        self._order = LatestOrder()
        self.targets = F.one_hot(torch.tensor([label for _, label in pairs]), len(self.corpus.labels)).float()
        fitted = self.options.fit_scale and isinstance(self.encoder, TextEncoder) and self.encoder.normalize
        self.factor = Factor(1.0 / self.options.tau if fitted else 1.0).to(self.encoder.device).requires_grad_(fitted)
        self.factor_optimizer = torch.optim.Adam(self.factor.parameters(), lr=self.options.scale_learning_rate)
        self.adamw(self.rate(self.options.learning_rate, of_head=3e-3), self.options.weight_decay, self.rounds * self.steps(0))

    @property
    def output_temperature(self) -> float:
        logarithm = self.factor.logarithm
        return math.exp(-float(logarithm.detach())) if logarithm.requires_grad else self.options.tau

    @property
    def rounds(self) -> int:
        return self.options.epochs

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        return {"labeled": float(len(self.texts)), "factor": float(self.factor.logarithm.detach().exp())}

    def steps(self, round_: int) -> int:
        return -(-len(self.texts) // self.options.batch_size)

    def step(self, round_: int, step: int) -> dict[str, float]:
        order = self._order(round_, lambda: np.random.default_rng([self.seed, round_]).permutation(len(self.texts)))
        batch = order[step * self.options.batch_size : (step + 1) * self.options.batch_size]
        texts = [self.texts[int(index)] for index in batch]
        embeddings = self.embed(texts)
        scores = self.factor(similarity(embeddings, self.label_embeddings(), self.scale))
        value = self.backward(text_to_label(scores, self.targets[torch.from_numpy(batch)].to(embeddings.device)))
        self.update()
        self.workers.average_gradients(self.factor.parameters())
        self.factor_optimizer.step()
        self.factor_optimizer.zero_grad(set_to_none=True)
        return {"loss": value}
