"""MLflow's page: it listens on this machine alone, and leaves nothing behind however it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from endpoint import free_port
from processes import alive, end_all, sockets_of, started_by

from selftrain.cli import main
from selftrain.errors import ConfigError, ServiceError
from selftrain.runtime.ports import require_free_port
from selftrain.tracking.ui import ui_command

SELFTRAIN = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def database(blank) -> str:
    return f"sqlite:///{blank}/mlflow.db"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_the_page_ends_with_all_its_processes(database, number) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [*SELFTRAIN, "ui", "--tracking-uri", database, "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    family: list[psutil.Process] = []
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        family = list(started_by(process.pid))
        sockets = [one.laddr for one in sockets_of(family) if one.status == psutil.CONN_LISTEN]
        assert sockets and {one.ip for one in sockets} == {"127.0.0.1"}
        assert not list(started_by(process.pid, "mlflow.server.jobs"))
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and output.rstrip().endswith("Stopped."), output
        assert not alive(family)
        require_free_port("127.0.0.1", port)
    finally:
        end_all(family)
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_one_sentence(database, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["ui", "--tracking-uri", database, "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "cannot be used" in said and "--port" in said and len(said.strip().splitlines()) == 1
    assert main(["ui", "--tracking-uri", database, "--port", "70000"]) == 2


def test_a_page_that_ends_by_itself_is_no_success(database, monkeypatch, capsys) -> None:
    monkeypatch.setattr("selftrain.tracking.ui.ui_command", lambda *_: ([sys.executable, "-c", "raise SystemExit(3)"], {}))
    assert main(["ui", "--tracking-uri", database, "--port", str(free_port())]) == 2
    assert "exit code 3" in capsys.readouterr().err


def test_the_page(uri: str, tmp_path: Path) -> None:
    command, environment = ui_command(uri, 5123)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5123"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == environment["MLFLOW_REGISTRY_STORE_URI"] == uri
    assert uri not in " ".join(command)  # it may hold a password
    assert command[command.index("--default-artifact-root") + 1] == (tmp_path / "mlartifacts").as_uri()
    with pytest.raises(ConfigError, match="open http://host"):
        ui_command("http://host")
    with pytest.raises(ServiceError, match="There is no MLflow database"):
        ui_command(f"sqlite:///{tmp_path}/absent.db")
