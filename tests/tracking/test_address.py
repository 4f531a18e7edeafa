"""Addresses of tracking stores, and what is said where nothing answers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from selftrain.bundle.classifier import Classifier
from selftrain.config import TrackingConfig
from selftrain.errors import ConfigError, MissingExtraError, OutputError, ServiceError
from selftrain.tracking import Champions, Tracker, address, champion_bundle, check_tracking, finished_metrics, tracking_uri
from selftrain.tracking.ui import show_runs


def test_the_address(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host/path")
    assert tracking_uri() == "https://host/path"
    assert tracking_uri("sqlite:////x.db") == "sqlite:////x.db"
    assert tracking_uri("postgresql+psycopg2://me@host/db") == "postgresql+psycopg2://me@host/db"
    for wrong in ("./mlruns", "file:///tmp/mlruns", "ftp://host"):
        with pytest.raises(ConfigError, match="must be a server"):
            tracking_uri(wrong)


def test_without_mlflow_the_extra_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(address, "find_spec", lambda name: None)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for ask in (
        lambda: champion_bundle("mail", uri),
        lambda: Classifier.load("models:/mail@champion", tracking_uri=uri),
        lambda: Champions(uri).version("mail"),
        lambda: finished_metrics(uri),
        lambda: Tracker(TrackingConfig(uri=uri), tmp_path, "run"),
        lambda: show_runs(uri, 5000),
    ):
        with pytest.raises(MissingExtraError, match=r"the package mlflow, .* pip install 'selftrain\[tracking\]'"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_the_address_is_not_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceError, match="does not answer") as error:
            check_tracking(f"http://me:secret@{address}")
    assert "secret" not in str(error.value) and address in str(error.value)


def test_a_server_that_is_down_is_said_before_mlflow_is_asked(tmp_path: Path, monkeypatch) -> None:
    """MLflow itself would try for minutes."""
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: pytest.fail("MLflow's client was made"))
    with socket.socket() as taken:  # bound but not listening: nobody else gets the port, and connecting is refused
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceError, match=f"The tracking server {uri} does not answer"):
            Tracker(TrackingConfig(uri=uri), tmp_path, "r")


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch) -> None:
    assert address._ANSWER_SECONDS <= 5
    monkeypatch.setattr(address, "_ANSWER_SECONDS", 0.1)  # without it this test would never end
    with socket.socket() as silent:  # listening, and never answering
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ServiceError, match="does not answer"):
            check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("certainly no database, but long enough to have a header " * 3)
    with pytest.raises(ServiceError, match="cannot be used"):
        Tracker(TrackingConfig(uri=f"sqlite:///{tmp_path}/x.db"), tmp_path, "r")
    with pytest.raises(OutputError, match="cannot be written"):
        Tracker(TrackingConfig(uri="sqlite:////proc/no/mlflow.db"), tmp_path, "r")
