"""Search, where a grid is too large: settings that are drawn, and their ranking by validation documents. Test documents have no part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from selftrain.errors import ConfigError, MissingExtraError
from selftrain.evaluation.significance import mean_std
from selftrain.sweeps.space import Range, Setting, Space


def check_search(space: Space) -> None:
    """Refuse a search that would choose on test documents, or that cannot be compared.

    Raises:
        ConfigError: what is wrong.
        MissingExtraError: Optuna is asked for and not installed.
    """
    search = space.search
    assert search is not None
    if len(space.columns) > 1:
        raise ConfigError(f"{space.name}: a search has one data set (got {len(space.columns)}); write a file for each.")
    if changed := [key for key in space.axes if key.startswith("data.")]:
        raise ConfigError(f"{space.name}: a search compares settings on the same documents, so {changed[0]!r} cannot be an axis of it.")
    if (search.asha or search.sampler == "optuna") and len(space.seeds) > 1:
        raise ConfigError(f"{space.name}: with ASHA or Optuna a trial is one training; set one seed, and repeat the winner with more.")
    validation = space.base["data"].get("validation_documents", 0) if isinstance(space.base, Mapping) and "data" in space.base else 0
    if not max(validation, space.datasets.get(space.columns[0], {}).get("validation_documents", 0)):
        raise ConfigError(f"{space.name}: a search chooses on validation documents, never on test documents; set data.validation_documents.")
    if search.sampler == "optuna" and find_spec("optuna") is None:
        raise MissingExtraError(
            "search.sampler optuna needs the package optuna; install the extra (pip install 'selftrain[search]'), or set sampler: random."
        )


def draw(space: Space) -> list[dict[str, Any]]:
    """The settings of a random search, as values of the axes; a longer search starts with those of a shorter one."""
    assert space.search is not None
    found: list[dict[str, Any]] = []
    for trial in range(space.search.trials):
        rng = np.random.default_rng([space.search.seed, trial])
        values = {key: _drawn(axis, rng) for key, axis in space.axes.items()}
        if values not in found:
            found.append(values)
    return found


def corners(space: Space) -> list[Setting]:
    """Settings that together hold every listed value and both ends of every range: what is validated before an adaptive search starts."""
    ends: dict[str, list[Any]] = {key: _ends(axis) for key, axis in space.axes.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [space.setting({**first, key: value}) for key, values in ends.items() for value in values]


def ranking(settings: Sequence[Setting], results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The settings that were tried, the best on validation documents first; trials that were ended early come after all others.

    Args:
        settings: what was tried.
        results: setting's name -> results of its seeds; an early-stopped one is {"stopped": rounds, "objective": validation accuracy}.
    """
    rows = []
    for setting in settings:
        found = results.get(setting.name, [])
        finished = [one for one in found if one.get("validation") is not None]
        stopped = [one for one in found if "stopped" in one]
        if finished:
            validation, rounds = mean_std([100 * one["validation"] for one in finished]), None
        elif stopped:
            validation, rounds = mean_std([100 * one["objective"] for one in stopped]), stopped[0]["stopped"]
        else:
            continue
        tested = mean_std([100 * one["scores"]["accuracy"] for one in finished]) if finished else None
        rows.append({"setting": setting.name, "validation": validation, "test": tested, "stopped": rounds, "seeds": len(finished) or len(stopped)})
    return sorted(rows, key=lambda row: (row["stopped"] is not None, -row["validation"]["mean"]))


def _drawn(axis: Any, rng: np.random.Generator) -> Any:
    if not isinstance(axis, Range):
        return list(axis)[int(rng.integers(len(axis)))]
    low, high = (np.log(axis.low), np.log(axis.high)) if axis.log else (axis.low, axis.high)
    value = float(rng.uniform(low, high))
    value = float(np.exp(value)) if axis.log else value
    return round(value) if axis.integer else float(f"{value:.6g}")


def _ends(axis: Any) -> list[Any]:
    if not isinstance(axis, Range):
        return list(axis)
    return [round(axis.low), round(axis.high)] if axis.integer else [axis.low, axis.high]
