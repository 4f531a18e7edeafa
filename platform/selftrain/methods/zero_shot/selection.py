"""Balanced sampling of pseudo-labels (GenCo, section 3.4): the same number S_t of the most confident documents of every class. GenCo and PESCO use it.

`SelectingMethod` is what the two have in common around their algorithms: `rounds` times `steps_per_round` steps, and S_t growing from round to round.

Documents are scored block by block, and of a block its `Ranking` alone is kept: S_t documents a class, with their Q. Rankings of parts merge into that of the
whole, so it does not matter who scores which block: this process, the workers that train together, or actors all over a cluster (passes/pseudo_labeling.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from selftrain.data.texts import TextChannel, continuations
from selftrain.methods.base import Method
from selftrain.models.encoder import Encoder, TextEncoder
from selftrain.models.names import NameScores

# Documents that are scored together. A corpus of fewer is one block, whose numbers do not depend on how blocks are cut.
BLOCK = 32_768


class Scorer(Protocol):
    """Embeddings to confidence (P, equation 3) and soft targets (Q, equation 4). It can be sent to other processes."""

    @property
    def prototypes(self) -> torch.Tensor:
        """Of the classes, `[L, D]`."""
        ...

    def reader(self, encoder: Encoder) -> Encoder:
        """What gives the embeddings that it scores, made of `encoder`."""
        ...

    def __call__(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, Q), `[N, L]` each, of embeddings `[N, D]`."""
        ...


@dataclass(frozen=True)
class Selection:
    """The pseudo-labeled documents of a round: document indices by class, with their soft targets."""

    groups: tuple[tuple[int, ...], ...]  # [class] -> document indices, most confident first
    targets: dict[int, torch.Tensor]  # document index -> Q, [L]
    label_of: dict[int, int]  # document index -> pseudo-label

    @classmethod
    def empty(cls, classes: int) -> Selection:
        """Nothing selected yet."""
        return cls(((),) * classes, {}, {})

    def __len__(self) -> int:
        return len(self.label_of)


@dataclass(frozen=True)
class Ranking:
    """The most confident documents of every predicted class, as many as S_t, among the documents seen so far: class by class, most confident first."""

    documents: torch.Tensor  # indices, [K]
    labels: torch.Tensor  # pseudo-labels, [K]
    confidence: torch.Tensor  # P of the pseudo-label, [K]
    targets: torch.Tensor  # Q, [K, L]
    seen: int  # documents
    mean_confidence: float  # of all documents seen

    @classmethod
    def of(cls, confidence: torch.Tensor, targets: torch.Tensor, size: int, documents: Sequence[int] | None = None) -> Ranking:
        """The ranking of some documents.

        Args:
            confidence: P, `[N, L]`; the pseudo-label is its argmax (equation 2), the ranking its value there. Ties go to the earlier document.
            targets: Q, `[N, L]`.
            size: S_t.
            documents: their indices in ascending order, `[N]`; default: counted from 0.
        """
        best, labels = confidence.max(dim=1)
        kept = _most_confident(best, labels, size)
        numbers = torch.arange(len(confidence)) if documents is None else torch.tensor(documents, dtype=torch.int64)
        mean = float(best.mean()) if len(confidence) else 0.0
        return cls(numbers.to(kept.device)[kept], labels[kept], best[kept], targets[kept], len(confidence), mean)

    @classmethod
    def merged(cls, parts: Iterable[Ranking], size: int) -> Ranking:
        """The ranking of all documents that `parts` saw, each by one of them. It holds no more than one part at a time beside the result.

        Args:
            parts: at least one; a class of a part has `size` documents, or all that the part saw of it.
            size: S_t.
        """
        rest = iter(parts)
        found = next(rest)
        for part in rest:
            found = found._with(part, size)
        return found

    def _with(self, other: Ranking, size: int) -> Ranking:
        documents = torch.cat([self.documents, other.documents])
        earlier = torch.argsort(documents)  # ties go to the earlier document, whoever saw it
        columns = ((self.labels, other.labels), (self.confidence, other.confidence), (self.targets, other.targets))
        labels, confidence, targets = (torch.cat(both)[earlier] for both in columns)
        kept = _most_confident(confidence, labels, size)
        seen = self.seen + other.seen
        mean = (self.mean_confidence * self.seen + other.mean_confidence * other.seen) / max(1, seen)
        return Ranking(documents[earlier][kept], labels[kept], confidence[kept], targets[kept], seen, mean)

    def to(self, device: torch.device | str) -> Ranking:
        """The same on another device."""
        tensors = {name: getattr(self, name).to(device) for name in ("documents", "labels", "confidence", "targets")}
        return replace(self, **tensors)

    def selection(self) -> Selection:
        """What a round trains on."""
        label_of = dict(zip(self.documents.tolist(), self.labels.tolist(), strict=True))
        groups: list[list[int]] = [[] for _ in range(self.targets.shape[1])]
        for index, label in label_of.items():
            groups[label].append(index)
        return Selection(tuple(map(tuple, groups)), dict(zip(label_of, self.targets, strict=True)), label_of)


def _most_confident(confidence: torch.Tensor, labels: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of the `size` most confident documents of every label (all of a label that has fewer), label by label; ties go to the earlier row."""
    order = torch.argsort(confidence, descending=True, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    _, counts = torch.unique_consecutive(labels[order], return_counts=True)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return order[torch.arange(len(order), device=order.device) - starts < size]


def most_confident_per_class(confidence: torch.Tensor, targets: torch.Tensor, size: int) -> Selection:
    """The S_t most confident documents of each predicted class (GenCo, section 3.4); all of a class that has fewer, none of one that is never predicted.

    Args:
        confidence: P, `[N, L]`.
        targets: Q, `[N, L]`.
        size: S_t.
    """
    return Ranking.of(confidence, targets, size).selection()


def growing_size(round_: int, rounds: int, first: float, last: float, documents: int, classes: int) -> int:
    """S_t of GenCo's section 3.4: documents a class in a round, at least one.

    Args:
        round_: t, counted from 0.
        rounds: T.
        first: S_1 as a share of `documents / classes`.
        last: S_T likewise; S_t is linear in between.
        documents: unlabeled ones.
        classes: L.
    """
    share = last if rounds == 1 else first + (last - first) * round_ / (rounds - 1)
    return max(1, round(share * documents / classes))


def batch_of(selection: Selection, per_class: int, rng: np.random.Generator) -> list[int]:
    """Document indices of one batch.

    Args:
        selection: of the round.
        per_class: documents of every class that has pseudo-labels; drawn without replacement where the class holds that many.
        rng: of the draw.
    """
    batch: list[int] = []
    for group in selection.groups:
        if group:
            chosen = rng.choice(len(group), size=per_class, replace=len(group) < per_class)
            batch.extend(group[int(index)] for index in chosen)
    return batch


def shares_grow(options: Any) -> Any:
    """A pydantic validator: S_t must not shrink."""
    if options.last_share < options.first_share:
        raise ValueError(f"last_share must be at least first_share, {options.first_share}, since S_t must not shrink (got {options.last_share})")
    return options


class RankingPass(Protocol):
    """Scores all unlabeled documents somewhere else."""

    def __call__(self, encoder: Encoder, scorer: Scorer, size: int, samples: int) -> Ranking:
        """The ranking of all of them.

        Args:
            encoder: f, with the present weights.
            scorer: of its embeddings.
            size: S_t.
            samples: continuations of a document, which are in the cache; 0: documents are read as they are.
        """
        ...


class SelectingMethod(Method):
    """A method that trains each round on a `selection`, for a fixed number of steps.

    Its options are `rounds`, `steps_per_round`, `first_share`, `last_share`, `tau`, `learning_rate` and `weight_decay`.
    """

    options: Any
    ranking_pass: RankingPass | None = None  # where documents are scored; None: in the processes that train

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.selection = Selection.empty(len(self.corpus.labels))
        self._all_continuations: dict[int, list[str]] | None = None  # of a corpus that is one block
        if self.rounds:
            self.adamw(self.rate(self.options.learning_rate, of_head=1e-3), self.options.weight_decay, self.planned_steps)

    @property
    def output_temperature(self) -> float:
        return float(self.options.tau)

    @property
    def rounds(self) -> int:
        return int(self.options.rounds)

    @property
    def planned_steps(self) -> int:
        return self.rounds * int(self.options.steps_per_round)

    def steps(self, round_: int) -> int:
        return int(self.options.steps_per_round) if len(self.selection) else 0

    def selection_size(self, round_: int) -> int:
        """S_t: documents a class in round t (0-based), at least one."""
        first, last = self.options.first_share, self.options.last_share
        return growing_size(round_, self.rounds, first, last, len(self.corpus.unlabeled), len(self.corpus.labels))

    def select(self, round_: int, scorer: Scorer, texts: TextChannel, *, samples: int = 0) -> Ranking:
        """Score all unlabeled documents with the present encoder, and set `selection` to the most confident of them.

        Args:
            round_: t, counted from 0.
            scorer: of embeddings.
            texts: answers requests for continuations.
            samples: continuations of a document, K of equation 9; 0: documents are read as they are.
        """
        size = self.selection_size(round_)
        if self.ranking_pass is None:
            ranking = Ranking.merged(self._ranked(scorer, size, texts, samples, untrained=round_ == 0), size)
        else:
            if samples:  # written here, where waiting for them is told from computing
                for block in blocks(range(len(self.corpus.unlabeled))):
                    self.continuations_of(block, texts, samples)
            ranking = self.ranking_pass(self.encoder, scorer, size, samples)
        ranking = ranking.to(self.encoder.device)
        self.selection = ranking.selection()
        return ranking

    def _ranked(self, scorer: Scorer, size: int, texts: TextChannel, samples: int, *, untrained: bool) -> Iterator[Ranking]:
        """The ranking of each block, or of each worker's part of it."""
        documents = self.corpus.unlabeled
        for block in blocks(range(len(documents))):
            written = self.continuations_of(block, texts, samples) if samples else None
            mine = self.workers.share(block)
            contents = [documents.contents[index] for index in mine]
            embeddings = embedded(scorer.reader(self.encoder), contents, None if written is None else [written[index] for index in mine])
            part = Ranking.of(*scorer(embeddings), size, mine)
            if untrained and self.name_scores is None and mine:
                self.name_scores = NameScores.of(embeddings, scorer.prototypes, mine)
            yield from self.workers.together([part.to("cpu")]) if self.workers.size > 1 else [part]

    def continuations_of(self, indices: Iterable[int], texts: TextChannel, samples: int) -> Mapping[int, list[str]]:
        """Up to `samples` continuations of these documents at least, by index (GenCo's section 3.2).

        Of a corpus that is one block, those of every document are asked for once, before the first pseudo-labels.
        """
        everyone = range(len(self.corpus.unlabeled))
        if len(blocks(everyone)) > 1:
            return self._asked(list(indices), texts, samples)
        if self._all_continuations is None:
            self._all_continuations = self._asked(everyone, texts, samples)
        return self._all_continuations

    def _asked(self, indices: Sequence[int], texts: TextChannel, samples: int) -> dict[int, list[str]]:
        ids = self.corpus.unlabeled.ids
        return dict(zip(indices, continuations(texts, [ids[index] for index in indices], samples), strict=True))

    def selection_figures(self, ranking: Ranking) -> dict[str, float]:
        """What `refresh` reports about the selection, made from `ranking`."""
        return {
            "selected": float(len(self.selection)),
            "classes_without_pseudo_labels": float(sum(not group for group in self.selection.groups)),
            "mean_confidence": ranking.mean_confidence,
        }


def blocks(documents: range) -> list[range]:
    """`documents` in pieces of `BLOCK`."""
    return [documents[start : start + BLOCK] for start in range(0, len(documents), BLOCK)]


def embedded(encoder: Encoder, contents: Sequence[Any], written: Sequence[Sequence[str]] | None) -> torch.Tensor:
    """Embeddings `[documents, dimensions]` without gradient.

    Args:
        encoder: f.
        contents: the documents.
        written: continuations of each; with them a document is read as in equation 9.
    """
    if not contents:  # the share of one of several workers
        return torch.empty(0, encoder.dimensions, device=encoder.device)
    if written is None:
        return encoder.encode(contents)
    assert isinstance(encoder, TextEncoder)
    return encoder.encode_augmented(contents, written)
