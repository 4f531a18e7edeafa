"""Rows of a run's table: one variant with one seed, scored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selftrain.config import DataConfig
from selftrain.data.supervision import describe_supervision
from selftrain.data.texts import TextRequest
from selftrain.evaluation.consensus import NO_VOTE, consensus
from selftrain.evaluation.levels import scores_by_level
from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.multi_label import evaluate_sets
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.models.student import Student
from selftrain.runs.context import RunContext
from selftrain.runs.plan import Variant
from selftrain.texts.channel import Texts
from selftrain.training.fit import probabilities
from selftrain.training.loop import Fitted

FIGURES = ("accuracy", "macro_f1", "ece")


def scored(found: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str]) -> dict[str, Any] | None:
    """`Scores.to_json()` of probabilities `[documents, classes]`; None without labels, or without documents.

    Args:
        found: probabilities.
        labels: true class indices, `[documents]`; of several labels which classes each document has, boolean, `[documents, classes]`.
        class_names: in index order.
    """
    if labels is not None and labels.ndim == 2:
        return evaluate_sets(found, labels, class_names)
    return evaluate(found, labels[: len(found)], class_names).to_json() if labels is not None and len(found) else None


def row(
    name: str,
    seed: int,
    data: DataConfig,
    found: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    *,
    parents: Sequence[Sequence[str]] = (),
    seconds: float = 0.0,
    augmented: bool = False,
    inference_ms: float | None = None,
    several: bool = False,
) -> dict[str, Any]:
    """A row as metrics.json has it.

    Args:
        name: of the variant.
        seed: that it was trained with.
        data: its data section, for the supervision.
        found: probabilities, `[documents, classes]`; a row of zeros is a document without an answer.
        labels: true classes, as `scored` takes them; None where nobody knows them.
        class_names: in index order.
        parents: of each class, the outermost first; empty where classes are no tree.
        seconds: of training.
        augmented: whether documents were read with continuations.
        inference_ms: milliseconds to classify one document.
        several: whether a document may have several classes; groups of a tree then have no scores.
    """
    answered = found[found.sum(axis=1) > 0]  # a language model may give no class
    counts = (found >= 0.5).sum(axis=0) if several else np.bincount(answered.argmax(axis=1), minlength=len(class_names))
    graded = parents and labels is not None and len(found) and not several
    levels = {"levels": scores_by_level(found, labels[: len(found)], class_names, parents)} if graded and labels is not None else {}
    return (
        levels
        | {
            "variant": name,
            "seed": seed,
            "inference_augmentation": augmented,
            "supervision": describe_supervision(data),
            "scores": scored(found, labels, class_names),
            "predicted": {label: int(count) for label, count in zip(class_names, counts, strict=True)},
            "mean_confidence": float(np.maximum(found, 1 - found).mean() if several else found.max(axis=1).mean()) if len(found) else 0.0,
            "train_seconds": round(seconds, 3),
            "documents": len(found),
            "inference_ms": inference_ms,
        }
        | ({"bound": True} if data.supervision == "oracle" else {})
    )


def rows_of(
    context: RunContext, name: str, seed: int, variant: Variant, fitted: Fitted, found: np.ndarray, texts: Texts | None, before: Sequence[Any] = ()
) -> list[Any]:
    """The rows of one training.

    Args:
        context: of the run.
        name: of the variant.
        seed: that it was trained with.
        variant: what was trained.
        fitted: what training left.
        found: its probabilities on the documents of the run, `[documents, classes]`.
        texts: the language model's texts, where there are any; a second row is then read with continuations, if the experiment asks for it.
        before: the rows of other trainings; the speed of the same variant with another seed is not measured again, which would take longer than a head trains.
    """
    student, experiment = fitted.student, context.plan.experiment
    names, data = context.corpus.class_names, variant.experiment.data
    labels, parents = context.memberships if context.multi_label else context.labels, context.corpus.class_parents
    known = any(one["variant"] == name and one.get("inference_ms") is not None for one in before)
    speed = None if known else inference_ms(student, context.documents.contents[: experiment.model.batch_size])
    rows = [row(name, seed, data, found, labels, names, parents=parents, seconds=fitted.seconds, inference_ms=speed, several=context.multi_label)]
    if fitted.best is not None:
        rows[0]["validation"] = _best_on_validation(context, fitted)
    if experiment.evaluation.inference_augmentation and len(context.corpus.test):
        assert texts is not None
        read = probabilities(student, context.corpus.test, texts, experiment.augment.input_samples, gpu=context.plan.evaluation_gpu)
        rows.append(row(name, seed, data, read, labels, names, parents=parents, seconds=fitted.seconds, augmented=True))
    return rows


def _best_on_validation(context: RunContext, fitted: Fitted) -> dict[str, Any]:
    """What the round would have given that is best on the validation documents."""
    assert fitted.best is not None
    with fitted.best_round() as student:
        found = probabilities(student, context.documents, gpu=context.plan.evaluation_gpu)
    scores = scored(found, context.labels, context.corpus.class_names)
    return {"documents": len(context.corpus.validation), "round": fitted.best["round"] + 1, "accuracy": fitted.best["accuracy"], "scores": scores}


def inference_ms(student: Student, documents: Sequence[Any]) -> float | None:
    """Milliseconds that a document takes, the best of three batches: other work on the machine only ever adds. None without documents."""
    if not len(documents):
        return None
    seconds = []
    for _ in range(3):
        fresh = replace(student, encoder=student.encoder.uncached())
        start = time.perf_counter()
        fresh.predict(documents)
        seconds.append(time.perf_counter() - start)
    return round(1000 * min(seconds) / len(documents), 4)


def language_model_row(context: RunContext, texts: Texts) -> dict[str, Any]:
    """The language model as a zero-shot classifier (GenCo table 2, row 3): the class name that it must choose, no probabilities.

    A document that it gives no class for counts as wrong, and into no class's share.
    """
    experiment = context.plan.experiment
    count = min(experiment.evaluation.llm_documents, len(context.documents))
    requests = [TextRequest(id_, "classify") for id_ in context.documents.ids[:count]]
    with context.stages("language model as classifier"):
        answers = dict(texts(requests[:1]))  # alone: the start of the engine is no part of what a document costs
        before = texts.summary()[0].generated
        start = time.perf_counter()
        answers |= texts(requests[1:])
        seconds = time.perf_counter() - start
    # Answers that the cache held took no time, and say nothing about cost.
    generated = texts.summary()[0].generated - before
    speed = round(1000 * seconds / generated, 4) if generated and generated == count - 1 else None
    names = context.corpus.class_names
    chosen = chosen_classes([answers.get(request) for request in requests], names)
    return _asked_row(context, LANGUAGE_MODEL_ROW, chosen, speed)


def teacher_rows(context: RunContext, texts: Texts) -> list[dict[str, Any]]:
    """Several teachers as zero-shot classifiers: the row of what their weighed votes come to, under the name of a single language model, then one a teacher.

    `reliability` of a teacher is what the votes alone say of it (evaluation/consensus.py); its scores are what the true labels say.
    """
    experiment, names = context.plan.experiment, context.corpus.class_names
    count = min(experiment.evaluation.llm_documents, len(context.documents))
    ids = context.documents.ids[:count]
    with context.stages("language model as classifier"):
        votes = texts.votes(dict(zip(ids, context.documents.contents[:count], strict=True)))
    chosen = {name: chosen_classes([answers.get(id_) for id_ in ids], names) for name, answers in votes.items()}
    table = np.stack([np.where(found.any(axis=1), found.argmax(axis=1), NO_VOTE) for found in chosen.values()], axis=1)
    weighed = consensus(table, len(names))
    reliability = dict(zip(chosen, weighed.reliability.round(4).tolist(), strict=True))
    own = [_asked_row(context, f"{LANGUAGE_MODEL_ROW}: {name}", found) | {"reliability": reliability[name]} for name, found in chosen.items()]
    return [_asked_row(context, LANGUAGE_MODEL_ROW, weighed.probabilities), *own]


def _asked_row(context: RunContext, variant: str, found: np.ndarray, speed: float | None = None) -> dict[str, Any]:
    """The row of language models that were asked: what they say, `[documents, classes]`, in `speed` milliseconds a document."""
    experiment, corpus = context.plan.experiment, context.corpus
    made = row(
        variant, experiment.seeds[0], experiment.data, found, context.labels, corpus.class_names, parents=corpus.class_parents, inference_ms=speed
    )
    return made | {"bound": True, "supervision": "none", "failed": int((found.sum(axis=1) == 0).sum())}


def chosen_classes(answers: Sequence[str | None], class_names: Sequence[str]) -> np.ndarray:
    """`[answers, classes]`: 1 at the class that an answer names, and a row of zeros for one that names none (it failed, or was cut off)."""
    places = {name: place for place, name in enumerate(class_names)}
    chosen = np.zeros((len(answers), len(places)))
    for row, answer in enumerate(answers):
        if answer in places:
            chosen[row, places[answer]] = 1.0
    return chosen


def figures_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures of one training, as its MLflow run gets them."""
    found: dict[str, float | None] = {"train_seconds": rows[0]["train_seconds"]}
    for one in rows:
        for figure in (*FIGURES, "micro_f1"):
            if one["scores"] is not None and figure in one["scores"]:
                found[figure + ("_augmented" if one["inference_augmentation"] else "")] = one["scores"][figure]
    return found
