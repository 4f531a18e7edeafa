"""The story of a sweep, from top to bottom: cells -> checks -> embeddings and texts -> trials -> table -> report -> tracking.

A sweep's folder has the name of what was asked, so the same sweep, started again, finds what it has finished, also after it was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch

from selftrain.data.texts import TextChannel, no_texts
from selftrain.errors import ConfigError, ProcessDied, SelfTrainError
from selftrain.files.durable import explained, write_whole
from selftrain.methods.recipe import resolve
from selftrain.models.shared import open_shared_encoder
from selftrain.runs.home import Home, opened
from selftrain.runs.run import code_version
from selftrain.runs.stages import Events
from selftrain.runtime.cluster import Needs
from selftrain.runtime.devices import device_here
from selftrain.runtime.hardware import Hardware, hardware_here
from selftrain.runtime.watch import cause_of
from selftrain.sweeps import report
from selftrain.sweeps.cost import Account, distinct
from selftrain.sweeps.plan import SweepPlan, by_texts, folder_of, model_name, prepare_sweep, with_whole_paths
from selftrain.sweeps.record import Recorder
from selftrain.sweeps.results import Results
from selftrain.sweeps.runner import Adaptive, run_trials, trial_needs, workers
from selftrain.sweeps.search import ranking
from selftrain.sweeps.space import Cell, Setting, Space
from selftrain.sweeps.table import SweepTable, build_table
from selftrain.sweeps.trial import SharedInputs, axis_values, run_cell, run_proposed
from selftrain.tracking import KIND_TAG, Tracker
from selftrain.tracking.spool import unsent_sentence


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves."""

    folder: Path | str  # or its address
    table: SweepTable | None  # None for a search
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
        folder: of an earlier start of the same sweep, or its address; default: the one that belongs to `space`.
        at_once: trials at the same time; default: `most_at_once`, one a core or a GPU as far as the memory goes.
        address: a Ray cluster; default: a local Ray.
        command: how the sweep was started, for the report.

    Raises:
        ConfigError, DataError, BundleError: an argument or a cell is wrong; nothing was started.
        OutputError: the folder cannot be written.
        ResourceError, ServiceError: Ray cannot give what the trials need, or the tracking store does not answer.
        ProcessDied: a process of Ray was lost; the message says how to continue.
    """
    if at_once is not None and at_once < 1:
        raise ConfigError(f"at_once must be at least 1 (got {at_once}).", parameter="at_once")
    started = time.monotonic()
    prepared = prepare_sweep(space)
    base = prepared.base
    if address is not None:
        base = base.model_copy(update={"ray": base.ray.model_copy(update={"address": address})})
        prepared = replace(prepared, base=base)
    with opened(folder if folder is not None else folder_of(prepared), "sweep") as home:
        return _run(prepared, home, at_once, started, command)


def _run(prepared: SweepPlan, home: Home, at_once: int | None, started: float, command: str) -> SweepResult:
    """What `run_sweep` does in the sweep's folder."""
    space, base, folder = prepared.space, prepared.base, home.folder
    with explained(folder):
        write_whole(folder / "space.yaml", space.to_yaml())
    events = Events(folder / "events.jsonl")
    home.tell(events)
    tracker = Tracker(base.tracking, home.place, space.name)
    run_id = tracker.start(folder.name, space.model_dump(mode="json"), {KIND_TAG: "sweep", "selftrain.code_version": code_version()})
    recorder = Recorder(tracker, folder, events)
    sweep = _Sweep(prepared, home, events, recorder, at_once)
    try:
        sweep.train()
        with explained(folder, "free some space and repeat the command, nothing is trained again"):
            result = sweep.finish(started, run_id, command)
    except BaseException as error:
        cause = cause_of(error)
        with suppress(SelfTrainError):  # no space left to say so
            events.stopped("sweep stopped", cause)
            recorder.close("KILLED" if isinstance(cause, KeyboardInterrupt) else "FAILED", 5.0)
        if isinstance(cause, ProcessDied):
            raise ProcessDied(f"{cause} Continue with selftrain sweep --resume {home.place}.") from None
        raise
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            recorder.artifact(file)
    if (reason := recorder.close("FINISHED")) is None:
        return result
    events("results missing in MLflow", reason=reason)
    return replace(result, unsent=unsent_sentence(tracker, home.place, reason, "sweep"))


class _Sweep:
    """A sweep in progress: `train` runs the missing trials, `finish` writes the table."""

    def __init__(self, prepared: SweepPlan, home: Home, events: Events, recorder: Recorder, at_once: int | None) -> None:
        self.prepared = prepared
        self.space = prepared.space
        self.home = home
        self.results = Results(home.folder / "results.jsonl", code_version())
        self.checkpoints = home.folder.absolute() / "checkpoints"  # trials have working folders of their own
        self.events = events
        self.recorder = recorder
        self.asked_at_once = at_once
        self.trained = 0
        self._place(hardware_here())
        self.account = Account(prepared, home.folder / "cost.json")
        self.deadline = time.monotonic() + 60 * self.space.minutes if self.space.minutes else None
        self.tried: list[dict[str, Any]] = []  # the results of an adaptive search

    def _place(self, there: Hardware) -> None:
        """What trials and engines compute on, and how many trials at the same time."""
        self.devices, self.at_once = self.prepared.placed(there, self.asked_at_once)
        self.gpus = self.devices.worker or 0.0  # a trial

    def train(self) -> None:
        for cell in self.prepared.cells:
            if self.results.done(cell):
                self.recorder.add(cell, self.results.get(cell) or {}, known=True)
        search = self.space.search
        if search is not None and search.sampler == "optuna":
            self._train_adaptively(search.trials, search.seed)
        else:
            self._train_missing()

    def _train_missing(self) -> None:
        missing = distinct([cell for cell in self.prepared.cells if not self.results.done(cell)])
        there = len(self.prepared.cells) - len(missing)
        if not missing:
            self.events("nothing to train", reason=f"all {there} results are there")
            return
        self._embed(missing)
        with workers(self.prepared.base, self._needs_of(len(missing), any(cell.wants_texts for cell in missing))):
            self.account.begin(missing, len(missing), self.devices, self.at_once)
            self._say_start("sweep started", trainings=len(missing), there=there)
            for cells in by_texts(missing):
                with self._texts(cells[0]) as texts:
                    corpora = {cell.data: self.prepared.corpora[cell.data] for cell in cells}
                    sent = [self._for_workers(cell) for cell in cells]
                    shared = SharedInputs(sent, corpora, texts, self.space.search is not None, checkpoints=self.checkpoints)

                    def on_result(
                        config: Mapping[str, Any], result: dict[str, Any], cells: Sequence[Cell] = cells, shared: SharedInputs = shared
                    ) -> None:
                        place = config["cell"]
                        self._add(cells[place], result)
                        if "error" not in result and (checkpoint := shared.checkpoint_of(shared.cells[place])) is not None:
                            checkpoint.remove()

                    self._run(run_cell, shared, on_result, [{"cell": index} for index in range(len(cells))])

    def _train_adaptively(self, trials: int, seed: int) -> None:
        self.tried = self.results.tried()
        there, left = len(self.tried), trials - len(self.tried)
        if left <= 0:
            self.events("nothing to train", reason=f"all {there} results are there")
            return
        corpus, truth = next(iter(self.prepared.corpora.values()))
        base = self.prepared.base
        probe = Cell("", self.space.columns[0], self.space.seeds[0], base, resolve(base), corpus.fingerprint)
        self._embed([probe])
        configs = Adaptive(self.space, left, seed, [(result["config"], result["objective"]) for result in self.tried])

        def on_result(config: Mapping[str, Any], result: dict[str, Any]) -> None:
            values = axis_values(self.space, config)
            setting = self.space.setting(values)
            cell = self.space.cell(setting, probe.column, probe.seed, probe.data)
            if "error" not in result:
                result = {**result, "values": values, "config": dict(config), "objective": result.get("objective")}
                self.tried.append(result)
            self._add(cell, result)

        with workers(base, self._needs_of(left, probe.wants_texts)), self._texts(probe) as texts:
            self.account.begin([], left, self.devices, self.at_once)
            self._say_start("search started", trials=left, there=there)
            shared = SharedInputs([self._for_workers(probe)], {probe.data: (corpus, truth)}, texts, True, self.space)
            self._run(run_proposed, shared, on_result, configs)

    def _needs_of(self, trials: int, texts: bool) -> Callable[[Hardware], Needs]:
        """What `trials` trials ask for, once it is seen what there is."""

        def needs(there: Hardware) -> Needs:
            self._place(there)
            engine = self.prepared.engine(self.devices) if texts else None
            return trial_needs(min(self.at_once, trials), self.gpus, engine, self.prepared.base.training.placement)

        return needs

    def _say_start(self, event: str, **facts: int) -> None:
        self.events(event, **facts, at_once=self.at_once, folder=str(self.home.place))
        for sentence in self.devices.notes:
            self.events("a GPU is not used", why=sentence)

    def _for_workers(self, cell: Cell) -> Cell:
        """`cell` as a trial gets it: with paths and devices that mean the same in its process."""
        placed = replace(cell, recipe=replace(cell.recipe, training=self.devices.training(cell.recipe.training)))
        return placed.with_model(with_whole_paths(cell.experiment.model))

    @contextmanager
    def _texts(self, cell: Cell) -> Iterator[TextChannel]:
        """The text service of `cell`, and of all that share its data and text settings."""
        if not cell.wants_texts:
            yield no_texts
            return
        from selftrain.texts.channel import open_texts

        augment = cell.experiment.augment
        corpus, _ = self.prepared.corpora[cell.data]
        with open_texts(self.devices.augment(augment), corpus, self.prepared.folders[model_name(augment)], progress=False) as texts:
            yield texts
            self.account.texts.append((augment, texts.summary().counts.to_json()))

    def _run(self, work: Any, shared: SharedInputs, on_result: Callable[..., None], configs: Any) -> None:
        minutes = (self.deadline - time.monotonic()) / 60 if self.deadline is not None else None
        if minutes is not None and minutes <= 0:
            return
        run_trials(
            work,
            shared,
            on_result,
            configs=configs,
            at_once=self.at_once,
            gpus=self.gpus,
            placement=self.prepared.base.training.placement,
            minutes=minutes,
            asha_after=self.prepared.asha_after,
        )

    def _add(self, cell: Cell, result: dict[str, Any]) -> None:
        self.results.add(cell, result)
        self.account.results.append(result)
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
        """Embed all documents once, with all cores: trials read the embeddings from the cache."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        done = set()
        for cell in cells:
            model = with_whole_paths(cell.experiment.model)
            key = model.model_dump_json(), cell.data
            if model.train != "head" or key in done:
                continue
            done.add(key)
            corpus = self.prepared.corpora[cell.data][0]
            prompts = [prompt for group in corpus.label_prompts() for prompt in group]
            with open_shared_encoder(model, corpus).moved(device_here(cell.experiment.training.gpu)) as encoder:
                encoder.encode([*corpus.unlabeled.contents, *corpus.test.contents, *corpus.validation.contents, *prompts])

    def finish(self, started: float, run_id: str, command: str) -> SweepResult:
        """Write table, figure and report.

        Args:
            started: `time.monotonic()` when the sweep began.
            run_id: MLflow's id of the parent run.
            command: how the sweep was started.
        """
        seconds, folder = time.monotonic() - started, self.home.folder
        facts = {
            "command": command,
            "folder": str(self.home.place),
            "mlflow_run_id": run_id,
            "date": date.today().isoformat(),
            "cpus": len(os.sched_getaffinity(0)),
            "memory_gb": psutil.virtual_memory().total / 2**30,
            "at_once": self.at_once,
            "seconds": round(seconds, 1),
            "trained": self.trained,
            "train_seconds": round(sum((self.results.get(cell) or {}).get("train_seconds", 0.0) for cell in self.prepared.cells), 1),
            "code_version": code_version(),
            "cost": self.account.close(seconds, self.events),
        }
        if self.space.search is not None:
            settings, results = self._tried()
            rows = ranking(settings, results)
            text = report.write_ranking(folder, self.space, rows, facts)
            return SweepResult(self.home.place, None, text, self.trained, seconds, run_id)
        table = self.table()
        text = report.write_table(folder, self.space, table, facts)
        return SweepResult(self.home.place, table, text, self.trained, seconds, run_id)

    def table(self) -> SweepTable:
        """The table of all results so far."""
        values = {setting.name: setting.values for setting in self.prepared.settings}
        results = {
            (values[cell.setting], cell.column, cell.seed): found for cell in self.prepared.cells if (found := self.results.get(cell)) is not None
        }
        paper = self.space.paper
        # A row that trains nothing is the same for every seed.
        for cell in self.prepared.cells:
            if not cell.recipe.trains and (found := self.results.get(cell)) is not None:
                results |= {(values[cell.setting], cell.column, seed): found for seed in self.space.seeds}
        return build_table(
            axes=[key.removeprefix("method.") for key in self.space.axes],
            rows=[setting.values for setting in self.prepared.settings],
            columns=self.space.columns,
            seeds=self.space.seeds,
            metric=self.space.metric,
            results=results,
            paper=paper.figures if paper else None,
            paper_source=paper.source if paper else None,
            reference=self.space.reference,
        )

    def _tried(self) -> tuple[list[Setting], dict[str, list[Mapping[str, Any]]]]:
        if self.tried:
            settings = [self.space.setting(result["values"]) for result in self.tried]
            return settings, {setting.name: [result] for setting, result in zip(settings, self.tried, strict=True)}
        results: dict[str, list[Mapping[str, Any]]] = {}
        for cell in self.prepared.cells:
            if (found := self.results.get(cell)) is not None:
                results.setdefault(cell.setting, []).append(found)
        return self.prepared.settings, results
