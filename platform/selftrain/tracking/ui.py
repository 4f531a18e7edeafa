"""MLflow's own page on the runs, for this machine alone; all its processes end with it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress

from selftrain.errors import ConfigError, ServiceError
from selftrain.passwords import without_passwords
from selftrain.runtime import reaper
from selftrain.runtime.ports import require_free_port
from selftrain.tracking.address import artifact_root, is_server, quiet_mlflow, require_database, tracking_uri

_HOST = "127.0.0.1"
_STOP_SECONDS = 10.0


def show_runs(uri: str | None, port: int) -> None:
    """Show MLflow's page until Ctrl-C or SIGTERM.

    Args:
        uri: the database; default as in `tracking_uri`.
        port: port to listen on.

    Raises:
        ConfigError: `uri` is a tracking server, which shows its runs already, or is not an address; or there is no such port.
        ServiceError: there is no database, or MLflow ended before it was stopped.
        ResourceError: the port is taken.
    """
    command, environment = ui_command(uri, port)
    require_free_port(_HOST, port)
    # In a session of its own: Ctrl-C reaches this process alone, which then ends them all, and not some of them twice.
    mark = secrets.token_hex(8)
    process = subprocess.Popen(command, env={**os.environ, **environment, reaper.MARK: mark}, start_new_session=True)
    code = None
    try:
        print(f"MLflow at http://{_HOST}:{port} (Ctrl-C stops it)", flush=True)
        with suppress(KeyboardInterrupt):
            code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        reaper.kill_all(mark, grace=_STOP_SECONDS)  # also what an already dead parent has left: MLflow ends without its workers
        process.wait()
    if code is not None:
        raise ServiceError(f"MLflow's page ended before it was stopped (exit code {code}); its own lines above say why.")
    print("Stopped.", flush=True)


def ui_command(uri: str | None, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that opens MLflow's page for this machine alone (127.0.0.1), and the variables to add to its environment.

    The address of the database stands in the environment: every user of the machine can read command lines, and the address may hold a password.

    Raises:
        ConfigError: `uri` is a tracking server, which shows its runs already, or is not an address.
        ServiceError: there is no database yet.
    """
    uri = tracking_uri(uri)
    if is_server(uri):
        raise ConfigError(f"The runs are on the tracking server; open {without_passwords(uri)} in a browser.")
    require_database(uri)
    quiet_mlflow()  # by environment variables, which the command inherits
    root = artifact_root(uri)
    assert root is not None
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--default-artifact-root", root.as_uri()),
        *("--host", _HOST, "--port", str(port), "--workers", "1"),
    ]
    # Its job runner, two more processes that no page of runs and models needs, is left out unless it is asked for.
    jobs = os.environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    return command, {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": jobs}
