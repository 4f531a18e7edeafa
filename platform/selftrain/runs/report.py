"""The report of a run: pictures that need the trained classifier, report.html, and last of all metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from selftrain.evaluation import plots
from selftrain.evaluation.report import Findings, render
from selftrain.files.durable import explained, write_whole
from selftrain.models.student import Student
from selftrain.runs.context import RunContext
from selftrain.runs.naming import NAMES
from selftrain.runs.record import final_figures
from selftrain.training.fit import probabilities

_MAP_TEXTS = 150  # of the language model, at most, on the map


def pictures_of(context: RunContext, student: Student, conditional: Sequence[tuple[int, str]]) -> dict[str, bytes]:
    """Pictures of the trained classifier, by name.

    Args:
        context: of the run.
        student: what is bundled.
        conditional: (class that was asked for, text) of the language model's texts.
    """
    pictures: dict[str, bytes] = {}
    if conditional:
        pictures["label_alignment"] = _label_alignment(context, conditional)
    kind = context.plan.experiment.evaluation.map
    if kind != "none" and len(context.documents.contents[: context.plan.experiment.evaluation.map_documents]) >= 5:
        pictures["embedding_map"] = _embedding_map(context, student, conditional[:_MAP_TEXTS], kind)
    return pictures


def _label_alignment(context: RunContext, conditional: Sequence[tuple[int, str]]) -> bytes:
    """How the classes that texts were asked for agree with the encoder before training: it has not yet learned to agree with these very texts."""
    main, seed, classes = context.plan.main, context.plan.experiment.seeds[0], len(context.corpus.labels)
    asked = [label for label, _ in conditional]
    found = main.recipe.untrained(main.granted(seed), seed=seed).student().predict([text for _, text in conditional]).cpu().numpy()
    matrix = np.array([[found[[label == row for label in asked], column].sum() for column in range(classes)] for row in range(classes)])
    return plots.label_alignment(matrix.tolist(), context.corpus.class_names)


def _embedding_map(context: RunContext, student: Student, conditional: Sequence[tuple[int, str]], kind: Literal["tsne", "pca"]) -> bytes:
    experiment, documents = context.plan.experiment, context.documents
    shown = documents.contents[: experiment.evaluation.map_documents]
    # The weights of a linear classifier are no points of the embedding space, and prototypes behind a projection are of another one.
    prototypes = student.weights if student.bias is None and student.projection is None else student.weights[:0]
    parts = [student.encoder.encode(shown), student.encoder.encode([text for _, text in conditional]), prototypes]
    points = plots.project(torch.cat([part for part in parts if len(part)]).cpu().numpy(), kind, experiment.seeds[0])
    first, second = len(shown), len(shown) + len(conditional)
    labels = context.labels if context.labels is not None else probabilities(student, documents).argmax(axis=1)[: len(shown)]
    return plots.embedding_map(
        points[:first],
        labels[:first],
        context.corpus.class_names,
        texts=points[first:second],
        text_labels=[label for label, _ in conditional],
        prototypes=points[second:] if len(prototypes) else None,
    )


def write_report(context: RunContext, metrics: dict[str, Any], findings: Findings, own: Mapping[str, bytes]) -> None:
    """Write the files of a run that is over, and send them to tracking. metrics.json is written last: a folder that holds it is complete.

    Args:
        context: of the run.
        metrics: the document.
        findings: examples for the report.
        own: pictures of the trained classifier; the others are drawn from `metrics`.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    folder = context.folder
    pictures = plots.from_metrics(metrics) | dict(own)  # type: ignore[arg-type]
    with explained(folder, f"free some space and resume {context.home.place}, nothing is trained again"):
        for name, picture in pictures.items():
            suffix = "png" if picture[:4] == b"\x89PNG" else "svg"
            write_whole(folder / "pictures" / f"{name}.{suffix}", picture)
        write_whole(folder / "report.html", render(metrics, findings, pictures))  # type: ignore[arg-type]
        write_whole(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False))
    context.spool.metrics(final_figures(metrics))
    for file in ("config.yaml", "metrics.json", "report.html", "events.jsonl", *([NAMES] if findings.names is not None else [])):
        context.spool.artifact(folder / file)
    if pictures:
        context.spool.artifact(folder / "pictures", "pictures")
