"""ZeroGen: plain training on the texts that a language model wrote for each label, all of them believed.

Paper: ZeroGen: Efficient Zero-shot Learning via Dataset Generation (Ye et al. 2022, arXiv:2202.07922).
Loss: cross-entropy; options are label smoothing (SunGen's table 8) and the robust loss without a second level (its table 11).
Needs: a label for every document, right or wrong.
Differs from the method cross_entropy: it goes in epochs over all labeled documents instead of a fixed number of steps, and takes no views of unlabeled documents.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.methods.losses import reverse_cross_entropy
from selftrain.methods.noisy_labels.noisy import NoisyLabelOptions, NoisyLabels, check_budget

_SUBSET = 1_000_005  # stream of random numbers, apart from that of the batches


class ZeroGenOptions(NoisyLabelOptions):
    """Options of ZeroGen."""

    name: Literal["zerogen"] = "zerogen"
    loss: Literal["ce", "rce"] = Field("ce", description="rce: the reverse cross-entropy alone, one level (SunGen table 11)")
    budget: int | None = Field(
        None, ge=1, description="texts that are drawn at random and trained on, beside SunGen's subsets; the vocabulary is that of all; default: all"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="epsilon of label smoothing, with loss: ce (SunGen table 8)")


class ZeroGen(NoisyLabels):
    """See the module's docstring."""

    paper = "ZeroGen: Efficient Zero-shot Learning via Dataset Generation (Ye et al. 2022, arXiv:2202.07922); baseline of SunGen"
    summary = "every label is believed: plain training on generated texts (label smoothing, or the robust loss alone, as options)"
    Options = ZeroGenOptions
    options: ZeroGenOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if self.options.budget is not None:
            drawn = np.random.default_rng([self.seed, _SUBSET]).choice(len(self.texts), size=self.options.budget, replace=False)
            self.choose(np.sort(drawn), self.weights)

    @classmethod
    def check(cls, options: ZeroGenOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        check_budget(options.budget, corpus)

    def losses(self, batch: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.options.loss == "rce":
            return {"rce": reverse_cross_entropy(logits, self.targets[batch])}
        return {"ce": F.cross_entropy(logits, self.targets[batch], label_smoothing=self.options.label_smoothing)}
