"""The one way to train and to score: runs, sweeps, `SelfTrainer` and jobs call `fit`, and tell different stories with what it gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selftrain.data.corpus import Corpus, Documents
from selftrain.data.texts import TextChannel, continuations, no_texts
from selftrain.methods.recipe import Recipe
from selftrain.models.encoder import Encoder
from selftrain.models.student import Student
from selftrain.runtime.devices import device_here, keep_to_share
from selftrain.training.loop import Fitted, NamesRead, Report, StepDone, Validation, train
from selftrain.training.start_check import better_of_both

if TYPE_CHECKING:
    from selftrain.training.ray import Workgroup

# PyTorch's random numbers are one sequence for the whole process, which a training seeds and draws from: it has them to itself while it computes here.
_RANDOM_NUMBERS = threading.Lock()


def fit(
    recipe: Recipe,
    corpus: Corpus,
    texts: TextChannel = no_texts,
    *,
    seed: int,
    validation: Validation | None = None,
    tested: Validation | None = None,
    workgroup: Workgroup | None = None,
    opened: Callable[[], Encoder] | None = None,
    report: Report | None = None,
    resume: dict[str, Any] | None = None,
    step_done: StepDone | None = None,
    names_read: NamesRead | None = None,
) -> Fitted:
    """Train `recipe` on what `corpus` grants. The same arguments give the same weights, bit for bit, also where several threads call it.

    A training that is light (a head, a BiLSTM) runs in this process, in less time than Ray takes to start. Any other runs in Ray Train where there is a
    `workgroup`, and in this process where there is none. What comes back computes on the CPU in float32, whatever trained it. It is the start instead of what
    was trained where the method's options ask for `checks_start` and the check says so (training/start_check.py).

    Args:
        recipe: the method, its options and the model.
        corpus: what the method may see.
        texts: answers requests for texts of the language model.
        seed: of new weights, and of everything random in training.
        validation: labeled documents to choose the best round by.
        tested: labeled documents that are scored after every round, for the report alone.
        workgroup: where Ray Train keeps the checkpoints of this training.
        opened: opens the encoder, where that is not the one of `recipe.model`; for trainings in this process.
        report: called after every round of a training in this process with its figures and a state that `resume` takes.
        resume: a state that `report` got, of the same training.
        step_done: called after every step of a training in this process; see `loop.train`.
        names_read: called at most once, before the first step of a new training or, where workers keep their files elsewhere, never; see `loop.train`.

    Raises:
        SelfTrainError: the encoder cannot be opened, the method lacks something, or the text channel failed.
        ProcessDied: a worker of Ray Train died too often.
    """
    training = recipe.training
    place: dict[str, Any] = {}
    if recipe.trains and (workgroup is None or recipe.light):
        place = {"device": device_here(training.gpu)} | ({} if recipe.light else {"precision": training.precision})
        keep_to_share(training.gpu, place["device"])
    with _RANDOM_NUMBERS:
        method = recipe.untrained(corpus, seed=seed, opened=opened, **place)
        if not method.rounds:
            return Fitted(method)
        if workgroup is None or method.encoder.light:
            scored = {"validation": validation, "tested": tested}
            fitted = train(
                method, texts=texts, report=report or _unreported, seed=seed, **scored, resume=resume, step_done=step_done, names_read=names_read
            )
            fitted = _in_float32(fitted, recipe, corpus, seed)
            return better_of_both(fitted, partial(recipe.untrained, corpus, seed=seed, opened=opened)) if recipe.options.checks_start else fitted
    from selftrain.training.ray import train_in_workers

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # of an earlier training in this process: the workers may share its card
    state = train_in_workers(recipe, corpus, texts, seed=seed, workgroup=workgroup, validation=validation, tested=tested, names_read=names_read)
    method.load_state(state["method"])
    method.encoder.eval()
    fitted = Fitted(method, state["rounds"], state["seconds"], state["best"])
    if not recipe.options.checks_start:
        return fitted
    with _RANDOM_NUMBERS:
        return better_of_both(fitted, partial(recipe.untrained, corpus, seed=seed, opened=opened))


def _in_float32(fitted: Fitted, recipe: Recipe, corpus: Corpus, seed: int) -> Fitted:
    """`fitted` with an encoder that computes on the CPU in float32, as it is evaluated and served."""
    encoder = fitted.method.encoder
    if encoder.device.type == "cpu" and encoder.precision == "float32":
        return fitted
    weights = fitted.method.state() | {"optimizer": None, "scheduler": None}
    method = recipe.untrained(corpus, seed=seed)
    method.load_state(weights)
    method.encoder.eval()
    return replace(fitted, method=method)


def probabilities(
    student: Student, documents: Documents, texts: TextChannel | None = None, samples: int = 1, *, gpu: str | float = False
) -> np.ndarray:
    """What a classifier says of documents, `[documents, classes]`.

    Args:
        student: the classifier.
        documents: texts or images.
        texts: answers requests for continuations; with it, a document is read as in equation 9 of GenCo.
        samples: K of equation 9.
        gpu: `training.gpu`: whether to compute on a GPU of this process (`device_here`), in float32 as on the CPU; the classifier is back on the CPU afterwards.
    """
    written = continuations(texts, documents.ids, samples) if texts is not None else None
    with student.encoder.moved(device_here(gpu)):
        found: np.ndarray = student.predict(documents.contents, written).cpu().numpy()
    return found


def _unreported(figures: dict[str, float], state: dict[str, Any]) -> None:
    """For a training of which nobody asks how far it is."""
