"""Documents, classes and splits, with the labels that must not be learned from kept apart.

`Corpus` is all that a method sees. `TrueLabels` holds the true labels for evaluation; it is a second object so that a method cannot reach it by mistake, and
the leak test (tests/test_leak.py) shuffles it and asserts that no trained weight changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

DocumentKind = Literal["text", "image"]  # of document


def document_id(text: str) -> str:
    """A stable id: the first 16 hexadecimal digits of the SHA-256 of the text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def words_of(name: str) -> str:
    """The words that stand for a class in prompts: `_` as a blank, and CamelCase as words in lower case."""
    spaced = " ".join(name.replace("_", " ").split())
    parts = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", spaced)
    # Only joined words lose their capitals: "NaturalPlace" is no spelling of English, "New York" and "IT" are.
    return parts.lower() if " " not in spaced and " " in parts else spaced


@dataclass(frozen=True)
class Label:
    """A class: its name, and the few words that stand for it in prompts."""

    name: str
    words: str  # put into label prompts ("It is about {words}.")
    description: str  # put into the language model's prompts
    parents: tuple[str, ...] = ()  # names of the groups that it is in, the outermost first

    @property
    def words_in_group(self) -> str:
        """What stands for the class in label prompts: its words, and in brackets its groups, the innermost first; benchmarks/tree.py compares other forms."""
        groups = ", ".join(words_of(group) for group in reversed(self.parents))
        return f"{self.words} ({groups})" if groups else self.words


@dataclass(frozen=True)
class Documents:
    """A split without labels: ids and documents in one order.

    `contents` are the documents, whatever their kind: strings, or for images one uint8 array `[documents, 3, height, width]`. Ids and strings are tuples, or
    the columns that `load_corpus` makes (columns.py).
    """

    ids: Sequence[str] = ()
    contents: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class UnusedRow:
    """A row of the source that was not used, and why."""

    row: str  # where it stands in the source: a row number or a file name
    reason: str  # empty | not text | binary | over-long | duplicate | in test already | unknown label | wrong encoding | too many cells |
    # another size | not an image


@dataclass(frozen=True)
class Corpus:
    """What a method may see: unlabeled documents, test documents without labels, classes, and labels where the experiment grants them."""

    name: str
    labels: tuple[Label, ...]
    prompts: tuple[str, ...]  # templates with {label}
    unlabeled: Documents
    test: Documents
    granted: Mapping[str, int] = field(default_factory=dict)  # document id -> class index; empty unless data.supervision says otherwise
    candidates: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # document id -> classes, ascending; for data.supervision: candidates alone
    oracle: Mapping[str, int] = field(default_factory=dict)  # true labels of all unlabeled documents; empty but for data.supervision: oracle (bounds)
    skipped: Sequence[UnusedRow] = ()
    validation: Documents = Documents()  # for the choice of a checkpoint (data.validation_documents)
    fingerprint: str = ""  # hash over ids, splits and class names
    kind: DocumentKind = "text"
    mirrored: bool = True  # whether an image that is flipped left to right keeps its class (digits do not)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(label.name for label in self.labels)

    @property
    def class_parents(self) -> tuple[tuple[str, ...], ...]:
        """Of each class the groups that it is in, the outermost first; empty where no class is in any."""
        parents = tuple(label.parents for label in self.labels)
        return parents if any(parents) else ()

    def label_prompts(self) -> list[list[str]]:
        """The prompts of every class, `[class][prompt]` (GenCo table 4)."""
        return [[prompt.format(label=label.words_in_group) for prompt in self.prompts] for label in self.labels]


@dataclass(frozen=True)
class TrueLabels:
    """True labels, for evaluation alone: document id -> class index, or of several labels index into `sets`. Empty where the source has none."""

    unlabeled: Mapping[str, int]
    test: Mapping[str, int]
    validation: Mapping[str, int] = field(default_factory=dict)
    weak: Mapping[str, int] = field(default_factory=dict)  # of unlabeled documents, by data.weak_label_column: may be wrong
    sets: tuple[tuple[int, ...], ...] = ()  # with data.multi_label: the classes of each set of labels that occurs, ascending

    def memberships(self, ids: Sequence[str], classes: int) -> np.ndarray:
        """Which classes documents have, with data.multi_label: boolean, `[documents, classes]`.

        Args:
            ids: of documents that have labels.
            classes: how many there are.
        """
        found = np.zeros((len(ids), classes), dtype=bool)
        for row, id_ in enumerate(ids):
            found[row, list(self.sets[self.test[id_] if id_ in self.test else self.unlabeled[id_]])] = True
        return found
