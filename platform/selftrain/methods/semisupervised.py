"""What methods with labeled and unlabeled documents share: batches of both, views, a linear classifier on the encoder, the ramp-up of the weight.

    loss = labeled_losses (cross-entropy) + ramp(t) * (unlabeled_losses + added_losses)

A method says in `unlabeled_losses` what it adds to the cross-entropy on the labeled documents; little else is in its file. `added_losses` are for a loss that
goes with any method: few_labels/ns3l.py adds NS3L's there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel, TextRequest
from selftrain.data.views import continued, edited
from selftrain.errors import ConfigError, DataError
from selftrain.methods.base import ClassifierMethod, Options
from selftrain.methods.optimizers import SGD_RATE, MovingAverage, OptimizerOptions, start
from selftrain.models.encoder import Encoder

FROZEN_VIEWS = 4  # of a text, where each is embedded once and kept


class SemiSupervisedOptions(OptimizerOptions):
    """Options of every method with labeled and unlabeled documents."""

    rounds: int = Field(10, ge=1, description="reports; a method with pseudo-labels makes them anew in every step")
    steps_per_round: int = Field(30, ge=1, description="optimiser steps between two reports")
    batch_size: int = Field(32, ge=1, description="labeled documents in a batch")
    unlabeled_ratio: int = Field(3, ge=1, description="unlabeled documents a labeled one in a batch (SSC and FixMatch: 7)")
    ramp: float = Field(0.25, ge=0, le=1, description="share of the steps in which the weight of the unlabeled losses rises: exp(-5 (1 - t)^2)")
    views: Literal["edits", "continuations"] = Field(
        "edits", description="strong views: words dropped and swapped, or the document with a continuation by the language model (texts)"
    )
    view_pool: int | None = Field(
        None,
        ge=1,
        description="strong views of a text, of which every step draws those that it compares; default: 4 for a head, which keeps their embeddings, "
        "without bound for a full encoder; with continuations as many as are compared, always the same, since each is written",
    )

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return self.views == "continuations"

    @property
    def settled_rounds(self) -> int:
        """Rounds that the ramp takes, begun ones included."""
        return max(1, math.ceil(self.ramp * self.rounds))


@dataclass(frozen=True)
class Batch:
    """One step's documents."""

    labeled: list[int]  # document indices
    unlabeled: list[int]
    labeled_views: Sequence[Any]  # weak views of the labeled ones
    texts: Sequence[Any]  # of the unlabeled ones, the weak view
    strong: tuple[Sequence[Any], ...]  # [view][document]
    weak_logits: torch.Tensor  # [unlabeled, classes], with gradient
    progress: float  # share of all steps that are done, 0 to 1
    rng: np.random.Generator
    embedded: tuple[torch.Tensor, ...] = ()  # of labeled_views and of each strong view, where one pass took them all


class SemiSupervised(ClassifierMethod):
    """Base of all methods with labeled and unlabeled documents; see the module's docstring."""

    supervision = "labels"
    language_model = "nothing (continuations with views: continuations)"
    kinds = ("text", "image")
    strong_views: ClassVar[int] = 0  # how many of a document the method compares
    image_views: ClassVar[Literal["weak", "strong"]] = "strong"  # what the compared views of an image are
    one_pass: ClassVar[bool] = False  # whether strong views share the pass of the weak ones, where embeddings depend on their pass
    learns_from_unlabeled: ClassVar[bool] = False  # whether the method's own losses read the documents without a label
    Options: ClassVar[type[Options]] = SemiSupervisedOptions
    options: SemiSupervisedOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        documents, granted = self.corpus.unlabeled, self.granted()
        self.labeled = [index for index, id_ in enumerate(documents.ids) if id_ in granted]
        # Where every document is labeled, the unlabeled losses see the same documents without their labels.
        self.unlabeled = [index for index, id_ in enumerate(documents.ids) if id_ not in granted] or list(self.labeled)
        self.targets = {index: granted[documents.ids[index]] for index in self.labeled}
        self._continuations: dict[int, list[str]] = {}
        self._embedded = False
        self.classifier = self.make_classifier().to(self.encoder.device)
        self.start_optimizer(self.rounds * self.options.steps_per_round)

    @classmethod
    def check(cls, options: Any, corpus: Corpus) -> None:
        cls.check_supervision(options, corpus)
        if corpus.kind == "image" and options.views != "edits":
            raise ConfigError(
                "method.views must be 'edits' for images: a language model continues texts (got 'continuations').", parameter="method.views"
            )
        if corpus.kind == "image" and options.view_pool is not None:
            raise ConfigError(
                f"method.view_pool is for texts: images get new views in every step; leave it out (got {options.view_pool}).",
                parameter="method.view_pool",
            )

    @classmethod
    def check_supervision(cls, options: Any, corpus: Corpus) -> None:
        """Check that the documents have what the method learns from.

        Raises:
            ConfigError: an option does not fit what they have.
            DataError: they lack it.
        """
        if corpus.candidates:
            raise DataError(
                f"The method {cls.name} needs one label a document, and data.supervision is 'candidates'; set it to few or all, or choose a method for "
                "candidate sets."
            )
        if not corpus.granted:
            raise DataError(f"The method {cls.name} needs labels; set data.supervision: few (data.labels_per_class each), all or weak.")

    def granted(self) -> Mapping[str, Any]:
        """The label of each labeled document, by its id."""
        return self.corpus.granted

    def start_optimizer(self, steps: int) -> None:
        """Start a new optimiser for the coming `steps`, and the average of the weights, if there is one, at the present ones."""
        options = self.options
        rate = options.learning_rate or (SGD_RATE if options.optimizer == "sgd" else self.rate(None, of_head=1e-2))
        decayed = options.decayed or ("weights" if self.corpus.kind == "image" else "all")
        fused = self.encoder.light and not self.encoder.frozen
        self.optimizer, self.scheduler = start(options, self.parameters(), rate, steps, decayed=decayed, fused=fused)
        self.average = MovingAverage(self.encoder, self.classifier, options.average) if options.average else None

    @property
    def served(self) -> tuple[Encoder, torch.nn.Module]:
        return super().served if self.average is None else (self.average.encoder, self.average.classifier)

    def make_classifier(self) -> torch.nn.Module:
        """What turns embeddings `[N, D]` into logits `[N, L]`."""
        return torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels))

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The method's own losses by name, weighted but not ramped."""
        return {}

    def added_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Losses that go with any method, by name, weighted but not ramped."""
        return {}

    @property
    def rounds(self) -> int:
        return self.options.rounds

    def texts_wanted(self) -> int:
        return len(self.viewed) * (self.view_pool or 0) if self.wants_texts else 0

    def steps(self, round_: int) -> int:
        return self.options.steps_per_round

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        if self.wants_texts and not self._continuations:
            ids = self.corpus.unlabeled.ids
            wanted = {index: [TextRequest(ids[index], "input", sample=view) for view in range(self.view_pool or 0)] for index in self.viewed}
            answers = texts([request for requests in wanted.values() for request in requests])
            for index, requests in wanted.items():
                self._continuations[index] = [answers.get(request, "") for request in requests]
        if self.encoder.frozen and not self._embedded:  # all views at once: in large batches, and in the same ones where a training is resumed
            self._embedded = True
            views = [self.strong_view(index, view) for index in self.viewed for view in range(self.view_pool or 0)] if self.compared_views else []
            self.encoder.encode([*self.corpus.unlabeled.contents, *views])
        return {"labeled": float(len(self.labeled)), "unlabeled": float(len(self.unlabeled))}

    def step(self, round_: int, step: int) -> dict[str, float]:
        options = self.options
        rng = np.random.default_rng([self.seed, round_, step])
        labeled = self.draw_labeled(options.batch_size, rng)
        drawn = _draw(len(self.unlabeled), options.batch_size * options.unlabeled_ratio, rng)  # by every method, so that all draw alike
        unlabeled = [self.unlabeled[i] for i in drawn] if self.uses_unlabeled else []
        weak = self.weak_views([*labeled, *unlabeled], rng)
        strong = self.strong_views_of(unlabeled, self.compared_views, rng) if unlabeled else ()
        shared = strong if self.one_pass and self.encoder.couples else ()
        rows = self.embed([*weak, *(document for view in shared for document in view)])
        logits = self.scores(rows[: len(weak)])
        progress = (round_ * options.steps_per_round + step) / (self.rounds * options.steps_per_round)
        embedded = (rows[: len(labeled)], *rows[len(weak) :].split(len(unlabeled))) if shared else ()
        batch = Batch(labeled, unlabeled, weak[: len(labeled)], weak[len(labeled) :], strong, logits[len(labeled) :], progress, rng, embedded)
        # Running statistics follow the first pass of a step alone, as in Oliver et al.'s experiments, which NS3L's are.
        with self.encoder.fixed_statistics():
            losses = self.labeled_losses(batch, logits[: len(labeled)])
            added = self.unlabeled_losses(batch)
        weight = self.ramped(progress)
        added |= self.added_losses(batch)
        loss = sum(losses.values(), torch.zeros((), device=logits.device)) + weight * sum(added.values(), torch.zeros((), device=logits.device))
        self.backward(loss)
        self.update()
        if self.average is not None:
            self.average.follow(self.encoder, self.classifier)
        self.after_step()
        return {name: float(value.detach()) for name, value in (losses | added).items()} | {"loss": float(loss.detach())}

    def draw_labeled(self, size: int, rng: np.random.Generator) -> list[int]:
        """The labeled documents of a step."""
        return [self.labeled[place] for place in _draw(len(self.labeled), size, rng)]

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses on the labeled documents: cross-entropy."""
        return {"ce": F.cross_entropy(logits, self.targets_of(batch))}

    def after_step(self) -> None:
        """Called once the weights have changed."""

    def targets_of(self, batch: Batch) -> torch.Tensor:
        """Granted labels of the labeled documents, `[N]`."""
        return torch.tensor([self.targets[index] for index in batch.labeled], device=self.encoder.device)

    def ramped(self, progress: float) -> float:
        """exp(-5 (1 - t)^2), t the share of the ramp-up that is done (Tarvainen & Valpola 2017, arXiv:1703.01780, as in NS3L's experiments)."""
        return math.exp(-5.0 * (1.0 - self.ramped_linearly(progress)) ** 2)

    def ramped_linearly(self, progress: float) -> float:
        """The share of the ramp-up that is done."""
        return min(1.0, progress / self.options.ramp) if self.options.ramp else 1.0

    def logits(self, documents: Sequence[Any]) -> torch.Tensor:
        """`[documents, classes]`, with gradient."""
        return self.scores(self.embed(documents))

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits `[N, classes]` of embeddings `[N, D]`."""
        found: torch.Tensor = self.classifier(rows)
        return found

    def labeled_rows(self, batch: Batch) -> torch.Tensor:
        """Embeddings of the labeled documents, `[N, D]`."""
        return batch.embedded[0] if batch.embedded else self.embed(batch.labeled_views)

    def strong_rows(self, batch: Batch, view: int) -> torch.Tensor:
        """Embeddings of a strong view of the unlabeled documents, `[N, D]`."""
        return batch.embedded[1 + view] if batch.embedded else self.embed(batch.strong[view])

    @property
    def uses_unlabeled(self) -> bool:
        """Whether a step embeds documents without a label: where none of its losses reads them, batch normalisation must not see them either."""
        return self.learns_from_unlabeled

    @property
    def view_pool(self) -> int | None:
        """Strong views of a text that there are to draw from; None: without bound."""
        given = self.options.view_pool or (0 if self.wants_texts else FROZEN_VIEWS if self.encoder.frozen else None)
        return None if given is None else max(given, self.compared_views)

    @property
    def viewed(self) -> list[int]:
        """Documents of which a step takes strong views; continuations are asked for these alone."""
        return self.unlabeled

    @property
    def compared_views(self) -> int:
        """Strong views of a document that a step needs with these options."""
        return self.strong_views

    def weak_views(self, indices: Sequence[int], rng: np.random.Generator) -> list[Any]:
        """The weak views of documents: a text is its own, an image is flipped and shifted anew."""
        documents = [self.corpus.unlabeled.contents[index] for index in indices]
        if self.corpus.kind == "text":
            return documents
        from selftrain.data.image_views import weak_views

        return weak_views(documents, rng, mirrored=self.corpus.mirrored, device=self.encoder.device)

    def strong_views_of(self, indices: Sequence[int], count: int, rng: np.random.Generator) -> tuple[list[Any], ...]:
        """New strong views of documents, which are weak ones of images where the method's paper compares these.

        Args:
            indices: of the documents.
            count: views of each.
            rng: of the views.

        Returns:
            `count` lists, each with a view of every document.
        """
        if self.corpus.kind == "text":
            numbers = [self._view_numbers(count, rng) for _ in indices]
            return tuple([self.strong_view(index, own[view]) for index, own in zip(indices, numbers, strict=True)] for view in range(count))
        if self.image_views == "weak":
            return tuple(self.weak_views(indices, rng) for _ in range(count))
        from selftrain.data.image_views import strong_views

        documents = [self.corpus.unlabeled.contents[index] for index in indices]
        return tuple(strong_views(documents, rng, mirrored=self.corpus.mirrored, device=self.encoder.device) for _ in range(count))

    def _view_numbers(self, count: int, rng: np.random.Generator) -> list[int]:
        """`count` different views of those that there are; all of them, in order, where there are no more."""
        if self.view_pool is None:
            return [int(number) for number in rng.integers(2**31, size=count)]
        return list(range(count)) if self.view_pool <= count else [int(number) for number in rng.choice(self.view_pool, size=count, replace=False)]

    def strong_view(self, index: int, view: int) -> str:
        """Strong view number `view` of a text, the same whenever it is asked for."""
        text = self.corpus.unlabeled.contents[index]
        if self.wants_texts:
            found = self._continuations.get(index, [])
            continuation = found[view] if view < len(found) else ""
            return continued(text, continuation) if continuation else edited(text, view)
        return edited(text, view)

    def state(self) -> dict[str, Any]:
        return super().state() | ({"average": self.average.state_dict()} if self.average is not None else {})

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _draw(count: int, size: int, rng: np.random.Generator) -> list[int]:
    """`size` of `count` places, without replacement where there are enough."""
    return [int(place) for place in rng.choice(count, size=size, replace=count < size)]
