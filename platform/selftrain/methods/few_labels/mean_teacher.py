"""Mean teacher: the student agrees, on a strong view, with the moving average of its own weights.

Paper: Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep learning results (Tarvainen & Valpola 2017,
arXiv:1703.01780).
Loss: the mean squared difference of the student's and the teacher's probabilities.
Needs: labels of a few documents; one strong view.
Settings: decay and weight are those of NS3L's experiments (Oliver et al. 2018, arXiv:1804.09170). The teacher is evaluated and served.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.errors import ConfigError
from selftrain.methods.few_labels.ns3l import NS3LHost, NS3LHostOptions
from selftrain.methods.optimizers import MovingAverage
from selftrain.methods.semisupervised import Batch
from selftrain.models.encoder import Encoder


class MeanTeacherOptions(NS3LHostOptions):
    """Options of mean teacher."""

    name: Literal["mean_teacher"] = "mean_teacher"
    decay: float = Field(0.95, ge=0, lt=1, description="of the moving average (Oliver et al. 2018)")
    weight: float = Field(8.0, ge=0, description="of the mean squared difference of probabilities (Oliver et al. 2018)")


class MeanTeacher(NS3LHost):
    """See the module's docstring. The teacher is what is evaluated and served."""

    paper = (
        "Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep learning results "
        "(Tarvainen & Valpola 2017, arXiv:1703.01780); baseline of NS3L"
    )
    summary = "the student agrees with a moving average of itself"
    stateful = (*NS3LHost.stateful, "teacher")
    strong_views = 1
    image_views = "weak"
    learns_from_unlabeled = True
    Options = MeanTeacherOptions
    options: MeanTeacherOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.teacher = MovingAverage(self.encoder, self.classifier, self.options.decay)

    @classmethod
    def check(cls, options: MeanTeacherOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        if options.average:
            raise ConfigError(
                f"method.average must be 0 with mean_teacher: its teacher is a moving average (method.decay) and is what is served (got {options.average:g}).",
                parameter="method.average",
            )

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            found = self.workers.encode(self.teacher.encoder.encode, batch.texts, self.encoder.dimensions)
            target = torch.softmax(self.teacher.classifier(found), dim=1)
        return {"mean_teacher": self.options.weight * F.mse_loss(torch.softmax(self.logits(batch.strong[0]), dim=1), target)}

    def after_step(self) -> None:
        self.teacher.follow(self.encoder, self.classifier)

    @property
    def served(self) -> tuple[Encoder, torch.nn.Module]:
        return self.teacher.encoder, self.teacher.classifier
