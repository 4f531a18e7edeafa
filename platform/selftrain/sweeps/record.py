"""A sweep in MLflow: a parent run with a child a trial. The driver alone writes, through the spool, so that no trial waits for a tracking server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrain.runs.stages import Events
from selftrain.sweeps.space import Cell
from selftrain.tracking import Status, Tracker, figures_of_round
from selftrain.tracking.spool import Spool

CELL_TAG = "selftrain.cell"


class Recorder:
    """Writes every result once, whatever was killed in between: a child carries the fingerprint of its cell.

    Args:
        tracker: with its parent run started.
        folder: of the sweep; what could not be sent is kept there, and the next start sends it.
        events: called when tracking goes away or comes back.
    """

    def __init__(self, tracker: Tracker, folder: Path, events: Events) -> None:
        self._spool = Spool(tracker, folder, events)
        self._written = tracker.tags_of_children(CELL_TAG) | self._spool.keys()

    def add(self, cell: Cell, result: Mapping[str, Any], *, known: bool = False) -> None:
        """Hand a result to the spool.

        Args:
            cell: what was trained.
            result: its result, {"error": why} or {"stopped": rounds, "objective": ...}.
            known: whether it is of an earlier start; it is then written only where that start did not write it.
        """
        if cell.fingerprint in self._written and known:
            return
        self._written.add(cell.fingerprint)
        figures = {**result.get("scores", {}), "train_seconds": result.get("train_seconds"), "validation_accuracy": result.get("validation")}
        status: Status = "FAILED" if "error" in result else "KILLED" if "stopped" in result else "FINISHED"
        self._spool.child(
            f"{cell.setting}, {cell.column}, seed {cell.seed}",
            key=cell.fingerprint,
            params={"setting": cell.setting, "data": cell.column, "seed": cell.seed, "method": cell.experiment.method},
            tags={CELL_TAG: cell.fingerprint},
            rounds=[figures_of_round(one) for one in result.get("rounds", [])],
            metrics={} if "error" in result else figures,
            status=status,
        )

    def artifact(self, path: Path) -> None:
        """Hand a file of the parent run to the spool."""
        self._spool.artifact(path)

    def close(self, status: Status, seconds: float | None = None) -> str | None:
        """End the parent run and wait for the rest to be sent; returns why something could not be, or None. Results are in the folder either way."""
        self._spool.finish(status)
        return self._spool.close(seconds)
