"""GenCo: generation-driven contrastive self-training, zero-shot.

Paper: Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM (Zhang, Wang & Yang 2023, arXiv:2304.11872).
A round is one self-training iteration of algorithm 1: label the unlabeled documents with the present encoder (equations 2, 3 and, with continuations, 9),
keep a balanced set of the most confident (S_t), draw the batches of the round from it, have the language model write a text for each (document, pseudo-label)
pair that they hold, and take contrastive steps on them. Two switches give the rows of the paper's table 2:

    input_augmentation  conditional_augmentation   loss
    yes                 yes                        L_g2l + L_t2g   (equations 11 and 10: GenCo)
    yes                 no                         L_t2l + L_t2g   (equations 5 and 10: GenCo - CA)
    no                  yes                        L_g2l           (equation 11: GenCo - IA)
    no                  no                         L_t2l           (equation 5: self-training)

`rounds: 0` is the sentence encoder as it is.
Needs: class names; a language model unless both switches are off.
Differs: the paper's form is the default; options named `released_*`, or with a value `released`, follow the authors' code. Two checks are ours: `start_check` may
hand over the encoder as it was (training/start_check.py), `text_check` may do without texts (text_check.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from selftrain.data.texts import TextChannel, TextRequest
from selftrain.errors import ConfigError
from selftrain.methods.base import Options
from selftrain.methods.losses import similarity, text_to_generated, text_to_label
from selftrain.methods.zero_shot.selection import SelectingMethod, batch_of, shares_grow
from selftrain.methods.zero_shot.text_check import check_texts
from selftrain.models.encoder import Encoder, TextEncoder


def soft_targets(scores: torch.Tensor, tau: float) -> torch.Tensor:
    """Q of GenCo's equation 4, `[N, L]`, without gradient: softmax(scores / tau).

    tau -> 0 gives one-hot pseudo-labels, tau = 1 gives P itself.

    Raises:
        ConfigError: tau is not above 0 and at most 1.
    """
    if not 0 < tau <= 1:
        raise ConfigError(f"tau must be above 0 and at most 1 (got {tau}).", parameter="tau")
    return F.softmax(scores.detach() / tau, dim=-1)


@dataclass(frozen=True)
class GenCoScorer:
    """P and Q of embeddings (equations 3 and 4)."""

    prototypes: torch.Tensor  # [L, D]
    scale: float  # of the similarity
    tau: float
    raw: bool = False  # by dot product of embeddings that nothing has normalised, as in the released code

    def reader(self, encoder: Encoder) -> Encoder:
        """See `Scorer`."""
        if not self.raw:
            return encoder
        assert isinstance(encoder, TextEncoder)
        return encoder.unnormalized()

    def __call__(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, Q), `[N, L]` each, of embeddings `[N, D]`."""
        scores = similarity(embeddings, self.prototypes, self.scale)
        return torch.softmax(scores, dim=-1), soft_targets(scores, self.tau)


class GenCoOptions(Options):
    """Options of GenCo; the equation or section that each belongs to is in its description."""

    name: Literal["genco"] = "genco"
    rounds: int = Field(5, ge=0, le=1000, description="T of algorithm 1: times that pseudo-labels are made anew; 0: no training (zero-shot)")
    steps_per_round: int = Field(20, ge=1, description="optimiser steps between two refreshes (released: 100 to 200)")
    per_class: int = Field(3, ge=1, description="pairs of each class in a batch; the batch is per_class * classes (appendix A.1)")
    first_share: float = Field(0.2, gt=0, le=1, description="S_1 as a share of unlabeled documents / classes (released: 0.05, of a far larger pool)")
    last_share: float = Field(0.7, gt=0, le=1, description="S_T likewise; S_t grows linearly in between (released: 0.25)")
    tau: float = Field(0.1, gt=0, le=1, description="temperature of Q, equation 4 (table 5)")
    input_augmentation: bool = Field(True, description="IA: equation 9 for pseudo-labels, equation 10 as a loss")
    conditional_augmentation: bool = Field(True, description="CA: train on texts written for the pseudo-label, equation 11")
    learning_rate: float | None = Field(
        None, gt=0, description="AdamW, linear decay to 0; default: 5e-5, and 1e-3 for a head (the paper: 1e-5 over 1,000 to 2,000 steps)"
    )
    weight_decay: float = Field(0.01, ge=0)
    t2g_denominator: Literal["texts", "generated"] = Field(
        "texts", description="equation 10 as printed, or over the continuations as in the released code"
    )
    target_similarity: Literal["scores", "released"] = Field(
        "scores",
        description="Q from the similarity of P (equation 4); released: pseudo-labels, their ranking and Q from dot products of embeddings that are not "
        "normalised, while P of the losses stays as it is",
    )
    target_gradient: bool = Field(
        False,
        description="Q of a step from its own scores and with their gradient, as theorem 2 and equations 7 and 8 have it; false: held as the round began",
    )
    label_prompt: Literal["mean", "released"] = Field("mean", description="p_j in a step: the mean over its prompts, or one prompt at random")
    text_check: float | None = Field(
        None,
        ge=0,
        le=1,
        description="ours: texts are used if the encoder as it is files the first round's conditional texts under their labels with this agreement above "
        "chance, else training is by equation 5; none: always used",
    )
    start_check: bool = Field(
        True,
        description="ours: the encoder as it was is handed over where the trained one's classes agree less with those of a document's ten nearest neighbours",
    )
    conditional_filter: int | None = Field(
        None, ge=1, description="released: keep the texts that the lagging model scores highest for the label (5 of 20)"
    )

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return self.input_augmentation or self.conditional_augmentation

    @property
    def trains(self) -> bool:
        """Whether anything is trained; `rounds: 0` is the encoder as it is."""
        return self.rounds > 0

    @property
    def checks_start(self) -> bool:
        return self.start_check

    _shares_grow = model_validator(mode="after")(shares_grow)

    @model_validator(mode="after")
    def _one_similarity(self) -> GenCoOptions:
        if self.target_gradient and self.target_similarity == "released":
            raise ValueError(
                "target_gradient must be false with target_similarity 'released': only Q of the scores themselves is in a step's graph (got true)"
            )
        return self


class GenCo(SelectingMethod):
    """See the module's docstring."""

    paper = (
        "Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM "
        "(Zhang, Wang & Yang 2023, arXiv:2304.11872)"
    )
    summary = "contrastive self-training of a sentence encoder on continuations and label-conditioned texts by a language model"
    supervision = "none"
    language_model = "continuations and texts on a pseudo-label"
    remembered = ("texts_used",)
    Options = GenCoOptions
    options: GenCoOptions
    encoder: TextEncoder

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._continuations: Mapping[int, list[str]] = {}  # document index -> its continuations, of the selected documents at least
        self._conditional: dict[int, list[tuple[str, torch.Tensor]]] = {}  # document index -> (text, its Q) of the present round
        self.texts_used = True  # until the check of the first round says otherwise

    @property
    def input_augmentation(self) -> bool:
        """Whether this training uses continuations."""
        return self.options.input_augmentation and self.texts_used

    @property
    def conditional_augmentation(self) -> bool:
        """Whether this training uses texts written for pseudo-labels."""
        return self.options.conditional_augmentation and self.texts_used

    def texts_wanted(self) -> int:
        if not self.wants_texts:
            return 0
        documents, classes = len(self.corpus.unlabeled), len(self.corpus.labels)
        inputs = documents * self.input_samples if self.options.input_augmentation else 0
        # Pseudo-labels change between rounds; twice the last S_T is what was seen on news corpora, all that is drawn is the most that can be.
        sizes = [self.selection_size(round_) for round_ in range(self.rounds)]
        drawn = sum(min(size, self.options.steps_per_round * self.options.per_class) for size in sizes)
        pairs = classes * min(drawn, 2 * sizes[-1]) if self.options.conditional_augmentation else 0
        return inputs + pairs * self.conditional_samples

    def texts_expected(self) -> dict[str, float]:
        """Every document is continued; how many pairs are written for lies between two bounds, and their mean is given.

        The fewer where a round selects what the last one did and more; the more where it selects no document again. Of S_t documents a class, a step draws
        `per_class`.
        """
        if not self.wants_texts:
            return {"input": 0.0}
        inputs = len(self.corpus.unlabeled) * self.input_samples if self.options.input_augmentation else 0
        if not self.options.conditional_augmentation:
            return {"input": float(inputs)}
        drawn, steps = self.options.per_class, self.options.steps_per_round
        sizes = [self.selection_size(round_) for round_ in range(self.rounds)]
        missed = [(1.0 - drawn / size if drawn <= size else (1.0 - 1.0 / size) ** drawn) ** steps for size in sizes]  # that no step draws a document
        apart = sum(size * (1.0 - chance) for size, chance in zip(sizes, missed, strict=True))
        new = [size - before for size, before in zip(sizes, [0, *sizes], strict=False)]
        within = sum(count * (1.0 - math.prod(missed[round_:])) for round_, count in enumerate(new))
        return {"input": float(inputs), "conditional": len(self.corpus.labels) * (apart + within) / 2 * self.conditional_samples}

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        scorer = self._scorer()
        samples = self.input_samples if self.input_augmentation else 0
        figures = self.selection_figures(self.select(round_, scorer, texts, samples=samples))
        self._continuations, self._conditional = {}, {}
        if not (self.input_augmentation or self.conditional_augmentation):
            return figures
        drawn = self._drawn(round_)
        self._continuations = self.continuations_of(drawn, texts, samples) if samples else {}
        if self.conditional_augmentation:
            written, hits = self._conditional_texts(drawn, texts, scorer)
            figures |= written
            if round_ == 0 and self.options.text_check is not None:
                check = check_texts(hits, len(self.corpus.labels), self.options.text_check)
                self.texts_used = check.used
                figures |= check.figures()
        if not self.texts_used:  # equation 5 instead, in this round and all that follow
            self._continuations, self._conditional = {}, {}
            figures |= self.selection_figures(self.select(round_, scorer, texts))
        return figures

    def step(self, round_: int, step: int) -> dict[str, float]:
        batch, rng = self._batch(round_, step)
        documents = self.corpus.unlabeled
        labels = torch.tensor([self.selection.label_of[index] for index in batch])

        # What is trained on: the document itself (equation 5), or a text written for its pseudo-label (equation 11).
        originals = [documents.contents[index] for index in batch]
        trained, targets = list(originals), [self.selection.targets[index] for index in batch]
        for place, index in enumerate(batch):
            if written := self._conditional.get(index):
                trained[place], targets[place] = written[int(rng.integers(len(written)))]
        embeddings = self.embed(trained)
        scores = similarity(embeddings, self._label_embeddings(rng), self.scale)
        q = torch.softmax(scores / self.options.tau, dim=-1) if self.options.target_gradient else torch.stack(targets).to(scores.device)
        loss = text_to_label(scores, q)
        losses = {"g2l" if self.conditional_augmentation else "t2l": float(loss.detach())}

        keys: list[tuple[int, list[str]]] = []
        if self.input_augmentation:
            keys = [(place, self._continuations[index]) for place, index in enumerate(batch) if self._continuations[index]]
        if keys:
            if trained == originals:
                queries = embeddings
            else:  # nothing is shared with the second loss: its graph need not wait in memory
                self.backward(loss)
                loss, queries = torch.zeros((), device=loss.device), self.embed(originals)
            generated = [samples[int(rng.integers(len(samples)))] for _, samples in keys]
            key_labels = labels[[place for place, _ in keys]].to(queries.device)
            denominator = self.options.t2g_denominator
            t2g = text_to_generated(queries, self.embed(generated), labels.to(queries.device), key_labels, self.scale, denominator=denominator)
            losses["t2g"] = float(t2g.detach())
            loss = loss + t2g
        self.backward(loss)
        self.update()
        return losses | {"loss": sum(losses.values())}

    def _batch(self, round_: int, step: int) -> tuple[list[int], np.random.Generator]:
        """The documents of a step, and the generator of what else it draws."""
        rng = np.random.default_rng([self.seed, round_, step])
        return batch_of(self.selection, self.options.per_class, rng), rng

    def _drawn(self, round_: int) -> list[int]:
        """The documents that the round's batches will hold. A batch follows from (seed, round, step): texts are asked for after the draw, for no other document."""
        return sorted({index for step in range(self.steps(round_)) for index in self._batch(round_, step)[0]})

    def _label_embeddings(self, rng: np.random.Generator) -> torch.Tensor:
        if self.options.label_prompt == "released":
            return self.embed([group[int(rng.integers(len(group)))] for group in self.corpus.label_prompts()])
        return self.label_embeddings()

    def _scorer(self) -> GenCoScorer:
        if self.options.target_similarity == "scores":
            return GenCoScorer(self.prototypes(), self.scale, self.options.tau)
        return GenCoScorer(self._mean_prompts(self.encoder.unnormalized().encode), 1.0, self.options.tau, raw=True)

    def _conditional_texts(self, drawn: Sequence[int], texts: TextChannel, scorer: GenCoScorer) -> tuple[dict[str, float], list[bool]]:
        """M texts a (document, pseudo-label) pair (section 3.3), each with its own Q; the channel's cache is GenDict.

        Args:
            drawn: documents that the round's batches hold, in ascending order.
            texts: answers requests for texts.
            scorer: of the round.

        Returns:
            (figures of the round, of each text whether it is filed under the label that it was written for).
        """
        ids, pairs = self.corpus.unlabeled.ids, [(index, self.selection.label_of[index]) for index in drawn]
        wanted = [TextRequest(ids[index], "conditional", label, sample) for index, label in pairs for sample in range(self.conditional_samples)]
        answers = texts(wanted)
        owners: list[int] = []
        written: list[str] = []
        for index, label in pairs:
            for sample in range(self.conditional_samples):
                if text := answers.get(TextRequest(ids[index], "conditional", label, sample)):
                    owners.append(index)
                    written.append(text)
        confidence, targets = scorer(self.workers.encode(scorer.reader(self.encoder).encode, written, self.encoder.dimensions))
        for place, index in enumerate(owners):
            self._conditional.setdefault(index, []).append((written[place], targets[place]))
        asked = [self.selection.label_of[index] for index in owners]
        agree = [found == label for found, label in zip(confidence.argmax(dim=1).tolist(), asked, strict=True)]  # in one transfer from the device
        if self.options.conditional_filter is not None:
            scores = confidence.gather(1, torch.tensor(asked, dtype=torch.long, device=confidence.device).unsqueeze(1)).squeeze(1).tolist()
            score = dict(zip(zip(owners, written, strict=True), scores, strict=True))
            for index, candidates in self._conditional.items():
                candidates.sort(key=lambda item: -score[index, item[0]])
                del candidates[self.options.conditional_filter :]
        figures = {
            "pairs_drawn": float(len(pairs)),
            "pairs_without_conditional_text": float(len(pairs) - len(self._conditional)),
            "conditional_texts_filed_under_their_label": sum(agree) / len(agree) if agree else 0.0,
        }
        return figures, agree
