"""What a sweep would do and cost, predicted for the trainings that it has yet to do, and what those of a start did cost.

Trials that share text settings share their texts, and each counts once. Where the number of steps or texts follows from results (a search that ends weak trials, or
chooses its settings as it goes; texts for the pseudo-labels of several trainings) the prediction is a bound, and is called that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selftrain.config import AugmentConfig
from selftrain.errors import SelfTrainError
from selftrain.files.durable import write_whole
from selftrain.runs.cost import Asking, Work, wanted_texts
from selftrain.runs.home import looked_at
from selftrain.runs.stages import Events
from selftrain.runtime.devices import Devices
from selftrain.runtime.hardware import hardware_here
from selftrain.sweeps.plan import SweepPlan, folder_of, model_name
from selftrain.sweeps.results import Results
from selftrain.sweeps.space import Cell, text_settings
from selftrain.texts.cost import Cost, Missing, missing_texts, priced, tokens_of, total

TRIAL_SECONDS = 2.25  # of a trial beside its training, the start of Ray included (docs/howto/sweeps.md)


def predicted(prepared: SweepPlan, missing: Sequence[Cell], trials: int, devices: Devices, at_once: int) -> Cost:
    """What the rest of a sweep is expected to cost; texts that the cache holds cost nothing.

    Args:
        prepared: the sweep.
        missing: trainings that are yet to be done, each once; empty of an adaptive search.
        trials: how many that are, or settings that an adaptive search has yet to try.
        devices: what they compute on.
        at_once: trials at the same time.
    """
    works = [prepared.works[cell.setting, cell.column] for cell in missing]
    wanting = [cell for cell in missing if cell.wants_texts]
    groups = {_settings(cell): cell.experiment.augment for cell in wanting}
    asking = {key: _asking(prepared, [cell for cell in wanting if _settings(cell) == key]) for key in groups}
    if prepared.adaptive and trials:
        works = [_largest(prepared.works.values())] * trials
        if prepared.writing:
            corpus, reads = next(iter(prepared.corpora.values()))[0], prepared.base.evaluation.inference_augmentation
            groups, asking = {"": prepared.base.augment}, {"": [Asking(works[0], trials, corpus, prepared.base.augment, reads)]}
    written = {
        key: missing_texts(augment, prepared.folders[model_name(augment)], wanted_texts(asking[key]), cached=True) for key, augment in groups.items()
    }
    training = sum(work.seconds for work in works)
    found = [_of_texts(prepared, groups[key], one, devices) for key, one in written.items()]
    ended = prepared.adaptive or prepared.asha_after is not None or prepared.space.minutes is not None
    found.append(
        priced(
            prepared.base.augment,
            prepared.prices,
            hours=(training + TRIAL_SECONDS * trials) / at_once / 3600,
            gpu_hours=training * (devices.worker or 0.0) / 3600,
            at_most=ended and bool(trials),
        )
    )
    return total(found)


class Account:
    """What a start of a sweep was expected to cost and did cost, kept in a file.

    Args:
        prepared: the sweep.
        file: cost.json of the sweep's folder.
    """

    def __init__(self, prepared: SweepPlan, file: Path) -> None:
        self._prepared = prepared
        self._file = file
        self._devices = Devices()
        self._predicted: Cost | None = None  # None where there is nothing to do
        self.results: list[Mapping[str, Any]] = []  # of the trials of this start
        self.texts: list[tuple[AugmentConfig, Mapping[str, Any]]] = []  # of each text service of this start: its settings, and `TextCounts.to_json`

    def begin(self, missing: Sequence[Cell], trials: int, devices: Devices, at_once: int) -> None:
        """Predict, before the first trial; the arguments are those of `predicted`."""
        self._devices, self._predicted = devices, predicted(self._prepared, missing, trials, devices, at_once)

    def real(self, seconds: float) -> Cost:
        """What this start did cost.

        Args:
            seconds: that it took.
        """
        training = sum(one.get("train_seconds", 0.0) for one in self.results)
        texts = [
            (augment, Missing(one["generated"], tokens_of(augment, [one]), one["generated"], False), one["seconds"]) for augment, one in self.texts
        ]
        found = [replace(_of_texts(self._prepared, augment, one, self._devices, taken), hours=0.0) for augment, one, taken in texts]
        gpu_hours = training * (self._devices.worker or 0.0) / 3600
        return total([*found, priced(self._prepared.base.augment, self._prepared.prices, hours=seconds / 3600, gpu_hours=gpu_hours)])

    def close(self, seconds: float, events: Events) -> dict[str, str]:
        """Write and say both; returns those of the last start that had anything to do, in words, and nothing where nobody has written them down.

        Args:
            seconds: of this start.
            events: of the sweep.
        """
        if self._predicted is not None:
            came = self.real(seconds)
            write_whole(self._file, json.dumps({"predicted": self._predicted.to_json(), "real": came.to_json()}, indent=1))
            events("cost", predicted=self._predicted.words(), real=came.words())
        if not self._file.is_file():
            return {}
        return {name: Cost(**one).words() for name, one in json.loads(self._file.read_text(encoding="utf-8")).items()}


def _of_texts(prepared: SweepPlan, augment: AugmentConfig, texts: Missing, devices: Devices, seconds: float | None = None) -> Cost:
    """What the texts of one text service cost."""
    seconds = texts.seconds if seconds is None else seconds
    gpus = float(devices.augment(augment).gpus) * augment.engines_at_most
    return priced(
        augment,
        prepared.prices,
        texts=texts.texts,
        tokens=texts.tokens,
        hours=seconds / 3600,
        gpu_hours=seconds * gpus / 3600,
        at_most=texts.at_most,
    )


def _settings(cell: Cell) -> str:
    return json.dumps(text_settings(cell.experiment), sort_keys=True)


def _asking(prepared: SweepPlan, cells: Sequence[Cell]) -> list[Asking]:
    """What asks for texts; trainings that are alike but for how they are evaluated ask for the same ones."""
    alike: dict[str, Asking] = {}
    for cell in cells:
        evaluation = cell.experiment.evaluation
        plain = evaluation.model_copy(update={"inference_augmentation": False})
        training = replace(cell, experiment=cell.experiment.model_copy(update={"evaluation": plain})).fingerprint
        work, corpus = prepared.works[cell.setting, cell.column], prepared.corpora[cell.data][0]
        reads = evaluation.inference_augmentation or (training in alike and alike[training].reads)
        alike[training] = Asking(work, 1, corpus, cell.experiment.augment, reads)
    return list(alike.values())


def _largest(works: Iterable[Work]) -> Work:
    """As many texts and steps as any of them has."""
    works = list(works)
    kinds = {kind for work in works for kind in work.texts}
    texts = {kind: max(work.texts.get(kind, 0.0) for work in works) for kind in kinds}
    return Work(texts, max(work.most_texts for work in works), max(work.steps for work in works), max(work.seconds for work in works))


def describe_sweep(prepared: SweepPlan, at_once: int | None = None) -> str:
    """What a sweep would do and cost; nothing is started.

    Args:
        prepared: the sweep.
        at_once: trials at the same time, where that was asked for.
    """
    space = prepared.space
    with looked_at(folder_of(prepared), ("results.jsonl",)) as found:
        results = Results(found / "results.jsonl", "")
    missing = distinct([cell for cell in prepared.cells if not results.done(cell)])
    devices, at_once = _placed(prepared, at_once)
    lines = [space.to_yaml(), f"# folder: {folder_of(prepared)}"]
    if prepared.adaptive:
        assert space.search is not None
        trials = max(0, space.search.trials - len(results.tried()))
        lines.append(f"# Optuna chooses {space.search.trials} settings, {trials} of them are still to try")
    else:
        trials = len(missing)
        lines.append(
            f"# {len(prepared.settings)} settings, {len(space.columns)} data sets, {len(space.seeds)} seeds: {len(prepared.cells)} trainings, "
            f"{trials} of them still to do, {at_once} at once"
        )
        lines.append(f"# trainings that ask the language model for texts: {sum(cell.wants_texts for cell in missing)}")
    cost = predicted(prepared, missing, trials, devices, at_once)
    return "\n".join([*lines, f"# predicted for what is to do, with hours of two CPU cores: {cost.words()}"])


def _placed(prepared: SweepPlan, at_once: int | None) -> tuple[Devices, int]:
    try:
        return prepared.placed(hardware_here(), at_once)
    except SelfTrainError:  # the numbers that are asked for, which another machine may have
        engine, worker = (0.0 if isinstance(gpus, str) else float(gpus) for gpus in (prepared.base.augment.gpus, prepared.base.training.gpu))
        return Devices(engine=engine, worker=worker), at_once or 1


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """The first of all cells that are the same training: a setting may change nothing for its method."""
    return list({cell.fingerprint: cell for cell in reversed(cells)}.values())[::-1]
