"""The description of a sweep, one short document of tune_spaces/, and the cells that it spans.

    axes        method.tau: [1.0, 0.1]                                    a key of the experiment and its values, or
                method: {VAT: {method: {name: vat}}, ...}                 named settings, each with its changes, or
                method.learning_rate: {low: 1.0e-4, high: 0.1, log: true} a range (for a search)
    datasets    AG News: {source: ag_news}                                the columns of the table, each with its changes of `data`
    reference   "0.1" or {method: FixMatch}                               the row that all others are compared with (sweeps/reference.py)
    every       method: {rounds: 5}                                       changes of every setting, whatever its method; its own ones win
    small       a size for two CPU cores: `base` is merged into the base, every other key replaces the full one

A setting with another method than the base's starts from its method's defaults and `every`: the base's options belong to the base's method.

A cell is one setting on one data set with one seed: a complete experiment. All of them are validated before anything starts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from selftrain.config import Experiment, ModelConfig, Section, merge, nested, overridden, parse, read_yaml
from selftrain.errors import ConfigError, nearest
from selftrain.methods.recipe import Recipe, resolve
from selftrain.sweeps.conditions import SECTIONS, check_grid, check_paper
from selftrain.sweeps.reference import reference_of, shown_value

Metric = Literal["accuracy", "error", "macro_f1", "ece"]


class Range(Section):
    """Values from `low` to `high`, for a search."""

    low: float
    high: float
    log: bool = Field(False, description="draw the logarithm uniformly")
    integer: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Range:
        if self.high <= self.low or (self.log and self.low <= 0):
            raise ValueError(f"low must be below high, and above 0 if log is true (got {self.low:g} to {self.high:g})")
        return self


Axis = Range | list[Any] | dict[str, dict[str, Any]]


class Search(Section):
    """How settings are found where a grid is too large. They are chosen on validation documents; test documents are for the table alone."""

    sampler: Literal["random", "optuna"] = "random"
    trials: int = Field(32, ge=1, description="settings that are tried")
    asha: bool = Field(
        False, description="ASHA ends weak trials, once all losses have their full weight; a table would lose its bad cells, so a grid cannot have it"
    )
    seed: int = Field(0, description="of the sampler")


class Paper(Section):
    """The paper's own figures, as it prints them: setting -> column -> figure. A cell without one is left out."""

    source: str = Field(description="table or figure of the paper")
    figures: dict[str, dict[str, str]] = Field(default_factory=dict)

    @field_validator("figures", mode="before")
    @classmethod
    def _names(cls, figures: Any) -> Any:
        # YAML reads the setting 0.1 as a number.
        if not isinstance(figures, Mapping):
            return figures
        return {
            shown_value(row): {str(column): str(figure) for column, figure in cells.items()} if isinstance(cells, Mapping) else cells
            for row, cells in figures.items()
        }


class Space(Section):
    """One sweep; see the module's docstring."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    title: str
    claim: str = Field("", description="what the paper says, in a sentence; the table tests it")
    base: dict[str, Any] | str = Field(description="the experiment that every cell starts from, or its file, relative to the folder of this one")
    axes: dict[str, Axis] = Field(min_length=1)
    datasets: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="column of the table -> its changes of data; default: the base's data"
    )
    every: dict[str, Any] = Field(default_factory=dict, description="changes of every setting, whatever its method; what a setting says itself wins")
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=1)
    metric: Metric = Field("accuracy", description="shown in percent; error is 100 - accuracy")
    paper: Paper | None = None
    reference: str | dict[str, str] | None = Field(
        None,
        description="what every other row is compared with: a row as the table shows it, or an axis and its value, to compare within the other axes",
    )
    search: Search | None = Field(None, description="default: the whole grid")
    minutes: float | None = Field(None, gt=0, description="budget: trials that have not ended by then are left until the sweep is resumed")
    small: dict[str, Any] = Field(default_factory=dict)

    @field_validator("reference", mode="before")
    @classmethod
    def _reference(cls, reference: Any) -> Any:
        if isinstance(reference, list | tuple) or reference == {}:
            raise ValueError(f"must be a row as the table shows it, or an axis and its value (got {reference!r})")
        return reference_of(reference)

    @model_validator(mode="after")
    def _is_whole(self) -> Space:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ; the same seed is listed twice")
        for key, axis in self.axes.items():
            if not isinstance(axis, Range) and not axis:
                raise ValueError(f"the axis {key!r} must have at least one value")
            if isinstance(axis, Range) and self.search is None:
                raise ValueError(f"the axis {key!r} is a range and a grid needs values; list them, or set search.sampler")
        base = [("base", self.base)] if isinstance(self.base, Mapping) else []
        named = [(f"the axis {key!r} at {name!r}", one) for key, axis in self.axes.items() if isinstance(axis, dict) for name, one in axis.items()]
        small = [(f"small.{key}", self.small.get(key, {})) for key in ("base", "every")]
        for where, document in (*base, ("every", self.every), *named, *small):
            if not isinstance(document, Mapping) or (odd := next((key for key in SECTIONS if not isinstance(document.get(key, {}), Mapping)), None)):
                raise ValueError(f"{where} must hold keys and values{f' for {odd}' if isinstance(document, Mapping) else ''}")
        if "name" in self.small or "small" in self.small:
            raise ValueError("small must not hold name or small")
        return self

    def fingerprint(self) -> str:
        """A short hash of the document."""
        # A document without `every` keeps the hash, and so the folder, that it had before there was one. What rows are compared with, and prices, change no result.
        document = self.model_dump(mode="json", exclude={"reference"} if self.every else {"reference", "every"})
        document["base"] = {key: value for key, value in document["base"].items() if key != "cost"}
        return _hash(document)[:8]

    def to_yaml(self) -> str:
        """The resolved document."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)

    @property
    def start(self) -> dict[str, Any]:
        """The experiment that every cell starts from, as a plain mapping."""
        assert isinstance(self.base, Mapping)  # load_space has read it
        return {"data": {}, **self.base}

    @property
    def columns(self) -> tuple[str, ...]:
        """The data sets, in order."""
        return tuple(self.datasets) or (str(self.start["data"].get("source", Experiment().data.source)),)

    def settings(self) -> list[Setting]:
        """Every combination of the axes' values, the last axis running fastest.

        Raises:
            ConfigError: an axis is a range, which has no combinations.
        """
        if ranged := [key for key, axis in self.axes.items() if isinstance(axis, Range)]:
            raise ConfigError(f"{self.name}: the axis {ranged[0]!r} is a range; a grid needs values.")
        return [self.setting(dict(zip(self.axes, values, strict=True))) for values in itertools.product(*map(list, self.axes.values()))]

    def setting(self, values: Mapping[str, Any]) -> Setting:
        """The setting of a value, or of the name of a named setting, for every axis."""
        changes: dict[str, Any] = {}
        for key, value in values.items():
            axis = self.axes[key]
            changes = merge(changes, axis[value] if isinstance(axis, Mapping) else nested(key, value))
        return Setting(tuple(shown_value(value) for value in values.values()), changes)

    def experiment(self, setting: Setting, column: str) -> Experiment:
        """The experiment of a cell, without its seed. The options of its method are checked by `cell`.

        Raises:
            ConfigError: an unknown key, or a value out of its range.
        """
        base = self.start
        changes = setting.changes
        if (own := changes.get("method", {}).get("name")) not in (None, base.get("method", {}).get("name", "genco")):
            base = {**base, "method": {"name": own}}
        where = f"{self.name} at {setting.name} on {column}"
        shared = merge(merge(base, {"data": self.datasets.get(column, {})}), self.every)
        return parse(merge(shared, changes), where=where)

    def cell(self, setting: Setting, column: str, seed: int, data: str = "") -> Cell:
        """One training of the space, with its method resolved.

        Args:
            setting: a row.
            column: a data set.
            seed: of the training.
            data: fingerprint of the documents.

        Raises:
            ConfigError: an unknown key or option, or a value out of its range.
        """
        experiment = self.experiment(setting, column)
        return Cell(setting.name, column, seed, experiment, resolve(experiment), data)


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    values: tuple[str, ...]  # of every axis, as they are shown
    changes: Mapping[str, Any]  # nested, to be merged into the base

    @property
    def name(self) -> str:
        """The row's label."""
        return " · ".join(self.values)


@dataclass(frozen=True)
class Cell:
    """One training: a setting on a data set with a seed."""

    setting: str
    column: str
    seed: int
    experiment: Experiment
    recipe: Recipe  # what `experiment` comes to
    data: str = ""  # fingerprint of the documents

    @property
    def wants_texts(self) -> bool:
        """Whether training or scoring asks the language model for anything."""
        return self.experiment.evaluation.inference_augmentation or self.recipe.wants_texts

    def with_model(self, model: ModelConfig) -> Cell:
        """The same cell with another `model` section."""
        return replace(self, experiment=self.experiment.model_copy(update={"model": model}), recipe=replace(self.recipe, model=model))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the result depends on: of cells with the same hash, one is trained."""
        experiment = self.experiment
        asked = {
            "seed": self.seed,
            "documents": self.data,
            "data": experiment.data.model_dump(mode="json"),
            "model": experiment.model.model_dump(mode="json", exclude={"cache", "batch_size"}),
            "method": self.recipe.options.model_dump(mode="json"),
            "precision": experiment.training.precision,
            "augmented": experiment.evaluation.inference_augmentation,
        }
        if self.wants_texts:
            asked["augment"] = text_settings(experiment) | {"samples": [experiment.augment.input_samples, experiment.augment.conditional_samples]}
        return _hash(asked)[:16]


def text_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that a generated text depends on besides its request: cells with the same ones share a text service."""
    machine = {"input_samples", "conditional_samples", "concurrent_requests", "engine_memory_gb", "gpus", "stall_seconds", "cache", "most_replicas"}
    machine |= {"gpu_memory", "placement", "replicas", "server_seconds", "max_spent_tokens", "max_cost", "prompt_price", "generated_price"}
    # Results from before there were servers, or several teachers, keep their identity.
    machine |= {key for key in ("server", "teachers") if not getattr(experiment.augment, key)} | {"key_variable"}
    return experiment.augment.model_dump(mode="json", exclude=machine)


def load_space(path: Path | str, *, small: bool = False, overrides: Sequence[str] = ()) -> Space:
    """Read a space.

    Args:
        path: a YAML file, such as those of tune_spaces/.
        small: with its `small` block.
        overrides: `key=value` strings laid over it in the end: keys of the sweep (`seeds=[0,1]`), and of the experiment that every cell starts from
            (`data.test_documents=500`); options of a method (`method.rounds=5`) are those of every setting's method.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, an empty grid, a paper's figure for a row or column that the space does not have, or an
            override of a key that is an axis.
    """
    document = read_yaml(path, "sweep", "tune_spaces/")
    if isinstance(base := document.get("base"), str):
        found = Path(path).parent / base
        if not os.path.isfile(found):  # pathlib's raises for a name that is too long
            raise ConfigError(
                f"base in {path}: there is no experiment file {str(found)!r}; write its path relative to the folder of the sweep's file."
            )
        document["base"] = read_yaml(found, "experiment", "jobs/experiments/")
    full = _parse(document, str(path))
    check_paper(full)
    if small:
        if not full.small:
            raise ConfigError(f"{path} has no small block; run it at full size, or add one.")
        changes = dict(full.small)
        document = {**document, **changes, "base": merge(document["base"], changes.get("base", {})), "small": {}}
        full = _parse(document, f"small of {path}")
    return _overridden(full, document, overrides) if overrides else full


def _overridden(space: Space, document: Mapping[str, Any], overrides: Sequence[str]) -> Space:
    """`space`, which was read from `document`, with overrides of the sweep's own keys and of those of its base."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        of_values = [one for one, values in space.axes.items() if not isinstance(values, dict)]  # the name of a named setting is no key
        if axis := next((one for one in of_values if one == key or one.startswith(f"{key}.") or key.startswith(f"{one}.")), None):
            raise ConfigError(f"overrides: {key} has no effect, every cell sets the axis {axis!r}; change axes in the file.", parameter="overrides")
    keys = {override: override.partition("=")[0].strip() for override in overrides}
    own = [override for override, key in keys.items() if key.partition(".")[0] in Space.model_fields]
    of_every = [override for override, key in keys.items() if key.startswith("method.") and key != "method.name"]
    changed = {
        "base": overridden(document["base"], [override for override in keys if override not in own + of_every]),
        "every": overridden(document.get("every") or {}, of_every),
    }
    return _parse(overridden({**document, **changed}, own), "the options")


def parse_space(document: Mapping[str, Any]) -> Space:
    """Validate a plain mapping whose base is inline."""
    return _parse(document, "the sweep")


def _parse(document: Mapping[str, Any], where: str) -> Space:
    try:
        space = Space.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "dict[", "Range"))) or "the document"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"Unknown key {path!r} in {where}; {nearest(path, Space.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path} in {where}: {message[0].lower()}{message[1:]}.") from None
    check_grid(space)
    return space


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
