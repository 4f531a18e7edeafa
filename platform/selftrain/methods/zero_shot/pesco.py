"""PESCO: prompt-enhanced self-contrastive learning, zero-shot; GenCo grew out of it.

Paper: PESCO: Prompt-enhanced Self Contrastive Learning for Zero-shot Text Classification (Wang et al. 2023, arXiv:2305.14963); a row of
GenCo's table 2. A round: label the unlabeled documents by the nearest label prompt (GenCo's equations 1 and 2, which are PESCO's), keep a balanced set of the
most confident ones, find in each kept document the sentence that says most about its pseudo-label, and take contrastive steps on

    L_t2p = -1/|I| sum_i log exp sim(f(x_i), f(p_y)) / sum_c exp sim(f(x_i), f(p_c))                                   y = the pseudo-label of x_i
    L_t2t = -1/|I| sum_i 1/|A(i)| sum_{a in A(i)} log exp sim(f(x_i), f(x_a+)) / sum_{j in I} exp sim(f(x_i), f(x_j+))    A(i): documents with x_i's pseudo-label

The positive x+ is the salient sentence behind the label prompt of the pseudo-label ("prompt-enhanced label-aware cloze test", PLCT). The options `sentence`
and `prompt_in_positive` are the paper's steps towards it.
Needs: class names.
Differs: written without the paper's text at hand (docs/methods/pesco.md). Hard pseudo-labels, S_t, batch, optimiser and defaults are GenCo's, so that the rows
differ in the method alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from selftrain.data.sentences import sentences
from selftrain.data.texts import TextChannel
from selftrain.methods.base import Options
from selftrain.methods.losses import similarity, text_to_generated, text_to_label
from selftrain.methods.zero_shot.selection import SelectingMethod, batch_of, shares_grow
from selftrain.models.encoder import Encoder


class PESCOOptions(Options):
    """Options of PESCO. Where GenCo has the same option it has the same default, so that both rows differ in the method alone."""

    name: Literal["pesco"] = "pesco"
    rounds: int = Field(5, ge=1, le=1000, description="times that pseudo-labels are made anew")
    steps_per_round: int = Field(20, ge=1, description="optimiser steps between two refreshes")
    per_class: int = Field(3, ge=1, description="documents of each class in a batch; the batch I is per_class * classes")
    first_share: float = Field(0.2, gt=0, le=1, description="documents kept in the first round as a share of unlabeled documents / classes")
    last_share: float = Field(0.7, gt=0, le=1, description="in the last round; linear in between")
    sentence: Literal["salient", "first", "random"] = Field(
        "salient", description="the positive: the sentence nearest to the pseudo-label (LCT), the first one (a title), or any (inverse cloze test)"
    )
    prompt_in_positive: bool = Field(True, description="PLCT: the label prompt of the pseudo-label in front of the sentence")
    t2t_weight: float = Field(1.0, ge=0, description="weight of L_t2t; 0: L_t2p alone")
    tau: float = Field(0.1, gt=0, le=1, description="temperature of the reported probabilities, as in genco; pseudo-labels are hard")
    learning_rate: float | None = Field(None, gt=0, description="AdamW, linear decay to 0; default: 5e-5, and 1e-3 for a head, as in genco")
    weight_decay: float = Field(0.01, ge=0)

    _shares_grow = model_validator(mode="after")(shares_grow)


@dataclass(frozen=True)
class HardScorer:
    """P of embeddings (GenCo's equation 3), and one-hot pseudo-labels for Q."""

    prototypes: torch.Tensor  # [L, D]
    scale: float

    def reader(self, encoder: Encoder) -> Encoder:
        """See `Scorer`."""
        return encoder

    def __call__(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, one-hot argmax of P), `[N, L]` each, of embeddings `[N, D]`."""
        confidence = torch.softmax(similarity(embeddings, self.prototypes, self.scale), dim=-1)
        return confidence, F.one_hot(confidence.argmax(dim=1), len(self.prototypes)).to(confidence.dtype)


class PESCO(SelectingMethod):
    """See the module's docstring."""

    paper = (
        "PESCO: Prompt-enhanced Self Contrastive Learning for Zero-shot Text Classification (Wang et al. 2023, arXiv:2305.14963); baseline of GenCo"
    )
    summary = "contrastive self-training of a sentence encoder on label prompts and on the documents' own salient sentences"
    supervision = "none"
    Options = PESCOOptions
    options: PESCOOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._sentences: dict[int, str] = {}  # document index -> the sentence of the present round

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        prototypes = self.prototypes()
        ranking = self.select(round_, HardScorer(prototypes, self.scale), texts)
        self._sentences = self._chosen_sentences(round_, prototypes)
        if self.encoder.frozen:  # in large batches, instead of a few texts in every step
            labels, prompts = self.selection.label_of, self.corpus.label_prompts()
            self.encoder.encode([self.positive(index, prompt) for index, label in sorted(labels.items()) for prompt in prompts[label]])
        return self.selection_figures(ranking)

    def step(self, round_: int, step: int) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, round_, step])
        batch = batch_of(self.selection, self.options.per_class, rng)
        label_of, prompts = self.selection.label_of, self.corpus.label_prompts()
        documents = self.embed([self.corpus.unlabeled.contents[index] for index in batch])
        labels = torch.tensor([label_of[index] for index in batch], device=documents.device)
        targets = torch.stack([self.selection.targets[index] for index in batch]).to(documents.device)
        loss = text_to_label(similarity(documents, self.label_embeddings(), self.scale), targets)
        losses = {"t2p": float(loss.detach())}
        if self.options.t2t_weight:
            drawn = [prompts[label_of[index]][int(rng.integers(len(prompts[label_of[index]])))] for index in batch]
            positives = self.embed([self.positive(index, prompt) for index, prompt in zip(batch, drawn, strict=True)])
            t2t = text_to_generated(documents, positives, labels, labels, self.scale, denominator="generated")
            losses["t2t"] = float(t2t.detach())
            loss = loss + self.options.t2t_weight * t2t
        losses["loss"] = self.backward(loss)
        self.update()
        return losses

    def positive(self, index: int, prompt: str) -> str:
        """x+ of a kept document: its sentence, behind `prompt` where the option says so."""
        sentence = self._sentences[index]
        return f"{prompt} {sentence}" if self.options.prompt_in_positive else sentence

    def _encode(self, texts: list[str]) -> torch.Tensor:
        return self.workers.encode(self.encoder.encode, texts, self.encoder.dimensions)

    def _chosen_sentences(self, round_: int, prototypes: torch.Tensor) -> dict[int, str]:
        """The sentence of every kept document."""
        split = {index: sentences(self.corpus.unlabeled.contents[index]) for index in sorted(self.selection.label_of)}
        if self.options.sentence == "first":
            return {index: parts[0] for index, parts in split.items()}
        if self.options.sentence == "random":
            rng = np.random.default_rng([self.seed, round_])
            return {index: parts[int(rng.integers(len(parts)))] for index, parts in split.items()}
        rows = iter(similarity(self._encode([part for parts in split.values() for part in parts]), prototypes).cpu())
        scores = {index: [float(next(rows)[self.selection.label_of[index]]) for _ in parts] for index, parts in split.items()}
        return {index: parts[int(np.argmax(scores[index]))] for index, parts in split.items()}
