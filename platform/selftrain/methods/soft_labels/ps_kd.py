"""PS-KD: targets move from the label to the model's own earlier predictions.

Paper: Self-Knowledge Distillation with Progressive Refinement of Targets (Kim et al. 2021, arXiv:2006.12000).
Loss: cross-entropy with the target (1 - alpha_t) y + alpha_t p_{t-1}(x) in epoch t, alpha_t = alpha_T t / T; p_{t-1} is the prediction at the end of the epoch
before. Of an image it is the prediction for its view when a step last drew it in a round before, as in the released code, and the label until then.
Needs: labels. A round is an epoch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.texts import TextChannel
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import text_to_label
from selftrain.methods.semisupervised import Batch


class PSKDOptions(NS3LHostOptions):
    """Options of PS-KD."""

    name: Literal["ps_kd"] = "ps_kd"
    alpha: float = Field(0.8, ge=0, le=1, description="alpha_T: share of the earlier prediction in the last round's targets")


class PSKD(NS3LHost):
    """See the module's docstring."""

    paper = "Self-Knowledge Distillation with Progressive Refinement of Targets (Kim et al. 2021, arXiv:2006.12000); baseline of SEAL"
    summary = "targets move from the label to the model's predictions of the round before"
    remembered = (*NS3LHost.remembered, "_latest")
    Options = PSKDOptions
    options: PSKDOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._round = 0
        self._earlier: torch.Tensor | None = None  # [labeled, classes], predictions of the rounds before
        self._place = {index: place for place, index in enumerate(self.labeled)}
        self._latest: torch.Tensor | None = None  # of images: the label, then what the last step that drew one predicted
        if self.corpus.kind == "image":
            labels = torch.tensor([self.targets[index] for index in self.labeled], device=self.encoder.device)
            self._latest = F.one_hot(labels, len(self.corpus.labels)).to(torch.get_default_dtype())

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        figures = super().refresh(round_, texts)
        self._round = round_
        if self._latest is not None:
            self._earlier = self._latest.clone()
        elif round_ > 0:  # the weights are still those that the round before ended with
            documents = [self.corpus.unlabeled.contents[index] for index in self.labeled]
            embeddings = self.workers.encode(self.encoder.encode, documents, self.encoder.dimensions)
            with torch.no_grad():
                self._earlier = torch.softmax(self.classifier(embeddings), dim=1)
        return figures

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        target = F.one_hot(self.targets_of(batch), logits.shape[1]).to(logits)
        places = [self._place[index] for index in batch.labeled]
        if self._earlier is not None:
            alpha = self.options.alpha * (self._round + 1) / self.rounds
            target = (1 - alpha) * target + alpha * self._earlier[places]
        if self._latest is not None:
            self._latest[places] = torch.softmax(logits.detach(), dim=1).to(self._latest.dtype)
        return {"ce": text_to_label(logits, target)}
