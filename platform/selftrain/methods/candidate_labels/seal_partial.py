"""SEAL for candidate sets: the task loss is that a document's views agree.

Paper: Aligned Objective for Soft-Pseudo-Label Generation in Supervised Learning (Xu et al. 2024, ICML), section 3.4 and table 3.
Task loss: equation 15 (`consistency`) with u of equation 16 (`agreed_labels`). The paper changes the task loss and says no more. Here the label vector that h and
equation 1 get is the indicator of the set; cross-entropy on a set is the likelihood of the set (the usual one where the set has one class); and a soft
pseudo-label is g's prediction, normalised over the set. h is warmed up by the likelihood of other documents' sets.
`form: released` is what the authors' code does for sets, which is another method: f learns by PLCR's loss on all views; each document has weights of its candidates,
which f's and g's agreements move; g starts anew from f in every round; h gets (logit, weight, in the set) of a class, and its loss takes over from PLCR's in g's.
Needs: candidate sets; two strong views; images, or a head on frozen embeddings (`model.train: head`).
Differs, in the released form: g's labels for the virtual f are normalised over the set (their code divides by the sum of the logits, which can be negative); f's
real step is AdamW unless the experiment sets another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator

from selftrain.data.texts import TextChannel
from selftrain.methods.bilevel import parameters_of
from selftrain.methods.candidate_labels.partial import PartialLabels
from selftrain.methods.candidate_labels.plcr import negative_candidates
from selftrain.methods.losses import agreed_labels, candidate_likelihood, consistency, text_to_label
from selftrain.methods.semisupervised import Batch
from selftrain.methods.soft_labels.seal import SEAL, LearnedObjective, SEALOptions
from selftrain.methods.virtual import Virtual, virtual


class SEALPartialOptions(SEALOptions):
    """Options of SEAL for candidate sets: those of SEAL, and what its authors' code for sets has (docs/methods/seal_partial.md)."""

    name: Literal["seal_partial"] = "seal_partial"  # type: ignore[assignment]
    unlabeled_ratio: int = Field(
        1, ge=1, description="documents without their sets to one with its set in a batch (for NS3L's loss, where it is added)"
    )
    form: Literal["paper", "released"] = Field(
        "paper",
        description="paper: SEAL with equation 15 as task loss; released: the authors' code for sets, f with PLCR's loss, g from f in every round, no warm-up of h",
    )
    agreement: Literal["candidates", "all"] = Field(
        "candidates", description="u of equation 16 over the candidates alone, as in PLCR and the released code, or over all classes as printed"
    )
    start: float = Field(
        0.05, ge=0, le=1, description="form: released; share of the steps before g and h are trained (released: 1 to 10 of 200 epochs)"
    )
    objective_ramp: float = Field(
        1.0, ge=0, le=1, description="form: released; share of the steps in which h takes over from PLCR's loss (released: 160 to 200 of 200 epochs)"
    )
    keep: float = Field(0.1, ge=0, description="form: released; weight of PLCR's loss that stays in g's (released: 0.01 to 0.5)")
    negatives_weight: float = Field(
        0.01, ge=0, description="form: released; weight of the loss on classes outside the set, for g and h (released: 0.01 or 0.5)"
    )
    generator_share: float = Field(
        0.3, ge=0, le=1, description="form: released; g's part of a document's weights, the rest is f's (released: 0.2 to 0.8)"
    )

    @model_validator(mode="after")
    def _released_form_learns(self) -> SEALPartialOptions:
        if self.form == "released" and not self.learned:
            raise ValueError("learned must be true with form: released, whose g without h is PLCR; use the method plcr")
        return self

    @property
    def settled_rounds(self) -> int:
        """Until lambda is there, and in the released form g and h are trained."""
        begun = math.ceil(self.start * self.rounds) if self.form == "released" else 0
        return max(super().settled_rounds, begun)


class LearnedSetObjective(LearnedObjective):
    """h of the released form for sets: of (logit, weight, 1 for a candidate) of every class alike, summed over the classes."""

    def __init__(self) -> None:
        super().__init__(inputs=3)

    def of_sets(self, logits: torch.Tensor, weights: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """The mean over the batch, a number; all `[N, L]`."""
        return self.of_pairs(torch.stack([logits, weights, candidates], dim=2))


class _Seen(NamedTuple):
    """What the released form keeps of a step until f has learned."""

    batch: Batch
    candidates: torch.Tensor  # [N, L]
    weights: torch.Tensor  # [N, L], that f learned from
    predicted: torch.Tensor  # [K, N, L], f's logits of the views before its step


class SEALPartial(PartialLabels, SEAL):
    """See the module's docstring. The views are the document itself and two strong ones."""

    paper = SEAL.paper
    summary = "SEAL for candidate sets: h is judged by how well a document's views agree"
    strong_views = 2
    Options = SEALPartialOptions
    options: SEALPartialOptions
    weights: torch.Tensor  # of the candidates, [documents, L]; in the released form alone

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._views: list[torch.Tensor] = []  # inputs of the strong views of the step's documents
        self._seen: _Seen | None = None
        if self.released:
            self.weights = self.uniform_weights()

    @property
    def released(self) -> bool:
        """Whether this is the form of the authors' code for sets."""
        return self.options.form == "released"

    def make_objective(self) -> LearnedObjective:
        return LearnedSetObjective() if self.released else LearnedObjective()

    @property
    def warms_up(self) -> bool:
        return super().warms_up and not self.released

    def targets_of(self, batch: Batch) -> torch.Tensor:
        return self.candidates_of(batch)

    def labels_at(self, indices: Sequence[int]) -> torch.Tensor:
        return self.candidates_at(indices)

    def granted_mask(self, indices: Sequence[int]) -> torch.Tensor:
        return self.candidates_at(indices)

    def generator_figures(self) -> dict[str, float]:
        """How often the class that g thinks likeliest is in the set, and the mean of its largest probabilities."""
        right, confidence = self._generator_on_labeled()
        return {"generator_in_set": right, "generator_confidence": confidence}

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return candidate_likelihood(logits, labels)

    def generator_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.objective(logits, labels) if self.options.learned else self.label_loss(logits, labels)
        return found

    def task_loss_of(self, classifier: Virtual, labels: torch.Tensor) -> torch.Tensor:
        """Equation 15 of f on the batch and its strong views."""
        views = torch.stack([classifier.logits(part) for part in range(1 + len(self._views))])
        return consistency(views, agreed_labels(views, labels if self.options.agreement == "candidates" else None))

    def task_parts(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows, *self._views]

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        if self.released:
            self.generator = {name: value.requires_grad_() for name, value in parameters_of(self.net).items()}
        return super().refresh(round_, texts)

    def labeled_losses(self, batch: Batch, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        documents = self.strong_views_of(batch.labeled, self.strong_views, batch.rng)
        self._views = [self.encoder.inputs(view) for view in documents]
        if not self.released:
            return super().labeled_losses(batch, logits)
        candidates, weights = self.candidates_of(batch), self.weights[batch.labeled]
        views = torch.stack([logits, *(self.logits(view) for view in documents)])
        self._seen = _Seen(batch, candidates, weights, views.detach())
        return {"negatives": _negatives(views, candidates), "consistency": self._lambda(batch) * consistency(views, weights)}

    def unlabeled_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {} if self.released else super().unlabeled_losses(batch)

    def soft_labels(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.softmax(logits.masked_fill(self.candidates_of(batch) == 0, float("-inf")), dim=1)

    def after_step(self) -> None:
        super().after_step()
        if self._seen is not None:
            seen, self._seen = self._seen, None
            with self.encoder.fixed_statistics():
                self._learn_from_sets(seen)

    def _learn_from_sets(self, seen: _Seen) -> None:
        """The released form's rest of a step, after f has learned: g's step with the old h, h's step, and the documents' weights."""
        agreed = agreed_labels(seen.predicted, seen.candidates)
        if seen.batch.progress >= self.options.start:
            parts = self.task_parts(self.encoder.inputs(seen.batch.labeled_views))
            loss, stepped = self.virtual_agreement(parts, seen.candidates, seen.weights, seen.batch)
            self.update_objective(loss)
            self.generator = {name: value.requires_grad_() for name, value in stepped.parameters().items()}
            with torch.no_grad():
                generated = torch.stack([stepped.logits(part) for part in range(len(parts))])
            share = self.options.generator_share
            agreed = (1.0 - share) * agreed + share * agreed_labels(generated, seen.candidates)
        self.weights[seen.batch.labeled] = agreed

    def virtual_agreement(
        self, parts: Sequence[torch.Tensor], candidates: torch.Tensor, weights: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, Virtual]:
        """The released form's loss of h, after a virtual step of f that follows one of g.

        Args:
            parts: inputs of the K views, each `[N, ...]`.
            candidates: the sets, `[N, L]`.
            weights: of the candidates, `[N, L]`.
            batch: of the step, for how far the training is.

        Returns:
            The loss, a function of omega, and g after its step.
        """
        options, objective = self.options, self.objective
        assert isinstance(objective, LearnedSetObjective)
        weight = self._lambda(batch)

        def logits_of(net: Virtual) -> torch.Tensor:
            return torch.stack([net.logits(part) for part in range(len(parts))])

        def plcr(views: torch.Tensor) -> torch.Tensor:
            return weight * consistency(views, weights) + options.negatives_weight * _negatives(views, candidates)

        share = min(1.0, batch.progress / options.objective_ramp) if options.objective_ramp else 1.0
        generator = virtual(self.net, self.generator, parts)
        views = logits_of(generator)
        learned = torch.stack([objective.of_sets(view, weights, candidates) for view in views]).mean()
        generator = generator.stepped(share * learned + (1.0 - share + options.keep) * plcr(views), self.generator_rate)
        classifier = virtual(self.net, dict(self.net.named_parameters()), parts)
        views = logits_of(classifier)
        soft = [self.soft_labels(generated, batch) for generated in logits_of(generator)]
        taught = torch.stack([text_to_label(view, one) for view, one in zip(views, soft, strict=True)]).sum()
        classifier = classifier.stepped((weight * taught + _negatives(views, candidates)) / len(parts), options.virtual_rate)
        return plcr(logits_of(classifier)) / len(parts), generator

    def _lambda(self, batch: Batch) -> float:
        return self.options.weight * self.ramped(batch.progress)

    def state(self) -> dict[str, Any]:
        return super().state() | ({"weights": self.weights.clone()} if self.released else {})

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if self.released:
            self.weights = state["weights"].clone().to(self.encoder.device)


def _negatives(views: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """`negative_candidates` of the logits of each view, `[K, N, L]`, summed over the views."""
    return torch.stack([negative_candidates(view, candidates) for view in views]).sum()
