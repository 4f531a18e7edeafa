"""What a run keeps so that it can be continued: finished rows, what every start took, and which changes a run folder allows.

config.yaml               what was asked
checkpoints/rows.jsonl    finished rows, one JSON line a (variant, seed)
checkpoints/parts.json    command, time and stages of every start
metrics.json              written last: a folder whose metrics.json has all seeds and variants of config.yaml, and owes tracking nothing, is complete
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selftrain.config import Experiment, load
from selftrain.errors import ConfigError
from selftrain.files.durable import write_whole
from selftrain.files.journal import Journal
from selftrain.methods.recipe import resolve
from selftrain.runs.home import is_copy, looked_at
from selftrain.runs.stages import Stages
from selftrain.runtime.threads import Threads
from selftrain.tracking.runs import flattened
from selftrain.tracking.spool import SPOOL, waiting

_WRITE_SECONDS = 10.0
# Keys that no finished row depends on.
_MAY_CHANGE = (
    *("ray.", "cost.", "training.max_failures", "augment.stall_seconds", "augment.replicas", "augment.most_replicas"),
    *("augment.server_seconds", "augment.max_spent_tokens", "augment.max_cost", "augment.key_variable", "augment.gpu_memory"),
    *("augment.concurrent_requests", "augment.placement", "training.placement"),
)


def resumed_experiment(folder: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a run folder, with seeds and variants that are added to it.

    Args:
        folder: of a run that was killed, or of a finished one that gets more seeds or variants; or its address.
        overrides: `section.key=value` as in `config.load`; seeds and variants may be added, everything else would make finished rows untrue.

    Raises:
        ConfigError: the folder is not a run's, the run is complete and nothing is added, or a change would make finished rows untrue.
        ServiceError: the address does not answer.
    """
    with looked_at(folder, ("config.yaml", "metrics.json", SPOOL.as_posix())) as found:
        if not (found / "config.yaml").is_file():
            raise ConfigError(
                f"resume {str(folder)!r} is not a run folder: it has no config.yaml; pass one of those under runs/.", parameter="resume"
            )
        before = load(found / "config.yaml")
        after = load(found / "config.yaml", overrides)
        _check(before, after)
        if complete(found, after) and not is_copy(found):
            raise ConfigError(
                f"The run {str(folder)!r} is complete; its report is {str(folder).rstrip('/')}/report.html. "
                f"To add to it, pass more seeds or variants (seeds={json.dumps([*after.seeds, max(after.seeds) + 1]).replace(' ', '')})."
            )
        return after


def complete(folder: Path, experiment: Experiment) -> bool:
    """Whether the run in `folder` has finished all of `experiment` and sent tracking everything."""
    metrics = previous_metrics(folder)
    if metrics is None or waiting(folder / SPOOL):
        return False
    wanted = {resolve(experiment).name, *experiment.variants}
    return list(experiment.seeds) == list(metrics["asked"]["seeds"]) and wanted <= {row["variant"] for row in metrics["rows"]}


def previous_metrics(folder: Path) -> dict[str, Any] | None:
    """metrics.json of a run that came to its end, be it with fewer seeds than are asked for now; None where it never did."""
    try:
        found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _check(before: Experiment, after: Experiment) -> None:
    if after.seeds[: len(before.seeds)] != before.seeds:
        raise ConfigError(f"seeds must begin with those of the run, {_listed(before.seeds)} (got {_listed(after.seeds)}); only add to them.")
    if list(after.variants)[: len(before.variants)] != list(before.variants):
        gone = [name for name in before.variants if name not in after.variants]
        raise ConfigError(
            f"variants.{gone[0] if gone else next(iter(after.variants))} was removed or moved; a run that exists only gets more variants."
        )
    old, new = (dict(flattened(one.model_dump(mode="json"))) for one in (before, after))
    for key in [*old, *(key for key in new if key not in old)]:
        added = key == "seeds" or (key.startswith("variants.") and key.split(".")[1] not in before.variants) or key == "variants"
        if old.get(key) != new.get(key) and not added and not key.startswith(_MAY_CHANGE):
            raise ConfigError(
                f"{key} cannot change ({old.get(key)!r} in the run, now {new.get(key)!r}): finished rows would be untrue. "
                "Start a new run, or pass only seeds and variants."
            )


def _listed(seeds: Sequence[int]) -> str:
    return f"[{', '.join(map(str, seeds))}]"


class Finished:
    """Rows that a run has finished, one JSON line a (variant, seed): what a resumed run does not do again."""

    def __init__(self, file: Path) -> None:
        self._journal = Journal(file)
        self._found = {(entry["variant"], entry["seed"]): entry for entry in self._journal.read()}

    def get(self, variant: str, seed: int) -> dict[str, Any] | None:
        """The rows and rounds of a variant with a seed; None where it is not finished."""
        return self._found.get((variant, seed))

    def add(self, variant: str, seed: int, rows: Sequence[Any], rounds: Sequence[Any], **further: Any) -> None:
        """Keep them, and what else belongs to them."""
        self._journal.add({"variant": variant, "seed": seed, "rows": rows, "rounds": rounds, **further})


class Starts:
    """The starts of a run: a killed one and those that continued it count together.

    What a start has taken is written every few seconds, so of one that was killed at most so much is missing.

    Args:
        file: where it is kept.
        command: how this start was asked for.
        started: `time.monotonic()` when it began.
        stages: of this start.
        threads: that this start would train with. It trains with those of the first start: their number decides the order of sums.
    """

    def __init__(self, file: Path, command: str, started: float, stages: Stages, threads: Threads) -> None:
        self._file = file
        self._started = started
        self._stages = stages
        self._earlier: list[dict[str, Any]] = []
        with suppress(OSError, ValueError):
            self._earlier = [start for start in json.loads(file.read_text(encoding="utf-8")) if isinstance(start, dict)]
        kept = next((start["threads"] for start in self._earlier if isinstance(start.get("threads"), int)), None)
        self.threads = threads if kept is None or kept == threads.count else Threads(kept, "those that the run began with")
        # The wall clock is read once: it may be set while the run goes on.
        now = datetime.now(UTC).timestamp() - (time.monotonic() - started)
        began = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        self._now = {"command": command, "started": began, "threads": self.threads.count}
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write_regularly, name="selftrain-starts", daemon=True)

    def begin(self) -> None:
        """From now on the start is on disk."""
        self.write()
        self._writer.start()

    def end(self) -> None:
        """The start has ended, in whatever way."""
        self._over.set()
        if self._writer.is_alive():
            self._writer.join()
        self._try_to_write()

    def write(self) -> None:
        """Write what the starts have taken so far."""
        write_whole(self._file, json.dumps(self._all()))

    @property
    def commands(self) -> list[str]:
        """Of all starts, in order."""
        return [start["command"] for start in self._all()]

    @property
    def started(self) -> str:
        """When the first start began, ISO 8601."""
        return str(self._all()[0]["started"])

    @property
    def seconds(self) -> float:
        """Of all starts together."""
        return sum(start["seconds"] for start in self._all())

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Of all starts: seconds add up, memory is the highest."""
        found: dict[str, dict[str, Any]] = {}
        for stage in (stage for start in self._all() for stage in start["stages"]):
            known = found.setdefault(stage["name"], {"name": stage["name"], "seconds": 0.0, "peak_memory_mb": 0.0})
            known["seconds"] = round(known["seconds"] + stage["seconds"], 3)
            known["peak_memory_mb"] = max(known["peak_memory_mb"], stage["peak_memory_mb"])
        return list(found.values())

    def _all(self) -> list[dict[str, Any]]:
        return [*self._earlier, {**self._now, "seconds": round(time.monotonic() - self._started, 3), "stages": self._stages.to_json()}]

    def _write_regularly(self) -> None:
        while not self._over.wait(_WRITE_SECONDS):
            self._try_to_write()

    def _try_to_write(self) -> None:
        with suppress(OSError):  # a full disk ends the run elsewhere, with a sentence
            self.write()
