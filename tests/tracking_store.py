"""What tests ask of a tracking store, and a tracker whose run has started."""

from __future__ import annotations

from pathlib import Path

from selftrain.config import TrackingConfig
from selftrain.tracking import Tracker


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def tracker(uri: str, tmp_path: Path, name: str = "run-1", **changes) -> Tracker:
    # An experiment of the test's own: the copied database's says that its artifacts belong beside the original.
    made = Tracker(TrackingConfig(uri=uri, experiment="mine", **changes), tmp_path / "runs" / name, name)
    made.start(name, {"method": {"name": "genco"}})
    return made
