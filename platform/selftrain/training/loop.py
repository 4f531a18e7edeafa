"""The self-training loop: plain torch, no framework inside. training/fit.py calls it in this process, training/ray.py in the workers of Ray Train.

    for each round:  refresh (pseudo-labels, texts) -> steps -> report(figures, checkpoint)

All randomness of a round follows from (seed, round, rank), so a run that is resumed after round r continues exactly as the one that was never stopped.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.data.texts import TextChannel
from selftrain.evaluation.metrics import area_under_curve
from selftrain.methods.base import Method
from selftrain.models.names import NameScores
from selftrain.models.student import Student

# report(figures of the round, state to checkpoint)
Report = Callable[[dict[str, float], dict[str, Any]], None]
# step_done(round, rounds, step, steps), all counted from one
StepDone = Callable[[int, int, int, int], None]
# names_read(scores of documents and class names before the first step)
NamesRead = Callable[[NameScores], None]


@dataclass(frozen=True)
class Validation:
    """Labeled documents that no method sees: after every round the student is scored on them."""

    documents: Sequence[Any]
    labels: Sequence[int]

    @classmethod
    def of(cls, corpus: Corpus, truth: TrueLabels) -> Validation | None:
        """The validation split with its true labels; None where it is empty."""
        documents = corpus.validation
        return cls(documents.contents, [truth.validation[id_] for id_ in documents.ids]) if len(documents) else None

    @classmethod
    def of_test(cls, corpus: Corpus, truth: TrueLabels) -> Validation | None:
        """The test split likewise, for the report alone; None where it has no true labels."""
        places = [place for place, id_ in enumerate(corpus.test.ids) if id_ in truth.test]
        found = cls([corpus.test.contents[place] for place in places], [truth.test[corpus.test.ids[place]] for place in places])
        return found if places else None

    def figures(self, student: Student) -> dict[str, float]:
        """What is reported of `student` after a round, where the documents choose nothing."""
        probabilities, labels = student.predict(self.documents).cpu().numpy(), np.array(self.labels)
        area = area_under_curve(probabilities, labels)
        return {"test_accuracy": float((probabilities.argmax(axis=1) == labels).mean())} | ({"test_auc": area} if area is not None else {})

    def accuracy(self, student: Student) -> float:
        """Share of the documents that `student` gets right."""
        found = student.predict(self.documents).argmax(dim=1).cpu()
        return float((found == torch.tensor(self.labels)).double().mean())


@dataclass
class Fitted:
    """What a training leaves, in whatever process it ran."""

    method: Method  # with the weights of the last round
    rounds: list[dict[str, float]] = field(default_factory=list)  # figures a round
    seconds: float = 0.0  # without waiting for texts, and without validation
    best: dict[str, Any] | None = None  # the best round on the validation documents: its "round" (0-based), "accuracy" and "method" (a state)

    @property
    def student(self) -> Student:
        """The trained classifier, as it is evaluated, bundled and served."""
        return self.method.student()

    def state(self) -> dict[str, Any]:
        """What `train` takes as `resume`: a training that is over."""
        return self._after(self.method.rounds - 1, self.method.state())

    @contextmanager
    def best_round(self) -> Iterator[Student]:
        """The classifier of the best round, in a `with` block; after it the method has its last weights again."""
        assert self.best is not None
        last = copy.deepcopy(self.method.state())
        self.method.load_state(self.best["method"])
        try:
            yield self.student
        finally:
            self.method.load_state(last)

    def _after(self, round_: int, state: dict[str, Any]) -> dict[str, Any]:
        return {"round": round_, "method": state, "rounds": self.rounds, "seconds": self.seconds, "best": self.best}


def train(
    method: Method,
    *,
    texts: TextChannel,
    report: Report,
    seed: int,
    validation: Validation | None = None,
    tested: Validation | None = None,
    resume: dict[str, Any] | None = None,
    step_done: StepDone | None = None,
    names_read: NamesRead | None = None,
) -> Fitted:
    """Run `method` from its first round, or from the one after `resume`, to its last.

    Args:
        method: owns the model and the optimiser; its weights are changed in place.
        texts: answers requests for texts of the language model.
        report: called after every round with the round's figures and a state that `resume` takes.
        seed: of everything random but the language model.
        validation: documents to choose the best round by; of equal ones the first is kept.
        tested: documents whose figures are reported after every round; nothing is chosen by them.
        resume: a state that `report` got; a finished one makes this a no-op.
        step_done: called after every step with (round, rounds, step, steps), all counted from one.
        names_read: called once, before the first step, where the method has compared documents with class names in this process.
    """
    fitted = Fitted(method)
    first = 0
    if resume is not None:
        method.load_state(resume["method"])
        first = int(resume["round"]) + 1
        fitted.rounds = list(resume["rounds"])
        fitted.seconds = float(resume["seconds"])
        fitted.best = resume.get("best")
    for round_ in range(first, method.rounds):
        torch.manual_seed(_round_seed(seed, round_, method.workers.rank))
        start = time.monotonic()
        waiting = _Stopwatch(texts)
        figures = method.refresh(round_, waiting)
        if round_ == 0 and names_read is not None and method.name_scores is not None:
            aside = time.monotonic()
            names_read(method.name_scores)
            start += time.monotonic() - aside
        method.encoder.train()
        losses: dict[str, float] = {}
        steps = method.steps(round_)
        for step in range(steps):
            for name, value in method.step(round_, step).items():
                losses[name] = losses.get(name, 0.0) + value / steps
            if step_done is not None:
                step_done(round_ + 1, method.rounds, step + 1, steps)
        method.encoder.eval()
        fitted.seconds += time.monotonic() - start - waiting.seconds
        state = method.state()
        if validation is not None:
            figures["validation_accuracy"] = validation.accuracy(method.student())
            if fitted.best is None or figures["validation_accuracy"] > fitted.best["accuracy"]:
                weights = copy.deepcopy(state | {"optimizer": None, "scheduler": None})
                fitted.best = {"round": round_, "accuracy": figures["validation_accuracy"], "method": weights}
        if tested is not None:
            figures |= tested.figures(method.student())
        fitted.rounds.append({"round": float(round_ + 1), **figures, **losses})
        report(fitted.rounds[-1], fitted._after(round_, state))
    method.encoder.eval()
    return fitted


class _Stopwatch:
    """A text channel that knows how long was waited for it: cost is reported apart for the language model and for training."""

    def __init__(self, channel: TextChannel) -> None:
        self.channel = channel
        self.seconds = 0.0

    def __call__(self, requests: Any) -> Any:
        start = time.monotonic()
        try:
            return self.channel(requests)
        finally:
            self.seconds += time.monotonic() - start


def _round_seed(seed: int, round_: int, rank: int) -> int:
    return (seed * 1_000_003 + round_ * 1_009 + rank) % (2**63)
