"""Where a source is found: a file or folder, the folder named by SELFTRAIN_DATA, a Python package, or the Hugging Face hub, in this order.

Whatever it is, it comes back as a `DataSource`: rows to train on, rows to test on where the source has a test split, and its classes where it names them.
"""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain.config import DataConfig
from selftrain.data.catalogue import CATALOGUE, NamedSet
from selftrain.data.cleaning import SourceRow
from selftrain.data.corpus import DocumentKind
from selftrain.data.file_lists import FileList, is_wildcard, local_list, parquet_files, remote_list
from selftrain.data.reading import Rows, file_rows, image_column, joined, parquet_rows, parquet_schema, require_columns, table_rows
from selftrain.data.records import FILE_SUFFIXES
from selftrain.data.text_files import stem_of, suffix_of
from selftrain.errors import ConfigError, DataError, ServiceError, nearest
from selftrain.files.parsing import json_of
from selftrain.files.remote import is_address

FOLDER_VARIABLE = "SELFTRAIN_DATA"
_DESCRIPTION = "dataset.json"
_VALIDATION_SPLITS = frozenset({"validation", "valid", "val", "dev"})
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class DataSource:
    """The rows of a source as found, which can be iterated over more than once, and what it says about its classes."""

    name: str
    train: Iterable[SourceRow]
    test: Iterable[SourceRow] | None = None  # None: the source has no test split
    class_names: tuple[str, ...] | None = None  # in the order of its integer labels; None: not stated
    named: NamedSet | None = None  # the catalogue's knowledge of it
    kind: DocumentKind = "text"
    generated: bool = False  # a language model wrote it: the labels are what the texts were written for, and nothing is tested on them


def find_source(config: DataConfig) -> DataSource:
    """Find `config.source`; its rows are read when they are iterated over.

    Raises:
        DataError: it is nowhere (the nearest known name is given), or what is found cannot be read.
        ConfigError: it lacks the splits that are asked for, or is an address of an unknown kind.
        MissingExtraError: it is in an object store whose package is not installed.
        ServiceError: it is on the hub or in an object store, which cannot be reached.
    """
    name = config.source
    if is_address(name):
        return _from_list(remote_list(name, config), config)
    if is_wildcard(name):
        return _from_list(local_list(name, config), config)
    path = Path(name).expanduser()
    if suffix_of(path) in FILE_SUFFIXES or path.is_file():
        _refuse_splits(config, f"{path.name} is one file and has no splits")
        rows = file_rows(path, config.text_column, config.label_column, config.weak_label_column)
        return DataSource(stem_of(path), rows, kind=_kind(path, config))
    if path.is_dir() and (path / _DESCRIPTION).is_file():
        return _from_folder(path.resolve().name, path, config)
    if path.is_dir() and "/" in name:
        if parquet_files(path):
            return _from_list(local_list(name, config), config)
        raise DataError(
            f"The folder {name!r} holds no {_DESCRIPTION} and no .parquet file; set one that selftrain generate wrote, one of Parquet files, or a "
            f"{', '.join(FILE_SUFFIXES)} file."
        )
    folder = shared_folder(name)
    if folder is not None:
        return _from_folder(name, folder, config)
    named = CATALOGUE.get(name)
    if named is not None and named.package is not None:
        _refuse_splits(config, f"{name} in the package {named.package} has no splits")
        if config.weak_label_column is not None:
            raise DataError(
                f"data.weak_label_column is {config.weak_label_column!r}, but {name} in the package {named.package} has no columns; leave it out."
            )
        return _from_package(named)
    if named is not None or "/" in name.strip("/."):
        return _from_hub(name, named, config)
    if path.is_dir() and parquet_files(path):
        return _from_list(local_list(name, config), config)
    known = sorted({*CATALOGUE, *(found.name for found in shared_folders())})
    raise DataError(
        f"Unknown data source {name!r}; {nearest(name, known)} Or give a {', '.join(FILE_SUFFIXES)} file, a folder with a {_DESCRIPTION}, "
        "or owner/name of a data set on the hub."
    )


def shared_folders() -> list[Path]:
    """The data sets in the folder that SELFTRAIN_DATA names, sorted; empty when the variable is not set.

    Raises:
        ConfigError: the variable is set, but is not a folder.
    """
    root = os.environ.get(FOLDER_VARIABLE, "")
    if not root:
        return []
    if not Path(root).is_dir():
        raise ConfigError(f"{FOLDER_VARIABLE} must be a folder (got {root!r}); correct it or unset it.", parameter=FOLDER_VARIABLE)
    return sorted(file.parent for file in Path(root).glob(f"*/{_DESCRIPTION}"))


def shared_folder(name: str) -> Path | None:
    """The folder of the set `name` in SELFTRAIN_DATA, or None."""
    return next((folder for folder in shared_folders() if folder.name == name), None)


def package_folder(named: NamedSet) -> Path | None:
    """The folder with the texts of a set that comes in a Python package, or None where the package is not installed. Does not import the package."""
    spec = importlib.util.find_spec(named.package) if named.package else None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return next((folder for place in places if (folder := Path(place) / named.package_folder).is_dir()), None)


def _from_list(files: FileList, config: DataConfig) -> DataSource:
    _refuse_splits(config, f"the files of {config.source} are no splits (a folder with a {_DESCRIPTION} has some)")
    return DataSource(files.name, files.rows, kind="text" if files.first is None else _kind(files.first, config))


def _kind(file: Path, config: DataConfig) -> DocumentKind:
    """What a file holds; images come in Parquet alone."""
    return "image" if file.suffix.lower() == ".parquet" and image_column(parquet_schema(file), (config.text_column,)) else "text"


def _from_folder(name: str, folder: Path, config: DataConfig) -> DataSource:
    description = folder / _DESCRIPTION
    try:
        stated = json_of(description.read_text(encoding="utf-8"))
        if not isinstance(stated.get("labels") or [], list):
            raise TypeError("labels is not a list")
        class_names = tuple(str(label) for label in stated["labels"]) if stated.get("labels") else None
        order = list(stated.get("splits", {}))
        named = CATALOGUE.get(name) or CATALOGUE.get(stated.get("catalogue", ""))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{description} cannot be read ({error}); it needs an object with labels and splits.") from None
    files = {
        file.stem: file
        for file in sorted(folder.glob("*.parquet"), key=lambda file: (order.index(file.stem) if file.stem in order else len(order), file.stem))
    }
    if not files:
        raise DataError(f"{folder} holds no .parquet file; put one a split beside dataset.json.")
    if config.source == config.test_source and (test := _test_split(list(files), config)):
        _check_splits(list(files), config)
        train: list[str] = []  # it is tested on alone
    else:
        train, test = _choose_splits(list(files), config)

    def rows(splits: Sequence[str], weak: str | None = None) -> Rows:
        parts = [parquet_rows(files[one], (config.text_column,), _label_column(files[one], config), weak, place=f"{one} row") for one in splits]
        return joined(parts)

    kind = _kind(files[train[0] if train else str(test)], config)
    learned = rows(train, config.weak_label_column)
    return DataSource(name, learned, rows([test]) if test else None, class_names, named, kind, "generated" in stated)


def _choose_splits(splits: Sequence[str], config: DataConfig) -> tuple[list[str], str | None]:
    """(splits to train on, split to test on).

    As `data.train_split` and `data.test_split` say; else the test split is `test` or one whose name ends so, and training takes `train` if there is one, else
    all that are neither for validation nor for testing.

    Raises:
        ConfigError: a split is asked for that is not there, or one split for both.
        DataError: there is nothing to learn from besides the test split.
    """
    _check_splits(splits, config)
    test = _test_split(splits, config)
    if config.train_split is not None:
        return [config.train_split], test
    if "train" in splits and test != "train":
        return ["train"], test
    # Where a test split is named, no other test split is learned from either.
    held = {test, *(_testing(splits, config) if config.test_split is not None else ()), *_VALIDATION_SPLITS}
    if train := [split for split in splits if split not in held]:
        return train, test
    if config.test_split is not None:
        raise DataError(
            f"{config.source} has nothing to learn from besides data.test_split {test!r}; set data.train_split to one of {', '.join(splits)}."
        )
    # Only held-out splits exist: they are all there is to train on.
    return list(splits), None


def _testing(splits: Sequence[str], config: DataConfig) -> list[str]:
    return [split for split in splits if split.endswith("test") and split != config.train_split]


def _test_split(splits: Sequence[str], config: DataConfig) -> str | None:
    testing = _testing(splits, config)
    return config.test_split or ("test" if "test" in testing else next(iter(testing), None))


def _check_splits(splits: Sequence[str], config: DataConfig) -> None:
    """Raise a `ConfigError` if a split is asked for that is not there, or one split both to train and to test on."""
    for key, wanted in (("train_split", config.train_split), ("test_split", config.test_split)):
        if wanted is not None and wanted not in splits:
            raise ConfigError(
                f"data.{key} must be one of {', '.join(splits)}, the splits of {config.source} (got {wanted!r}).", parameter=f"data.{key}"
            )
    if config.train_split is not None and config.train_split == config.test_split:
        raise DataError(
            f"data.train_split and data.test_split are both {config.train_split!r}, and a model is not tested on what it learned from; set them to two of "
            f"{', '.join(splits)}."
        )


def _refuse_splits(config: DataConfig, why: str) -> None:
    """Raise a `ConfigError` if a split is asked for."""
    for key in ("train_split", "test_split"):
        if getattr(config, key) is not None:
            raise ConfigError(f"data.{key} is {getattr(config, key)!r}, but {why}; leave it out.", parameter=f"data.{key}")


def _label_column(file: Path, config: DataConfig) -> str | None:
    if config.label_column is not None:
        return config.label_column
    return "label" if "label" in parquet_schema(file).names else None


def _from_package(named: NamedSet) -> DataSource:
    folder = package_folder(named)
    if folder is None:
        raise DataError(f"{named.name} comes with the Python package {named.package}; install that, or put the set into {FOLDER_VARIABLE}.")
    rows = []
    for entry in sorted(path for path in folder.iterdir() if path.is_dir()):
        known = named.entry(entry.name)
        if known is not None:
            rows += [
                SourceRow(f"{entry.name}/{file.name}", _decode(file.read_bytes()), named.classes.index(known)) for file in sorted(entry.glob("*.txt"))
            ]
    return DataSource(named.name, rows, None, tuple(entry.name for entry in named.classes), named)


def _decode(content: bytes) -> str:
    """Text of a file that is UTF-8 in most cases and a Western single-byte encoding in the others."""
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")


def _from_hub(name: str, named: NamedSet | None, config: DataConfig) -> DataSource:
    hub, _, subset = ((named.hub or "") if named is not None else name).partition(":")
    splits = _download(name, hub, subset or None, named.revision if named is not None else None)
    if named is not None:
        _check_splits(list(splits), config)
        train = config.train_split or named.train_split
        test = config.test_split or (named.test_split if named.test_split != train else None)
    else:
        chosen, test = _choose_splits(list(splits), config)
        train = chosen[0]
    text_columns = named.text_columns if named is not None else (config.text_column,)
    image = image_column(splits[train].features.arrow_schema, text_columns) if train in splits else None
    text_columns = (image,) if image else text_columns
    label_column = named.label_column if named is not None else config.label_column
    if train == test:
        raise DataError(f"data.test_split {test!r} of {name} is what it trains on by default; set data.train_split to one of {', '.join(splits)}.")
    if train not in splits:
        raise DataError(f"{name} on the hub has no split {train!r}; it has {', '.join(splits)}.")

    def rows(split: str, weak: str | None = None) -> Rows:
        columns = [*text_columns, *(column for column in (label_column, weak) if column)]
        require_columns(list(splits[split].column_names), columns, f"{name} on the hub")
        return table_rows(splits[split].select_columns(columns).with_format("arrow")[:], text_columns, label_column, f"{split} row", weak)

    class_names = None
    if label_column is not None:
        names = getattr(splits[train].features.get(label_column), "names", None)
        class_names = tuple(names) if names else tuple(entry.name for entry in named.classes) if named is not None else None
    return DataSource(
        name, rows(train, config.weak_label_column), rows(test) if test in splits else None, class_names, named, "image" if image else "text"
    )


def _download(name: str, hub: str, subset: str | None, revision: str | None) -> dict[str, Any]:
    """The splits of a data set on the hub, or of an earlier download where the hub is offline."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    from huggingface_hub import constants

    nowhere = f"{name} is not in {FOLDER_VARIABLE} and the hub cannot be reached"
    if not constants.HF_HUB_OFFLINE and not hub_answers(constants.ENDPOINT):
        raise ServiceError(f"{nowhere}; put the set into that folder, or connect (HF_HUB_OFFLINE=1 uses an earlier download).")
    try:
        return dict(datasets.load_dataset(hub, subset, revision=revision))
    except datasets.exceptions.DatasetNotFoundError:
        raise DataError(f"There is no data set {hub!r} on the hub, or it is private; check data.source, or log in with a token.") from None
    except (ConnectionError, urllib.error.URLError) as error:
        raise ServiceError(f"{nowhere} ({_first_line(error)}); put the set into that folder, or connect.") from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{name} cannot be loaded from the hub: {_first_line(error)}") from None


def hub_answers(endpoint: str, seconds: float = _HUB_SECONDS) -> bool:
    """Whether anything answers at the hub's address within `seconds`; the hub's own client would retry for half a minute."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
