"""Several files as one source: a folder of Parquet files, a wildcard (`texts/*.parquet`), or an address of an object store (`s3://bucket/folder/`).

Files come in the order of their names. What lies in a store is copied to this machine's disk, one file at a time and each whenever it is read, so that the checks
of Parquet from anyone (parquet.py) are those of a local file.
"""

from __future__ import annotations

import errno
import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from selftrain.config import DataConfig
from selftrain.data.cleaning import SourceRow
from selftrain.data.reading import Rows, file_rows, image_column, joined, parquet_schema
from selftrain.data.records import FILE_SUFFIXES
from selftrain.data.text_files import suffix_of
from selftrain.errors import ConfigError, DataError, ResourceError, ServiceError
from selftrain.files.remote import PACKAGES, file_system, is_address, named_as, reached

_WILD = frozenset("*?[")
_FOLDER_SUFFIX = ".parquet"  # of the files of a folder that are read


class FileList(NamedTuple):
    """The files of a source."""

    name: str
    rows: Rows
    first: Path | None  # a local file that says what kind of documents they hold


def is_wildcard(source: str) -> bool:
    """Whether a source stands for the files of this machine that match it."""
    return not is_address(source) and not _WILD.isdisjoint(source) and not Path(source).expanduser().exists()


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their names, without hidden ones (`.x`, `_x`)."""
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() == _FOLDER_SUFFIX and file.is_file() and not file.name.startswith((".", "_"))
    )


def local_list(source: str, config: DataConfig) -> FileList:
    """The files that match the wildcard `source`, or the Parquet files of the folder `source`.

    Raises:
        DataError: there are none, or one is of another kind.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files, name = parquet_files(path), path.resolve().name
        if not files:
            raise DataError(f"The folder {source!r} holds no {_FOLDER_SUFFIX} file; pass a folder with one at least.")
    else:
        files, name = [Path(one) for one in sorted(glob.glob(str(path), recursive=True)) if not Path(one).is_dir()], _plain_part(source)
        if not files:
            raise DataError(f"No file matches {source!r}; correct data.source.", parameter="data.source")
    parts = [file_rows(file, config.text_column, config.label_column, config.weak_label_column, place=file.name, may_be_empty=True) for file in files]
    return FileList(name, _some(joined(parts), source), files[0])


def remote_list(source: str, config: DataConfig) -> FileList:
    """The file at an address, the Parquet files of a folder there, or all that match a wildcard.

    Raises:
        ConfigError: an address of something else than S3 or Google Cloud Storage.
        DataError: there are no such files.
        MissingExtraError: the package of this kind of store is not installed.
        ServiceError: the store cannot be reached.
    """
    protocol = source.partition("://")[0]
    if protocol not in PACKAGES:
        raise ConfigError(
            f"data.source must be a file, a folder or an address that begins with s3:// or gs:// (got {source!r}).", parameter="data.source"
        )
    with reached(f"data.source {source}"):
        store, root = file_system(source.rstrip("/"), "data.source")
        names = _names(store, root, source)
    if not names:
        wanted = "matches" if not _WILD.isdisjoint(source) else f"with the suffix {_FOLDER_SUFFIX} is in"
        raise DataError(f"No file {wanted} {source}; correct data.source.", parameter="data.source")
    files = [_RemoteFile(store, name, f"{protocol}://{name.lstrip('/')}") for name in names]
    if wrong := [file.address for file in files if suffix_of(Path(file.name)) not in FILE_SUFFIXES]:
        raise DataError(f"data.source must be {', '.join(FILE_SUFFIXES)} files (got {wrong[0]}).", parameter="data.source")
    return FileList(_plain_part(source), _some(joined([_remote_rows(file, config) for file in files]), source), None)


def _names(store: Any, root: str, source: str) -> list[str]:
    """Names of files in a store, sorted."""
    if not _WILD.isdisjoint(root):
        return sorted(store.glob(root))
    if not source.endswith("/") and suffix_of(Path(root)) in FILE_SUFFIXES:
        return [root] if store.exists(root) else []
    try:
        found = store.ls(root, detail=False)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if name.lower().endswith(_FOLDER_SUFFIX) and not name.rpartition("/")[2].startswith((".", "_")))


@dataclass(frozen=True)
class _RemoteFile:
    """A file in a store."""

    store: Any
    name: str
    address: str

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """A copy of it on this machine, for the length of the block, whose errors speak of the address."""
        with tempfile.TemporaryDirectory(prefix="selftrain-data-") as folder:
            path = Path(folder) / self.name.rpartition("/")[2]
            try:
                with reached(self.address):
                    self.store.get_file(self.name, str(path))
            except ServiceError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ResourceError(
                        f"{tempfile.gettempdir()} has no room for a copy of {self.address}; free some space, or set TMPDIR."
                    ) from None
                raise
            except FileNotFoundError:
                raise DataError(f"{self.address} is gone since its folder was listed; repeat the command.") from None
            with named_as(self.address, path):
                yield path


def _remote_rows(file: _RemoteFile, config: DataConfig) -> Rows:
    def read(labels: bool) -> Iterator[SourceRow]:
        with file.copied() as path:
            if suffix_of(path) == ".parquet" and image_column(parquet_schema(path), (config.text_column,)):
                raise DataError(f"{path} holds images, which are read from files of this machine alone; copy the folder here.")
            yield from file_rows(path, config.text_column, config.label_column, config.weak_label_column, place=path.name, may_be_empty=True).read(
                labels
            )

    return Rows(read, config.label_column is not None)


def _some(rows: Rows, source: str) -> Rows:
    """`rows`, of which there has to be one."""

    def read(labels: bool) -> Iterator[SourceRow]:
        none = True
        for row in rows.read(labels):
            none = False
            yield row
        if none:
            raise DataError(f"The files of {source} hold no rows; pass files with one document a row.", parameter="data.source")

    return Rows(read, rows.labeled)


def _plain_part(source: str) -> str:
    """The last part of a path or an address that has no wildcard and is no file's name."""
    parts = (
        [part for part in source.partition("://")[2].split("/") if part] if is_address(source) else list(Path(source).expanduser().absolute().parts)
    )
    wild = next((place for place, part in enumerate(parts) if not _WILD.isdisjoint(part)), len(parts))
    return parts[max(0, wild - 1)] if parts else source
