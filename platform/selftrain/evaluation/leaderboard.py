"""All methods on all data sets: one line for every measured variant of a finished run, with its supervision.

Rows compete only with rows of the same data, test documents and supervision. Otherwise zero labels would compete with forty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selftrain.evaluation.layout import aligned, page
from selftrain.evaluation.significance import MeanStd
from selftrain.evaluation.summary import plus_minus

TITLES = (
    "data",
    "supervision",
    "method",
    "encoder",
    "language model",
    "seeds",
    "documents",
    "accuracy",
    "macro-F1",
    "ECE",
    "training (s)",
    "inference (ms)",
    "texts",
    "run",
)


# On the page the group's heading has the rest.
PAGE_TITLES = ("method", "accuracy", "macro-F1", "ECE", "seeds", "training (s)", "inference (ms)", "encoder", "language model", "texts", "run")


@dataclass(frozen=True)
class LeaderboardEntry:
    """One line of the leaderboard."""

    data: str
    fingerprint: str  # of the documents and their splits
    supervision: str
    method: str
    encoder: str
    language_model: str | None
    seeds: int
    documents: int
    accuracy: MeanStd | None
    macro_f1: MeanStd | None
    ece: MeanStd | None
    train_seconds: MeanStd
    inference_ms: MeanStd | None  # for one document, in batches, without a language model
    texts: int  # of the language model, requested by the whole run
    run: str
    started: str
    best: bool = False  # of the rows of its group

    @property
    def group(self) -> tuple[str, str, str]:
        """Rows of the same group can be compared."""
        return self.data, self.fingerprint, self.supervision

    def cells(self) -> list[str]:
        """The cells as text, in the order of `TITLES`."""
        scores = [plus_minus(value) for value in (self.accuracy, self.macro_f1, self.ece)]
        numbers = [
            str(self.seeds),
            f"{self.documents:,}",
            *scores,
            plus_minus(self.train_seconds, 1),
            plus_minus(self.inference_ms, 2),
            f"{self.texts:,}",
        ]
        return [self.data, self.supervision, self.method, self.encoder, self.language_model or "none", *numbers, self.run]

    def keys(self) -> list[str | float]:
        """The keys that the page sorts by, in the order of `TITLES`."""
        scores = [value["mean"] if value is not None else -1.0 for value in (self.accuracy, self.macro_f1, self.ece)]
        inference = self.inference_ms["mean"] if self.inference_ms is not None else -1.0
        numbers = [float(self.seeds), float(self.documents), *scores, self.train_seconds["mean"], inference, float(self.texts)]
        return [self.data, self.supervision, self.method, self.encoder, self.language_model or "none", *numbers, self.run]


def entries_of(runs: Sequence[Mapping[str, Any]]) -> list[LeaderboardEntry]:
    """The lines of finished runs, from their metrics.json.

    Of several runs with the same data, supervision, method and models, the latest counts. Sorted by data and supervision, the best accuracy first.
    """
    found: dict[tuple[Any, ...], LeaderboardEntry] = {}
    for metrics in sorted(runs, key=lambda one: str(one["run"]["started"])):
        asked = metrics["asked"]
        for row in metrics["summary"]:
            method = row["variant"] + (" (augmented at inference)" if row["inference_augmentation"] else "")
            entry = LeaderboardEntry(
                data=metrics["data"]["name"],
                fingerprint=metrics["data"]["fingerprint"],
                supervision=row["supervision"],
                method=method,
                encoder=asked["encoder"],
                language_model=asked["llm"],
                seeds=row["seeds"],
                documents=row["documents"],
                accuracy=row["accuracy"],
                macro_f1=row["macro_f1"],
                ece=row["ece"],
                train_seconds=row["train_seconds"],
                inference_ms=row.get("inference_ms"),
                texts=metrics["texts"]["requested"],
                run=metrics["run"]["id"],
                started=metrics["run"]["started"],
            )
            found[(*entry.group, method, entry.encoder, entry.language_model)] = entry
    ordered = sorted(found.values(), key=lambda entry: (*entry.group, -(entry.accuracy["mean"] if entry.accuracy else -1.0)))
    leading: set[tuple[str, str, str]] = set()
    marked = []
    for entry in ordered:
        best = entry.accuracy is not None and entry.group not in leading
        leading.add(entry.group)
        marked.append(LeaderboardEntry(**{**entry.__dict__, "best": best}))
    return marked


def text_table(entries: Sequence[LeaderboardEntry]) -> str:
    """The table for a terminal; `*` marks the best accuracy of every group."""
    if not entries:
        return "No finished run has scores yet; `selftrain run` makes one."
    body = [
        [cell + (" *" if entry.best and title == "accuracy" else "") for title, cell in zip(TITLES, entry.cells(), strict=True)] for entry in entries
    ]
    return "\n".join(
        [*aligned(TITLES, body), "* best of the rows with the same documents and the same supervision; it cannot be compared with other rows"]
    )


def to_html(entries: Sequence[LeaderboardEntry]) -> str:
    """The page, which holds everything it shows: a table a group, and a click on a column's title sorts by it."""
    places = [TITLES.index(title) for title in PAGE_TITLES]
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for entry in entries:
        cells, keys = entry.cells(), entry.keys()
        groups.setdefault(entry.group, []).append((entry, [(cells[place], keys[place], isinstance(keys[place], float)) for place in places]))
    return page("leaderboard.html", {}, entries=entries, titles=PAGE_TITLES, groups=groups)
