"""What a bundle promises, by answers that were given by hand in an audit: of the answers that it gives, of its prediction sets, and of texts of no class.

    Promise          at most a share of the answers is wrong, where it gives none to texts below a threshold (evaluation/audit/risk.py)
    PredictionSets   at most a share of the texts has a set of classes without the true one (evaluation/audit/sets.py)
    NoneOfThese      at most a share of the texts is of a class and taken for none of them (the same test)
    FoundLabels      of several labels: at most a share of a class's texts lacks it (evaluation/multi_label.py)

`selftrain audit --promise`, `--sets` and `--none-of-these`, and `selftrain thresholds`, write them into the card. `predict`, the endpoint and the client keep the
first three where they are asked to, and the last with every answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from selftrain.errors import ConfigError


class Promise(BaseModel, frozen=True, allow_inf_nan=False):
    """At most `risk` of the answers are wrong, where texts whose most probable class has less than `threshold` get none."""

    risk: float = Field(gt=0, lt=1, description="share of wrong answers among those that are given, at most")
    level: float = Field(gt=0, lt=1, description="share of audits whose promise holds, at least")
    threshold: float = Field(ge=0, le=1, description="of the probability of the most probable class: below it there is no answer")
    answered: float = Field(gt=0, le=1, description="share of the audit's documents that are answered")
    documents: int = Field(ge=1, description="of the audit: those that the promise is about")
    answers: int = Field(ge=1, description="by hand, about documents that are answered")
    wrong: int = Field(ge=0, description="predictions among them that were wrong")
    backend: str = Field(description="what computed the audit's probabilities")
    made: str = Field(description="UTC, ISO 8601")

    @property
    def sentence(self) -> str:
        """The promise in words."""
        return (
            f"at most {percent(self.risk)} of the answers are wrong (with {percent(self.level)} confidence), where texts whose most probable class has "
            f"a probability below {self.threshold:.4f} get none; {percent(self.answered)} of the audit's {self.documents:,} documents are answered"
        )


class PredictionSets(BaseModel, frozen=True, allow_inf_nan=False):
    """The set of at most `risk` of the texts lacks the true class: a set holds the most probable class, and every other of at least `threshold`."""

    risk: float = Field(gt=0, lt=1, description="share of texts whose set does not hold the true class, at most")
    level: float = Field(gt=0, lt=1, description="share of audits whose promise holds, at least")
    threshold: float = Field(ge=0, le=1, description="of a class's probability, from which on it is in the set; the most probable class always is")
    size: float = Field(ge=1, description="classes in a set on average, estimated from the documents that were asked about")
    classes: int = Field(ge=2, description="that there are")
    documents: int = Field(ge=1, description="of the audit: those that the promise is about")
    answers: int = Field(ge=1, description="by hand")
    missed: int = Field(ge=0, description="answers among them that were not in the document's set")
    backend: str = Field(description="what computed the audit's probabilities")
    made: str = Field(description="UTC, ISO 8601")

    @property
    def sentence(self) -> str:
        """The promise in words."""
        return (
            f"the sets of at least {percent(1 - self.risk)} of the texts hold the true class (with {percent(self.level)} confidence), where a set holds the "
            f"most probable class and all with a probability of at least {self.threshold:.4f}; {self.size:.1f} of {self.classes} classes on average"
        )

    def members(self, probabilities: Sequence[float]) -> list[int]:
        """The classes of a text's set, the most probable first.

        Args:
            probabilities: of the text, `[classes]`.
        """
        # In Python, as all that an endpoint does with a handful of classes.
        first, *others = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
        return [first, *(index for index in others if probabilities[index] >= self.threshold)]


class NoneOfThese(BaseModel, frozen=True, allow_inf_nan=False):
    """At most `risk` of the texts are of a class and taken for none of these, where those of a typicality of at most `threshold` are."""

    risk: float = Field(gt=0, lt=1, description="share of texts that are of a class and taken for none, at most")
    level: float = Field(gt=0, lt=1, description="share of audits whose promise holds, at least")
    threshold: float = Field(ge=0, le=1, description="of the typicality: up to it a text is taken for none of these")
    documents: int = Field(ge=1, description="of the audit: those that the promise is about")
    answers: int = Field(ge=1, description="by hand")
    wrong: int = Field(ge=0, description="answers among them that name a class, or were skipped, of documents that are taken for none")
    none: int = Field(ge=0, description="answers among them that are none of these")
    caught: int = Field(ge=0, description="of these, those of documents that are taken for none")
    backend: str = Field(description="what computed the audit's typicalities")
    made: str = Field(description="UTC, ISO 8601")

    @property
    def sentence(self) -> str:
        """The promise in words."""
        return (
            f"at most {percent(self.risk)} of the texts are of a class and taken for none of these (with {percent(self.level)} confidence), where those with a "
            f"typicality of at most {self.threshold:.4f} are; of {self.none} documents of no class that were asked about, {self.caught} are"
        )


class FoundLabels(BaseModel, frozen=True, allow_inf_nan=False):
    """Of several labels: of each class that answers support, at most `risk` of its texts lack it, where thresholds are those of the card."""

    risk: float = Field(gt=0, lt=1, description="share of a class's texts that it is not found in, at most")
    level: float = Field(gt=0, lt=1, description="share of samples of answers whose promise holds for all classes together, at least")
    classes: tuple[str, ...] = Field(min_length=1, description="that it holds for; of the others there were too few answers")
    answers: int = Field(ge=1, description="texts that were labeled by hand, drawn at random")
    missed: int = Field(ge=0, description="labels of these classes among the answers that were not found")
    backend: str = Field(description="what computed the probabilities")
    made: str = Field(description="UTC, ISO 8601")

    @property
    def sentence(self) -> str:
        """The promise in words."""
        return (
            f"at most {percent(self.risk)} of the texts of a class lack it (with {percent(self.level)} confidence for {', '.join(self.classes)} together), "
            f"by {self.answers} answers"
        )


Stated = TypeVar("Stated", bound=Promise | PredictionSets | NoneOfThese)
_WANTED = {
    "abstain": "abstain needs a promise, and this bundle states none; audit the bundle with a promise first.",
    "sets": "sets need a promise of their own, and this bundle states none; audit the bundle for sets first.",
    "none_of_these": "none_of_these has no promise in this bundle; audit the bundle for it first, or name a share of the known documents, such as 0.05.",
}


def percent(share: float) -> str:
    """A share as a percentage, to a tenth."""
    return f"{100 * share:.3g} %" if share < 0.0995 else f"{round(100 * share, 1):g} %"


def kept(promise: Stated | None, backend: str, parameter: str = "abstain") -> Stated:
    """The promise, where a classifier can keep it.

    Args:
        promise: of the card.
        backend: what computes the classifier's probabilities now.
        parameter: what asks for it: abstain, sets or none_of_these.

    Raises:
        ConfigError: there is none, or it was made with probabilities of another precision.
    """
    if promise is None:
        raise ConfigError(_WANTED[parameter], parameter=parameter)
    if _in_8_bits(promise.backend) != _in_8_bits(backend):
        raise ConfigError(
            f"{parameter} {'are' if parameter == 'sets' else 'is'} not possible with the backend {backend}: the bundle's promise was made with "
            f"{promise.backend}, whose probabilities differ; open the bundle with that backend, or audit it anew.",
            parameter=parameter,
        )
    return promise


def stated(promise: Promise | PredictionSets | NoneOfThese | FoundLabels | None, backend: str) -> dict[str, Any] | None:
    """The promise as JSON, with its sentence; None where `kept` raises."""
    if promise is None or _in_8_bits(promise.backend) != _in_8_bits(backend):
        return None
    found = promise
    return found.model_dump(mode="json") | {"sentence": found.sentence}


def _in_8_bits(backend: str) -> bool:
    return backend.endswith("int8")
