"""One cell of a sweep, trained and scored in whatever process calls, with the numbers of a run.

A worker process trains many cells. What they have in common (a frozen encoder with its embeddings) is opened once a process and copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.data.supervision import describe_supervision, grant
from selftrain.data.texts import TextChannel
from selftrain.evaluation.metrics import evaluate
from selftrain.models.shared import open_shared_encoder
from selftrain.sweeps.space import Cell, Range, Space
from selftrain.training.checkpoints import RoundCheckpoint
from selftrain.training.fit import fit, probabilities
from selftrain.training.loop import Validation

# on_round(figures of a round): what an early stopper decides by
OnRound = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class SharedInputs:
    """What all trials of a worker's group have in common."""

    cells: Sequence[Cell]
    corpora: Mapping[str, tuple[Corpus, TrueLabels]]  # by the fingerprint of the documents
    texts: TextChannel
    search: bool = False  # whether every round is reported while training goes on
    space: Space | None = field(default=None)  # of a search that makes its cells as it goes
    checkpoints: Path | None = None  # the sweep's folder for the last rounds of trainings that are not over

    def checkpoint_of(self, cell: Cell) -> RoundCheckpoint | None:
        """Where `cell` keeps its last round; None on a node that does not see the sweep's folder, and in a search, which wants to hear of every round."""
        if self.search or self.checkpoints is None or not self.checkpoints.is_dir():
            return None
        return RoundCheckpoint(self.checkpoints / f"{cell.fingerprint}.pt", cell.fingerprint)


def run_cell(config: Mapping[str, Any], shared: SharedInputs, on_accuracy: Callable[[float], None]) -> dict[str, Any]:
    """A trial: the cell number `config["cell"]`."""
    return _run(shared.cells[config["cell"]], shared, on_accuracy)


def run_proposed(config: Mapping[str, Any], shared: SharedInputs, on_accuracy: Callable[[float], None]) -> dict[str, Any]:
    """A trial of an adaptive search: `config` holds a value, or the place of one, for every axis."""
    assert shared.space is not None
    probe = shared.cells[0]
    setting = shared.space.setting(axis_values(shared.space, config))
    cell = shared.space.cell(setting, probe.column, probe.seed, probe.data)
    # Paths that were made absolute for the workers stay, and so does what was decided about GPUs.
    paths = {"encoder": probe.recipe.model.encoder, "cache": probe.recipe.model.cache}
    training = cell.recipe.training.model_copy(update={"gpu": probe.recipe.training.gpu})
    placed = replace(cell, recipe=replace(cell.recipe, training=training))
    return _run(placed.with_model(cell.recipe.model.model_copy(update=paths)), shared, on_accuracy)


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


def _run(cell: Cell, shared: SharedInputs, on_accuracy: Callable[[float], None]) -> dict[str, Any]:
    torch.set_num_threads(cell.experiment.training.threads or 1)  # as many trials as cores run beside this one
    corpus, truth = shared.corpora[cell.data]
    if not shared.search:
        return train_cell(cell, corpus, truth, shared.texts, checkpoint=shared.checkpoint_of(cell))
    result = train_cell(cell, corpus, truth, shared.texts, lambda figures: on_accuracy(figures["validation_accuracy"]))
    return result | {"objective": result["validation"]}


def train_cell(
    cell: Cell,
    corpus: Corpus,
    truth: TrueLabels,
    texts: TextChannel,
    on_round: OnRound | None = None,
    checkpoint: RoundCheckpoint | None = None,
) -> dict[str, Any]:
    """Train and score a cell.

    Args:
        cell: what to train.
        corpus: of the cell's data set, without labels.
        truth: its true labels.
        texts: answers requests for texts of the language model.
        on_round: called after every round with its figures.
        checkpoint: keeps the last round now and then; what it holds of this cell is not trained again. Without `on_round`.

    Returns:
        `scores` (`Scores.to_json()` without its long lists), `validation` (accuracy on the validation documents, of the last round, where there are any),
        `supervision`, `documents`, `rounds` (figures a round), `train_seconds` and `seconds` of the whole cell.
    """
    started = time.monotonic()
    experiment, recipe = cell.experiment, cell.recipe
    granted = grant(corpus, truth, experiment.data, cell.seed)
    validation = Validation.of(corpus, truth)
    fitted = fit(
        recipe,
        granted,
        texts,
        seed=cell.seed,
        validation=validation,
        opened=(lambda: open_shared_encoder(recipe.model, granted)) if recipe.model.train == "head" else None,
        report=(lambda figures, state: on_round(figures)) if on_round is not None else checkpoint,
        resume=checkpoint.read() if checkpoint is not None else None,
    )
    student = fitted.student
    channel = texts if experiment.evaluation.inference_augmentation else None
    found = probabilities(student, corpus.test, channel, experiment.augment.input_samples, gpu=recipe.training.gpu)
    scores = evaluate(found, np.array([truth.test[id_] for id_ in corpus.test.ids]), corpus.class_names).to_json()
    return {
        "scores": {name: scores[name] for name in ("accuracy", "macro_f1", "ece")},
        "validation": validation.accuracy(student) if validation is not None else None,
        "supervision": describe_supervision(experiment.data),
        "documents": len(corpus.test),
        "rounds": fitted.rounds,
        "train_seconds": round(fitted.seconds, 3),
        "seconds": round(time.monotonic() - started, 3),
    }
