"""The typed document that describes an experiment; every default is stated once, here.

The options of a method live in the method's own file, so that a new method is one file, and are validated by `selftrain.methods.options_of`. Everything else
is here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from selftrain.config.augment import AugmentConfig
from selftrain.config.classes import class_tree, composed, paths_of
from selftrain.config.hardware import Placement, WorkerGpu
from selftrain.config.mistakes import explain
from selftrain.config.prices import CostConfig
from selftrain.config.section import Section
from selftrain.errors import ConfigError
from selftrain.passwords import keys_with_passwords

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy, torch and scikit-learn all take


class DataConfig(Section):
    """Where documents and class names come from, and which labels the learner may see."""

    source: str = Field(
        "bbc_news",
        description="a name of the catalogue, a CSV, JSONL or Parquet file, a folder of selftrain generate or of Parquet files, a wildcard, an s3:// "
        "address, or a Hugging Face datasets name",
    )
    text_column: str = Field("text", description="column with the text (files and hub data sets outside the catalogue)")
    label_column: str | None = Field(None, description="column with the true label; for evaluation only, unless supervision says otherwise")
    classes: tuple[str | dict[str, Any], ...] | None = Field(
        None, description="class names, or a tree of them, e.g. {sport: [football, tennis], politics: [elections, laws]}; default: the catalogue's"
    )
    multi_label: bool = Field(
        False, description="a document has none, one or several of the classes; the label column, for testing, then holds all of them in one cell"
    )
    label_separator: str = Field(
        ",", min_length=1, max_length=8, description="between the labels in a cell, with multi_label; a cell with it alone: none of the classes"
    )
    descriptions: dict[str, str] = Field(
        default_factory=dict, description="a few words about each class for the language model, e.g. tech: computers and gadgets"
    )
    prompts: tuple[str, ...] | None = Field(None, description="label prompts with {label}; default: the catalogue's, else table 4 of GenCo")
    test_documents: int = Field(1000, ge=0, description="documents held out for evaluation where the source has no test split of its own")
    validation_documents: int = Field(
        0, ge=0, description="labeled documents kept out of training; the best checkpoint on them is then reported beside the last one"
    )
    unlabeled_documents: int | None = Field(None, ge=1, description="use at most this many unlabeled documents")
    train_split: str | None = Field(
        None, description="split to train on, where a set has several (imdb_generated: gpt2_xl); default: train, or all others"
    )
    test_split: str | None = Field(None, description="split to test on; default: test, or the one whose name ends so")
    test_source: str | None = Field(
        None,
        description="another source of the same classes, in any form of source; its test split (data.test_split; all of it where it has none) is the test set",
    )
    max_characters: int = Field(100_000, ge=1, description="longer texts are skipped and counted")
    min_documents: int = Field(20, ge=2, description="fewer usable unlabeled documents than this is an error")
    weak_label_column: str | None = Field(None, description="column with a label that may be wrong or missing, for supervision weak")
    supervision: Literal["none", "few", "all", "weak", "candidates", "oracle"] = Field(
        "none",
        description="labels that the learner may see: none, labels_per_class of each class (few), those of all training documents (all), those of "
        "weak_label_column (weak), or for every document a set that holds the label among others (candidates, flip_probability); "
        "oracle: few to learn from, and all for a choice that only an upper bound may make (method.ns3l_negatives: oracle)",
    )
    labels_per_class: int = Field(10, ge=1, description="labels of each class with supervision few; which documents get one follows from the seed")
    flip_probability: float = Field(0.3, ge=0, lt=1, description="probability that a wrong class is in a document's candidate set (SEAL table 3)")
    label_noise: float = Field(0.0, ge=0, lt=1, description="share of the granted labels that are replaced by another class (symmetric noise)")

    @field_validator("classes", mode="before")
    @classmethod
    def _tree(cls, classes: Any) -> Any:
        return class_tree(classes)

    @field_validator("descriptions", mode="after")
    @classmethod
    def _composed_keys(cls, descriptions: dict[str, str]) -> dict[str, str]:
        return {composed(name): words for name, words in descriptions.items()}

    @property
    def class_paths(self) -> tuple[tuple[str, ...], ...] | None:
        """Of each class its parents, the outermost first, and its name; None where `classes` are left to the source."""
        return None if self.classes is None else tuple(paths_of(self.classes))


class ModelConfig(Section):
    """The small model that is trained and served."""

    encoder: str = Field(
        "all-MiniLM-L6-v2",
        description="a sentence-transformers folder or name; all-MiniLM-L6-v2 is also found in the package that holds it; bilstm: without pre-training",
    )
    masked_lm: str | None = Field(
        None, description="a masked language model's folder or name (bert-base-uncased): what ipet and lotclass train instead of the encoder"
    )
    max_tokens: int = Field(64, ge=8, le=8192, description="tokens of a document that the encoder reads, or of each of its windows")
    windows: int = Field(
        1,
        ge=1,
        le=64,
        description="of a document longer than max_tokens at most so many parts are read, evenly spread over its first 4,096 tokens, and averaged; "
        "1: its beginning alone",
    )
    batch_size: int = Field(64, ge=1, description="documents in one inference batch")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="sim of equation 1")
    scale: float = Field(1.0, gt=0, description="factor on a cosine in equations 3 and 10 (the paper: none); a dot product is left as it is")
    train: Literal["full", "head"] = Field(
        "full", description="full: all weights of the encoder; head: two dense layers on its frozen, cached embeddings (seconds on a CPU)"
    )
    hidden: int = Field(
        150, ge=1, le=1 << 14, description="units of each direction of encoder bilstm (SunGen's code: 150; its form takes similarity: dot)"
    )
    word_dimensions: int = Field(100, ge=1, le=1 << 14, description="length of the word embeddings of encoder bilstm (SunGen's code: 100)")
    vocabulary: int = Field(
        50_000, ge=1, description="most frequent words of the training documents that encoder bilstm knows (SunGen's code: 50,000)"
    )
    cache: str = Field(".selftrain/embeddings", description="folder of the cache of frozen embeddings, shared by all runs (model.train: head)")


class TrainingConfig(Section):
    """How the self-training loop is run."""

    workers: int = Field(1, ge=1, description="Ray Train workers")
    gpu: WorkerGpu = Field(
        "auto",
        description="GPU of a worker: true for one, false for the CPU, or a part of one (0.5); auto: one, or a part of it, where there are GPUs",
    )
    placement: Placement = Field(default_factory=dict, description="labels of the Ray nodes that workers run on, e.g. {selftrain/role: training}")
    threads: int | None = Field(
        None, ge=1, description="torch threads a worker; default: the cores that other work leaves free, divided by the workers"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products while training (weights stay float32); auto: bfloat16 where the hardware multiplies it"
    )
    max_failures: int = Field(1, ge=0, description="restarts of the worker group from its last checkpoint")
    storage: str | None = Field(
        None, description="shared folder or address for checkpoints on a cluster; default: the run's own folder or address (output)"
    )
    pseudo_labeling: Literal["auto", "workers", "cluster"] = Field(
        "auto",
        description="what scores all unlabeled documents before a round of GenCo or PESCO: the training workers, or actors wherever the Ray cluster has room; "
        "auto: actors for 100,000 documents and more where several nodes have room; a head or BiLSTM, which no worker trains, scores in its own process",
    )


class EvaluationConfig(Section):
    """What is measured besides accuracy, macro-F1 and calibration."""

    inference_augmentation: bool = Field(False, description="also report every variant with equation 9 at inference (GenCo table 6)")
    every_round: bool = Field(
        False, description="also report accuracy and AUC on the test documents after every round of a run; no training sees them"
    )
    llm_documents: int = Field(0, ge=0, description="test documents that the language model itself classifies (GenCo table 2, Alpaca-7B row)")
    reference: int = Field(
        2000,
        ge=0,
        le=2000,
        description="documents whose probabilities and embeddings the bundle keeps, for selftrain watch and none of these; 0: none. Much of a text can be "
        "guessed from its embedding",
    )
    map: Literal["tsne", "pca", "none"] = Field("tsne", description="embedding map of GenCo's figure 4")
    map_documents: int = Field(500, ge=10)


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = Field(None, description="tracking server; default: MLFLOW_TRACKING_URI, else a local SQLite file")
    experiment: str = Field("selftrain", min_length=1)
    registered_model: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="name in the registry; default: the experiment's name")
    promote: bool = Field(False, description="make the new model champion even where no labels can compare it")


class RayConfig(Section):
    """The Ray cluster."""

    address: str | None = Field(None, description="address of an existing cluster; default: a local Ray, started and stopped with the run")
    wait_seconds: float = Field(0.0, ge=0, description="how long a cluster that scales from zero may take to provide what the run needs")


class Experiment(Section):
    """One experiment: the run that it describes, and the variants that are compared with it."""

    name: str = Field("selftrain", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="every trained variant is repeated with each; the first one's model is bundled")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "genco"}, description="name and options of the method (selftrain methods)")
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    cost: CostConfig = CostConfig()
    ray: RayConfig = RayConfig()
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name -> what differs from the experiment (method, data.supervision)"
    )
    output: str = Field("runs", description="folder of the run folders, or an address (s3://bucket/runs): a run is then continued on any machine")

    @field_validator("method")
    @classmethod
    def _named_method(cls, method: dict[str, Any]) -> dict[str, Any]:
        return {"name": "genco", **method}

    @model_validator(mode="after")
    def _seeds_differ(self) -> Experiment:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds hold the same seed twice; list each once")
        return self

    def variant(self, name: str) -> Experiment:
        """The experiment with the changes of the variant `name`; it has no variants of its own.

        Raises:
            ConfigError: the variant changes something that a variant may not, or something to a wrong value.
        """
        changes = self.variants[name]
        if flat := next((key for key, value in changes.items() if key in ("method", "data", "model") and not isinstance(value, Mapping)), None):
            key = f"variants.{name}.{flat}"
            raise ConfigError(f"{key} must be keys and values, e.g. {flat}: {{{_EXAMPLES[flat]}}} (got {changes[flat]!r}).", parameter=key)
        if unknown := sorted(set(changes) - {"method", "data", "model"}):
            key = f"variants.{name}"
            raise ConfigError(f"{key} sets {unknown[0]!r}; a variant may set method, data and model.", parameter=key)
        document = self.model_dump()
        document["variants"] = {}
        own_method = changes.get("method", {})
        if own_method.get("name", document["method"]["name"]) != document["method"]["name"]:
            document["method"] = {}
        return parse(merge(document, changes))

    def fingerprint(self) -> str:
        """A short hash of the resolved document: two runs with the same one were asked for the same thing."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The resolved document, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_EXAMPLES = {"method": "name: supervised", "data": "supervision: all", "model": "train: head"}  # of what a variant changes


def merge(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with `changes` laid over it, section by section; the result shares nothing that either call may change."""
    result = dict(document)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def nested(key: str, value: Any) -> dict[str, Any]:
    """`value` under a key with dots: `{"method": {"tau": 0.05}}` for `method.tau`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def parse(document: Mapping[str, Any], where: str = "the experiment") -> Experiment:
    """Validate a plain mapping.

    Raises:
        ConfigError: the first mistake, as one sentence that names the key.
    """
    if (key := next(keys_with_passwords(document), None)) is not None:
        raise ConfigError(
            f"{key} holds a password, which would be shown in the report, in MLflow and in the bundle; set the address by the environment variable "
            "MLFLOW_TRACKING_URI, or keep the password in ~/.pgpass.",
            parameter=key,
        )
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise explain(error, Experiment, where) from None
