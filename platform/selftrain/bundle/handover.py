"""From a trained classifier to its bundle: the one place that fills in a card after training, and after distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selftrain.bundle.format import BundleCard, BundleMetrics, write_bundle
from selftrain.bundle.reference import Reference, drawn, units
from selftrain.config import Experiment
from selftrain.data.corpus import Corpus
from selftrain.methods.recipe import Recipe
from selftrain.models.encoder import TextEncoder
from selftrain.models.student import Student


def card_of(
    student: Student,
    *,
    name: str,
    recipe: Recipe,
    corpus: Corpus,
    experiment: Experiment,
    supervision: str,
    llm_fingerprint: str | None = None,
    metrics: BundleMetrics | None = None,
) -> BundleCard:
    """What a bundle of `student` states about itself.

    Args:
        student: the trained classifier, of texts.
        name: of the model.
        recipe: how it was trained.
        corpus: what it was trained on.
        experiment: the whole document.
        supervision: labels that the learner saw, in words.
        llm_fingerprint: of the language model that wrote texts; None where none did.
        metrics: on the test documents.
    """
    assert isinstance(student.encoder, TextEncoder) and student.projection is None
    return BundleCard(
        name=name,
        labels=corpus.class_names,
        parents=corpus.class_parents,
        thresholds=(0.5,) * len(corpus.class_names) if student.independent else (),
        label_prompts=tuple(tuple(group) for group in corpus.label_prompts()),
        similarity="cosine" if student.cosine or student.encoder.normalize else "dot",
        scale=student.scale,
        max_tokens=recipe.model.max_tokens,
        windows=recipe.model.windows,
        longest=student.encoder.longest,
        method=recipe.name,
        supervision=supervision,
        experiment=experiment.model_dump(mode="json"),
        data=corpus.name,
        data_fingerprint=corpus.fingerprint,
        llm=recipe.augment.name if llm_fingerprint is not None else None,
        llm_fingerprint=llm_fingerprint,
        encoder=recipe.source,
        encoder_fingerprint=recipe.source_fingerprint(),
        metrics=metrics or BundleMetrics(),
    )


def distilled_card(teacher: BundleCard, student: str, changes: Mapping[str, Any]) -> BundleCard:
    """What a bundle of a distilled student states about itself: the facts of its teacher, whose recipe may be of another version and is not resolved again.

    The teacher's metrics, promises and reference are not the student's.

    Args:
        teacher: the teacher's card.
        student: which student it is.
        changes: facts that differ from the teacher's, such as the encoder.
    """
    promises = {"promise", "sets", "none_of_these", "found_labels"}
    known = teacher.model_dump(exclude={"versions", "created", "files", "metrics", "reference", *promises})
    stated = {"name": f"{teacher.name}_{student}", "method": f"distilled from {teacher.method} ({student})"}
    return BundleCard.model_validate({**known, **stated, **changes})


def reference_of(student: Student, texts: Sequence[str], most: int) -> Reference:
    """What texts look like to a trained classifier, as its bundle keeps it.

    Args:
        student: the classifier.
        texts: of which some are drawn.
        most: that are kept.
    """
    chosen = drawn(len(texts), most)
    rows = student.encoder.encode([texts[place] for place in chosen.tolist()])
    return Reference(student.probabilities(rows).cpu().numpy().astype(np.float32), units(rows.detach().cpu().numpy()))


def write_student(folder: Path, student: Student, card: BundleCard, reference: Reference | None = None) -> Path:
    """Write `student` with its card as the bundle `folder`, whole or not at all; see `write_bundle`."""
    assert isinstance(student.encoder, TextEncoder)
    return write_bundle(folder, backbone=student.encoder.export(), prototypes=student.weights, bias=student.bias, card=card, reference=reference)
