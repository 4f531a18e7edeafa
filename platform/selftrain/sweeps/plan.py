"""What a sweep would do, checked before anything starts: every cell with its data, its labels and its method's own conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selftrain.config import AugmentConfig, Experiment, ModelConfig, Prices, read_yaml
from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import ConfigError, SelfTrainError
from selftrain.methods.base import Method
from selftrain.models.locate import LanguageModel, language_model_of
from selftrain.models.open import located, open_encoder
from selftrain.models.shared import open_shared_encoder
from selftrain.runs.cost import Work
from selftrain.runs.home import below, looked_at
from selftrain.runtime.cluster import Needs
from selftrain.runtime.devices import Devices
from selftrain.runtime.hardware import Hardware
from selftrain.sweeps.runner import decide_trials, most_at_once
from selftrain.sweeps.search import check_search, corners, draw
from selftrain.sweeps.space import Cell, Setting, Space, parse_space, text_settings
from selftrain.texts.cost import prices_of
from selftrain.texts.engines import engine_needs

FOLDER = "sweeps"  # below the experiment's output


@dataclass(frozen=True)
class SweepPlan:
    """A sweep of which every cell was validated."""

    space: Space
    settings: list[Setting]
    cells: list[Cell]
    corpora: dict[str, tuple[Corpus, TrueLabels]]  # by the fingerprint of the documents
    base: Experiment  # of the first cell: output, tracking and Ray are its
    folders: dict[str, LanguageModel] = field(default_factory=dict)  # language models by name
    writing: tuple[AugmentConfig, ...] = ()  # of the text engines, which run one after the other
    light: bool = True  # whether every training is
    asha_after: int | None = None  # rounds before which ASHA ends no trial; None: it ends none at all
    works: dict[tuple[str, str], Work] = field(default_factory=dict)  # of a training, by setting and column; of an adaptive search, of its corners
    prices: Prices | None = None

    @property
    def adaptive(self) -> bool:
        """Whether settings are chosen while the sweep goes on, by Optuna."""
        return self.space.search is not None and self.space.search.sampler == "optuna"

    def engine(self, devices: Devices) -> Needs | None:
        """What the text engines ask of the cluster: the most that any of them asks for; None where no cell wants texts."""
        found = [wanted for one in self.writing if (wanted := engine_needs(devices.augment(one), self.folders[model_name(one)])) is not None]
        if not found:
            return None
        claims = max((one.claims for one in found), key=lambda claims: sum(claim.gpus for claim in claims))
        return Needs(max(one.cpus for one in found), max(one.gpus for one in found), max(one.memory_gb for one in found), claims)

    @property
    def engines(self) -> int:
        """Replicas of vLLM at the same time, at most."""
        return max((one.engines for one in self.writing), default=0)

    def placed(self, there: Hardware, at_once: int | None) -> tuple[Devices, int]:
        """What trials and engines compute on, and how many trials at the same time.

        Args:
            there: what there is.
            at_once: trials at the same time, where that was asked for.

        Raises:
            SelfTrainError: as `runtime.devices.decide`.
        """
        devices, on_gpus = decide_trials(self.base, there, engines=self.engines, at_once=at_once, light=self.light)
        return devices, at_once or most_at_once(self.base, there, self.engine(devices), on_gpus)


def prepare_sweep(space: Space) -> SweepPlan:
    """Read the data and validate every cell: its keys, the ranges of its values, its labels, and what its method itself refuses.

    Raises:
        ConfigError, DataError, BundleError: what is wrong, and in which cell; nothing was started.
    """
    adaptive = space.search is not None and space.search.sampler == "optuna"
    if space.search is not None:
        check_search(space)
        settings = corners(space) if adaptive else [space.setting(values) for values in draw(space)]
    else:
        settings = space.settings()
    if len({setting.name for setting in settings}) < len(settings) and not adaptive:
        raise ConfigError(f"{space.name}: two settings of the grid have the same name; list every value of an axis once.")
    validation = _Validation(space)
    cells = [cell for column in space.columns for setting in settings for cell in validation.cells(setting, column)]
    base = space.experiment(settings[0], space.columns[0])
    writing = tuple({cell.experiment.augment.model_dump_json(): cell.experiment.augment for cell in cells if cell.wants_texts}.values())
    light = all(cell.recipe.light for cell in cells if cell.recipe.trains)
    kept = ([], []) if adaptive else (settings, cells)
    asha_after = max(cell.recipe.options.settled_rounds for cell in cells) if space.search is not None and space.search.asha else None
    asked = [base, *(cell.experiment for cell in cells if cell.wants_texts)]
    prices = [prices_of(one) for one in {(one.augment.model_dump_json(), one.cost.prices): one for one in asked}.values()]
    return SweepPlan(space, *kept, validation.corpora, base, validation.folders, writing, light, asha_after, validation.works, prices[0])


def model_name(augment: AugmentConfig) -> str:
    """The name of a language model, or of several teachers, among those of a sweep."""
    return " + ".join(f"{one.model} of {one.server}" if one.server is not None else str(one.model) for one in augment.language_models)


class _Validation:
    """The validation of a sweep's cells. Every data set, encoder and language model is opened once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.corpora: dict[str, tuple[Corpus, TrueLabels]] = {}  # by the fingerprint of the documents
        self.folders: dict[str, LanguageModel] = {}  # language models by name
        self.works: dict[tuple[str, str], Work] = {}  # by setting and column
        self._by_source: dict[str, tuple[Corpus, TrueLabels]] = {}
        self._tested: dict[str, Sequence[str]] = {}  # column -> ids of the test documents
        self._encoders: dict[tuple[str, str], Any] = {}

    def cells(self, setting: Setting, column: str) -> list[Cell]:
        """The cells of a setting on a data set, one a seed; a method that trains nothing needs one seed only."""
        cell = self.space.cell(setting, column, self.space.seeds[0])
        where = f"{self.space.name} at {setting.name} on {column}"
        corpus, truth = self._documents(cell.experiment, column, where)
        if cell.wants_texts:
            if not cell.experiment.augment.writes:
                raise ConfigError(f"{where}: the method wants texts of a language model and augment.model is not set; set it in the base.")
            name = model_name(cell.experiment.augment)
            self.folders[name] = self.folders.get(name) or language_model_of(cell.experiment.augment)
        try:
            method = self._built(cell, corpus, truth)
        except SelfTrainError as error:
            raise type(error)(f"{where}: {error}") from None
        self.works[setting.name, column] = Work.of(method, cell.experiment.model.encoder, start=0.0)  # Ray Train has no part in a trial
        rounds, settled = method.rounds, cell.recipe.options.settled_rounds
        if self.space.search is not None and self.space.search.asha and rounds <= settled:
            raise ConfigError(
                f"{where}: ASHA has nothing to end early, the method trains {rounds} round{'s' * (rounds != 1)} and its losses have their full weight after "
                f"{settled}; set search.asha: false."
            )
        seeds = self.space.seeds if cell.recipe.trains else self.space.seeds[:1]
        return [replace(cell, seed=seed, data=corpus.fingerprint) for seed in seeds]

    def _documents(self, experiment: Experiment, column: str, where: str) -> tuple[Corpus, TrueLabels]:
        # Who may see which labels is decided later: documents and splits are the same.
        if experiment.data.multi_label:
            raise ConfigError(
                f"{where}: data.multi_label must be false in a sweep, whose tables compare one class a document; compare variants of a run."
            )
        source = experiment.data.model_copy(update={"supervision": "none", "labels_per_class": 1, "label_noise": 0.0})
        key = source.model_dump_json()
        if key not in self._by_source:
            self._by_source[key] = load_corpus(source)
        corpus, truth = self.corpora[self._by_source[key][0].fingerprint] = self._by_source[key]
        if not len(corpus.test) or not truth.test:
            raise ConfigError(f"{where}: there are no labeled test documents, so the table would be empty.")
        if self._tested.setdefault(column, corpus.test.ids) != corpus.test.ids:
            raise ConfigError(f"{where}: the axis changes the test documents; the rows of a column are compared on the same ones.")
        return corpus, truth

    def _built(self, cell: Cell, corpus: Corpus, truth: TrueLabels) -> Method:
        """The method of a cell; building it is what checks its own conditions."""
        for seed in self.space.seeds:
            granted = grant(corpus, truth, cell.experiment.data, seed)
        model = cell.experiment.model
        key = model.model_dump_json(), corpus.fingerprint
        if key not in self._encoders:
            self._encoders[key] = open_shared_encoder(with_whole_paths(model), corpus) if model.train == "head" else open_encoder(model, corpus)
        return cell.recipe.build(granted, self._encoders[key])


def folder_of(prepared: SweepPlan) -> Path | str:
    """The folder of the sweep's results, or its address: the same sweep, the same folder."""
    return below(prepared.base.output, f"{FOLDER}/{prepared.space.name}-{prepared.space.fingerprint()}")


def resumed_space(folder: Path | str) -> Space:
    """The sweep of a folder, or of an address.

    Raises:
        ConfigError: the folder is not a sweep's.
        ServiceError: the address does not answer.
    """
    with looked_at(folder, ("space.yaml",)) as found:
        if not (found / "space.yaml").is_file():
            raise ConfigError(
                f"folder {str(folder)!r} is not the folder of a sweep, it has no space.yaml; pass one of those under runs/{FOLDER}/.",
                parameter="folder",
            )
        return parse_space(read_yaml(found / "space.yaml", "sweep", "tune_spaces/"))


def by_texts(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in groups that have a text service each: those with the same documents and text settings; all that want no texts are one."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        key = json.dumps([cell.data, text_settings(cell.experiment)]) if cell.wants_texts else ""
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def with_whole_paths(model: ModelConfig) -> ModelConfig:
    """`model` with paths that mean the same in a worker's folder.

    A run leaves `model.cache` as it is (`located` alone): its config.yaml and the names of its checkpoints hold the model's section.
    """
    found = located(model)
    return found.model_copy(update={"cache": str(Path(found.cache).absolute())})
