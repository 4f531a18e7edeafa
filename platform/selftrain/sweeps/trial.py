"""One cell of a sweep, trained and scored in whatever process calls: the same steps as a run of `experiment.py`, with the same numbers.

A worker process trains many cells. What they have in common (a frozen encoder with its embeddings) is opened once a process and copied.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from selftrain import methods
from selftrain.config import Experiment
from selftrain.data.corpus import Corpus, Truth
from selftrain.data.supervision import describe as describe_supervision
from selftrain.data.texts import TextChannel, continuations
from selftrain.evaluation.metrics import evaluate
from selftrain.methods.base import Method
from selftrain.models.encoder import Encoder, TextEncoder
from selftrain.models.open import open_encoder
from selftrain.models.student import Student
from selftrain.runs.run import Variant
from selftrain.sweeps.space import Cell, Range, Space
from selftrain.training.loop import train

# report(figures of a round): what an early stopper hears of
Heard = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Shared:
    """What all trials of a worker's group have in common."""

    cells: Sequence[Cell]
    corpora: Mapping[str, tuple[Corpus, Truth]]  # by the fingerprint of the documents
    texts: TextChannel
    search: bool = False  # whether rounds are told while training goes on
    space: Space | None = field(default=None)  # of a search that makes its cells as it goes


_FROZEN: dict[tuple[str, str], Encoder] = {}


def open_shared(experiment: Experiment, corpus: Corpus) -> Encoder:
    """The encoder before training. One with frozen embeddings is opened once a process; copies share these, and have a trained layer of their own.

    Random numbers are drawn as `open_encoder` draws them, so the weights that a method makes next are those of a run.
    """
    config = experiment.model
    if config.train != "head":
        device = "cuda" if experiment.training.gpu else "cpu"
        return open_encoder(config, corpus, device=device, precision=experiment.training.precision)
    key = config.model_dump_json(), corpus.fingerprint
    if key not in _FROZEN:
        state = torch.get_rng_state()
        _FROZEN[key] = open_encoder(config, corpus)
        torch.set_rng_state(state)
    return copy.deepcopy(_FROZEN[key])


def run_cell(config: Mapping[str, Any], shared: Shared, heard: Callable[[float], None]) -> dict[str, Any]:
    """A trial: the cell number `config["cell"]`."""
    return _run(shared.cells[config["cell"]], shared, heard)


def run_found(config: Mapping[str, Any], shared: Shared, heard: Callable[[float], None]) -> dict[str, Any]:
    """A trial of an adaptive search: `config` holds a value, or the place of one, for every axis."""
    assert shared.space is not None
    probe = shared.cells[0]
    setting = shared.space.setting(axis_values(shared.space, config))
    found = shared.space.experiment(setting, probe.column)
    # Paths that were made absolute for the workers stay.
    model = found.model.model_copy(update={"encoder": probe.experiment.model.encoder, "cache": probe.experiment.model.cache})
    experiment = found.model_copy(update={"model": model})
    return _run(Cell(setting.name, probe.column, probe.seed, experiment, probe.data), shared, heard)


def axis_values(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the axes that a search's `config` stands for: of a list or of named settings it holds the place."""
    return {
        key: float(f"{config[key]:.6g}")
        if isinstance(axis, Range) and not axis.integer
        else config[key]
        if isinstance(axis, Range)
        else list(axis)[config[key]]
        for key, axis in space.axes.items()
    }


def _run(cell: Cell, shared: Shared, heard: Callable[[float], None]) -> dict[str, Any]:
    torch.set_num_threads(cell.experiment.training.threads or 1)  # as many trials as cores run beside this one
    corpus, truth = shared.corpora[cell.data]
    if not shared.search:
        return train_cell(cell, corpus, truth, shared.texts)
    result = train_cell(cell, corpus, truth, shared.texts, lambda figures: heard(figures["validation_accuracy"]))
    return result | {"objective": result["validation"]}


def train_cell(cell: Cell, corpus: Corpus, truth: Truth, texts: TextChannel, heard: Heard | None = None) -> dict[str, Any]:
    """Train and score a cell.

    Args:
        cell: what to train.
        corpus: of the cell's data set, without labels.
        truth: its true labels.
        texts: answers requests for texts of the language model.
        heard: called after every round with its figures.

    Returns:
        `scores` (`Scores.to_json()` without its long lists), `validation` (accuracy on the validation documents, of the last round, where there are any),
        `supervision`, `documents`, `rounds` (figures a round), `train_seconds` and `seconds` of the whole cell.
    """
    started = time.monotonic()
    experiment = cell.experiment
    variant = Variant(experiment, corpus, truth)
    granted = variant.granted(cell.seed)
    method, rounds, seconds = _trained(cell, granted, variant, texts, heard)
    student = method.student()
    labels = [truth.test[id_] for id_ in corpus.test.ids]
    scores = evaluate(_probabilities(student, corpus, texts, experiment), torch.tensor(labels).numpy(), corpus.class_names).to_json()
    validation = variant.validation
    return {
        "scores": {name: scores[name] for name in ("accuracy", "macro_f1", "ece")},
        "validation": validation.accuracy(student) if validation is not None else None,
        "supervision": describe_supervision(experiment.data),
        "documents": len(corpus.test),
        "rounds": rounds,
        "train_seconds": round(seconds, 3),
        "seconds": round(time.monotonic() - started, 3),
    }


def _trained(cell: Cell, corpus: Corpus, variant: Variant, texts: TextChannel, heard: Heard | None) -> tuple[Method, list[dict[str, float]], float]:
    experiment = cell.experiment
    torch.manual_seed(cell.seed)  # of weights that a method makes anew
    encoder = open_shared(experiment, corpus)
    method = methods.build(experiment, corpus, encoder, seed=cell.seed)
    if not method.rounds:
        return method, [], 0.0
    tell = heard or (lambda figures: None)
    history = train(method, texts=texts, report=lambda figures, state: tell(figures), seed=cell.seed, validation=variant.validation)
    if not encoder.frozen:  # evaluated in float32 on the CPU, as a run does
        weights = method.state()
        torch.manual_seed(cell.seed)
        method = methods.build(experiment, corpus, open_encoder(experiment.model, corpus), seed=cell.seed)
        method.load_state(weights | {"optimizer": None, "scheduler": None})
        method.encoder.eval()
    return method, history.rounds, history.seconds


def _probabilities(student: Student, corpus: Corpus, texts: TextChannel, experiment: Experiment) -> Any:
    """Of the test documents, `[documents, classes]`; with equation 9 of GenCo in front where inference is augmented."""
    documents = corpus.test
    if not experiment.evaluation.inference_augmentation:
        return student.predict(documents.texts).cpu().numpy()
    assert isinstance(student.encoder, TextEncoder)
    written = continuations(texts, documents.ids, experiment.augment.input_samples)
    return student.probabilities(student.encoder.encode_augmented(documents.texts, written)).cpu().numpy()
