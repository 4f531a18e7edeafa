"""MLflow, and nothing else of selftrain knows it: runs, their figures and files, and the registry with its champion.

The driver alone writes here. A fresh SQLite file is set up under a lock, because two processes that open one together both fail; a server that does
not answer is an error within seconds, because MLflow itself would retry for minutes. MLflow is imported inside the functions: it takes seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from urllib.parse import unquote, urlparse

from selftrain.config import TrackingConfig
from selftrain.errors import SelfTrainError
from selftrain.passwords import without_passwords

CHAMPION = "champion"
BUNDLE = "bundle"
RUN_TAG = "selftrain.run"
KIND_TAG = "selftrain.kind"  # sweep; a run of `selftrain run` has none
_LOCAL_DATABASE = "mlflow.db"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ANSWER_SECONDS = 4.0
# MLflow's own limits (mlflow/utils/validation.py); longer values are refused for the whole batch.
_PARAM_LENGTH, _TAG_LENGTH, _KEY_LENGTH, _PARAMS_A_BATCH, _METRICS_A_BATCH = 6000, 8000, 250, 100, 1000

Status = Literal["FINISHED", "FAILED", "KILLED"]


class TrackingAway(SelfTrainError):
    """A tracking server or database that does not answer."""


class Round(TypedDict):
    """The figures of one self-training round."""

    round: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Registered:
    """What became of a bundle in the registry."""

    model: str
    version: str
    champion: bool
    reason: str  # a sentence: why it is, or is not, the champion


class RegisteredBundle(NamedTuple):
    """A registered bundle, on this machine's disk."""

    folder: Path
    version: str


def tracking_uri(uri: str | None = None) -> str:
    """The tracking server or database, as an absolute address.

    Args:
        uri: what the configuration says; default: MLFLOW_TRACKING_URI, else the file mlflow.db in the working directory.

    Raises:
        SelfTrainError: a folder or an unknown kind of address; MLflow 3 keeps no runs in plain folders.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_LOCAL_DATABASE}"
    scheme = uri.partition(":")[0].partition("+")[0] if "://" in uri else ""
    if scheme not in (*_DATABASES, "http", "https"):
        raise SelfTrainError(
            f"Tracking address {without_passwords(uri)!r} is neither a server (http://...) nor a database; write e.g. sqlite:///mlflow.db."
        )
    file = _sqlite_file(uri)
    return f"sqlite:///{file}" if file is not None else uri


def check_tracking(uri: str) -> None:
    """Ask a tracking server or a database server whether it is there; a file is not asked.

    Raises:
        SelfTrainError: no answer within some seconds, an answer that says that it cannot work, or no driver for this kind of database.
    """
    if not _is_server(uri):
        if _sqlite_file(uri) is None:
            _check_database(uri)
        return
    try:
        # Without name and password, which urllib takes for a port: whoever asks for them is there.
        with urllib.request.urlopen(re.sub(r"(://)[^/]*@", r"\1", uri).rstrip("/") + "/health", timeout=_ANSWER_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # something answers and asks who we are, or lives under another path
            return
        reason = f"status {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise TrackingAway(
        f"The tracking server {without_passwords(uri)} does not answer ({reason}); start it, correct tracking.uri, or unset MLFLOW_TRACKING_URI for a local file."
    )


def _check_database(uri: str) -> None:
    """MLflow itself would try for minutes."""
    import sqlalchemy

    where = without_passwords(uri)
    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": int(_ANSWER_SECONDS)} if uri.startswith("postgresql") else {})
    except ImportError as error:
        raise SelfTrainError(
            f"{where} needs the package {error.name}, which is not installed; for PostgreSQL: pip install 'selftrain[postgresql]'."
        ) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise SelfTrainError(
            f"The tracking address {where} cannot be used ({_reason(error)}); correct tracking.uri or MLFLOW_TRACKING_URI."
        ) from None
    try:
        with engine.connect():
            return
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise TrackingAway(
            f"The tracking database {where} does not answer ({_reason(error)}); start it, correct tracking.uri, or unset MLFLOW_TRACKING_URI for a local file."
        ) from None
    finally:
        engine.dispose()


def is_away(error: BaseException) -> bool:
    """Whether `error` says that tracking does not answer, or cannot work, and not that we asked for something wrong."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, TrackingAway):
        return True
    return isinstance(error, MlflowException | OSError) and not refused(error)


def refused(error: BaseException) -> bool:
    """Whether MLflow is there and does not take what it was given; asking again would not help."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    return isinstance(error, MlflowException) and error.error_code in (
        ErrorCode.Name(INVALID_PARAMETER_VALUE),
        ErrorCode.Name(RESOURCE_DOES_NOT_EXIST),
    )


def _reason(error: BaseException) -> str:
    return without_passwords(" ".join(str(getattr(error, "orig", None) or error).split()))[:200]


class Child:
    """A run of MLflow: the figures of one variant and seed, or of the whole experiment."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write settings; nested ones are flattened to `section.key`, long ones are cut to MLflow's limit."""
        from mlflow.entities import Param

        flat = [Param(_key(name), _cut(value, _PARAM_LENGTH)) for name, value in _flattened(params)]
        for start in range(0, len(flat), _PARAMS_A_BATCH):
            self._client.log_batch(self.run_id, params=flat[start : start + _PARAMS_A_BATCH])

    def log_rounds(self, rounds: Sequence[Round], *, when: int | None = None) -> None:
        """Write the figures of self-training rounds, in batches; `round` becomes MLflow's step. `when`: milliseconds since 1970, default: now."""
        self._log([(name, value, one["round"]) for one in rounds for name, value in one["figures"].items()], when)

    def log_metrics(self, metrics: Mapping[str, float | None], *, when: int | None = None) -> None:
        """Write final figures; those that are None are left out. `when`: as in `log_rounds`."""
        self._log([(name, value, 0) for name, value in metrics.items() if value is not None], when)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or what a folder holds, into `folder` of the run's artifacts."""
        upload = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        upload(self.run_id, str(path), folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the run."""
        self._client.set_terminated(self.run_id, status)

    def _log(self, figures: Sequence[tuple[str, float, int]], when: int | None) -> None:
        from mlflow.entities import Metric

        now = when if when is not None else int(time.time() * 1000)
        metrics = [Metric(_key(name), float(value), now, step) for name, value, step in figures]
        for start in range(0, len(metrics), _METRICS_A_BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_A_BATCH])


class Tracker:
    """One experiment's runs: a parent, and a child for every variant and seed.

    Args:
        config: server, experiment's name, registry.
        run_folder: the folder of the run, noted as a tag.
        name: the run's name as MLflow shows it.

    Attributes:
        uri: the absolute address that is written to.

    Raises:
        SelfTrainError: the server does not answer, or the database cannot be opened.
    """

    def __init__(self, config: TrackingConfig, run_folder: Path, name: str) -> None:
        self.config = config
        self.name = name
        self.uri = tracking_uri(config.uri)
        self._run_folder = Path(run_folder)
        self._client, self._experiment_id = _open(self.uri, config.experiment)
        self._run: Child | None = None

    def start(self, run_id_tag: str, params: Mapping[str, Any], tags: Mapping[str, Any] | None = None) -> str:
        """Start the parent run, or find the one that a restarted driver began with the same `run_id_tag`.

        Args:
            run_id_tag: selftrain's id of the run.
            params: the resolved configuration, nested or flat.
            tags: git commit, config hash, data digest and whatever else says what was run.

        Returns:
            MLflow's run id.
        """
        found = self._client.search_runs([self._experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{run_id_tag}'", max_results=1)
        if found:
            self._run = Child(self._client, found[0].info.run_id)
            self._client.update_run(self._run.run_id, status="RUNNING")
        else:
            self._run = self._create(self.name, {**(tags or {}), RUN_TAG: run_id_tag, "selftrain.run_folder": self._run_folder})
            self._run.log_params(params)
        return self._run.run_id

    def child(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None, *, key: tuple[str, str] | None = None
    ) -> Child:
        """Start a run below the parent, for one variant and seed; where `key`, a tag with its value, is given, one that has it is gone on with."""
        below: Child | None = None
        if key is not None:
            mine = f"tags.`mlflow.parentRunId` = '{self.run.run_id}' and tags.`{key[0]}` = '{key[1]}'"
            if found := self._client.search_runs([self._experiment_id], filter_string=mine, max_results=1):
                below = Child(self._client, found[0].info.run_id)
        if below is None:
            below = self._create(name, {**(tags or {}), "mlflow.parentRunId": self.run.run_id})
        below.log_params(params or {})
        return below

    def tags_of_children(self, tag: str) -> set[str]:
        """The values of `tag` on the runs below the parent."""
        found: set[str] = set()
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{self.run.run_id}'", max_results=1000, page_token=token
            )
            found |= {run.data.tags[tag] for run in page if tag in run.data.tags}
            token = page.token
            if not token:
                return found

    @property
    def run(self) -> Child:
        """The parent run; `start` comes first."""
        if self._run is None:
            raise RuntimeError("Tracker.start comes before anything is logged")
        return self._run

    def log_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Write final figures of the parent run; those that are None are left out."""
        self.run.log_metrics(metrics)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or what a folder holds, to the parent run."""
        self.run.log_artifact(path, folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the parent run."""
        self.run.finish(status)

    def log_bundle_and_register(
        self,
        bundle: Path,
        model_name: str,
        metrics: Mapping[str, float | None],
        *,
        labeled: bool,
        promote: bool = False,
        evaluate: Callable[[Path], float] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Registered:
        """Upload a bundle, register it as a new version, and make it champion where it has earned that.

        With labels it becomes champion when there is none, or when its accuracy is above the champion's on the same documents. Without labels, or
        where the champion cannot be evaluated on these documents, it becomes champion only by `promote`.

        Args:
            bundle: the bundle's folder; the file MLmodel is written into it.
            model_name: name in the registry.
            metrics: figures of the bundle; `accuracy` is what is compared, `documents` how many labeled documents it is from.
            labeled: whether the test documents have labels.
            promote: make it champion where no labels can compare it.
            evaluate: a bundle's accuracy on the same labeled test documents as `metrics`; asked for the present champion's bundle.
            tags: further tags of the version, such as the data fingerprint.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        write_mlmodel(bundle, self.run.run_id)
        # A version's files never change: a driver that was restarted in the same run, and registers again, must not write over the first ones.
        earlier = len(self._client.search_model_versions(f"run_id = '{self.run.run_id}'"))
        place = BUNDLE if earlier == 0 else f"{BUNDLE}-{earlier + 1}"
        self.log_artifact(bundle, place)
        try:
            self._client.create_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        source = f"{self._client.get_run(self.run.run_id).info.artifact_uri.rstrip('/')}/{place}"
        facts = {**{name: value for name, value in metrics.items() if value is not None}, **(tags or {})}
        version = self._client.create_model_version(
            model_name, source, self.run.run_id, tags={_key(name): _cut(value, _TAG_LENGTH) for name, value in facts.items()}
        ).version
        accuracy = metrics.get("accuracy") if labeled else None
        champion, reason = self._decide(model_name, accuracy, promote, evaluate)
        if champion:
            self._client.set_registered_model_alias(model_name, CHAMPION, version)
        self._client.set_model_version_tag(model_name, version, "champion_decision", reason)
        return Registered(model_name, str(version), champion, reason)

    def _decide(self, model_name: str, accuracy: float | None, promote: bool, evaluate: Callable[[Path], float] | None) -> tuple[bool, str]:
        if accuracy is None:
            return (
                (True, "promoted as asked, no labels compared it") if promote else (False, "no labels to compare it by; --promote makes it champion")
            )
        holder = _alias(self._client, model_name, CHAMPION)
        if holder is None:
            return True, f"the first champion, accuracy {accuracy:.4f}"
        if evaluate is None:
            unlike = "nothing evaluates it on these documents"
        else:
            try:
                theirs = float(evaluate(_local_copy(self._client, self.uri, holder)))
            except (SelfTrainError, OSError) as error:
                unlike = " ".join(str(error).split())
            else:
                words = f"accuracy {accuracy:.4f} against {theirs:.4f} of champion version {holder.version} on the same documents"
                return accuracy > theirs, words
        if promote:
            return True, f"promoted as asked, champion version {holder.version} could not be compared: {unlike}"
        return False, f"champion version {holder.version} could not be compared ({unlike}); --promote makes this one champion"

    def _create(self, name: str, tags: Mapping[str, Any]) -> Child:
        cut = {_key(key): _cut(value, _TAG_LENGTH) for key, value in tags.items()}
        return Child(self._client, self._client.create_run(self._experiment_id, tags=cut, run_name=name).info.run_id)


def write_mlmodel(bundle: Path, run_id: str | None = None) -> Path:
    """Write the file MLmodel into a bundle, which is what `mlflow.pyfunc.load_model(bundle)` looks for; returns its path."""
    _quiet()
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
        SelfTrainError: the server does not answer, or the registry has no such model or no champion of it; the message says how to make one.
    """
    return registered_bundle(f"models:/{model_name}@{CHAMPION}", uri)


def registered_bundle(model_uri: str, uri: str | None = None) -> RegisteredBundle:
    """A registered bundle on this machine's disk; one that lies elsewhere is downloaded once and kept in the user's cache folder.

    Args:
        model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        uri: the registry; default as in `tracking_uri`.

    Raises:
        SelfTrainError: no such address, server, model, alias or version.
    """
    matched = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", model_uri)
    if matched is None:
        raise SelfTrainError(f"{model_uri!r} names no registered model; write models:/NAME@champion or models:/NAME/1.")
    name, alias, number = matched.groups()
    uri = tracking_uri(uri)
    file = _sqlite_file(uri)
    if file is not None and not file.exists():
        raise SelfTrainError(
            f"There is no MLflow database {file}; run `selftrain run` here first, or name the tracking server (MLFLOW_TRACKING_URI)."
        )
    client, _ = _open(uri, None)
    if alias is not None:
        version = _alias(client, name, alias)
    else:
        from mlflow.exceptions import MlflowException

        try:
            version = client.get_model_version(name, number)
        except MlflowException:
            version = None
    if version is None:
        raise SelfTrainError(_missing(client, uri, name, alias, number))
    return RegisteredBundle(_local_copy(client, uri, version), str(version.version))


class Champions:
    """Who holds the alias `champion`, asked again and again by one client: a few milliseconds each time.

    Args:
        uri: the registry; default as in `tracking_uri`.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._uri = tracking_uri(uri)
        self._client: Any = None

    def version(self, model_name: str) -> str:
        """The number of the version that is champion now.

        Raises:
            SelfTrainError: the server does not answer, or the model has no champion; the message says how to make one.
        """
        if self._client is None:
            self._client, _ = _open(self._uri, None)
        else:
            check_tracking(self._uri)  # MLflow itself would try for minutes
        found = _alias(self._client, model_name, CHAMPION)
        if found is None:
            raise SelfTrainError(_missing(self._client, self._uri, model_name, CHAMPION, None))
        return str(found.version)


def finished_metrics(uri: str | None = None, experiment: str = "selftrain") -> list[dict[str, Any]]:
    """metrics.json of every finished run of an experiment; runs without one (sweeps, single seeds) are left out.

    Raises:
        SelfTrainError: no database yet, a server that does not answer, or no such experiment.
    """
    uri = tracking_uri(uri)
    file = _sqlite_file(uri)
    if file is not None and not file.exists():
        raise SelfTrainError(
            f"There is no MLflow database {file}; run `selftrain run` here first, or name the tracking server (MLFLOW_TRACKING_URI)."
        )
    client, _ = _open(uri, None)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(sorted(one.name for one in client.search_experiments()))
        raise SelfTrainError(
            f"There is no MLflow experiment {experiment!r} in {without_passwords(uri)} (it has: {known}); name one with --experiment."
        )
    query = f"attributes.status = 'FINISHED' and tags.`{RUN_TAG}` != ''"
    runs: list[dict[str, Any]] = []
    token = None
    while True:
        page = client.search_runs([found.experiment_id], filter_string=query, max_results=200, page_token=token)
        for run in page:
            if run.data.tags.get(KIND_TAG) != "sweep" and any(one.path == "metrics.json" for one in client.list_artifacts(run.info.run_id)):
                with tempfile.TemporaryDirectory() as scratch:
                    runs.append(json.loads(Path(client.download_artifacts(run.info.run_id, "metrics.json", scratch)).read_text(encoding="utf-8")))
        token = page.token
        if not token:
            return runs


def ui_command(uri: str | None, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that opens MLflow's page on the runs, for this machine alone (127.0.0.1), and what its environment needs besides.

    The address of the database stands in the environment, since every user of the machine can read command lines, and it may hold a password.

    Raises:
        SelfTrainError: there are no runs yet, or a tracking server shows them already.
    """
    uri = tracking_uri(uri)
    if _is_server(uri):
        raise SelfTrainError(f"The runs are on the tracking server; open {without_passwords(uri)} in a browser.")
    file = _sqlite_file(uri)
    if file is not None and not file.exists():
        raise SelfTrainError(f"There is no MLflow database {file}; run `selftrain run` here first, or name another with --set tracking.uri.")
    _quiet()  # by environment variables, which the command inherits
    root = _artifact_root(uri)
    assert root is not None
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--default-artifact-root", root.as_uri()),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    return command, {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}


def _quiet() -> None:
    """No telemetry, no chatter, and retries that end: MLflow reads these when it is imported or asked."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _open(uri: str, experiment: str | None) -> tuple[Any, str]:
    """A client, and the id of the experiment, which is made where it is missing (empty where none is asked for)."""
    check_tracking(uri)
    _quiet()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    file = _sqlite_file(uri)
    with _locked(file):
        try:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            # The first question is what makes the tables of a fresh file.
            client.search_experiments(max_results=1)
            return client, _experiment(client, experiment, _artifact_root(uri)) if experiment is not None else ""
        except SelfTrainError:
            raise
        except Exception as error:  # SQLAlchemy, SQLite and MLflow each have classes of their own for a database that cannot be used
            if _is_server(uri) and not isinstance(error, MlflowException):
                raise
            raise SelfTrainError(
                f"The tracking store {without_passwords(uri)} cannot be used ({_reason(error)}); mend it or name another with tracking.uri."
            ) from error


def _experiment(client: Any, name: str, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts.as_uri() if artifacts is not None else None))
        except MlflowException:
            # Another driver made it in between (a server has no lock of ours).
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise SelfTrainError(f"The MLflow experiment {name!r} was deleted; restore it, or choose another with --set tracking.experiment=NAME.")
    return str(found.experiment_id)


@contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    if file is None:
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{file}.lock", "a")  # noqa: SIM115  closed below; the with statement must not cover the yield's own OSErrors
    except OSError as error:
        raise SelfTrainError(f"The tracking database {file} cannot be written ({error.strerror}); name another with tracking.uri.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_server(uri: str) -> bool:
    """Whether it is MLflow's own server, and no database."""
    return uri.startswith(("http://", "https://"))


def _sqlite_file(uri: str) -> Path | None:
    """The file behind `sqlite:///file`, absolute; None for any other address."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


def _artifact_root(uri: str) -> Path | None:
    """Where files go that a database does not hold; a tracking server has a place of its own."""
    if _is_server(uri):
        return None
    file = _sqlite_file(uri)
    return (file.parent if file is not None else Path.cwd()) / "mlartifacts"


def _alias(client: Any, name: str, alias: str) -> Any:
    """The version that holds `alias`, or None."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # An alias that was never set is an invalid parameter to MLflow.
        if error.error_code not in (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)):
            raise
        return None


def _missing(client: Any, uri: str, name: str, alias: str | None, number: str | None) -> str:
    where = without_passwords(uri)
    versions = [str(one.version) for one in client.search_model_versions(f"name = '{name.replace(chr(39), '')}'")]
    if not versions:
        known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        return f"The registry {where} has no model {name!r} (it has: {known}); make one with `selftrain run`, or name another with --model."
    if alias is None:
        return f"The model {name!r} in the registry {where} has no version {number}; it has {', '.join(sorted(versions, key=int))}."
    return (
        f"The model {name!r} in the registry {where} has no {alias}: none of its {len(versions)} versions was compared by labels or promoted; "
        "run again with --promote, or name a bundle's folder."
    )


def _local_copy(client: Any, uri: str, version: Any) -> Path:
    """The folder of a registered bundle; where it is not on this machine it is downloaded into the user's cache."""
    source = str(client.get_model_version_download_uri(version.name, version.version))
    parsed = urlparse(source)
    if parsed.scheme in ("", "file"):
        folder = Path(unquote(parsed.path))
        if not folder.is_dir():
            raise SelfTrainError(
                f"Version {version.version} of {version.name!r} is registered, but its files {folder} are gone; run again to make a new one."
            )
        return folder
    # A version's files never change; the time of its making tells it from one of a deleted model with the same number.
    key = hashlib.sha256(f"{uri}\n{version.name}\n{version.version}\n{version.creation_timestamp}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selftrain" / "bundles"
    folder = cache / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', version.name)}-{version.version}-{key}"
    if folder.is_dir():
        return folder
    from mlflow.artifacts import download_artifacts

    cache.mkdir(parents=True, exist_ok=True)
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


def _flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _key(name: str) -> str:
    """A name that MLflow accepts for a parameter, metric or tag."""
    return re.sub(r"/{2,}|^/|/$", "_", re.sub(r"[^\w.\- /]", "_", name))[:_KEY_LENGTH]


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
