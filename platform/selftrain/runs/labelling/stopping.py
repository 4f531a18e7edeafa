"""When further answers will not help: when what a classifier says of the documents has settled. Arrays in, numbers out; no label but the answers is needed.

The accuracies of two classifiers differ by no more than the share of documents that they classify differently, which can be seen without a label: stabilizing
predictions (Bloodgood and Vijay-Shanker 2009, A method for stopping active learning based on stabilizing predictions; Bloodgood and Grothendieck 2013,
arXiv:1504.06329, bound the difference by the agreement). Like them we ask for Cohen's kappa, which is low for two classifiers that say the same of nearly
everything. They compare successive models. Here the model of all n answers is compared with that of the first n^2 / N, N being the answers that there will be
once every question is answered: n is to n^2 / N what N is to n, and as errors fall like a power of the number of answers, what the last stretch has changed
is more than what the next one will change. So one kappa stands for the answers that are left, however many. It is high by chance now and then, and has to be
high after each of the last ten answers.

The model is least squares with a penalty on the encoder's embeddings, in closed form: some milliseconds an answer. Which kappa is high enough was measured
(`benchmarks/stopping.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from selftrain.runs.labelling.folder import Folder

LOOKED = "documents.npz"
SETTLED = 0.97  # kappa
LOOKS = 10  # answers in a row after which kappa has to be so high
FEWEST = 20  # answers before which nothing is said
PENALTY = 1.0


@dataclass(frozen=True)
class Looked:
    """documents.npz: what was looked at when questions were chosen.

    Attributes:
        pool: embeddings of the documents that could be asked about, `[N, D]`, of any length but zero.
        asked: rows of `pool` that are asked about, `[questions]`, in their order.
        labeled: embeddings of documents that had a label before, `[M, D]`.
        labels: their classes, `[M]`.
    """

    pool: np.ndarray
    asked: np.ndarray
    labeled: np.ndarray
    labels: np.ndarray

    def write(self, file: Path) -> None:
        """Write it; embeddings take two bytes a number."""
        np.savez(file, pool=self.pool.astype(np.float16), asked=self.asked, labeled=self.labeled.astype(np.float16), labels=self.labels)

    @classmethod
    def read(cls, file: Path) -> Looked:
        """What `write` wrote, with embeddings of length one."""
        with np.load(file, allow_pickle=False) as kept:
            return cls(units(kept["pool"]), kept["asked"], units(kept["labeled"]), kept["labels"])


class Agreed(NamedTuple):
    """How far two classifiers agree."""

    share: float  # of the documents
    kappa: float  # Cohen's: what of the agreement is not due to chance; 0 where both say one class of everything

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray) -> Agreed:
        """The agreement of two classifiers' classes, both `[N]`."""
        classes = int(max(one.max(), other.max())) + 1
        share = float(np.mean(one == other))
        chance = float(np.bincount(one, minlength=classes) @ np.bincount(other, minlength=classes)) / len(one) ** 2
        return cls(share, (share - chance) / (1 - chance) if chance < 1 else 0.0)


@dataclass(frozen=True)
class Settled:
    """Whether further answers will help.

    Attributes:
        changed: share of the documents that the model says something else of than with the first `before` answers.
        answers: that are learned from, earlier ones included.
        before: of them, the first so many.
        left: questions without an answer.
        stop: whether further answers will not help.
    """

    changed: float
    answers: int
    before: int
    left: int
    stop: bool

    @property
    def says(self) -> str:
        """The same in a sentence."""
        first = f"the first {self.before} of {self.answers} answers"
        if self.stop:
            return (
                f"Further answers will hardly help: with {first} a classifier says the same of {1 - self.changed:.1%} of the documents; you may stop."
            )
        return f"Further answers still help: with {first} a classifier says something else of {self.changed:.1%} of the documents."


class Stopping:
    """Looks at the answers of a folder of training.

    Args:
        folder: the questions; of an audit, or of a folder without embeddings, nothing is said.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        file = folder.path / LOOKED
        self._looked = Looked.read(file) if folder.purpose == "training" and file.is_file() else None
        self._known: dict[bytes, Agreed] = {}  # of the latest look: with one more answer, all but one of its agreements are asked for again

    def look(self, answers: Mapping[str, str]) -> Settled | None:
        """What the answers say; None while there are too few or none of some class, and where no question is left.

        Args:
            answers: key of a question -> answer.
        """
        looked, classes = self._looked, self._folder.classes
        if looked is None:
            return None
        index = {name: place for place, name in enumerate(classes)}
        asked = self._folder.questions
        given = [(looked.asked[place], index[answers[one.key]]) for place, one in enumerate(asked) if answers.get(one.key) in index]
        rows = np.concatenate([looked.labeled, looked.pool[[row for row, _ in given]]])
        labels = np.concatenate([looked.labels, np.array([label for _, label in given], dtype=np.int64)])
        left = sum(one.key not in answers for one in asked)
        if not left or len(given) < FEWEST or len(np.unique(labels)) < len(classes):
            return None

        places = np.array([row for row, _ in given])
        known: dict[bytes, Agreed] = {}

        def agreed(back: int) -> Agreed:
            """As it was `back` answers ago."""
            count = len(labels) - back
            if len(given) - back < FEWEST or len(np.unique(labels[:count])) < len(classes):
                return Agreed(0.0, 0.0)
            before = earlier(count, left + back)
            key = places[: len(given) - back].tobytes() + labels[:count].tobytes() + before.to_bytes(8)
            known[key] = self._known.get(key) or Agreed.of(*(predicted(looked.pool, rows[:first], labels[:first]) for first in (count, before)))
            return known[key]

        now = agreed(0)
        stop = now.kappa >= SETTLED and all(agreed(back).kappa >= SETTLED for back in range(1, LOOKS))
        self._known = known
        return Settled(1 - now.share, len(labels), earlier(len(labels), left), left, stop)


def earlier(answers: int, left: int) -> int:
    """n^2 / N: the number of answers that n is to what n plus `left` is to n."""
    return max(1, answers**2 // (answers + left))


def predicted(pool: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes of `pool`, `[N]`, by least squares on the classes' indicators, with an offset.

    Args:
        pool: embeddings of documents, `[N, D]`, of length one.
        rows: embeddings that are learned from, `[n, D]`, of length one.
        labels: their classes, `[n]`.
    """
    known = np.unique(labels)
    targets = (labels[:, None] == known).astype(np.float32)
    # With an offset, penalised as the rest: one more dimension, in which all documents are 1.
    pulls = np.linalg.solve(rows @ rows.T + 1 + PENALTY * np.eye(len(rows), dtype=np.float32), targets)
    found: np.ndarray = known[(pool @ (rows.T @ pulls) + pulls.sum(axis=0)).argmax(axis=1)]
    return found


def units(rows: np.ndarray) -> np.ndarray:
    """Rows of length one, in float32."""
    rows = rows.astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
