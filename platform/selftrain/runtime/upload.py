"""What a job takes along, and where its folders lie.

A job starts in a copy of what was uploaded for it, which Ray throws away, and on a node that has none of the submitter's files. So every path of a command is
decided here, before it is sent:

a file that is here        is uploaded if it is small; the job keeps it on the storage, where a resumed job finds it again
a relative folder          lies on the storage: a job works there as a command works in its working folder
an absolute path           is what the nodes have at that path
a name, or an address      stays as it is

Where the results go to an address, no storage is needed. Nodes then share nothing but addresses: a relative folder lies below that of the results, and what only
this machine has is refused.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrain.data.records import FILE_SUFFIXES
from selftrain.data.text_files import suffix_of
from selftrain.errors import ConfigError, DataError
from selftrain.files.durable import check_writable, explained, replacing_folder
from selftrain.files.remote import is_address, located

STORAGE_VARIABLE = "SELFTRAIN_STORAGE"
LIMIT = 2 * 2**20  # bytes of all files of a job together
KEPT = ".selftrain/submitted"  # below the storage: uploaded files, each in a folder named by its hash
_FOLDERS = frozenset({"output", "model.cache", "augment.cache", "training.storage"})
_OF_A_NODE = "model.cache"  # a cache that each node may have for itself
_MAY_BE_ADDRESSES = frozenset({"output", "resume", "folder", "augment.cache", "training.storage"})
_SOURCES = frozenset({"data.source", "data.test_source"})
_MODELS = frozenset({"model.encoder", "model.masked_lm", "augment.model"})
_TEACHERS = "augment.teachers"
_TRACKING = "tracking.uri"
_SQLITE = "sqlite:///"


def storage_of(given: str | None, *, here: bool, results: str = "") -> Path | None:
    """The folder that all nodes of the cluster share; None where nothing has to lie there.

    Args:
        given: what the caller says; default: SELFTRAIN_STORAGE.
        here: whether the cluster is this machine alone, whose own folders are then enough.
        results: where the results go; at an address, no storage is needed.

    Raises:
        ConfigError: there is none, or it is not an absolute path.
    """
    given = given or os.environ.get(STORAGE_VARIABLE)
    if not given:
        if here:
            return Path.cwd()
        if is_address(results):
            return None
        raise ConfigError(
            f"storage must be set to a folder that all nodes share, e.g. /mnt/shared (or {STORAGE_VARIABLE}), or output to an address, e.g. s3://bucket/runs: runs "
            "and caches of the job would be lost with the working folder that Ray throws away.",
            parameter="storage",
        )
    if not os.path.isabs(given):
        raise ConfigError(
            f"storage must be the absolute path of a folder that all nodes share, such as one of NFS, EFS or FSx (got {given!r}).",
            parameter="storage",
        )
    return Path(os.path.normpath(given))


class Upload:
    """The files that a job takes along, and the paths that its command has on the nodes.

    Args:
        storage: absolute; of `storage_of`.
        here: whether the cluster is this machine alone: then files and folders are there already.
        results: the address below which relative folders lie where there is no storage.
    """

    def __init__(self, storage: Path | None, *, here: bool, results: str = "") -> None:
        self.storage = storage
        self.here = here
        self.results = results
        self.tracking_uri: str | None = None  # of the last document that had one
        self._files: dict[str, bytes] = {}  # path below KEPT -> content
        self._sizes: list[tuple[int, str, str]] = []  # bytes, name, what it is for

    def keep(self, name: str, content: bytes, parameter: str) -> str:
        """Take a file along.

        Args:
            name: of the file.
            content: of the file.
            parameter: that it is for, for the error.

        Returns:
            Its path on the nodes.

        Raises:
            ConfigError: all files together are too large.
        """
        self._require_room(len(content), name, parameter)
        place = f"{hashlib.sha256(name.encode() + bytes(1) + content).hexdigest()[:16]}/{name}"
        self._files[place] = content
        return str(Path(KEPT) / place if self.storage is None else self.storage / KEPT / place)  # or below the job's own working folder

    def folder(self, path: str, parameter: str) -> str:
        """Where the folder `path` lies on the nodes.

        Raises:
            ConfigError: it is an address, and `parameter` takes none.
        """
        if not is_address(path):
            if self.storage is not None or os.path.isabs(path):
                return os.path.join(self.storage or "", path)
            return path if parameter == _OF_A_NODE else f"{self.results.rstrip('/')}/{path}"
        if parameter in _MAY_BE_ADDRESSES:
            return located(path, parameter)
        raise ConfigError(f"{parameter} must be a folder below the storage, or an absolute path (got {path!r}).", parameter=parameter)

    def source(self, name: str, parameter: str) -> str:
        """Where the data `name` (a file, a folder, or a name of the catalogue or the hub) is found on the nodes.

        Raises:
            ConfigError: it is a file that is too large, or a folder that the nodes do not have.
            DataError: the file cannot be read.
        """
        path = Path(name).expanduser()
        if os.path.isfile(path):
            return self._file(path, parameter)
        if os.path.isdir(path) and ("/" in name or (path / "dataset.json").is_file()):
            return self._lying(name, path, parameter)
        relative = not is_address(name) and not path.is_absolute() and (suffix_of(path) in FILE_SUFFIXES or name.startswith("."))
        return str(self._shared(name, parameter) / name) if relative else name

    def model(self, name: str, parameter: str) -> str:
        """Where the model `name` (a folder, or a name) is found on the nodes.

        Raises:
            ConfigError: it is a folder that the nodes do not have.
        """
        path = Path(name).expanduser()
        if os.path.isdir(path):
            return self._lying(name, path, parameter)
        return str(self._shared(name, parameter) / name) if name.startswith(".") else name

    def bundle(self, path: str, parameter: str) -> str:
        """Where the bundle `path` lies on the nodes.

        Raises:
            ConfigError: it is a folder that the nodes do not have.
        """
        return self._lying(path, Path(path), parameter) if os.path.isdir(path) else self.folder(path, parameter)

    def document(self, document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """An experiment, or a part of one, with the paths that it has on the nodes.

        Args:
            document: plain keys and values.
            prefix: of its keys in an experiment, e.g. `data.`.

        Raises:
            ConfigError, DataError: as `source` and `model`.
        """
        found: dict[str, Any] = {}
        for key, value in document.items():
            name = f"{prefix}{key}"
            if name == "variants":
                found[key] = {variant: self.document(changes) for variant, changes in value.items()}
            elif isinstance(value, Mapping):
                found[key] = self.document(value, f"{name}.")
            elif name == _TEACHERS:
                found[key] = [self.document(one, "augment.") for one in value]  # a teacher's keys are those of `augment`
            else:
                found[key] = self.value(name, value)
        return found

    def value(self, key: str, value: Any) -> Any:
        """What the key `key` of an experiment is set to on the nodes, or each of several values of it; raises what `document` raises."""
        if isinstance(value, list):
            return [self.value(key, one) for one in value]
        if not isinstance(value, str):
            return value
        if key in _FOLDERS:
            return self.folder(value, key)
        if key in _SOURCES:
            return self.source(value, key)
        if key in _MODELS:
            return self.model(value, key)
        if key == _TRACKING:
            self.tracking_uri = self._tracking(value)
            return self.tracking_uri
        return value

    def write(self, folder: Path) -> bool:
        """Write the files below `folder`, the working folder that is uploaded; returns whether there are any."""
        for place, content in self._files.items():
            file = folder / KEPT / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return bool(self._files)

    def _file(self, path: Path, parameter: str) -> str:
        whole = Path(os.path.abspath(path))
        if self.here or whole.is_relative_to(self._shared(str(path), parameter)):
            return str(whole)
        try:
            if (size := path.stat().st_size) > LIMIT:  # before it is read
                self._require_room(size, str(path), parameter)
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{parameter} {str(path)!r} cannot be read ({error.strerror}).", parameter=parameter) from None
        return self.keep(path.name, content, parameter)

    def _lying(self, name: str, path: Path, parameter: str) -> str:
        """Where the folder `path` of this machine is on the nodes."""
        whole = Path(os.path.abspath(path))
        if self.here or (self.storage is not None and whole.is_relative_to(self.storage)):
            return str(whole)
        if path.is_absolute():  # as on the nodes
            return name
        raise ConfigError(
            f"{parameter} {name!r} is a folder of this machine, which the nodes do not have; copy it to the storage and pass its path there "
            f"({self._shared(name, parameter) / path.name}).",
            parameter=parameter,
        )

    def _shared(self, name: str, parameter: str) -> Path:
        """The storage, for something that has to lie there."""
        if self.storage is not None:
            return self.storage
        raise ConfigError(
            f"{parameter} {name!r} is a path of this machine, and without a storage a job has none of its files where it is resumed; pass a name, an address "
            "(s3://bucket/...) or an absolute path of the nodes, or set storage.",
            parameter=parameter,
        )

    def _tracking(self, uri: str) -> str:
        path = uri.removeprefix(_SQLITE)
        if path == uri or os.path.isabs(path):
            return uri
        return f"{_SQLITE}{self._shared(uri, _TRACKING) / path}"

    def _require_room(self, size: int, name: str, parameter: str) -> None:
        self._sizes.append((size, name, parameter))
        if sum(size for size, *_ in self._sizes) <= LIMIT:
            return
        size, name, parameter = max(self._sizes)
        raise ConfigError(
            f"{parameter} {name!r} has {size / 2**20:.1f} MiB, and the files that a job takes along may have {LIMIT >> 20} MiB together; put it on the storage "
            "that all nodes share and pass its path there.",
            parameter=parameter,
        )


def keep_files(uploaded: Path, storage: Path) -> None:
    """Move what a job took along to the storage; the job calls it on its node.

    Args:
        uploaded: where `Upload.write` wrote.
        storage: of `storage_of`.

    Raises:
        ConfigError: this node does not have the storage.
        OutputError: it cannot be written to.
    """
    if not storage.is_dir():
        raise ConfigError(
            f"storage {str(storage)!r} is not a folder on the node {socket.gethostname()}, where the job runs; mount it on all nodes, or pass another.",
            parameter="storage",
        )
    check_writable(storage, "the storage")
    for folder in sorted((uploaded / KEPT).glob("*/")):
        kept = storage / KEPT / folder.name
        if kept.exists():  # its name says what it holds
            continue
        try:
            with explained(kept), replacing_folder(kept) as made:
                for file in folder.iterdir():
                    (made / file.name).write_bytes(file.read_bytes())
        except OSError:
            if not kept.is_dir():  # another job was first
                raise
