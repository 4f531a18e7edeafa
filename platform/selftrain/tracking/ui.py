"""MLflow's own page on the runs, for this machine alone, and the end of all its processes when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

import psutil

from selftrain.errors import SelfTrainError
from selftrain.runtime.ports import require_free_port
from selftrain.tracking import ui_command

_HOST = "127.0.0.1"
_STOP_SECONDS = 10.0


def show_runs(tracking_uri: str | None, port: int) -> None:
    """Show MLflow's page until Ctrl-C or SIGTERM; what `selftrain ui` does.

    Args:
        tracking_uri: the database; default as in `tracking.tracking_uri`.
        port: port to listen on.

    Raises:
        SelfTrainError: no database, the port is taken, or MLflow ends by itself.
    """
    command, environment = ui_command(tracking_uri, port)
    require_free_port(_HOST, port)
    # In a session of its own: Ctrl-C reaches this process alone, which then ends them all, and not some of them twice.
    process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    code = None
    try:
        print(f"MLflow at http://{_HOST}:{port} (Ctrl-C stops it)", flush=True)
        with suppress(KeyboardInterrupt):
            code = process.wait()
    finally:
        _end(process)
    if code is not None:
        raise SelfTrainError(f"MLflow's page ended by itself (exit code {code}); its own lines above say why.")
    print("Stopped.", flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole family, also what an already dead parent has left: MLflow ends without its workers."""
    family = _family(process.pid)
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        for one in family:
            with suppress(psutil.Error):
                one.send_signal(number)
        _, family = psutil.wait_procs(family, timeout=seconds)
    process.wait()


def _family(session: int) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(one.pid) == session:
                found.append(one)
    return found
