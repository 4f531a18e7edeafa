"""What an endpoint has seen: the files that `selftrain serve --seen FOLDER` writes and `selftrain watch` reads.

    FOLDER/<fingerprint of the bundle>/<day>/<time>-<replica>.parquet

A file holds the texts of a few minutes that one replica has drawn, a row each, in the order of their arrival: `id` (of the text, as in a corpus), `time` (UTC),
`probabilities`, `embedding` (float16, of length one) where the backend gives one, and `text` where that was asked for. Files are written whole and never changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from selftrain.errors import DataError
from selftrain.files.durable import replacing

_KEY = b"selftrain"


class Origin(BaseModel, frozen=True):
    """Whose texts these are."""

    format: int = 1
    name: str
    version: str
    fingerprint: str
    backend: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Texts that were seen, in order."""

    ids: list[str]
    times: np.ndarray  # [n] seconds since 1970
    probabilities: np.ndarray  # [n, classes] float32
    embeddings: np.ndarray | None  # [n, dimensions] float16
    texts: list[str] | None

    def __len__(self) -> int:
        return len(self.ids)

    def last(self, count: int) -> Rows:
        """The last of them."""
        first = max(len(self) - count, 0)
        embeddings = None if self.embeddings is None else self.embeddings[first:]
        return Rows(self.ids[first:], self.times[first:], self.probabilities[first:], embeddings, None if self.texts is None else self.texts[first:])


def joined(parts: Sequence[Rows]) -> Rows:
    """Several, at least one; embeddings and texts where all of them have some."""
    embeddings = [one.embeddings for one in parts if one.embeddings is not None]
    texts = [one.texts for one in parts if one.texts is not None]
    return Rows(
        [id_ for one in parts for id_ in one.ids],
        np.concatenate([one.times for one in parts]),
        np.concatenate([one.probabilities for one in parts]),
        np.concatenate(embeddings) if len(embeddings) == len(parts) else None,
        [text for of_part in texts for text in of_part] if len(texts) == len(parts) else None,
    )


def write_part(home: Path, replica: str, origin: Origin, rows: Rows) -> Path:
    """Write the rows of a few minutes below `home`, the folder of the bundle; raises `OSError`.

    Args:
        home: folder of what was seen by a bundle.
        replica: who writes.
        origin: whose texts.
        rows: at least one.
    """
    columns: dict[str, pa.Array] = {
        "id": pa.array(rows.ids, pa.string()),
        "time": pa.array((rows.times * 1000).astype(np.int64), pa.timestamp("ms", tz="UTC")),
        "probabilities": _lists(rows.probabilities.astype(np.float32)),
    }
    if rows.embeddings is not None:
        columns["embedding"] = _lists(rows.embeddings.astype(np.float16))
    if rows.texts is not None:
        columns["text"] = pa.array(rows.texts, pa.string())
    table = pa.table(columns).replace_schema_metadata({_KEY: origin.model_dump_json()})
    moment = datetime.fromtimestamp(float(rows.times[0]), UTC)
    file = home / f"{moment:%Y-%m-%d}" / f"{moment:%H%M%S%f}-{replica}.parquet"
    with replacing(file) as scratch:
        pq.write_table(table, scratch, compression="zstd")
    return file


def forget(folder: Path, days: int, now: float) -> None:
    """Remove what was seen before the last `days`, by bundles that answer no more, too; what cannot be removed stays.

    Args:
        folder: of all bundles.
        days: that are kept.
        now: seconds since 1970.
    """
    first = f"{datetime.fromtimestamp(now, UTC) - timedelta(days=days - 1):%Y-%m-%d}"
    for day in folder.glob("*/????-??-??"):
        if day.name < first:
            shutil.rmtree(day, ignore_errors=True)


def parts_of(home: Path) -> list[str]:
    """The files below `home` in the order of time, as `DAY/FILE`."""
    return sorted(f"{file.parent.name}/{file.name}" for file in home.glob("????-??-??/*.parquet") if not file.name.startswith("."))


def read_part(home: Path, part: str) -> tuple[Origin, Rows]:
    """One file.

    Raises:
        DataError: it is damaged, or was written by something else.
    """
    file = home / part
    try:
        table = pq.read_table(file, partitioning=None)
        origin = Origin.model_validate(json.loads((table.schema.metadata or {})[_KEY]))
        probabilities = _array(table, "probabilities")
        embeddings = _array(table, "embedding") if "embedding" in table.column_names else None
        times = table["time"].cast(pa.int64()).to_numpy() / 1000
        rows = Rows(table["id"].to_pylist(), times, probabilities, embeddings, table["text"].to_pylist() if "text" in table.column_names else None)
        if probabilities.shape[1] != len(origin.labels) or not all(np.isfinite(one).all() for one in (probabilities, embeddings) if one is not None):
            raise ValueError("its numbers do not fit its classes")
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException, ValidationError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())[:150]}); remove it.") from None
    return origin, rows


def _lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _array(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(table), -1)
