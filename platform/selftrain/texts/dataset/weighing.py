"""The labels of texts that several teachers wrote: each chooses a class for every text, and the class that a text was written for is one vote more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selftrain.config import TeacherConfig
from selftrain.data.corpus import document_id
from selftrain.evaluation.consensus import NO_VOTE, consensus
from selftrain.texts.prompts import Prompt
from selftrain.texts.teachers import Turns

WRITTEN_FOR = "written for"  # the rater whose votes are the classes that texts were written for


@dataclass(frozen=True)
class WeighedLabels:
    """Of each text the class that the votes come to, its probability, and the text's teacher."""

    labels: list[int]
    agreement: list[float]
    teachers: list[str]
    facts: dict[str, Any]  # for dataset.json


def weighed_labels(
    rows: Sequence[tuple[str, int, Prompt]],
    votes: Mapping[str, Mapping[str, str]],
    class_names: Sequence[str],
    teachers: Sequence[TeacherConfig],
) -> WeighedLabels:
    """What becomes of the labels of `rows`.

    Args:
        rows: (text, class that it was written for, prompt).
        votes: of `TextService.votes`: teacher -> document id -> class name; a text without a vote is missing.
        class_names: in index order.
        teachers: in order.
    """
    places = {name: place for place, name in enumerate(class_names)}
    raters = {WRITTEN_FOR: {document_id(text): class_names[label] for text, label, _ in rows}, **votes}
    table = np.array([[places.get(given.get(document_id(text), ""), NO_VOTE) for given in raters.values()] for text, _, _ in rows])
    found = consensus(table, len(class_names))
    labels, turns = found.probabilities.argmax(axis=1), Turns(teachers)
    wrote = [turns.teacher(prompt) for _, _, prompt in rows]
    changed = [int(label) != written_for for label, (_, written_for, _) in zip(labels, rows, strict=True)]
    facts = {
        "reliability": {name: round(float(value), 4) for name, value in zip(raters, found.reliability, strict=True)},
        "wrote": {one.called: wrote.count(one.called) for one in teachers},
        "relabeled": {one.called: sum(moved for moved, name in zip(changed, wrote, strict=True) if name == one.called) for one in teachers},
        "weighed": {name: int((labels == place).sum()) for name, place in places.items()},
    }
    return WeighedLabels(labels.tolist(), found.probabilities.max(axis=1).round(4).tolist(), wrote, facts)
