"""A SQLite database of the test's own, whose tables were made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from selftrain.config import TrackingConfig
from selftrain.tracking import Tracker


@pytest.fixture(autouse=True)
def _no_server(monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Path:
    """A folder with a database that has its tables already: making them takes seconds."""
    folder = tmp_path_factory.mktemp("blank")
    Tracker(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder, "blank")
    return folder


@pytest.fixture
def uri(blank: Path, tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes((blank / "mlflow.db").read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"
