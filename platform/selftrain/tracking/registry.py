"""The registry: bundles as versions of a registered model, the alias `champion`, and the files of a version on this machine's disk."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from selftrain.errors import BundleError, ConfigError, SelfTrainError
from selftrain.passwords import without_passwords
from selftrain.tracking.address import check_tracking, connect, is_refusal, quiet_mlflow, require_database, tracking_uri
from selftrain.tracking.champion import Champion, Lead

CHAMPION = "champion"
_NAME = r"[^/@]+"  # of a model or an alias, as a regular expression


@dataclass(frozen=True)
class RegisteredVersion:
    """What became of a bundle in the registry."""

    model: str
    version: str
    champion: bool
    reason: str  # a sentence: why it is, or is not, the champion


class RegisteredBundle(NamedTuple):
    """A registered bundle, on this machine's disk."""

    folder: Path
    version: str


def present_champion(client: Any, uri: str, model_name: str, evaluate: Callable[[Path], float | Lead] | None) -> Champion | None:
    """The version with the alias, evaluated on the candidate's documents; None where no version has it.

    Args:
        client: of MLflow.
        uri: of the registry.
        model_name: name in the registry.
        evaluate: a bundle's accuracy on the candidate's documents, or the candidate's lead over it; None where nothing evaluates it.
    """
    holder = _version_with(client, model_name, CHAMPION)
    if holder is None:
        return None
    if evaluate is None:
        return Champion(str(holder.version), None, "nothing evaluates it on these documents")
    try:
        found = evaluate(_local_copy(client, uri, holder))
    except (SelfTrainError, OSError) as error:
        return Champion(str(holder.version), None, " ".join(str(error).split()))
    return Champion(str(holder.version), None, lead=found) if isinstance(found, Lead) else Champion(str(holder.version), float(found))


def write_mlmodel(bundle: Path, run_id: str | None = None) -> Path:
    """Write the file MLmodel into a bundle, which is what `mlflow.pyfunc.load_model(bundle)` looks for; returns its path."""
    quiet_mlflow()
    import mlflow.pyfunc
    from mlflow.models import Model

    model = Model(run_id=run_id)
    mlflow.pyfunc.add_to_model(model, loader_module="selftrain.bundle.pyfunc")
    file = Path(bundle) / "MLmodel"
    model.save(str(file))
    return file


def champion_bundle(model_name: str, uri: str | None = None) -> RegisteredBundle:
    """The bundle that holds the alias `champion`.

    Raises:
        ConfigError: `model_name` cannot be a name in the registry.
        MissingExtraError, ServiceError, ConfigError, BundleError: as `registered_bundle`.
    """
    if re.fullmatch(_NAME, model_name) is None:
        raise ConfigError(f"model_name must be a name in the registry, without / and @ (got {model_name!r}).", parameter="model_name")
    return registered_bundle(f"models:/{model_name}@{CHAMPION}", uri)


def registered_bundle(model_uri: str, uri: str | None = None) -> RegisteredBundle:
    """A registered bundle on this machine's disk; one that lies elsewhere is downloaded once and kept in the user's cache folder.

    Args:
        model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        uri: the registry; default as in `tracking_uri`.

    Raises:
        MissingExtraError: MLflow is not installed.
        ServiceError: the store does not answer, or there is no database yet.
        ConfigError: no such address, model, alias or version; the message says how to make one.
        BundleError: the version's files are gone.
    """
    matched = re.fullmatch(rf"models:/({_NAME})(?:@({_NAME})|/(\d+))", model_uri)
    if matched is None:
        raise ConfigError(f"model_uri must be models:/NAME@ALIAS or models:/NAME/VERSION (got {model_uri!r}).", parameter="model_uri")
    name, alias, number = matched.groups()
    uri = tracking_uri(uri)
    require_database(uri)
    client = connect(uri)
    if alias is not None:
        version = _version_with(client, name, alias)
    else:
        from mlflow.exceptions import MlflowException

        try:
            version = client.get_model_version(name, number)
        except MlflowException:
            version = None
    if version is None:
        raise ConfigError(_missing(client, uri, name, alias, number))
    return RegisteredBundle(_local_copy(client, uri, version), str(version.version))


class Champions:
    """Which version holds the alias `champion`, asked again and again by one client: a few milliseconds each time.

    Args:
        uri: the registry; default as in `tracking_uri`.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._uri = tracking_uri(uri)
        self._client: Any = None

    def version(self, model_name: str) -> str:
        """The number of the version that is champion now.

        Raises:
            ServiceError: the store does not answer.
            ConfigError: the model has no champion; the message says how to make one.
        """
        if self._client is None:
            self._client = connect(self._uri)
        else:
            check_tracking(self._uri)  # MLflow itself would try for minutes
        found = _version_with(self._client, model_name, CHAMPION)
        if found is None:
            raise ConfigError(_missing(self._client, self._uri, model_name, CHAMPION, None))
        return str(found.version)


def _version_with(client: Any, name: str, alias: str) -> Any:
    """The version that holds `alias`, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if not is_refusal(error):  # an alias that was never set is an invalid parameter to MLflow, a model that does not exist a missing resource
            raise
        return None


def _missing(client: Any, uri: str, name: str, alias: str | None, number: str | None) -> str:
    where = without_passwords(uri)
    versions = [str(one.version) for one in client.search_model_versions(f"name = '{name.replace(chr(39), '')}'")]
    if not versions:
        known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        return f"The registry {where} has no model {name!r} (it has: {known}); train one, or register a bundle under this name."
    if alias is None:
        return f"The model {name!r} in the registry {where} has no version {number}; it has {', '.join(sorted(versions, key=int))}."
    return (
        f"The model {name!r} in the registry {where} has no {alias}: none of its {len(versions)} versions was compared by labels or promoted; "
        "register one with promote, or pass a bundle's folder."
    )


def _local_copy(client: Any, uri: str, version: Any) -> Path:
    """The folder of a registered bundle; where it is not on this machine it is downloaded into the user's cache."""
    source = str(client.get_model_version_download_uri(version.name, version.version))
    parsed = urlparse(source)
    if parsed.scheme in ("", "file"):
        folder = Path(unquote(parsed.path))
        if not folder.is_dir():
            raise BundleError(f"Version {version.version} of {version.name!r} is registered, but its files {folder} are gone; register it again.")
        return folder
    # A version's files never change; the time of its making tells it from one of a deleted model with the same number.
    key = hashlib.sha256(f"{uri}\n{version.name}\n{version.version}\n{version.creation_timestamp}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selftrain" / "bundles"
    folder = cache / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', version.name)}-{version.version}-{key}"
    if folder.is_dir():
        return folder
    from mlflow.artifacts import download_artifacts

    cache.mkdir(parents=True, exist_ok=True)
    # Not `replacing_folder`: MLflow chooses the name of what it downloads.
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
    try:
        downloaded = Path(download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=uri))
        try:
            downloaded.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was as fast
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
