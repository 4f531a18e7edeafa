"""The table of variants: the rows of single seeds as mean ± std, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain.evaluation.layout import aligned
from selftrain.evaluation.schema import RunMetrics, Summary, VariantRow
from selftrain.evaluation.significance import MeanStd, PairedTest, mean_std

MOST_COMPARED = 7  # variants side by side in one plot: as many as there are colours
_SCORES = (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("ece", "ECE"))


def summarise(rows: Sequence[VariantRow]) -> list[Summary]:
    """Mean and sample standard deviation over the seeds of every (variant, inference augmentation), in order of first appearance.

    A row with other supervision than the first one (the experiment's own) is a bound on the others. Any other row is a bound where it says so.
    """
    groups: dict[tuple[str, bool], list[VariantRow]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["inference_augmentation"]), []).append(row)
    return [_summary(group, rows[0]["supervision"]) for group in groups.values()]


def best(summary: Sequence[Summary]) -> Summary | None:
    """The highest mean accuracy among the rows that are not bounds and were measured on the most documents; None without labels."""
    competing = [entry for entry in summary if not entry["bound"] and entry["accuracy"] is not None]
    most = max((entry["documents"] for entry in competing), default=0)
    competing = [entry for entry in competing if entry["documents"] == most]
    return max(competing, key=_accuracy, default=None)


def main_row(metrics: RunMetrics) -> VariantRow | None:
    """The row that the run is about (first seed, without augmentation at inference where both were measured); None when there are no rows."""
    variant = metrics["asked"].get("variant")
    rows = [row for row in metrics["rows"] if row["variant"] == variant] or metrics["rows"]
    rows = [row for row in rows if row["variant"] == rows[0]["variant"]]
    return min(rows, key=lambda row: row["inference_augmentation"], default=None)


def main_summary(metrics: RunMetrics) -> Summary | None:
    """The summary that `main_row` belongs to."""
    row = main_row(metrics)
    wanted = row and (row["variant"], row["inference_augmentation"])
    return next((entry for entry in metrics["summary"] if (entry["variant"], entry["inference_augmentation"]) == wanted), None)


def compared(metrics: RunMetrics) -> list[str]:
    """The variants that plots of several set side by side, in the order of the run: where they are many, its own and those of the highest accuracy."""
    names = list(dict.fromkeys(row["variant"] for row in metrics["rows"]))
    if len(names) <= MOST_COMPARED:
        return names
    own, means = main_row(metrics), {entry["variant"]: entry["accuracy"]["mean"] for entry in metrics["summary"][::-1] if entry["accuracy"]}
    ranked = sorted(names, key=lambda name: (own is None or name != own["variant"], -means.get(name, 0.0)))
    return [name for name in names if name in ranked[:MOST_COMPARED]]


def level_titles(summary: Sequence[Summary]) -> list[str]:
    """The titles of the columns with accuracies on the levels of a tree above its classes, the outermost first; none without a tree."""
    depth = max((len(entry.get("levels", [])) for entry in summary), default=0)
    return ["groups"] if depth == 1 else [f"groups, level {number}" for number in range(1, depth + 1)]


def plus_minus(value: MeanStd | None, digits: int = 3) -> str:
    """`0.934 ± 0.003`; `0.934` for a single seed; a dash for None."""
    if value is None:
        return "–"
    return f"{value['mean']:.{digits}f}" + (f" ± {value['std']:.{digits}f}" if value["std"] is not None else "")


def shown_difference(test: PairedTest | None, digits: int, *details: str) -> str:
    """A difference with its 95 % interval: `+1.4 (+0.7 to +2.1; n 3)`; where there is no interval, why. A dash for None.

    Args:
        test: what is shown.
        digits: behind the point.
        details: what stands behind the interval, such as p; empty ones are left out.
    """
    if test is None:
        return "–"
    no_interval = "one seed" if test.pairs == 1 else "no seed changes either"
    between = no_interval if test.interval is None else " to ".join(f"{bound:+.{digits}f}" for bound in test.interval)
    return f"{test.difference:+.{digits}f} ({'; '.join(filter(None, [between, *details]))})"


def shown_p(value: float) -> str:
    """`.047`, `1.000`, or `< .001`."""
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def text_table(summary: Sequence[Summary]) -> str:
    """The table for a terminal, columns aligned; `*` marks the best row. Without true labels it shows confidence instead of scores."""
    labeled = any(entry["accuracy"] is not None for entry in summary)
    validated = any(entry["validated"] is not None for entry in summary)
    above = level_titles(summary)
    several = any("micro_f1" in entry for entry in summary)
    own = ["exact match", "micro-F1", "macro-F1", "ECE"] if several else [title for _, title in _SCORES]
    titles = [*own, *above, *(["best on validation"] if validated else [])]
    head = ["variant", "at inference", "labels seen", "documents", "seeds", *(titles if labeled else ["mean confidence"])]
    winner = best(summary)
    body = []
    for entry in summary:
        levels: list[MeanStd | None] = [*entry.get("levels", [])] or [None] * len(above)
        scores = [
            entry["accuracy"],
            *([entry.get("micro_f1")] if several else []),
            entry["macro_f1"],
            entry["ece"],
            *levels,
            *([entry["validated"]] if validated else []),
        ]
        if not labeled:
            scores = [entry["mean_confidence"]]
        name = entry["variant"] + (" *" if entry is winner else "") + (" (bound)" if entry["bound"] else "")
        augmented = "augmented" if entry["inference_augmentation"] else "plain"
        body.append([name, augmented, entry["supervision"], f"{entry['documents']:,}", str(entry["seeds"]), *map(plus_minus, scores)])
    lines = aligned(head, body, right=(3, 4))
    if winner is not None:
        seen = "that saw no labels" if winner["supervision"] == "none" else f"with the same supervision ({winner['supervision']})"
        lines.append(f"* best of the rows {seen}")
    return "\n".join(lines)


def _summary(group: list[VariantRow], supervision: str) -> Summary:
    scored = [row["scores"] for row in group if row["scores"] is not None]
    scores = {name: mean_std([scores[name] for scores in scored]) if scored else None for name, _ in _SCORES}
    first = group[0]
    levels = [row["levels"] for row in group if "levels" in row]
    timed = [row["inference_ms"] for row in group if row["inference_ms"] is not None]
    validated = [row["validation"]["scores"]["accuracy"] for row in group if "validation" in row and row["validation"]["scores"] is not None]
    found = Summary(
        variant=first["variant"],
        inference_augmentation=first["inference_augmentation"],
        supervision=first["supervision"],
        bound=first["supervision"] != supervision or first.get("bound", False),
        documents=first["documents"],
        seeds=len(group),
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        ece=scores["ece"],
        validated=mean_std(validated) if validated else None,
        mean_confidence=mean_std([row["mean_confidence"] for row in group]),
        train_seconds=mean_std([row["train_seconds"] for row in group]),
        inference_ms=mean_std(timed) if timed else None,
    )
    if scored and "micro_f1" in scored[0]:
        found["micro_f1"] = mean_std([scores["micro_f1"] for scores in scored])
    if levels:
        found["levels"] = [mean_std([scores["accuracy"] for scores in level]) for level in zip(*levels, strict=True)]
    return found


def _accuracy(entry: Summary) -> float:
    return entry["accuracy"]["mean"] if entry["accuracy"] is not None else 0.0
