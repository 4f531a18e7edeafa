"""Tf-KD: knowledge distillation without a larger teacher, in both its forms.

Paper: Revisiting Knowledge Distillation via Label Smoothing Regularization (Yuan et al. 2020, arXiv:1909.11723).
Loss: (1 - alpha) CE + alpha T^2 KL(teacher_T || student_T).
    self  the same model is trained twice; the first training, with cross-entropy, gives the teacher, which sees the view that the student sees
    reg   the teacher is made by hand: the label has probability a, the other classes share the rest
Needs: labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.texts import TextChannel
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.losses import distillation
from selftrain.methods.semisupervised import Batch


class TFKDOptions(NS3LHostOptions):
    """Options of Tf-KD."""

    name: Literal["tf_kd"] = "tf_kd"
    variant: Literal["self", "reg"] = Field("self", description="self: trained twice (twice the rounds); reg: a teacher made by hand")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the distillation in the loss")
    temperature: float | None = Field(None, gt=0, description="T; default: 4 for self, 20 for reg")
    correct: float = Field(0.99, gt=0, lt=1, description="a: probability of the label in the teacher made by hand (the paper: at least 0.9)")


class TFKD(NS3LHost):
    """See the module's docstring."""

    paper = "Revisiting Knowledge Distillation via Label Smoothing Regularization (Yuan et al. 2020, arXiv:1909.11723); baseline of SEAL"
    summary = "the model's own first training, or a teacher made by hand, gives the soft labels"
    remembered = (*NS3LHost.remembered, "_teacher")
    Options = TFKDOptions
    options: TFKDOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.temperature = self.options.temperature or {"self": 4.0, "reg": 20.0}[self.options.variant]
        self._place = {index: place for place, index in enumerate(self.labeled)}
        self._teacher: torch.Tensor | None = None  # logits of the labeled documents, [labeled, classes]; a text has one view
        self._teacher_net: torch.nn.ModuleList | None = None  # encoder and classifier, which read the views of images
        if self.options.variant == "reg":
            self._teacher = self._by_hand()
        # The weights that both trainings start from.
        self._start = copy.deepcopy([module.state_dict() for module in (self.encoder, self.classifier)])
        self.start_optimizer(self.options.rounds * self.options.steps_per_round)

    @property
    def rounds(self) -> int:
        return self.options.rounds * (2 if self.options.variant == "self" else 1)

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        figures = super().refresh(round_, texts)
        if self.options.variant == "self" and round_ == self.options.rounds:
            if self.corpus.kind == "image":
                self._teacher_net = self._copied()
            else:
                documents = [self.corpus.unlabeled.contents[index] for index in self.labeled]
                self._teacher = self._logits_of(self.encoder, self.classifier, documents)
            self.encoder.load_state_dict(self._start[0])
            self.classifier.load_state_dict(self._start[1])
            self.start_optimizer(self.options.rounds * self.options.steps_per_round)
        return figures

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        hard = F.cross_entropy(logits, self.targets_of(batch))
        if self._teacher_net is not None:
            encoder, classifier = self._teacher_net
            teacher = self._logits_of(encoder, classifier, batch.labeled_views)
        elif self._teacher is not None:
            teacher = self._teacher[[self._place[index] for index in batch.labeled]]
        else:  # the first training
            return {"ce": hard}
        return {"ce": (1 - self.options.alpha) * hard, "tf_kd": self.options.alpha * distillation(logits, teacher, self.temperature)}

    def _copied(self) -> torch.nn.ModuleList:
        return copy.deepcopy(torch.nn.ModuleList([self.encoder, self.classifier]))

    def _logits_of(self, encoder: Any, classifier: torch.nn.Module, documents: Sequence[Any]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = classifier(self.workers.encode(encoder.encode, documents, encoder.dimensions))
        return found

    def _by_hand(self) -> torch.Tensor:
        """log p^d, which takes the place of logits: p^d at temperature T is then proportional to (p^d)^(1/T)."""
        classes = len(self.corpus.labels)
        others = math.log((1 - self.options.correct) / (classes - 1))
        labels = torch.tensor([self.targets[index] for index in self.labeled], device=self.encoder.device)
        return torch.full((len(labels), classes), others, device=labels.device).scatter(1, labels.unsqueeze(1), math.log(self.options.correct))

    def state(self) -> dict[str, Any]:
        net = None if self._teacher_net is None else self._teacher_net.state_dict()
        return super().state() | {"teacher_net": net, "start": self._start[1]}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if state.get("teacher_net") is not None:
            self._teacher_net = self._copied()
            self._teacher_net.load_state_dict(state["teacher_net"])
        self._start[1] = state["start"]
