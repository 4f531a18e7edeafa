"""A sweep in MLflow: a parent run with a child a trial. The driver alone writes, in a thread of its own, so that no trial waits for a tracking server."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from selftrain.stages import Events
from selftrain.sweeps.space import Cell
from selftrain.tracking import Round, Tracker

CELL_TAG = "selftrain.cell"


class Recorder:
    """Writes every result once, whatever was killed in between: a child carries the fingerprint of its cell."""

    def __init__(self, tracker: Tracker, events: Events) -> None:
        self._tracker = tracker
        self._events = events
        self._written = tracker.tags_of_children(CELL_TAG)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="selftrain-tracking")
        self._waiting: list[Future[None]] = []

    def add(self, cell: Cell, result: Mapping[str, Any], *, known: bool = False) -> None:
        """Write a result in a while; one of an earlier start (`known`) only where that start did not come to it."""
        if cell.fingerprint in self._written and known:
            return
        self._written.add(cell.fingerprint)
        self._waiting.append(self._thread.submit(self._write, cell, dict(result)))

    def close(self) -> None:
        """Wait for what is still to be written; what MLflow refuses is said, the results are in the sweep's folder either way."""
        self._thread.shutdown(wait=True)
        failed = [error for one in self._waiting if (error := one.exception()) is not None]
        if failed:
            self._events("results missing in MLflow", results=len(failed), reason=f"{type(failed[0]).__name__}: {failed[0]}")

    def _write(self, cell: Cell, result: dict[str, Any]) -> None:
        params = {"setting": cell.setting, "data": cell.column, "seed": cell.seed, "method": cell.experiment.method}
        child = self._tracker.child(f"{cell.setting}, {cell.column}, seed {cell.seed}", params, {CELL_TAG: cell.fingerprint})
        rounds = [
            Round(round=int(one["round"]), figures={name: value for name, value in one.items() if name != "round"})
            for one in result.get("rounds", [])
        ]
        child.log_rounds(rounds)
        if "error" in result:
            child.finish("FAILED")
            return
        figures = {**result.get("scores", {}), "train_seconds": result.get("train_seconds"), "validation_accuracy": result.get("validation")}
        child.log_metrics(figures)
        child.finish("KILLED" if "stopped" in result else "FINISHED")
