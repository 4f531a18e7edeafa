"""Texts for people: what data sets there are, and what a corpus holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from selftrain.data.catalogue import CATALOGUE
from selftrain.data.corpus import Corpus, TrueLabels, UnusedRow
from selftrain.data.sources import FOLDER_VARIABLE, package_folder, shared_folders

_SHOWN_CHARACTERS = 200
LISTED_ROWS = 1000  # skipped rows of a reason that a run's record lists


def describe_catalogue() -> str:
    """A table of the named sets and of the folders in SELFTRAIN_DATA: name, number of classes, where it is found now, class names."""
    folders = {folder.name: folder for folder in shared_folders()}
    table = [("name", "classes", "found in", "class names")]
    for named in CATALOGUE.values():
        if named.name in folders:
            place = FOLDER_VARIABLE
        elif named.package is not None:
            place = f"package {named.package}" + ("" if package_folder(named) is not None else " (not installed)")
        else:
            place = f"hub {named.hub}" + (" (images)" if named.kind == "image" else "")
        names = ", ".join(entry.name for entry in named.classes)
        table.append((named.name, str(len(named.classes) or ""), place, names if len(names) <= 60 else f"{names[:57].rsplit(',', 1)[0]}, ..."))
    for name in folders:
        if name not in CATALOGUE:
            table.append((name, "", FOLDER_VARIABLE, "see its dataset.json"))
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in table)


def skipped_by_reason(skipped: Iterable[UnusedRow], most: int = LISTED_ROWS) -> tuple[dict[str, int], list[dict[str, str]]]:
    """(how many rows were skipped for each reason, the first `most` rows of each), as plain values."""
    counts: dict[str, int] = {}
    listed = []
    for row in skipped:
        counts[row.reason] = counts.get(row.reason, 0) + 1
        if counts[row.reason] <= most:
            listed.append({"row": row.row, "reason": row.reason})
    return counts, listed


def describe_corpus(corpus: Corpus, truth: TrueLabels) -> str:
    """Counts a split and a class, skipped rows by reason, and the first two documents."""
    lines = [
        f"{corpus.name}: {len(corpus.unlabeled):,} unlabeled and {len(corpus.test):,} test {'images' if corpus.kind == 'image' else 'documents'}",
        f"fingerprint {corpus.fingerprint[:16]}",
    ]
    unlabeled, test = Counter(truth.unlabeled.values()), Counter(truth.test.values())
    for index, label in enumerate(corpus.labels):
        counts = f": {unlabeled[index]:,} unlabeled, {test[index]:,} test" if unlabeled or test else ""
        lines.append(f"  class {' / '.join((*label.parents, label.name))} ({label.words}){counts}")
    reasons = Counter(item.reason for item in corpus.skipped)
    lines.append(f"skipped {len(corpus.skipped):,} rows" + "".join(f", {count:,} {reason}" for reason, count in reasons.most_common()))
    for id_, text in zip(corpus.unlabeled.ids[:2], corpus.unlabeled.contents[:2], strict=True):
        one_line = " ".join(text.split()) if corpus.kind == "text" else f"image, {text.shape[2]} x {text.shape[1]} pixels"
        lines.append(f"  {id_}  {one_line if len(one_line) <= _SHOWN_CHARACTERS else one_line[: _SHOWN_CHARACTERS - 3] + '...'}")
    return "\n".join(lines)
