"""The report of a run: one HTML page that holds everything it shows, and begins with how good the classifier is.

Every number comes from metrics.json (`schema.RunMetrics`); `Findings` adds texts. The page loads nothing, runs no script, follows dark mode, prints well, and
escapes the words of documents and language models.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from markupsafe import Markup

from selftrain.evaluation.layout import page
from selftrain.evaluation.naming.report import NamesFound
from selftrain.evaluation.schema import Asked, RunMetrics, Summary, VariantRow
from selftrain.evaluation.summary import best, compared, level_titles, main_row, main_summary, plus_minus
from selftrain.evaluation.svg import inline

CAPTIONS = {
    "variants": "Accuracy of every variant; whiskers are one standard deviation over seeds, grey bars are bounds.",
    "accuracy_per_round": "Accuracy over the rounds of self-training: mean over seeds, the band from the lowest to the highest seed.",
    "confusion": "Where documents of each true class went; the shade is the share of the row.",
    "reliability": "Confidence against accuracy; dots grow with their documents, and on the dashed line the two are equal.",
    "precision_at": "Precision among the most confident documents (GenCo, figure 3).",
    "per_class_f1": "F1 of every class under every variant.",
    "label_alignment": "Texts asked for one class (rows) and the class that they are put into (columns) (GenCo, figure 4 left).",
    "embedding_map": "Documents by class, generated texts and class prototypes in one plane (GenCo, figure 4 right).",
}
SKIPPED_SHOWN = 20
SECTIONS = {
    "names": "Class names",
    "variants": "How good it is",
    "pictures": "Pictures",
    "hardest": "Hardest documents",
    "asked": "What was asked",
    "happened": "What happened",
    "examples": "Generated texts",
    "cost": "What it cost",
    "serve": "How to serve it",
    "origin": "Origin of the numbers",
}


class Example(TypedDict):
    """A text of the language model beside the document that it was made from."""

    document: str
    kind: str  # input | conditional | classify
    label: str | None  # class that was asked for
    text: str
    kept: bool
    reason: str | None  # why it was filtered out
    teacher: NotRequired[str]  # that wrote it, where there are several


class HardDocument(TypedDict):
    """A document that the classifier gets wrong with confidence, or cannot decide on."""

    id: str
    text: str
    label: str | None  # true class, where it is known
    predicted: str
    probability: float  # of the predicted class
    margin: float  # to the probability of the second class
    why: Literal["wrong", "undecided"]


@dataclass(frozen=True)
class Findings:
    """The texts of a report."""

    examples: Sequence[Example] = ()
    hardest: Sequence[HardDocument] = ()
    names: NamesFound | None = None  # the class names before training


def hardest_documents(
    probabilities: np.ndarray, labels: np.ndarray | None, ids: Sequence[str], texts: Sequence[str], class_names: Sequence[str], count: int = 8
) -> list[HardDocument]:
    """The `count` most confident mistakes, then the `count` documents with the smallest margin between the two most probable classes.

    Args:
        probabilities: `[N, L]` with at least two classes.
        labels: `[N]` true class indices; None where they are not known, then there are no mistakes to list.
        ids, texts: of the documents, in the order of the rows.
        class_names: names in index order.
        count: of each kind; a document is listed once.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    ordered = np.sort(probabilities, axis=1)
    predicted, confidence, margin = probabilities.argmax(axis=1), ordered[:, -1], ordered[:, -1] - ordered[:, -2]
    wrong = predicted != labels if labels is not None else np.zeros(len(predicted), dtype=bool)
    mistakes = [int(index) for index in np.argsort(-confidence, kind="stable") if wrong[index]][:count]
    undecided = [int(index) for index in np.argsort(margin, kind="stable") if int(index) not in set(mistakes)][:count]
    why: dict[int, Literal["wrong", "undecided"]] = {**dict.fromkeys(undecided, "undecided"), **dict.fromkeys(mistakes, "wrong")}
    return [
        HardDocument(
            id=ids[index],
            text=texts[index],
            label=class_names[int(labels[index])] if labels is not None else None,
            predicted=class_names[int(predicted[index])],
            probability=float(confidence[index]),
            margin=float(margin[index]),
            why=why[index],
        )
        for index in (*mistakes, *undecided)
    ]


def render(metrics: RunMetrics, findings: Findings, pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        metrics: the content of metrics.json.
        findings: texts to show; empty kinds are left out.
        pictures: name to PNG or SVG bytes, in the order of the page; a name without an entry in `CAPTIONS` is its own caption.

    Raises:
        ValueError: a picture is neither PNG nor SVG.
    """
    row = main_row(metrics)
    present = {
        "names": findings.names is not None,
        "pictures": bool(pictures),
        "hardest": bool(findings.hardest),
        "examples": bool(findings.examples),
    }
    return page(
        "report.html",
        {"excerpt": _excerpt, "duration": _duration, "number": _number, "share": _share, "plus_minus": plus_minus, "moment": _moment},
        metrics=metrics,
        contents=[(name, title) for name, title in SECTIONS.items() if present.get(name, True)],
        headline=_headline(metrics),
        tiles=_tiles(metrics, row),
        result=_result(metrics),
        warnings=_warnings(metrics),
        several=_several(metrics),
        labeled=any(entry["accuracy"] is not None for entry in metrics["summary"]),
        validated=any(entry["validated"] is not None for entry in metrics["summary"]),
        best=best(metrics["summary"]),
        main=row,
        variants=len({entry["variant"] for entry in metrics["summary"]}),
        compared=len(compared(metrics)),
        levels=level_titles(metrics["summary"]),
        classes=_classes(row, metrics["asked"]) if row else [],
        pictures=[_picture(name, content) for name, content in pictures.items()],
        names=findings.names,
        examples=findings.examples,
        mistakes=[entry for entry in findings.hardest if entry["why"] == "wrong"],
        undecided=[entry for entry in findings.hardest if entry["why"] == "undecided"],
        failed=[(row["variant"], row["failed"], row["documents"]) for row in metrics["rows"] if row.get("failed")],
        skipped_rows=metrics["data"]["skipped_rows"][:SKIPPED_SHOWN],
    )


def _several(metrics: RunMetrics) -> bool:
    """Whether documents may have several classes, with true labels to measure them by."""
    return any("micro_f1" in entry for entry in metrics["summary"])


def _headline(metrics: RunMetrics) -> dict[str, str] | None:
    """The large number: the accuracy, or how many documents got a label where the accuracy is not known."""
    main = main_summary(metrics)
    if main is None:
        return None
    seeds = f"mean of {main['seeds']} seeds" if main["seeds"] > 1 else "one seed"
    if main["accuracy"] is None:
        basis = f"True labels are not known, so nothing was measured against them. {main['variant']}, {seeds}."
        return {"value": _number(main["documents"]), "spread": "", "title": "documents labeled", "basis": basis}
    mean, _, spread = plus_minus(main["accuracy"]).partition(" ± ")
    basis = f"{main['variant']}, {_number(main['documents'])} test documents, {seeds}"
    return {"value": mean, "spread": f"± {spread}" if spread else "", "title": "exact match" if _several(metrics) else "accuracy", "basis": basis}


def _tiles(metrics: RunMetrics, row: VariantRow | None) -> list[dict[str, str]]:
    """The numbers beside the large one; those that were not measured are left out."""
    main = main_summary(metrics)
    if main is None or row is None:
        return []
    tiles: list[tuple[str, str | None]] = []
    if main["accuracy"] is not None:
        tiles += [("micro-F1", plus_minus(main["micro_f1"]))] if "micro_f1" in main else []
        tiles += [("macro-F1", plus_minus(main["macro_f1"])), ("calibration error (ECE)", plus_minus(main["ece"]))]
    else:
        tiles.append(("mean confidence", plus_minus(main["mean_confidence"], 2)))
    if row["scores"] is not None:
        weakest = min(row["scores"]["per_class"], key=lambda entry: entry["f1"])
        tiles.append((f"F1 of the weakest class, {weakest['name']}", f"{weakest['f1']:.3f}"))
    elif row["predicted"]:
        largest = max(row["predicted"], key=lambda name: row["predicted"][name])
        tiles.append((f"share of the largest class, {largest}", _share(row["predicted"][largest], row["documents"])))
    tiles.append(("training a seed, mean", _duration(main["train_seconds"]["mean"])))
    tiles.append(("classifying a document", f"{timed['mean']:.2f} ms" if (timed := main.get("inference_ms")) is not None else None))
    return [{"title": title, "value": value} for title, value in tiles if value is not None]


def _result(metrics: RunMetrics) -> str:
    """The run in one sentence: its accuracy, on how many documents, with which labels, and the weakest variant beside it."""
    main = main_summary(metrics)
    if main is None:
        return "The run ended before anything was measured."
    unlabeled = " unlabeled" if not metrics["data"]["test"] else ""
    documents, classes = f"{main['documents']:,}{unlabeled} documents", f"{len(metrics['asked']['classes'])} classes"
    if main["accuracy"] is None:
        confidence = plus_minus(main["mean_confidence"], 2)
        return (
            f"{main['variant']} sorted {documents} into {classes} with a mean confidence of {confidence}; there were no true labels to check it by."
        )
    seeds = f" (mean of {main['seeds']} seeds)" if main["seeds"] > 1 else ""
    seen = "without having seen a label" if main["supervision"] == "none" else f"having seen labels ({main['supervision']})"
    figure = "an exact match" if _several(metrics) else "an accuracy"
    sentence = f"{main['variant']} reached {figure} of {plus_minus(main['accuracy'])}{seeds} on {documents} of {classes}, {seen}"
    others: list[tuple[float, Summary]] = []
    for entry in metrics["summary"]:
        comparable = not entry["bound"] and entry["variant"] != main["variant"] and entry["documents"] == main["documents"]
        if comparable and entry["accuracy"] is not None:
            others.append((entry["accuracy"]["mean"], entry))
    if others:
        lowest, weakest = min(others, key=lambda pair: pair[0])
        if lowest < main["accuracy"]["mean"]:
            sentence += f"; {weakest['variant']} reached {plus_minus(weakest['accuracy'])}"
    return sentence + "."


def _warnings(metrics: RunMetrics) -> list[str]:
    """What a reader of the first lines must know of what the run's own variant decided: one sentence for each thing that was not used."""
    main = main_summary(metrics)
    several = len(metrics["asked"]["seeds"]) > 1
    return [
        f"Seed {entry['seed']}: {entry['why']}" if several else entry["why"]
        for entry in metrics.get("decisions", [])
        if main is not None and entry["variant"] == main["variant"] and not entry["used"]
    ]


def _classes(row: VariantRow, asked: Asked) -> list[dict[str, Any]]:
    """One line a class: documents predicted, their share of the largest class (for the bar), and the scores where labels are known; a group before its classes."""
    names, parents, counts = asked["classes"], asked.get("parents") or [[] for _ in asked["classes"]], row["predicted"]
    most = max((counts.get(name, 0) for name in names), default=0) or 1
    listed = [*row["scores"]["per_class"], *(entry for level in row.get("levels", []) for entry in level["per_class"])] if row["scores"] else []
    scores = {entry["name"]: entry for entry in listed}
    lines: list[dict[str, Any]] = []
    above: list[str] = []
    for name, groups in zip(names, parents, strict=True):
        for depth, group in enumerate(groups):
            if groups[: depth + 1] != above[: depth + 1]:
                predicted = sum(counts.get(one, 0) for one, its in zip(names, parents, strict=True) if group in its)
                lines.append({"name": group, "depth": depth, "group": True, "predicted": predicted, "bar": 0, "scores": scores.get(group)})
        above, predicted = groups, counts.get(name, 0)
        bar = round(100 * predicted / most, 1)
        lines.append({"name": name, "depth": len(groups), "group": False, "predicted": predicted, "bar": bar, "scores": scores.get(name)})
    return lines


def _picture(name: str, content: bytes) -> dict[str, Any]:
    stem = re.sub(r"\.(png|svg)$", "", name)
    caption = CAPTIONS.get(stem, stem.replace("_", " ").capitalize() + ".")
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        (width,) = struct.unpack(">I", content[16:20])
        return {"markup": None, "uri": f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}", "width": width, "caption": caption}
    if b"<svg" in content[:4096]:
        drawing = inline(content, stem, caption)
        return {"markup": Markup(drawing.markup), "width": drawing.width, "caption": caption}
    raise ValueError(f"the picture {name!r} is neither PNG nor SVG")


def _excerpt(text: str, length: int = 320) -> str:
    """At most `length` characters, cut between words, white space run together."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    head = text[:length]
    return (head.rsplit(" ", 1)[0] if " " in head[length // 2 :] else head) + " …"


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _moment(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%-d %B %Y, %H:%M %Z").strip()
    except ValueError:
        return text
