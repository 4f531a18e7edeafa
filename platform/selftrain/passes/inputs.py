"""The files that a pass reads: which there are, what they hold, and the columns that they have in common. Nothing here reads a text."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.data.parquet import groups_of, readable
from selftrain.data.records import FILE_SUFFIXES, check_source
from selftrain.data.tables import Kinds, check_columns, count_rows, types_of
from selftrain.data.text_files import suffix_of
from selftrain.errors import DataError, SelfTrainError
from selftrain.files.remote import is_address, named_as, reached
from selftrain.passes.places import Scratch, open_store

_HIDDEN = (".", "_")  # first characters of names that no reader of a folder of tables takes for one (_SUCCESS, _manifest.json)


@dataclass(frozen=True)
class Source:
    """A file, in the state in which it was found."""

    path: str  # absolute, or an address
    size: int
    version: str  # its modification time in nanoseconds; of an object store what stands for its content (ETag)

    @property
    def parquet(self) -> bool:
        """Whether it is one by its name."""
        return suffix_of(Path(self.path)) == ".parquet"

    @property
    def remote(self) -> bool:
        """Whether it lies in an object store."""
        return is_address(self.path)


def is_many(source: str) -> bool:
    """Whether `source` is a folder, a wildcard or an address, and not one file of this machine."""
    return is_address(source) or os.path.isdir(source) or _has_wildcard(source)


def folder_of(source: str) -> tuple[str, bool]:
    """(the folder that is looked through for `source`, absolute or an address; whether with all folders below)."""
    if _has_wildcard(source):
        fixed = source[: re.search(r"[*?[]", source).start()]  # type: ignore[union-attr]
        folder, whole = fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "."), "**" in source
    else:
        whole = is_address(source) or os.path.isdir(source)
        folder = source if whole else os.path.dirname(source)
    return (folder.rstrip("/") if is_address(source) else os.path.abspath(folder)), whole


def _has_wildcard(source: str) -> bool:
    return glob.has_magic(source) and (is_address(source) or not os.path.exists(source))


def find_sources(source: str) -> tuple[list[Source], int]:
    """(the files of a folder, a wildcard or an address, by their paths; how many other files of the folder are left out).

    Folders are looked through with all folders below. Names that begin with a dot or an underscore are not looked at.

    Args:
        source: a folder, a wildcard (`docs/*.parquet`, `docs/**/*.csv`), a file, or an address of one of them.

    Raises:
        DataError: there is no file, or one is empty or of an unknown suffix.
        ConfigError, MissingExtraError, ServiceError: of `places.open_store`.
    """
    found, whole = _remote(source) if is_address(source) else _local(source)
    root, _ = folder_of(source)
    shown = {path: one for path, one in found.items() if not any(part.startswith(_HIDDEN) for part in _below(path, root).split("/"))}
    known = {path: one for path, one in shown.items() if not whole or suffix_of(Path(path)) in FILE_SUFFIXES}
    if not known:
        raise DataError(
            f"source has no file to read (got {source[:300]!r}); pass a folder, a wildcard or an address of {', '.join(FILE_SUFFIXES)} files."
        )
    for path, one in known.items():
        if suffix_of(Path(path)) not in FILE_SUFFIXES or (not one.size and one.remote):
            what = "is empty" if not one.size else f"is not a {', '.join(FILE_SUFFIXES)} file"
            raise DataError(f"{path} {what}; take it out of source, or pass a wildcard that leaves it out.")
        if not one.remote:
            check_source(Path(path), "source")
    return [known[path] for path in sorted(known)], len(shown) - len(known)


def _below(path: str, root: str) -> str:
    return path[len(root) :].lstrip("/") if path.startswith(f"{root}/") else path.rpartition("/")[2]


def _local(source: str) -> tuple[dict[str, Source], bool]:
    """(path -> file, whether all of a folder was asked for)."""
    if os.path.isdir(source):
        paths = [os.path.join(place, name) for place, _, names in os.walk(source) for name in names]
    else:
        paths = [source] if os.path.exists(source) else [path for path in glob.glob(source, recursive=True) if not os.path.isdir(path)]
    found = {}
    for path in map(os.path.abspath, paths):
        try:
            found[path] = _local_source(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    return found, os.path.isdir(source)


def check_unchanged(source: Source) -> None:
    """Check, where a file is read, that it is as it was found.

    Raises:
        DataError: it is gone, this machine does not see it, or it was changed.
        ServiceError: the object store cannot be reached.
    """
    try:
        if source.remote:
            files, path = open_store(source.path, "source")
            with reached(source.path):
                info = files.info(path)
            now = Source(source.path, int(info["size"] or 0), _version(info))
        else:
            now = _local_source(source.path)
    except OSError as error:
        if isinstance(error, SelfTrainError):
            raise
        raise DataError(
            f"{source.path} cannot be read on {socket.gethostname()} ({error.strerror or 'it is gone'}); pass files that all nodes see, and leave them as they are."
        ) from None
    if now != source:
        raise DataError(f"{source.path} was changed after it was found; repeat the command, and leave the files as they are.")


def _local_source(path: str) -> Source:
    state = os.stat(path)
    return Source(path, state.st_size, str(state.st_mtime_ns))


def _remote(source: str) -> tuple[dict[str, Source], bool]:
    """As `_local`."""
    files, root = open_store(source, "source")
    protocol = source.partition("://")[0]
    whole = False
    with reached(source):
        if glob.has_magic(root):
            found = list(files.glob(root, detail=True).values())
        else:
            try:
                whole = files.info(root)["type"] == "directory"
            except FileNotFoundError:
                raise DataError(f"No such file or folder: {source[:300]}; correct source.", parameter="source") from None
            found = list(files.find(root, detail=True).values()) if whole else [files.info(root)]
    named = {f"{protocol}://{one['name']}": one for one in found if one["type"] == "file"}
    return {path: Source(path, int(one["size"] or 0), _version(one)) for path, one in named.items()}, whole


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in ("ETag", "etag", "generation", "LastModified", "mtime") if info.get(key)), "")


class Described(NamedTuple):
    """What a file holds."""

    rows: tuple[int, ...]  # of each row group; of a text file, of the whole
    columns: pa.Schema | list[str] | Kinds  # of Parquet; of CSV and TSV; of JSON


def describe(source: Source, text_column: str, scratch: Scratch | None = None) -> Described:
    """What a file holds: of Parquet by its last bytes, of any other by reading it.

    Args:
        source: the file.
        text_column: the column with the texts.
        scratch: where a text file of an object store is copied to.

    Raises:
        DataError: it cannot be read, or lacks the column.
        ServiceError: the object store cannot be reached.
    """
    if not source.parquet:
        copied = scratch.copy(source.path) if source.remote and scratch is not None else Path(source.path)
        with named_as(source.path, copied):
            columns, rows = count_rows(copied, text_column)
        return Described((rows,), columns)
    if source.remote:
        files, path = open_store(source.path, "source")
        with reached(source.path), files.open(path, "rb") as stream, readable(Path(source.path)):
            metadata = pq.read_metadata(stream)
    else:
        with readable(Path(source.path)):
            metadata = pq.read_metadata(source.path)
    with readable(Path(source.path)):
        schema = metadata.schema.to_arrow_schema().remove_metadata()
    check_columns(source.path, schema.names, text_column)
    return Described(groups_of(metadata), schema)


def described_to_json(described: Described) -> str:
    """Of a text file, to send it."""
    assert not isinstance(described.columns, pa.Schema)
    columns = described.columns
    sent = {name: sorted(kinds) for name, kinds in columns.items()} if isinstance(columns, dict) else columns
    return json.dumps([described.rows, sent])


def described_from_json(text: str) -> Described:
    """What `described_to_json` made."""
    rows, sent = json.loads(text)
    return Described(tuple(rows), {name: set(kinds) for name, kinds in sent.items()} if isinstance(sent, dict) else sent)


def common_columns(sources: Sequence[Source], described: Sequence[Described]) -> pa.Schema:
    """The columns that all files have, with their types. Those of JSON lines are what all their rows together have.

    Raises:
        DataError: one has others.
    """
    kinds: Kinds = {}
    for one in described:
        if isinstance(one.columns, dict):
            for name, found in one.columns.items():
                kinds.setdefault(name, set()).update(found)
    of_json = pa.schema(list(types_of(kinds).items()))
    first: tuple[str, pa.Schema] | None = None
    for source, one in zip(sources, described, strict=True):
        if isinstance(one.columns, dict):
            schema = of_json
        else:
            schema = one.columns if isinstance(one.columns, pa.Schema) else pa.schema([(name, pa.string()) for name in one.columns])
        if first is None:
            first = source.path, schema
        elif (difference := _difference(schema, first[1])) is not None:
            raise DataError(
                f"{source.path} has other columns than {first[0]}: {difference}; label the two kinds of files apart, each with an out of its own."
            )
    assert first is not None
    return first[1]


def _difference(schema: pa.Schema, other: pa.Schema) -> str | None:
    for name in other.names:
        if name not in schema.names:
            return f"it has no {name!r}"
    for field in schema:
        if field.name not in other.names:
            return f"it has {field.name!r} too"
        if not field.type.equals(other.field(field.name).type):
            return f"its {field.name!r} is {field.type} and not {other.field(field.name).type}"
    return None
