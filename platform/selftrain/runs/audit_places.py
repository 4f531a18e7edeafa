"""Where an audit finds its bundle and keeps its files: by path, in the registry, in an object store.

A job of a cluster runs on a node that has none of its submitter's folders, and what it writes has to be found again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selftrain.errors import ConfigError, DataError
from selftrain.files.remote import is_address, named_as, reached
from selftrain.passes.places import open_output, open_store
from selftrain.runs.audit_design import DESIGN

_REGISTERED = "models:/"


def is_registered(bundle: str) -> bool:
    """Whether `bundle` is an address in the registry, and not a folder."""
    return bundle.startswith(_REGISTERED)


def bundle_folder(bundle: str, uri: str | None = None) -> Path:
    """The folder of a bundle.

    Args:
        bundle: its folder, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        uri: the registry; default as in `tracking_uri`.

    Raises:
        ConfigError: it is an address of another kind.
        MissingExtraError, ServiceError, ConfigError, BundleError: as `registered_bundle`.
    """
    if is_registered(bundle):
        from selftrain.tracking.registry import registered_bundle

        try:
            return registered_bundle(bundle, uri).folder
        except ConfigError as error:
            if error.parameter != "model_uri":
                raise
            raise ConfigError(str(error).replace("model_uri", "bundle", 1), parameter="bundle") from None
    if is_address(bundle):
        raise ConfigError(
            f"bundle must be a folder, or a registered one: models:/NAME@champion or models:/NAME/VERSION (got {bundle!r}).", parameter="bundle"
        )
    return Path(bundle)


@contextmanager
def audit_folder(out: str) -> Iterator[Path]:
    """Inside, the folder of an audit. One in an object store is copied to this machine, and what has changed is copied back at the end.

    Args:
        out: a folder, or an address of one (s3://, gs://).

    Raises:
        OutputError, ServiceError, ConfigError, MissingExtraError: it cannot be read or written; as `open_output`.
    """
    if not is_address(out):
        yield Path(out)
        return
    there = open_output(out)
    with tempfile.TemporaryDirectory(prefix="selftrain-audit-") as scratch:
        folder = Path(scratch) / "audit"
        before = {name: content for name in there.names() if (content := there.found(name)) is not None}
        if before:
            folder.mkdir()
            for name, content in before.items():
                (folder / name).write_bytes(content)
        with named_as(there.location, folder):
            yield folder
        made = sorted(folder.iterdir(), key=lambda file: file.name == DESIGN)  # the design last: without it there is no audit yet
        for file in made:
            if before.get(file.name) != (content := file.read_bytes()):
                there.replace(file.name, content)


@contextmanager
def answers_file(answers: str) -> Iterator[Path]:
    """Inside, a file of this machine with the answers at `answers`, a path or an address.

    Raises:
        DataError: there is no such file in the store.
        ServiceError, ConfigError, MissingExtraError: the store cannot be reached; as `open_store`.
    """
    if not is_address(answers):
        yield Path(answers)
        return
    files, path = open_store(answers, "answers")
    with tempfile.TemporaryDirectory(prefix="selftrain-answers-") as scratch:
        file = Path(scratch) / answers.rpartition("/")[2]
        try:
            with reached(answers):
                file.write_bytes(files.cat_file(path))
        except FileNotFoundError:
            raise DataError(f"answers must be a file that exists (got {answers!r}).", parameter="answers") from None
        with named_as(answers, file):
            yield file
