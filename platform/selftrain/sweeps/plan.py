"""What a sweep would do, checked before anything starts: every cell with its data, its labels and its method's own conditions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftrain import methods
from selftrain.config import Experiment, read_yaml
from selftrain.data.corpus import Corpus, Truth
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import SelfTrainError
from selftrain.models.locate import language_model_folder
from selftrain.models.open import located, open_encoder
from selftrain.sweeps.search import check_search, corners, draw
from selftrain.sweeps.space import Cell, Setting, Space, parse_space, wants_texts
from selftrain.sweeps.store import Store
from selftrain.sweeps.trial import open_shared

FOLDER = "sweeps"  # below the experiment's output


@dataclass
class Prepared:
    """A sweep of which every cell was validated."""

    space: Space
    settings: list[Setting]
    cells: list[Cell]
    corpora: dict[str, tuple[Corpus, Truth]]  # by the fingerprint of the documents
    base: Experiment  # of the first cell: output, tracking and Ray are its
    folders: dict[str, Path | str] = field(default_factory=dict)  # language models by name


def prepare(space: Space) -> Prepared:
    """Read the data and validate every cell: its keys, the ranges of its values, its labels, and what its method itself refuses.

    Raises:
        SelfTrainError: whatever a user can mend; nothing was started.
    """
    adaptive = space.search is not None and space.search.sampler == "optuna"
    if space.search is not None:
        check_search(space)
        settings = corners(space) if adaptive else [space.setting(values) for values in draw(space)]
    else:
        settings = space.settings()
    if len({setting.name for setting in settings}) < len(settings) and not adaptive:
        raise SelfTrainError(f"{space.name}: two settings of the grid have the same name; list every value of an axis once.")
    read: dict[str, tuple[Corpus, Truth]] = {}
    corpora: dict[str, tuple[Corpus, Truth]] = {}
    tested: dict[str, tuple[str, ...]] = {}
    folders: dict[str, Path | str] = {}
    encoders: dict[tuple[str, str], Any] = {}
    cells: list[Cell] = []
    base: Experiment | None = None
    for column in space.columns:
        for setting in settings:
            experiment = space.experiment(setting, column)
            base = base or experiment
            where = f"{space.name} at {setting.name} on {column}"
            # Who may see which labels is decided later: documents and splits are the same.
            source = experiment.data.model_copy(update={"supervision": "none", "labels_per_class": 1, "label_noise": 0.0})
            corpus, truth = read.setdefault(source.model_dump_json(), ()) or load_corpus(source)  # type: ignore[arg-type]
            read[source.model_dump_json()] = corpora[corpus.fingerprint] = corpus, truth
            if not len(corpus.test) or not truth.test:
                raise SelfTrainError(f"{where}: there are no labeled test documents, so there is nothing to put into a table.")
            if tested.setdefault(column, corpus.test.ids) != corpus.test.ids:
                raise SelfTrainError(f"{where}: the axis changes the test documents; the rows of a column are compared on the same ones.")
            if wants_texts(experiment):
                name = experiment.augment.model
                if name is None:
                    raise SelfTrainError(f"{where}: it wants texts of a language model and augment.model is not set; name one in the base.")
                folders[name] = folders.get(name) or language_model_folder(name)
            try:
                for seed in space.seeds:
                    granted = grant(corpus, truth, experiment.data, seed)
                key = experiment.model.model_dump_json(), corpus.fingerprint
                if key not in encoders:
                    frozen = experiment.model.train == "head"
                    encoders[key] = open_shared(at_home(experiment), corpus) if frozen else open_encoder(experiment.model, corpus)
                method = methods.build(experiment, granted, encoders[key])
            except SelfTrainError as error:
                raise SelfTrainError(f"{where}: {error}") from None
            if space.search is not None and space.search.asha and method.rounds < 2:
                raise SelfTrainError(f"{where}: ASHA has nothing to end early, the method trains {method.rounds} round; set search.asha: false.")
            seeds = space.seeds if methods.trains(experiment.method) else space.seeds[:1]
            cells += [Cell(setting.name, column, seed, experiment, corpus.fingerprint) for seed in seeds]
    assert base is not None
    return Prepared(space, [] if adaptive else settings, [] if adaptive else cells, corpora, base, folders)


def folder_of(prepared: Prepared) -> Path:
    """Where the sweep keeps what it finishes: the same sweep, the same folder."""
    return Path(prepared.base.output) / FOLDER / f"{prepared.space.name}-{prepared.space.fingerprint()}"


def resumed(folder: Path | str) -> Space:
    """The sweep of a folder.

    Raises:
        SelfTrainError: the folder is not a sweep's.
    """
    file = Path(folder) / "space.yaml"
    if not file.is_file():
        raise SelfTrainError(f"--resume: {str(folder)!r} is no sweep's folder, it has no space.yaml; give one of those under runs/{FOLDER}/.")
    return parse_space(read_yaml(file, "sweep", "tune_spaces/"))


def plan(prepared: Prepared) -> str:
    """What a sweep would do; nothing is started."""
    space = prepared.space
    store = Store(folder_of(prepared) / "results.jsonl", "")
    missing = [cell for cell in prepared.cells if not store.done(cell)]
    lines = [space.to_yaml(), f"# folder: {folder_of(prepared)}"]
    if space.search is not None and space.search.sampler == "optuna":
        return "\n".join([*lines, f"# Optuna chooses {space.search.trials} settings"])
    texts = sum(wants_texts(cell.experiment) for cell in prepared.cells)
    return "\n".join(
        [
            *lines,
            f"# {len(prepared.settings)} settings, {len(space.columns)} data sets, {len(space.seeds)} seeds: {len(prepared.cells)} trainings, "
            f"{len(missing)} of them still to do",
            f"# trainings that ask the language model for texts: {texts}",
        ]
    )


def at_home(experiment: Experiment) -> Experiment:
    """`experiment` with paths that mean the same in a worker's folder."""
    model = located(experiment.model)
    return experiment.model_copy(update={"model": model.model_copy(update={"cache": str(Path(model.cache).absolute())})})
