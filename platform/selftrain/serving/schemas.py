"""The bodies of requests and answers, their limits and checks; nothing here needs Ray or HTTP.

A request is refused as a whole only where it cannot be understood (422) or is too large (413). A text that cannot be classified fails alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from selftrain.bundle.format import BundleCard
from selftrain.bundle.groups import Grouped
from selftrain.bundle.promise import PredictionSets
from selftrain.bundle.texts import problem_with

MAX_TEXTS = 256  # texts in one request
MAX_CHARACTERS = 40_000  # of one text; a longer one is cut, and its result says so. 4,096 tokens, over which windows are spread, have about 20,000
MAX_BODY_BYTES = 8 * 2**20
MAX_ID_CHARACTERS = 256
FAILED = "the model failed on this text"

_ITEM = {
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"id": {"type": ["string", "integer"], "description": "echoed in the result"}, "text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    ]
}
# Any, because one bad item must not fail the others; the OpenAPI document describes a good one.
Text = Annotated[Any, WithJsonSchema(_ITEM)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class ClassifyRequest(BaseModel):
    """The body of POST /v1/classify: one `text` or a list of `texts`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["texts"]}]})

    text: Text = Field(default=None, description='a string, or {"id": ..., "text": ...}; the id is echoed')
    texts: list[Text] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS, description=f"up to {MAX_TEXTS} of them")
    top_k: int | None = Field(default=None, ge=1, description="return this many classes, the most probable ones; default: all")
    threshold: float | None = Field(default=None, ge=0, le=1, description="abstain (label null) where the highest probability is below this")
    abstain: bool = Field(
        default=False, description="abstain where the model's promise takes it: its threshold and what it promises are in GET /v1/models"
    )
    none_of_these: Annotated[float, Field(gt=0, lt=1)] | Literal["promise"] | None = Field(
        default=None,
        description="abstain too where a text fits no class: a share of the documents that the model's bundle keeps, of which as many would be taken for such, "
        'for instance 0.05; or "promise", for what GET /v1/models promises',
    )
    sets: bool = Field(
        default=False, description="give each text's prediction set too: how often it holds the true class is promised in GET /v1/models"
    )
    model: ModelName | None = Field(default=None, description="NAME or NAME@VERSION of GET /v1/models; default: the first one there")
    augment: bool = Field(
        default=False, description="read each text with continuations of a language model, where GET /v1/models says that there is one"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if len(self.model_fields_set & {"text", "texts"}) != 1 or ("texts" in self.model_fields_set and self.texts is None):
            raise ValueError('pass either "text" with one text or "texts" with a list of them')
        if self.abstain and self.threshold is not None:
            raise ValueError('pass either "abstain" or a "threshold" of your own')
        alone = next((name for name in ("abstain", "sets", "none_of_these") if getattr(self, name)), None)
        if alone is not None and self.augment:
            raise ValueError(f'pass either "{alone}" or "augment": a promise is about texts that are read alone')
        return self

    def items(self) -> list[Any]:
        """The texts to classify, in order."""
        return [self.text] if self.texts is None else self.texts


class PredictRequest(BaseModel):
    """The body of POST /predict, as clients of text-embeddings-inference send it; its options for raw scores and truncation are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: str | Annotated[list[str | Annotated[list[str], Field(min_length=1, max_length=1)]], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description=f"a text, or up to {MAX_TEXTS} texts or lists of one text"
    )

    def items(self) -> list[str]:
        """The texts, in order."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        return [one if isinstance(one, str) else one[0] for one in self.inputs]


class ModelId(BaseModel):
    """Which model answered."""

    name: str
    version: str


class Result(BaseModel):
    """The result of one text: a label with probabilities, an abstention, or an error."""

    id: str | int | None = None
    label: str | None = Field(default=None, description="the most probable class; null where the answer abstains")
    labels: list[str] | None = Field(
        default=None,
        description="of a model with several labels a text, instead of label, probability and abstain: none, one or several classes, the surest first",
    )
    probability: float | None = Field(default=None, description="of the most probable class")
    probabilities: dict[str, float] | None = Field(default=None, description="by class, the most probable first")
    parents: dict[str, float] | None = Field(
        default=None,
        description="of a tree of classes only: the groups that the most probable class is in, the outermost first, each with the sum of its classes' probabilities",
    )
    abstain: bool | None = Field(default=None, description="whether the highest probability is below the threshold, or the text fits no class")
    none_of_these: bool | None = Field(default=None, description="with none_of_these only: whether the text fits no class")
    typicality: float | None = Field(
        default=None, description="with none_of_these only: share of the documents that the bundle keeps that are as strange as the text or more"
    )
    set: list[str] | None = Field(default=None, description="with sets only: the classes that may be the true one, the most probable first")
    truncated: bool | None = Field(default=None, description="whether the model did not read the text to its end")
    continuations: int | None = Field(
        default=None, description="with augment only: how many continuations the text was read with; 0: none was usable"
    )
    error: str | None = Field(default=None, description="why there is no label; the other fields but the id are left out")


class ClassifyResponse(BaseModel):
    """The answer of POST /v1/classify; `results` has one entry a text, in order."""

    model: ModelId
    results: list[Result]


class Score(BaseModel):
    """One class of an answer of POST /predict."""

    label: str
    score: float


class Problem(BaseModel):
    """The body of every refusal."""

    error: str


class Status(BaseModel):
    """The answer of the health checks."""

    status: Literal["ok", "ready", "not ready"]


class Refused(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        text: the sentence of the answer.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


class CheckedText(NamedTuple):
    """One text, checked."""

    text: str
    problem: str | None  # why it cannot be classified
    truncated: bool = False
    id: str | int | None = None


def check(value: object) -> CheckedText:
    """One text of a request, or an object of `text` and `id`, cut to `MAX_CHARACTERS`; `problem` says why it cannot be classified."""
    if type(value) is str and len(value) <= MAX_CHARACTERS and problem_with(value) is None:
        return CheckedText(value, None)
    name: str | int | None = None
    if isinstance(value, dict):
        given = value.get("id")
        if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
            return CheckedText("", "the id must be a string or a whole number")
        if isinstance(given, str) and len(given) > MAX_ID_CHARACTERS:
            return CheckedText("", f"the id must have at most {MAX_ID_CHARACTERS} characters")
        name = given
        if "text" not in value or not value.keys() <= {"id", "text"}:
            return CheckedText("", 'an object must have the keys "text" and "id" and no others', id=name)
        value = value["text"]
    truncated = isinstance(value, str) and len(value) > MAX_CHARACTERS
    text = value[:MAX_CHARACTERS] if isinstance(value, str) else ""
    problem = problem_with(text if isinstance(value, str) else value)
    return CheckedText(text, f"the text is {problem}" if problem is not None else None, truncated, name)


class TextProbabilities(NamedTuple):
    """The model's answer to one text."""

    probabilities: list[float] | None  # [classes]; None where it failed
    truncated: bool = False
    continuations: int | None = None  # that it was read with; None where none were asked for
    problem: str | None = None  # why it failed, where clients may know
    typicality: float | None = None  # None where it was not asked for


def result(
    item: CheckedText,
    answer: TextProbabilities | None,
    labels: Sequence[str],
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    sets: PredictionSets | None = None,
    least: float | None = None,
    tree: Grouped | None = None,
) -> dict[str, Any]:
    """One entry of `results`.

    Args:
        item: the checked text.
        answer: the model's answer; None where the text never reached the model.
        labels: class names in the order of the probabilities.
        top_k: as in the request.
        threshold: of the request, or of the promise.
        sets: the model's, where the request asks for them.
        least: the typicality up to which a text fits no class; None where the request does not ask.
        tree: the classes with their groups; None where they are in none.
    """
    found: dict[str, Any] = {} if item.id is None else {"id": item.id}
    if answer is None or answer.probabilities is None:
        return {**found, "error": item.problem or (answer and answer.problem) or FAILED}
    probabilities = answer.probabilities
    # In Python: numpy is slower for a handful of classes, and it releases the interpreter's lock, which another thread then holds.
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
    best = probabilities[order[0]]
    none = least is not None and answer.typicality is not None and answer.typicality <= least
    abstain = none or (threshold is not None and best < threshold)
    # One entry after the other: displays that are merged cost as much as all else here.
    found["label"] = None if abstain else labels[order[0]]
    found["probability"] = best
    found["probabilities"] = {labels[index]: probabilities[index] for index in order[:top_k]}
    if tree is not None:
        found["parents"] = tree.parents_of(order[0], probabilities)
    found["abstain"] = abstain
    if least is not None:
        found |= {"none_of_these": none, "typicality": answer.typicality}
    if sets is not None:
        found["set"] = [labels[index] for index in sets.members(probabilities)]
    found["truncated"] = item.truncated or answer.truncated
    if answer.continuations is not None:
        found["continuations"] = answer.continuations
    return found


def several_labels(
    item: CheckedText, answer: TextProbabilities | None, card: BundleCard, *, top_k: int | None = None, threshold: float | None = None
) -> dict[str, Any]:
    """`result` of a model with several labels a text.

    Args:
        item: the checked text.
        answer: the model's answer; None where the text never reached the model.
        card: of the model.
        top_k: as in the request; it bounds the probabilities, and not the labels.
        threshold: of the request, for all classes; None for the model's own, one a class.
    """
    one = result(item, answer, card.labels, top_k=top_k)
    if answer is None or answer.probabilities is None:
        return one
    labels = [card.labels[index] for index in card.labels_of(answer.probabilities, threshold)]
    return {key: value for key, value in one.items() if key not in ("label", "probability", "abstain")} | {"labels": labels}
