"""The result of an audit in words: Markdown that reads well in a terminal too."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain.evaluation.audit.figures import AuditFigures, ClassFigures, Figure
from selftrain.evaluation.audit.several import SeveralFigures


def describe(found: AuditFigures | SeveralFigures) -> str:
    """Accuracy, or exact match and micro-F1; a table of the classes, what the intervals rest on, and what narrower ones cost."""
    if isinstance(found, SeveralFigures):
        lines, counted = [f"exact match {_figure(found.exact_match)}", f"micro-F1 {_figure(found.micro_f1)}", ""], ""
    else:
        lines, counted = [f"accuracy {_figure(found.accuracy)}", ""], ", all of them counted as wrong"
    lines += _table(["class", "predicted", "share", "precision", "recall"], [_row(entry) for entry in found.classes])
    if found.none_of_these.estimate or found.skipped:
        lines += ["", f"none of these: {_figure(found.none_of_these)} of the documents{counted}"]
    lines += ["", _basis(found)]
    if found.skipped:
        lines.append(f"Skipped questions ({found.skipped}) count as wrong at the lower end of an interval, and as right at the upper end.")
    lines += [_price(found)]
    return "\n".join(lines)


def _basis(found: AuditFigures | SeveralFigures) -> str:
    when = "at every number of answers at once" if found.anytime else f"for the {found.planned:,} planned answers"
    return f"95 % intervals, valid {when}, from {found.asked - found.skipped:,} answers on {found.documents:,} documents."


def _price(found: AuditFigures | SeveralFigures) -> str:
    if found.asked < found.planned:
        return f"{found.planned - found.asked:,} of the planned questions are open; with all of them the intervals get narrower at once."
    if not found.prices:
        return "A narrower interval is not to be had."
    prices = ", ".join(f"± {price.half_width:g} for {price.answers:,} more answers" for price in found.prices)
    return f"Narrower{' for exact match' if isinstance(found, SeveralFigures) else ''}: {prices}."


def _row(entry: ClassFigures) -> list[str]:
    precision = _figure(entry.precision) if entry.precision is not None else "never predicted"
    return [entry.name, f"{entry.predicted:.3f}", _figure(entry.share), precision, _figure(entry.recall)]


def _figure(figure: Figure) -> str:
    estimate = "unknown" if figure.estimate is None else f"{figure.estimate:.3f}"
    return f"{estimate} ({figure.low:.3f} to {figure.high:.3f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]
