"""The page of a look: one HTML file that holds everything it shows, runs no script and loads nothing, in the style of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from markupsafe import Markup

from selftrain.evaluation.drift import plots
from selftrain.evaluation.drift.bets import ALARM, EVERY
from selftrain.evaluation.drift.look import TITLES, Look
from selftrain.evaluation.drift.scores import Sample, Scores
from selftrain.evaluation.drift.topics import FAR, far_from_known
from selftrain.evaluation.layout import page
from selftrain.evaluation.svg import inline

CAPTIONS = {
    "evidence": "Evidence of each kind of change, text by text; above the dashed line there is an alarm. It falls and rises by chance while nothing changes.",
    "class_shares": "Shares of the classes: of the reference's predictions, and estimated now; lines are 95 % intervals over texts.",
    "confidence": "Probability of the predicted class.",
    "distances": "Squared distance to the tenth-nearest known text; 99 % of the reference lie left of the dashed line.",
    "places": "Texts by the first two principal components of the reference.",
}
_EXCERPT = 240


@dataclass(frozen=True)
class Seen:
    """The texts of late that are described."""

    sample: Sample
    ids: Sequence[str]
    texts: Sequence[str] | None  # None where they were not kept
    span: tuple[float, float]  # seconds since 1970: of the first and the last


def render(
    look: Look,
    *,
    name: str,
    reference: Sample,
    accepted: bool,
    seen: Seen | None,
    scores: Scores,
    history: Sequence[tuple[int, Mapping[str, float]]],
    commands: Sequence[str],
    moment: float,
) -> str:
    """The page.

    Args:
        look: what was found.
        name: of the bundle.
        reference: both halves.
        accepted: whether it is of texts that were seen before, in the place of the bundle's.
        seen: the texts of late; None where they are too few to describe.
        scores: made from the reference's first half.
        history: evidence over the stream.
        commands: of the proposed training.
        moment: of the look, seconds since 1970.
    """
    filters = {"moment": _moment, "share": lambda value: f"{100 * value:.1f} %", "level": lambda value: f"{value:.2g}"}
    return page(
        "watch.html",
        filters,
        look=look,
        name=name,
        reference=len(reference),
        accepted=accepted,
        moment=moment,
        span=seen.span if seen is not None else None,
        titles=TITLES,
        every=f"{EVERY:,}",
        twice=f"{ALARM:,.0f}",
        far=f"{100 * FAR:g} %",
        groups=_groups(look, seen),
        pictures=_pictures(look, reference, seen, scores, history),
        commands=commands,
    )


def _groups(look: Look, seen: Seen | None) -> list[dict[str, Any]]:
    """The groups of far texts, each with the text in its middle: its id, and its beginning where texts are kept."""
    if look.described is None or seen is None:
        return []
    found = []
    for group in look.described.groups:
        text = None if seen.texts is None else " ".join(seen.texts[group.example].split())
        excerpt = text if text is None or len(text) <= _EXCERPT else f"{text[:_EXCERPT].rstrip()} …"
        taken = ", ".join(f"{label} ({count})" for label, count in group.classes[:3])
        found.append({"texts": group.texts, "share": group.share, "id": seen.ids[group.example], "excerpt": excerpt, "taken": taken})
    return found


def _pictures(
    look: Look, reference: Sample, seen: Seen | None, scores: Scores, history: Sequence[tuple[int, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    drawn: dict[str, bytes] = {}
    if len(history) > 1:
        drawn["evidence"] = plots.evidence(history, look.alarm.text if look.alarm is not None else None)
    if look.described is not None and seen is not None:
        half = reference[len(reference) // 2 :]
        near, now = scores.distances(half), scores.distances(seen.sample)
        drawn["class_shares"] = plots.class_shares(look.described.classes)
        drawn["confidence"] = plots.histogram(
            reference.probabilities.max(axis=1).astype(np.float64), seen.sample.probabilities.max(axis=1).astype(np.float64), "confidence"
        )
        drawn["distances"] = plots.histogram(near, now, "squared distance to known texts", float(np.quantile(near, FAR)))
        drawn["places"] = plots.places(scores.places(half), scores.places(seen.sample), far_from_known(now, near))
    found = []
    for name, content in drawn.items():
        drawing = inline(content, name, CAPTIONS[name])
        found.append({"markup": Markup(drawing.markup), "width": drawing.width, "caption": CAPTIONS[name], "wide": name == "evidence"})
    return found


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%-d %B %Y, %H:%M UTC")
