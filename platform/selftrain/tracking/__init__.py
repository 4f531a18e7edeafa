"""MLflow, and no other room knows it. What the other rooms use of it stands below.

    address     which store: the address, whether it answers, the lock of a SQLite file
    runs        a run with its children, figures and files
    registry    versions of bundles, and the alias `champion`
    champion    the rule that decides who holds it
    spool       what a run still has to send, kept on disk
    ui          MLflow's own page

MLflow takes seconds to import, so it is imported inside the functions.
"""

from selftrain.tracking.address import check_tracking, is_away, require_mlflow, tracking_uri
from selftrain.tracking.champion import Lead
from selftrain.tracking.registry import CHAMPION, Champions, RegisteredBundle, RegisteredVersion, champion_bundle, registered_bundle, write_mlmodel
from selftrain.tracking.runs import KIND_TAG, RUN_TAG, RoundFigures, Run, Status, Tracker, figures_of_round, finished_metrics

__all__ = [
    "CHAMPION",
    "KIND_TAG",
    "RUN_TAG",
    "Champions",
    "Lead",
    "RegisteredBundle",
    "RegisteredVersion",
    "RoundFigures",
    "Run",
    "Status",
    "Tracker",
    "champion_bundle",
    "check_tracking",
    "figures_of_round",
    "finished_metrics",
    "is_away",
    "registered_bundle",
    "require_mlflow",
    "tracking_uri",
    "write_mlmodel",
]
