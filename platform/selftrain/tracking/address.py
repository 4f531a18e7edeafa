"""The address of the tracking store, and whether something answers there. A password in it never gets into a message.

MLflow itself retries for minutes; here a store that does not answer is an error within seconds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selftrain.errors import ConfigError, MissingExtraError, OutputError, SelfTrainError, ServiceError
from selftrain.passwords import without_passwords

_LOCAL_DATABASE = "mlflow.db"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ANSWER_SECONDS = 4.0
_REMEDY = "start it, fix tracking.uri, or unset MLFLOW_TRACKING_URI to use a local file"


def tracking_uri(uri: str | None = None) -> str:
    """The tracking server or database, as an absolute address.

    Args:
        uri: what the configuration says; default: MLFLOW_TRACKING_URI, else the file mlflow.db in the working directory.

    Raises:
        ConfigError: a folder or an unknown kind of address; MLflow 3 keeps no runs in plain folders.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_LOCAL_DATABASE}"
    scheme = uri.partition(":")[0].partition("+")[0] if "://" in uri else ""
    if scheme not in (*_DATABASES, "http", "https"):
        raise ConfigError(
            f"The tracking address must be a server (http://...) or a database, such as sqlite:///mlflow.db (got {without_passwords(uri)!r})."
        )
    file = sqlite_file(uri)
    return f"sqlite:///{file}" if file is not None else uri


def check_tracking(uri: str) -> None:
    """Ask a tracking server or a database server whether it answers. A SQLite file is not asked.

    Raises:
        ServiceError: no answer within some seconds, or an answer that says that it cannot work.
        ConfigError: the address of a database is not one.
        MissingExtraError: the driver of this kind of database is not installed.
    """
    if not is_server(uri):
        if sqlite_file(uri) is None:
            _check_database(uri)
        return
    try:
        # Without name and password, which urllib takes for a port: a server that asks for them is there.
        with urllib.request.urlopen(re.sub(r"(://)[^/]*@", r"\1", uri).rstrip("/") + "/health", timeout=_ANSWER_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it answers and wants a password, or lives under another path
            return
        problem = f"status {error.code}"
    except (OSError, ValueError) as error:
        problem = str(getattr(error, "reason", error))
    raise ServiceError(f"The tracking server {without_passwords(uri)} does not answer ({problem}); {_REMEDY}.")


def _check_database(uri: str) -> None:
    import sqlalchemy

    where = without_passwords(uri)
    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": int(_ANSWER_SECONDS)} if uri.startswith("postgresql") else {})
    except ImportError as error:
        raise MissingExtraError(
            f"{where} needs the package {error.name}, which is not installed; for PostgreSQL: pip install 'selftrain[postgresql]'."
        ) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise ConfigError(f"The tracking address {where} cannot be used ({_words(error)}); fix tracking.uri or MLFLOW_TRACKING_URI.") from None
    try:
        with engine.connect():
            return
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise ServiceError(f"The tracking database {where} does not answer ({_words(error)}); {_REMEDY}.") from None
    finally:
        engine.dispose()


def require_mlflow() -> None:
    """MLflow is an extra; a bundle's folder needs none.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("mlflow") is None:
        raise MissingExtraError("The registry needs the package mlflow, which is not installed; pip install 'selftrain[tracking]'.")


def require_database(uri: str) -> None:
    """Reading must not make an empty database.

    Raises:
        MissingExtraError: MLflow is not installed.
        ServiceError: `uri` is a SQLite file that does not exist yet.
    """
    require_mlflow()
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise ServiceError(f"There is no MLflow database {file}; start a run here first, or set MLFLOW_TRACKING_URI to the tracking server.")


def is_away(error: BaseException) -> bool:
    """Whether `error` says that the tracking store does not answer or cannot work, so that asking again later may help."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException | OSError) and not is_refusal(error)  # a ServiceError is an OSError


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow answers and does not accept what it was sent; asking again would not help."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    return isinstance(error, MlflowException) and error.error_code in (
        ErrorCode.Name(INVALID_PARAMETER_VALUE),
        ErrorCode.Name(RESOURCE_DOES_NOT_EXIST),
    )


def is_server(uri: str) -> bool:
    """Whether `uri` is MLflow's own server, and not a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The file behind `sqlite:///file`, absolute; None for any other address."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


def artifact_root(uri: str) -> Path | None:
    """The folder for files that a database does not hold; None for a tracking server, which has its own."""
    if is_server(uri):
        return None
    file = sqlite_file(uri)
    return (file.parent if file is not None else Path.cwd()) / "mlartifacts"


def quiet_mlflow() -> None:
    """No telemetry, no chatter, and retries that end: MLflow reads these variables when it is imported or called."""
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


def connect(uri: str) -> Any:
    """An `MlflowClient` of a store that answers; raises what `connected` raises."""
    with connected(uri) as client:
        return client


@contextmanager
def connected(uri: str) -> Iterator[Any]:
    """An `MlflowClient` of a store that answers. Inside the block a SQLite file is locked: two processes that set up one file together both fail.

    MLflow's fluent API is not used: it holds one address for the whole process, where a run may log to one store and a thread of a server read another.

    Raises:
        ServiceError: the store does not answer, or cannot be used.
        ConfigError, MissingExtraError: as `check_tracking`, or MLflow is not installed.
        OutputError: the database file cannot be written.
    """
    require_mlflow()
    check_tracking(uri)
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with _locked(sqlite_file(uri)):
        try:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)  # the first question makes the tables of a fresh file
            yield client
        except SelfTrainError:
            raise
        except Exception as error:  # SQLAlchemy, SQLite and MLflow each have classes of their own for a database that cannot be used
            if is_server(uri) and not isinstance(error, MlflowException):
                raise
            raise ServiceError(
                f"The tracking store {without_passwords(uri)} cannot be used ({_words(error)}); fix it, or set tracking.uri to another."
            ) from error


@contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    if file is None:
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{file}.lock", "a")  # noqa: SIM115  closed below; the with statement must not cover the yield's own OSErrors
    except OSError as error:
        raise OutputError(f"The tracking database {file} cannot be written ({error.strerror}); set tracking.uri to another.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _words(error: BaseException) -> str:
    return without_passwords(" ".join(str(getattr(error, "orig", None) or error).split()))[:200]
