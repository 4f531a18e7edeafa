"""Class names in words: what was seen without a label, and what the answers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selftrain.evaluation.layout import aligned
from selftrain.evaluation.naming.answers import Verdict
from selftrain.evaluation.naming.figures import NamingFigures, examples, figures, margins, warnings
from selftrain.evaluation.naming.words import typical_words

MOST_SHOWN = 20  # names
_EXCERPT = 150  # characters of a document


@dataclass(frozen=True)
class NameShown:
    """One class name, as it is shown."""

    name: str
    share: float
    margin: float
    second: str
    second_share: float
    words: tuple[str, ...]
    examples: tuple[str, ...]  # typical documents, whole


@dataclass(frozen=True)
class NamesFound:
    """What was seen without a label."""

    documents: int
    separation: float
    names: tuple[NameShown, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, scores: np.ndarray, cosines: np.ndarray, names: Sequence[str], texts: Sequence[str], words: Sequence[frozenset[str]]) -> NamesFound:
        """What there is to see.

        Args:
            scores: cosines of documents and names, `[N, L]`.
            cosines: of names and names, `[L, L]`.
            names: the L names.
            texts: of the documents, `[N]`.
            words: of each document, in lower case, `[N]`.
        """
        found: NamingFigures = figures(scores, cosines, names)
        typical = typical_words(words, margins(scores)[0], len(names))
        shown = tuple(
            NameShown(one.name, one.share, one.margin, one.second, one.second_share, tuple(own), tuple(texts[index] for index in documents))
            for one, own, documents in zip(found.names, typical, examples(scores, words), strict=True)
        )
        return cls(found.documents, found.separation, shown, tuple(warnings(found, typical)))

    def to_json(self) -> dict[str, Any]:
        """As lists, dictionaries and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> NamesFound:
        """The opposite of `to_json`."""
        names = tuple(NameShown(**one | {key: tuple(one[key]) for key in ("words", "examples")}) for one in document["names"])
        return cls(document["documents"], document["separation"], names, tuple(document["warnings"]))


def describe(found: NamesFound) -> str:
    """A table of the names, their typical documents, and the warnings last, where they are read."""
    head = ("class", "nearest", "margin", "second", "typical words")
    doubtful = sorted(found.names, key=lambda one: one.margin)[:MOST_SHOWN]
    shown = [one for one in found.names if one in doubtful]
    rows = [(one.name, f"{one.share:.3f}", f"{one.margin:.2f}", f"{one.second} ({one.second_share:.2f})", ", ".join(one.words)) for one in shown]
    lines = aligned(head, rows, ruled=False)
    if len(shown) < len(found.names):
        lines += ["", f"{len(shown)} of {len(found.names)} names, those with the smallest margins"]
    lines += ["", f"separation {found.separation:.2f} (1: names that have nothing to do with each other, less: names that say the same)", ""]
    for one in (name for name in shown if name.examples):
        lines += [f"nearest to {one.name!r}:", *(f"  - {excerpt(text)}" for text in one.examples)]
    return "\n".join([*lines, "", *(f"warning: {sentence}" for sentence in found.warnings)]).rstrip()


def excerpt(text: str, length: int = _EXCERPT) -> str:
    """At most `length` characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 2].rstrip()} …"


def describe_answers(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[str]:
    """A sentence for each name that the answers call wrong; one that says so where there is none."""
    said, told = [], set[int]()
    for index, verdict in enumerate(verdicts):
        if not verdict.wrong or index in told:
            continue
        seen = f"{verdict.agreed} of {verdict.asked} typical documents are of it, which leaves {verdict.right:.3f} for the name being right"
        if verdict.swapped and verdict.stands_for is not None:
            told.add(verdict.stands_for)
            said.append(
                f"{names[index]!r} and {names[verdict.stands_for]!r} are swapped: each is nearest to documents of the other ({seen}). Rename both."
            )
        elif verdict.stands_for is not None:
            said.append(
                f"{names[index]!r} is nearest to documents of {names[verdict.stands_for]!r} ({seen}). Say in its name what its documents are about."
            )
        else:
            said.append(f"{names[index]!r} is nearest to documents of no class in particular ({seen}). Say in its name what its documents are about.")
    unasked = [name for name, verdict in zip(names, verdicts, strict=True) if not verdict.asked]
    if unasked:
        said.append(f"Nothing was answered about {', '.join(map(repr, unasked))}.")
    if not any(verdict.wrong for verdict in verdicts):
        asked, agreed = (sum(getattr(verdict, key) for verdict in verdicts) for key in ("asked", "agreed"))
        said.append(f"No name is called wrong: {agreed} of {asked} typical documents are of the class that they are nearest to.")
    return said
