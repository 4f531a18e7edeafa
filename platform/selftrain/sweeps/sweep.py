"""The story of a sweep, from top to bottom: cells -> checks -> embeddings and texts -> trials -> table -> report -> tracking.

A sweep's folder has the name of what was asked, so the same sweep again finds what it has finished, whether it was killed or not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch

from selftrain import methods
from selftrain.config import Experiment
from selftrain.data.texts import no_texts
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.files.durable import check_writable, explained, write_whole
from selftrain.models.locate import fingerprint
from selftrain.passwords import without_passwords
from selftrain.runs.run import code_version
from selftrain.runs.stages import Events
from selftrain.runtime.guard import cause_of
from selftrain.sweeps import report
from selftrain.sweeps.plan import Prepared, at_home, folder_of, prepare
from selftrain.sweeps.record import Recorder
from selftrain.sweeps.runner import Adaptive, run_trials, text_channel, workers
from selftrain.sweeps.search import ranking
from selftrain.sweeps.space import Cell, Setting, Space, text_settings, wants_texts
from selftrain.sweeps.store import Store
from selftrain.sweeps.table import Table, build
from selftrain.sweeps.trial import Shared, axis_values, open_shared, run_cell, run_found
from selftrain.tracking import KIND_TAG, Tracker


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves."""

    folder: Path
    table: Table | None  # None for a search
    text: str  # for a terminal
    trained: int  # cells that this start has trained
    seconds: float
    mlflow_run_id: str
    unsent: str | None = None  # a sentence where tracking did not get everything


def run_sweep(
    space: Space, *, folder: Path | str | None = None, at_once: int | None = None, address: str | None = None, command: str = ""
) -> SweepResult:
    """Run what is missing of a sweep, and write its table.

    Args:
        space: what to do.
        folder: of an earlier start of the same sweep; default: the one that belongs to `space`.
        at_once: trials at the same time; default: one a core (one a GPU where trials use one).
        address: a Ray cluster; default: a local Ray.
        command: how it was asked for, for the report.

    Raises:
        SelfTrainError: whatever a user can mend; nothing is started before all cells were validated.
    """
    started = time.monotonic()
    prepared = prepare(space)
    base = prepared.base
    if address is not None:
        base = prepared.base = base.model_copy(update={"ray": base.ray.model_copy(update={"address": address})})
    place = Path(folder) if folder is not None else folder_of(prepared)
    check_writable(place, "the folder of the sweep (output)")
    with explained(place):
        write_whole(place / "space.yaml", space.to_yaml())
    events = Events(place / "events.jsonl")
    store = Store(place / "results.jsonl", code_version())
    tracker = Tracker(base.tracking, place, space.name)
    run_id = tracker.start(place.name, space.model_dump(mode="json"), {KIND_TAG: "sweep", "selftrain.code_version": code_version()})
    recorder = Recorder(tracker, place, events)
    work = _Sweep(prepared, store, events, recorder, at_once or _at_once(base))
    try:
        work.go()
        with explained(place, "free some space and repeat the command, nothing is trained again"):
            result = work.finish(place, started, run_id, command)
    except BaseException as error:
        cause = cause_of(error)
        with suppress(SelfTrainError):  # no space left to say so
            events.stopped("sweep stopped", cause)
            recorder.close("KILLED" if isinstance(cause, KeyboardInterrupt) else "FAILED", 5.0)
        if isinstance(cause, ProcessDied):
            raise ProcessDied(f"{cause} Continue with selftrain sweep --resume {place}.") from None
        raise
    for file in sorted(place.iterdir()):
        if file.is_file():
            recorder.artifact(file)
    if (reason := recorder.close("FINISHED")) is None:
        return result
    events("results missing in MLflow", reason=reason)
    return replace(
        result,
        unsent=f"The results are complete in {place}, but the tracking store {without_passwords(tracker.uri)} did not take all of them ({reason}); "
        f"when it answers again, send the rest with `selftrain sweep --resume {place}`: nothing is trained again.",
    )


class _Sweep:
    """A sweep in progress: `go` trains what is missing, `finish` writes what it came to."""

    def __init__(self, prepared: Prepared, store: Store, events: Events, recorder: Recorder, at_once: int) -> None:
        self.prepared = prepared
        self.space = prepared.space
        self.store = store
        self.events = events
        self.recorder = recorder
        self.at_once = at_once
        self.trained = 0
        self.deadline = time.monotonic() + 60 * self.space.minutes if self.space.minutes else None
        self.found: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of an adaptive search: (values of the axes, result)

    def go(self) -> None:
        search = self.space.search
        for cell in self.prepared.cells:
            if self.store.done(cell):
                self.recorder.add(cell, self.store.result(cell) or {}, known=True)
        if search is not None and search.sampler == "optuna":
            self._adaptive()
            return
        missing = _once([cell for cell in self.prepared.cells if not self.store.done(cell)])
        there = len(self.prepared.cells) - len(missing)
        if not missing:
            self.events("nothing to train", reason=f"all {there} results are there")
            return
        self.events("sweep started", trainings=len(missing), there=there, at_once=self.at_once)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._embed(missing)
        asking = next((cell.experiment for cell in missing if wants_texts(cell.experiment)), None)
        gpus = 1.0 if self.prepared.base.training.gpu else 0.0
        with workers(asking or self.prepared.base, min(self.at_once, len(missing)), gpus=gpus, engine=asking is not None):
            for group in _by_texts(missing):
                self._group(group, gpus)

    def _group(self, cells: Sequence[Cell], gpus: float) -> None:
        """Cells that ask one text service, or none."""
        first = cells[0]
        with ExitStack() as stack:
            texts: Any = no_texts
            if wants_texts(first.experiment):
                name = str(first.experiment.augment.model)
                model, corpus = self.prepared.folders[name], self.prepared.corpora[first.data][0]
                cache = str(Path(first.experiment.augment.cache).absolute())
                texts = text_channel(first.experiment, corpus, model, fingerprint(model), cache)
                stack.callback(texts.close)
            shared = Shared(
                [_sent(cell) for cell in cells], {cell.data: self.prepared.corpora[cell.data] for cell in cells}, texts, self.space.search is not None
            )

            def done(config: Mapping[str, Any], result: dict[str, Any]) -> None:
                self._done(cells[config["cell"]], result)

            self._run(run_cell, shared, done, [{"cell": place} for place in range(len(cells))], gpus)

    def _adaptive(self) -> None:
        search = self.space.search
        assert search is not None
        known = [entry for entry in self.store.entries() if "values" in entry["result"]]
        self.found = [(entry["result"]["values"], entry["result"]) for entry in known]
        left = search.trials - len(known)
        if left <= 0:
            self.events("nothing to train", reason=f"all {len(known)} results are there")
            return
        corpus, truth = next(iter(self.prepared.corpora.values()))
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        probe = Cell("", self.space.columns[0], self.space.seeds[0], self.prepared.base, corpus.fingerprint)
        self._embed([probe])
        base = self.prepared.base
        configs = Adaptive(self.space, left, search.seed, [(result["config"], result["objective"]) for _, result in self.found])
        self.events("search started", trials=left, there=len(known), at_once=self.at_once)

        def done(config: Mapping[str, Any], result: dict[str, Any]) -> None:
            values = axis_values(self.space, config)
            setting = self.space.setting(values)
            cell = replace(probe, setting=setting.name, experiment=self.space.experiment(setting, probe.column))
            if "error" not in result:
                result = {**result, "values": values, "config": dict(config), "objective": result.get("objective")}
                self.found.append((values, result))
            self._done(cell, result)

        with ExitStack() as stack:
            stack.enter_context(workers(base, min(self.at_once, left), gpus=1.0 if base.training.gpu else 0.0, engine=wants_texts(base)))
            texts: Any = no_texts
            if wants_texts(base):
                model = self.prepared.folders[str(base.augment.model)]
                texts = text_channel(base, corpus, model, fingerprint(model), str(Path(base.augment.cache).absolute()))
                stack.callback(texts.close)
            shared = Shared([_sent(probe)], {probe.data: (corpus, truth)}, texts, True, self.space)
            self._run(run_found, shared, done, configs, 1.0 if base.training.gpu else 0.0)

    def _run(self, work: Any, shared: Shared, done: Callable[..., None], configs: Any, gpus: float) -> None:
        minutes = (self.deadline - time.monotonic()) / 60 if self.deadline is not None else None
        if minutes is not None and minutes <= 0:
            return
        search = self.space.search
        rounds = None
        if search is not None and search.asha:
            rounds = max(int(getattr(methods.options_of(cell.experiment.method), "rounds", 1)) for cell in shared.cells)
        run_trials(work, shared, done, configs=configs, at_once=self.at_once, gpus=gpus, minutes=minutes, asha_rounds=rounds)

    def _done(self, cell: Cell, result: dict[str, Any]) -> None:
        self.store.add(cell, result)
        self.trained += 1
        self.recorder.add(cell, result)
        facts = {"setting": cell.setting, "data": cell.column, "seed": cell.seed}
        if "error" in result:
            self.events("trial failed", **facts, reason=result["error"])
        elif "stopped" in result:
            self.events("trial ended early", **facts, rounds=result["stopped"])
        else:
            self.events("trial done", **facts, accuracy=round(result["scores"]["accuracy"], 4), seconds=result["seconds"])

    def _embed(self, cells: Sequence[Cell]) -> None:
        """Embeddings of all documents, once and with all cores: trials read them from the cache."""
        done = set()
        for cell in cells:
            experiment = at_home(cell.experiment)
            key = experiment.model.model_dump_json(), cell.data
            if experiment.model.train != "head" or key in done:
                continue
            done.add(key)
            corpus = self.prepared.corpora[cell.data][0]
            prompts = [prompt for group in corpus.label_prompts() for prompt in group]
            open_shared(experiment, corpus).encode([*corpus.unlabeled.texts, *corpus.test.texts, *corpus.validation.texts, *prompts])

    def finish(self, folder: Path, started: float, run_id: str, command: str) -> SweepResult:
        """Table, figure and report."""
        seconds = time.monotonic() - started
        facts = {
            "command": command,
            "folder": str(folder),
            "mlflow_run_id": run_id,
            "date": date.today().isoformat(),
            "cpus": len(os.sched_getaffinity(0)),
            "memory_gb": psutil.virtual_memory().total / 2**30,
            "at_once": self.at_once,
            "seconds": round(seconds, 1),
            "trained": self.trained,
            "train_seconds": round(sum((self.store.result(cell) or {}).get("train_seconds", 0.0) for cell in self.prepared.cells), 1),
            "code_version": code_version(),
        }
        if self.space.search is not None:
            settings, results = self._tried()
            rows = ranking(settings, results)
            text = report.write_search(folder, self.space, rows, facts)
            return SweepResult(folder, None, text, self.trained, seconds, run_id)
        table = self.table()
        text = report.write(folder, self.space, table, facts)
        return SweepResult(folder, table, text, self.trained, seconds, run_id)

    def table(self) -> Table:
        """What there is, as a table."""
        values = {setting.name: setting.values for setting in self.prepared.settings}
        results = {
            (values[cell.setting], cell.column, cell.seed): found for cell in self.prepared.cells if (found := self.store.result(cell)) is not None
        }
        paper = self.space.paper
        # A row that trains nothing is the same for every seed.
        for cell in self.prepared.cells:
            if not methods.trains(cell.experiment.method) and (found := self.store.result(cell)) is not None:
                results |= {(values[cell.setting], cell.column, seed): found for seed in self.space.seeds}
        return build(
            axes=[key.removeprefix("method.") for key in self.space.axes],
            rows=[setting.values for setting in self.prepared.settings],
            columns=self.space.columns,
            seeds=self.space.seeds,
            metric=self.space.metric,
            results=results,
            paper=paper.figures if paper else None,
            paper_source=paper.source if paper else None,
        )

    def _tried(self) -> tuple[list[Setting], dict[str, list[Mapping[str, Any]]]]:
        if self.found:
            settings = [self.space.setting(values) for values, _ in self.found]
            return settings, {setting.name: [result] for setting, (_, result) in zip(settings, self.found, strict=True)}
        results: dict[str, list[Mapping[str, Any]]] = {}
        for cell in self.prepared.cells:
            if (found := self.store.result(cell)) is not None:
                results.setdefault(cell.setting, []).append(found)
        return self.prepared.settings, results


def _sent(cell: Cell) -> Cell:
    return replace(cell, experiment=at_home(cell.experiment))


def _once(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of which several are the same training (a setting that changes nothing for its method): the first of each."""
    return list({cell.fingerprint: cell for cell in reversed(cells)}.values())[::-1]


def _by_texts(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        key = json.dumps([cell.data, text_settings(cell.experiment)]) if wants_texts(cell.experiment) else ""
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def _at_once(experiment: Experiment) -> int:
    if experiment.training.gpu:
        return max(1, torch.cuda.device_count())
    return len(os.sched_getaffinity(0))
