"""From a YAML file and `section.key=value` overrides to an experiment."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selftrain.config.document import Experiment, merge, nested, parse
from selftrain.config.mistakes import explain
from selftrain.config.prices import Prices
from selftrain.errors import ConfigError
from selftrain.files.parsing import DEPTH, YAML_CHARACTERS, yaml_of


def load(path: str | Path | None = None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None) -> Experiment:
    """Read an experiment.

    Args:
        path: YAML file; None for the defaults alone.
        overrides: `section.key=value` strings, the value in YAML (`method.tau=0.05`, `seeds=[0,1]`); `variants={}` leaves out all that the file has.
        base: values laid over the file and under the overrides (what the command line's own flags say).

    Raises:
        ConfigError: there is no such file, it is not YAML, a key is unknown (the message names the nearest known one) or a value is out of range.
    """
    document: dict[str, Any] = {}
    if path is not None:
        document = read_yaml(path, "experiment", "jobs/experiments/")
    document = merge(document, base or {})
    return parse(overridden(document, overrides), where=str(path) if path is not None else "the options")


def load_prices(path: str | Path) -> Prices:
    """Read a price file.

    Raises:
        ConfigError: there is no such file, it is not YAML, a key is unknown or missing, or a price is below 0.
    """
    try:
        return Prices.model_validate(read_yaml(path, "price", "the one in docs/howto/cost.md"))
    except ValidationError as error:
        raise explain(error, Prices, str(path)) from None


def overridden(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`document` with `section.key=value` strings laid over it, in order.

    Args:
        document: keys and values, as in a file.
        overrides: as `load` takes them.

    Raises:
        ConfigError: an override is not of that form, or its value is not YAML.
    """
    result = dict(document)
    for override in overrides:
        key, value = _override(override)
        if value == {}:  # none of what the file has there; any other mapping is laid over it
            result = merge(result, nested(key, None))
        result = merge(result, nested(key, value))
    return result


def read_yaml(path: str | Path, kind: str, examples: str) -> dict[str, Any]:
    """The keys and values of a YAML file; none where it is empty.

    Args:
        path: the file.
        kind: what it should be, for the error.
        examples: a folder of such files, for the error.

    Raises:
        ConfigError: there is no such file, it is not YAML, or it holds no keys and values.
    """
    file = Path(path)
    if not os.path.isfile(file):  # pathlib's raises for a name that is too long
        raise ConfigError(f"No {kind} file {str(path)!r}; pass the path of a YAML file, such as one of {examples}.")
    try:
        with file.open(encoding="utf-8") as stream:
            read = yaml_of(stream.read(YAML_CHARACTERS + 1))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if read is not None and not isinstance(read, dict):
        raise ConfigError(f"{path} holds a {type(read).__name__}, not keys and values; start from one of {examples}.")
    return read or {}


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise _wrong(f"{text[:100]!r} is not of the form section.key=value, e.g. method.tau=0.05.")
    if key.count(".") > DEPTH:
        raise _wrong(f"{key[:100]!r} is a key more than {DEPTH} levels deep; an experiment has sections with keys, e.g. method.tau.")
    try:
        result = yaml_of(value)
    except ValueError as error:
        raise _wrong(f"{key}: {value[:100]!r} is not a YAML value ({error}); quote it if it holds special characters.") from None
    if isinstance(result, str):
        # YAML 1.1 reads 1e-5 as text; a user who writes it on a command line means the number.
        with contextlib.suppress(ValueError):
            result = number if math.isfinite(number := float(result)) else result
    return key.strip(), result


def _wrong(problem: str) -> ConfigError:
    return ConfigError(f"overrides: {problem}", parameter="overrides")
