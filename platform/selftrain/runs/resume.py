"""What a run keeps so that it can be gone on with: finished rows, the time of its parts, and which changes a run folder bears.

config.yaml               what was asked
checkpoints/rows.jsonl    finished rows, one JSON line a (variant, seed)
checkpoints/parts.json    command, time and stages of every start
metrics.json              written last: a folder whose metrics.json has all seeds and variants of config.yaml, and owes tracking nothing, is complete
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selftrain.config import Experiment, load
from selftrain.errors import SelfTrainError
from selftrain.files.durable import write_whole
from selftrain.files.journal import Journal
from selftrain.runs.stages import Stages
from selftrain.tracking.spool import SPOOL, waiting

_BEAT_SECONDS = 10.0
# Keys that no finished row depends on.
_FREE = ("ray.", "training.max_failures", "augment.stall_seconds")


def resumed(folder: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a run folder, with seeds and variants that are added to it.

    Args:
        folder: of a run that was killed, or of a finished one that gets more seeds or variants.
        overrides: `section.key=value` as in `config.load`; seeds and variants may be added, everything else would make finished rows untrue.

    Raises:
        SelfTrainError: the folder is not a run's, the run is complete and nothing is added, or a change that the finished rows do not bear.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise SelfTrainError(f"--resume: {str(folder)!r} is not a run folder, it has no config.yaml; give one of those under runs/.")
    before = load(folder / "config.yaml")
    after = load(folder / "config.yaml", overrides)
    _check(before, after)
    if complete(folder, after):
        raise SelfTrainError(
            f"--resume: the run {str(folder)!r} is complete; its report is {folder / 'report.html'}. "
            f"To add to it, pass more seeds or variants (--set seeds={json.dumps([*after.seeds, max(after.seeds) + 1]).replace(' ', '')})."
        )
    return after


def complete(folder: Path, experiment: Experiment) -> bool:
    """Whether the run in `folder` has finished all of `experiment` and told tracking everything."""
    metrics = finished_metrics(folder)
    if metrics is None or waiting(folder / SPOOL):
        return False
    wanted = {str(experiment.method["name"]), *experiment.variants}
    return list(experiment.seeds) == list(metrics["asked"]["seeds"]) and wanted <= {row["variant"] for row in metrics["rows"]}


def finished_metrics(folder: Path) -> dict[str, Any] | None:
    """metrics.json of a run that came to its end, be it with fewer seeds than are asked for now; None where it never did."""
    try:
        found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _check(before: Experiment, after: Experiment) -> None:
    if after.seeds[: len(before.seeds)] != before.seeds:
        raise SelfTrainError(
            f"--resume: seeds must begin with those of the run, {_listed(before.seeds)} (got {_listed(after.seeds)}); more may follow, none may go."
        )
    if list(after.variants)[: len(before.variants)] != list(before.variants):
        gone = [name for name in before.variants if name not in after.variants]
        raise SelfTrainError(
            f"--resume: variants.{gone[0] if gone else next(iter(after.variants))} was taken away or moved; variants may only be added."
        )
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    for key in [*old, *(key for key in new if key not in old)]:
        added = key == "seeds" or (key.startswith("variants.") and key.split(".")[1] not in before.variants) or key == "variants"
        if old.get(key) != new.get(key) and not added and not key.startswith(_FREE):
            raise SelfTrainError(
                f"--resume: {key} cannot change ({old.get(key)!r} in the run, now {new.get(key)!r}), because rows that are finished would not be true any "
                "more; start a new run, or pass only seeds and variants."
            )


def _listed(seeds: Sequence[int]) -> str:
    return f"[{', '.join(map(str, seeds))}]"


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


class Finished:
    """Rows that a run has finished, one JSON line a (variant, seed): what `--resume` does not do again."""

    def __init__(self, file: Path) -> None:
        self._journal = Journal(file)
        self._found = {(entry["variant"], entry["seed"]): entry for entry in self._journal.read()}

    def get(self, variant: str, seed: int) -> dict[str, Any] | None:
        """The rows and rounds of a variant with a seed; None where it is not finished."""
        return self._found.get((variant, seed))

    def add(self, variant: str, seed: int, rows: Sequence[Any], rounds: Sequence[Any]) -> None:
        """Keep them."""
        self._journal.add({"variant": variant, "seed": seed, "rows": rows, "rounds": rounds})


class Parts:
    """The starts of a run: a killed one and those that went on with it count together.

    What a part has taken is written every few seconds, so of a part that was killed at most so much is missing.

    Args:
        file: where it is kept.
        command: how this part was asked for.
        started: `time.monotonic()` at its begin.
        stages: of this part.
    """

    def __init__(self, file: Path, command: str, started: float, stages: Stages) -> None:
        self._file = file
        self._started = started
        self._stages = stages
        self._earlier: list[dict[str, Any]] = []
        with suppress(OSError, ValueError):
            self._earlier = [part for part in json.loads(file.read_text(encoding="utf-8")) if isinstance(part, dict)]
        # The wall clock is asked once: it may be set while the run goes on.
        now = datetime.now(UTC).timestamp() - (time.monotonic() - started)
        self._now = {"command": command, "started": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")}
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._write_on, name="selftrain-parts", daemon=True)

    def start(self) -> None:
        """From now on the part is on disk."""
        self.write()
        self._beat.start()

    def stop(self) -> None:
        """The part has ended, in whatever way."""
        self._over.set()
        if self._beat.is_alive():
            self._beat.join()
        self._try_to_write()

    def write(self) -> None:
        """Note what the parts have taken so far."""
        write_whole(self._file, json.dumps(self._all()))

    @property
    def commands(self) -> list[str]:
        """Of all parts, in order."""
        return [part["command"] for part in self._all()]

    @property
    def started(self) -> str:
        """When the first part began, ISO 8601."""
        return str(self._all()[0]["started"])

    @property
    def seconds(self) -> float:
        """Of all parts together."""
        return sum(part["seconds"] for part in self._all())

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Of all parts: seconds add up, memory is the highest."""
        found: dict[str, dict[str, Any]] = {}
        for stage in (stage for part in self._all() for stage in part["stages"]):
            known = found.setdefault(stage["name"], {"name": stage["name"], "seconds": 0.0, "peak_memory_mb": 0.0})
            known["seconds"] = round(known["seconds"] + stage["seconds"], 3)
            known["peak_memory_mb"] = max(known["peak_memory_mb"], stage["peak_memory_mb"])
        return list(found.values())

    def _all(self) -> list[dict[str, Any]]:
        return [*self._earlier, {**self._now, "seconds": round(time.monotonic() - self._started, 3), "stages": self._stages.to_json()}]

    def _write_on(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            self._try_to_write()

    def _try_to_write(self) -> None:
        with suppress(OSError):  # a full disk ends the run elsewhere, with a sentence
            self.write()
