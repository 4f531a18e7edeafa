"""The shape of a run's metrics.json, which a run writes and the report, the plots and the tables read.

Metrics that need true labels are None where the documents have none; seconds are wall-clock; memory is the peak resident set in MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from selftrain.evaluation.significance import MeanStd

if TYPE_CHECKING:
    from selftrain.evaluation.levels import LevelScores

LANGUAGE_MODEL_ROW = "language model"  # the variant of the row in which the language model itself classifies, or several teachers together

Supervision = str  # in words: none, all, 10 a class, all with 30 % noise


class ThreadFacts(TypedDict):
    """How many threads trained, and why so many."""

    count: int
    why: str


class RunFacts(TypedDict):
    """The run itself."""

    id: str
    name: str
    folder: str
    command: str  # one a line where the run was resumed
    started: str  # of the first part, ISO 8601
    seconds: float  # of all parts
    threads: NotRequired[ThreadFacts]
    code_version: str
    config_fingerprint: str
    mlflow_run_id: str | None


class Asked(TypedDict):
    """The configuration in short; `variant` is the row that the run is about, by default the first one."""

    data: str
    classes: list[str]
    parents: NotRequired[list[list[str]]]  # of each class of a tree, the outermost first
    multi_label: NotRequired[
        bool
    ]  # whether a document may have several classes; "accuracy" is then the share whose set of classes is right as a whole
    encoder: str
    llm: str | None
    llm_fingerprint: str | None
    method: str
    supervision: Supervision
    seeds: list[int]
    variant: NotRequired[str]


class SkippedRow(TypedDict):
    """A row of the source that was not used."""

    row: str
    reason: str


class DataFacts(TypedDict):
    """The documents; `skipped` counts rows by reason."""

    name: str
    fingerprint: str
    unlabeled: int
    validation: NotRequired[int]
    test: int
    labeled_test: bool
    skipped: dict[str, int]
    skipped_rows: list[SkippedRow]


class BestOnValidation(TypedDict):
    """The round (from 1) that is best on the validation documents: its accuracy there, and `Scores.to_json()` on the test documents."""

    documents: int
    round: int
    accuracy: float
    scores: dict[str, Any] | None


class VariantRow(TypedDict):
    """One variant with one seed; `scores` is `Scores.to_json()`. `bound` marks a row that only frames the others, such as the language model's."""

    variant: str
    seed: int
    inference_augmentation: bool
    supervision: Supervision
    scores: dict[str, Any] | None
    predicted: dict[str, int]
    mean_confidence: float
    train_seconds: float
    documents: int
    inference_ms: float | None  # milliseconds to classify one document, in batches; None where that was not measured
    bound: NotRequired[bool]
    reliability: NotRequired[float]  # of one of several teachers: how often its choices are right, as the votes of all teachers say
    levels: NotRequired[list[LevelScores]]  # of a tree of classes with true labels: those above the classes, the outermost first
    failed: NotRequired[int]  # documents without a class from the language model: wrong, and in no class's share
    validation: NotRequired[BestOnValidation]


class Summary(TypedDict):
    """One variant over its seeds."""

    variant: str
    inference_augmentation: bool
    supervision: Supervision
    bound: bool
    documents: int
    seeds: int
    accuracy: MeanStd | None
    macro_f1: MeanStd | None
    ece: MeanStd | None
    micro_f1: NotRequired[MeanStd]  # of several labels a document
    levels: NotRequired[list[MeanStd]]  # accuracy on each level of a tree above the classes, the outermost first
    validated: MeanStd | None  # accuracy of the round that is best on the validation documents
    mean_confidence: MeanStd
    train_seconds: MeanStd
    inference_ms: MeanStd | None


class VariantRound(TypedDict):
    """The metrics of one self-training round of one variant with one seed."""

    variant: str
    seed: int
    round: int
    figures: dict[str, float]


class Decision(TypedDict):
    """What a training decided by itself, and why, in a sentence: whether the language model's texts were used, and whether what was trained."""

    variant: str
    seed: int
    question: Literal["texts", "training"]
    used: bool
    why: str


class TextFacts(TypedDict):
    """Texts of the language model; `filtered` counts them by reason, `tokens_per_second` is None when nothing was generated."""

    requested: int
    generated: int
    cached: int
    filtered: dict[str, int]
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    tokens_per_second: float | None
    teachers: NotRequired[dict[str, TextFacts]]  # of each of several teachers
    broken_blocks: NotRequired[list[str]]  # blocks of the text cache that were set aside; their texts were generated again


class CostFacts(TypedDict):
    """What a run cost, or was expected to: texts that are generated, their tokens, hours of the whole run and of GPUs, and money where all prices are known."""

    texts: int
    prompt_tokens: int
    generated_tokens: int
    hours: float
    gpu_hours: float
    money: float | None
    currency: str | None
    why: str  # why there is no money
    at_most: NotRequired[bool]  # bounds, where numbers of texts follow from the training


class Stage(TypedDict):
    """A part of the run, in the order in which they ran."""

    name: str
    seconds: float
    peak_memory_mb: float


class Registration(TypedDict):
    """The version in the model registry, and why it did or did not become champion."""

    model: str
    version: str
    champion: bool
    reason: str


class RunMetrics(TypedDict):
    """metrics.json."""

    run: RunFacts
    versions: dict[str, str]
    asked: Asked
    data: DataFacts
    rows: list[VariantRow]
    summary: list[Summary]
    rounds: list[VariantRound]
    texts: TextFacts
    cost: NotRequired[dict[Literal["predicted", "real"], CostFacts]]
    stages: list[Stage]
    bundle: str | None
    decisions: NotRequired[list[Decision]]
    labeled: NotRequired[str | None]  # the documents as they were labeled, where there are none for testing
    registered: Registration | None
    serve: list[str]
