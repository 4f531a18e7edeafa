"""What a submitted run or sweep says on the nodes: its document with the paths and the tracking address that hold there."""

from __future__ import annotations

import os
from typing import Any

from selftrain.cli.common import TRACKING_VARIABLE
from selftrain.config import Experiment, merge
from selftrain.errors import ConfigError
from selftrain.passwords import has_password
from selftrain.runtime.upload import Upload
from selftrain.sweeps.space import Paper, Space, parse_space


def placed_space(document: dict[str, Any], upload: Upload) -> Space:
    """A sweep with the paths that it has on the nodes.

    Args:
        document: a valid sweep, with its base inline.
        upload: what the job takes along.

    Raises:
        ConfigError, DataError: as `Upload.document`.
    """
    default = Experiment()
    folders = {"output": default.output, "model": {"cache": default.model.cache}, "augment": {"cache": default.augment.cache}}
    base = tracked(merge(folders, document["base"]), upload)
    axes = {key: _placed_axis(key, axis, upload) for key, axis in document["axes"].items()}
    # A table without data sets has one column, with the name of the base's source: it keeps the name that the submitter typed.
    columns = document.get("datasets") or {base.get("data", {}).get("source", default.data.source): {}}
    datasets = {name: upload.document(changes, "data.") for name, changes in columns.items()}
    placed = parse_space({**document, "base": upload.document(base), "axes": axes, "datasets": datasets})
    if placed.paper is not None and placed.search is None:
        placed = placed.model_copy(update={"paper": _figures_of(placed, placed.paper)})
    return placed


def _placed_axis(key: str, axis: Any, upload: Upload) -> Any:
    if isinstance(axis, list):
        return upload.value(key, axis)
    named = all(isinstance(changes, dict) for changes in axis.values())  # else a range of numbers
    return {name: upload.document(changes) for name, changes in axis.items()} if named else axis


def _figures_of(space: Space, paper: Paper) -> Paper:
    """`paper` with the figures of the rows and columns of `space` alone: a file that has others is refused, and a small sweep has fewer."""
    rows = {setting.name for setting in space.settings()}
    figures = {row: {column: one for column, one in cells.items() if column in space.columns} for row, cells in paper.figures.items() if row in rows}
    return paper.model_copy(update={"figures": figures})


def tracked(document: dict[str, Any], upload: Upload) -> dict[str, Any]:
    """`document` with the tracking address of this process, where it has none of its own and the address may be shown.

    Raises:
        ConfigError: the figures would be lost: there is neither an address nor a storage.
    """
    uri = os.environ.get(TRACKING_VARIABLE)
    if (document.get("tracking") or {}).get("uri") or (uri and has_password(uri)):
        return document
    if uri:
        return merge(document, {"tracking": {"uri": uri}})
    if upload.storage is None:
        raise ConfigError(
            f"tracking.uri must be set to a server that all nodes reach, e.g. http://mlflow:5000 (or {TRACKING_VARIABLE}), where there is no storage: the job's own "
            "database would be lost with the working folder that Ray throws away.",
            parameter="tracking.uri",
        )
    return document
