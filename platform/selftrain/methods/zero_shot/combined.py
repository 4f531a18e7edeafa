"""Combined: GenCo's self-training with a part of SSC, of SunGen and of NS3L, zero-shot; each of three switches is what one paper adds.

Paper: Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM (Zhang, Wang & Yang 2023, arXiv:2304.11872);
SSC is arXiv:2409.07292, SunGen arXiv:2205.12679, NS3L arXiv:1911.05166. No paper puts them together; the combination is ours.

A round begins as GenCo's does: label the unlabeled documents with the present encoder, keep a balanced set of the most confident (S_t), draw the round's
batches. A document of S_t is what SSC calls confident, with GenCo's pseudo-label; every other is unconfident. A step minimises

    L_t2l   equation 5 of GenCo on pseudo-labeled documents, by weight
    L_ssc   SSC's loss over label prompts, pseudo-labeled documents (where SSC has its labeled ones), their two strong views, and those of unconfident documents
    L_ns3l  NS3L's loss on unconfident documents (`negative`)

    generated   GenCo     strong views are continuations by the language model, and pseudo-labels are made by equation 9; without it: edited words, equation 3
    weighted    SunGen    every pseudo-labeled document, and each of its views, counts by a weight that algorithm 1 learns on the round's own documents and views
    negative    NS3L      improbable classes are negative labels of unconfident documents

and a fourth, which is in no paper: `written`, error-driven writing. Of an unconfident document the language model writes one text on each of the two classes
that the encoder confuses, and L_g2l, GenCo's equation 11, trains on them with the class that each was written for.

Needs: class names; a language model where `generated` or `written` is on; a head or a BiLSTM where `weighted` is.
Differs: equation 10's place is taken by SSC's loss, and there are no conditional texts (equation 11). SunGen's inner model is not the one that is trained, whose
own answers the pseudo-labels are: it is a linear classifier that starts from zero, on the encoder as it was before training. NS3L's loss has no ramp, since
training does not begin with random predictions; its probabilities are Q's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel, TextRequest
from selftrain.data.views import continued, edited
from selftrain.errors import ConfigError
from selftrain.methods.base import Options
from selftrain.methods.bilevel import Net
from selftrain.methods.few_labels.ns3l import check_threshold, negative_sampling
from selftrain.methods.few_labels.ssc import unified_contrastive
from selftrain.methods.losses import similarity, text_to_label
from selftrain.methods.noisy_labels.sungen import SunGenOptions, learn_weights, relative_weights, weight_figures
from selftrain.methods.semisupervised import FROZEN_VIEWS
from selftrain.methods.zero_shot.genco import GenCoScorer
from selftrain.methods.zero_shot.selection import SelectingMethod, batch_of, embedded, shares_grow

VIEWS = 2  # strong views of a document that a step compares, as in SSC
CONFUSED = 2  # likeliest classes of an unconfident document, on each of which a text is written


class CombinedOptions(Options):
    """Options of the combination. What a paper's method has too has that method's default here."""

    name: Literal["combined"] = "combined"
    generated: bool = Field(True, description="GenCo's texts: continuations as strong views and for pseudo-labels (equation 9); false: edited words")
    weighted: bool | None = Field(
        None,
        description="SunGen's weights of pseudo-labeled documents and of their views; default: true for a head or BiLSTM, false for a full encoder",
    )
    negative: bool = Field(True, description="NS3L's loss on unconfident documents")
    written: Literal["nothing", "asked", "filed"] = Field(
        "nothing",
        description="ours, error-driven writing: a text on each of the two likeliest classes of every unconfident document of a batch, trained on with the "
        "class that it was written for; filed: those alone that the round's encoder files there",
    )
    rounds: int = Field(5, ge=1, le=1000, description="T of GenCo's algorithm 1: times that pseudo-labels are made anew")
    steps_per_round: int = Field(20, ge=1, description="optimiser steps between two refreshes")
    per_class: int = Field(3, ge=1, description="pseudo-labeled documents of each class in a batch")
    unconfident_ratio: int = Field(
        1, ge=0, description="unconfident documents a pseudo-labeled one in a batch (NS3L: an unlabeled document a labeled one)"
    )
    first_share: float = Field(0.2, gt=0, le=1, description="S_1 as a share of unlabeled documents / classes, as in genco")
    last_share: float = Field(0.7, gt=0, le=1, description="S_T likewise; S_t grows linearly in between")
    tau: float = Field(0.1, gt=0, le=1, description="temperature of Q, GenCo's equation 4")
    contrastive_temperature: float = Field(0.1, gt=0, description="T of SSC's loss")
    unconfident_weight: float = Field(0.2, ge=0, description="of unconfident anchors in SSC's loss")
    ns3l_weight: float = Field(1.0, ge=0, description="lambda_1 of NS3L's loss")
    ns3l_threshold: float = Field(0.04, gt=0, lt=1, description="T of NS3L: classes with a Q below it are negative labels")
    outer_iterations: int = Field(50, ge=1, description="T of SunGen's algorithm 1, in every round")
    inner_learning_rate: float = Field(
        0.01, gt=0, description="Adam of SunGen's inner training (paper: 1e-3 for 6,250 steps; here it has some dozens)"
    )
    learning_rate: float | None = Field(None, gt=0, description="AdamW, linear decay to 0; default: 5e-5, and 1e-3 for a head, as in genco")
    weight_decay: float = Field(0.01, ge=0)
    start_check: bool = Field(True, description="as in genco: the encoder as it was is handed over where training made neighbours agree less")

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return self.generated or self.written != "nothing"

    @property
    def checks_start(self) -> bool:
        return self.start_check

    _shares_grow = model_validator(mode="after")(shares_grow)


@dataclass(frozen=True)
class Drawn:
    """One step's documents and their strong views, drawn when the round begins."""

    confident: list[int]  # document indices
    unconfident: list[int]
    views: tuple[list[str], ...] = ()  # [view][document], the confident ones first
    weights: torch.Tensor | None = None  # of the confident documents, then of each of their views, `[1 + VIEWS, confident]`; None: all 1
    written: tuple[tuple[str, int], ...] = ()  # texts on classes that are confused, each with its class


class Combined(SelectingMethod):
    """See the module's docstring."""

    paper = (
        "Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM "
        "(Zhang, Wang & Yang 2023, arXiv:2304.11872); with parts of SSC, SunGen and NS3L, a combination of ours"
    )
    summary = "GenCo's self-training with SSC's loss on its texts, SunGen's weights on them and NS3L's loss on unconfident documents"
    supervision = "none"
    language_model = "continuations, and texts on confused classes where `written` is on"
    Options = CombinedOptions
    options: CombinedOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.weighted = self.encoder.tensors if self.options.weighted is None else self.options.weighted
        if self.weighted and not self.encoder.tensors:
            raise ConfigError(
                "method.weighted must be false for a full encoder, which is too slow for SunGen's virtual steps; set it so, or set model.train: head.",
                parameter="method.weighted",
            )
        self.drawn: list[Drawn] = []  # of each step of the present round
        if self.weighted:
            judge = torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels), device=self.encoder.device)
            for parameter in judge.parameters():
                torch.nn.init.zeros_(parameter)
            self._judge = Net(copy.deepcopy(self.encoder), judge)

    @classmethod
    def check(cls, options: CombinedOptions, corpus: Corpus) -> None:
        super().check(options, corpus)
        if options.negative:
            check_threshold(options.ns3l_threshold, corpus)

    def texts_wanted(self) -> int:
        return round(sum(self.texts_expected().values()))

    def texts_expected(self) -> dict[str, float]:
        """Every document is continued; at most all are unconfident in a batch, and the two classes that each is between are taken to stay the same."""
        options, documents = self.options, len(self.corpus.unlabeled)
        expected = {"input": float(documents * self.input_samples) if options.generated else 0.0}
        if options.written != "nothing":
            drawn = options.unconfident_ratio * options.per_class * len(self.corpus.labels) * self.planned_steps
            expected["conditional"] = float(CONFUSED * min(documents, drawn))
        return expected

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        options, contents = self.options, self.corpus.unlabeled.contents
        samples = self.input_samples if options.generated else 0
        scorer = GenCoScorer(self.prototypes(), self.scale, options.tau)
        figures = self.selection_figures(self.select(round_, scorer, texts, samples=samples))
        rest = np.array([index for index in range(len(contents)) if index not in self.selection.label_of], dtype=np.int64)
        rngs = [np.random.default_rng([self.seed, round_, step]) for step in range(self.steps(round_))]
        drawn = [self._documents(rest, rng) for rng in rngs]
        indices = sorted({index for one in drawn for index in (*one.confident, *one.unconfident)})
        written = self.continuations_of(indices, texts, samples) if samples else {}
        self.drawn = [replace(one, views=self._views(one, written, rng)) for one, rng in zip(drawn, rngs, strict=True)]
        if self.encoder.frozen:  # in large batches, instead of a few texts in every step
            self.encoder.encode([*(contents[index] for index in indices), *(text for one in self.drawn for view in one.views for text in view)])
        if options.written != "nothing":
            figures |= self._write(scorer, texts)
        if self.weighted:
            figures |= self._weigh()
        return figures | {"unconfident": float(len(rest))}

    def step(self, round_: int, step: int) -> dict[str, float]:
        options, drawn, contents = self.options, self.drawn[step], self.corpus.unlabeled.contents
        here, others = len(drawn.confident), drawn.unconfident if options.negative else []
        documents = [contents[index] for index in (*drawn.confident, *others)]
        rows = self.embed([*documents, *(text for view in drawn.views for text in view), *(text for text, _ in drawn.written)])
        confident, unconfident, *views, written = rows.split([here, len(others), *map(len, drawn.views), len(drawn.written)])
        prompts = self.label_embeddings()
        labels = torch.tensor([self.selection.label_of[index] for index in drawn.confident], device=rows.device)
        targets = torch.stack([self.selection.targets[index] for index in drawn.confident]).to(rows.device)
        weights = torch.ones(1 + VIEWS, here, device=rows.device) if drawn.weights is None else drawn.weights.to(rows)

        # A weight on a document's Q is one on its cross-entropy, which is linear in Q.
        parts = {"t2l": text_to_label(similarity(confident, prompts, self.scale), weights[0].unsqueeze(1) * targets)}
        own = len(prompts) + torch.arange(len(drawn.unconfident), device=rows.device)  # each is a class of its own
        quiet = torch.full((len(own),), options.unconfident_weight, device=rows.device)
        parts["ssc"] = unified_contrastive(
            F.normalize(prompts, dim=1),
            F.normalize(confident, dim=1),
            [F.normalize(view, dim=1) for view in views],
            labels=labels,
            view_labels=torch.cat([labels, own]),
            temperature=options.contrastive_temperature,
            labeled_weights=weights[0],
            view_weights=[torch.cat([one, quiet.to(one)]) for one in weights[1:]],
        )
        if others:
            scores = similarity(unconfident, prompts, self.output_scale)
            negatives = torch.softmax(scores.detach(), dim=1) < options.ns3l_threshold
            parts["ns3l"] = options.ns3l_weight * negative_sampling(scores, negatives)
        if drawn.written:
            asked = torch.tensor([label for _, label in drawn.written], device=rows.device)
            parts["g2l"] = text_to_label(similarity(written, prompts, self.scale), F.one_hot(asked, len(prompts)).to(rows))
        loss = self.backward(torch.stack(list(parts.values())).sum())
        self.update()
        return {name: float(part.detach()) for name, part in parts.items()} | {"loss": loss}

    def _documents(self, rest: np.ndarray, rng: np.random.Generator) -> Drawn:
        """The documents of a step; `rest` are the unconfident ones."""
        confident = batch_of(self.selection, self.options.per_class, rng)
        size = min(len(rest), self.options.unconfident_ratio * len(confident))
        return Drawn(confident, [int(index) for index in rng.choice(rest, size=size, replace=False)])

    def _views(self, drawn: Drawn, written: Mapping[int, Sequence[str]], rng: np.random.Generator) -> tuple[list[str], ...]:
        """`VIEWS` strong views of each document, `[view][document]`: continuations by the language model as far as there are any, then edited words."""
        found: list[list[str]] = []
        for index in (*drawn.confident, *drawn.unconfident):
            text, samples = self.corpus.unlabeled.contents[index], written.get(index, ())
            edits = rng.choice(FROZEN_VIEWS, size=VIEWS, replace=False) if self.encoder.frozen else rng.integers(2**31, size=VIEWS)
            chosen = rng.permutation(len(samples))[:VIEWS]
            views = [continued(text, samples[int(place)]) for place in chosen]
            found.append([*views, *(edited(text, int(number)) for number in edits[len(views) :])])
        return tuple([views[view] for views in found] for view in range(VIEWS))

    def _write(self, scorer: GenCoScorer, texts: TextChannel) -> dict[str, float]:
        """Give every step the texts on the classes that its unconfident documents are between; the figures of `refresh` about them."""
        ids, contents = self.corpus.unlabeled.ids, self.corpus.unlabeled.contents
        between = sorted({index for one in self.drawn for index in one.unconfident})
        likeliest = scorer(embedded(self.encoder, [contents[index] for index in between], None))[0].topk(CONFUSED, dim=1).indices.tolist()
        requests = {
            index: [TextRequest(ids[index], "conditional", label) for label in labels] for index, labels in zip(between, likeliest, strict=True)
        }
        answers = texts([request for of_document in requests.values() for request in of_document])
        found = {index: [(answers[one], one.label) for one in of_document if one in answers] for index, of_document in requests.items()}
        pairs = [pair for of_document in found.values() for pair in of_document]
        filed = scorer(embedded(self.encoder, [text for text, _ in pairs], None))[0].argmax(dim=1).tolist()
        there = {pair for pair, label in zip(pairs, filed, strict=True) if pair[1] == label}
        if self.options.written == "filed":
            found = {index: [pair for pair in of_document if pair in there] for index, of_document in found.items()}
        self.drawn = [replace(one, written=tuple(pair for index in one.unconfident for pair in found[index])) for one in self.drawn]
        share = sum(pair in there for pair in pairs) / len(pairs) if pairs else 0.0
        return {"texts_on_confused_classes": float(len(pairs)), "filed_under_the_class_asked_for": share}

    def _weigh(self) -> dict[str, float]:
        """Give the round's documents and views SunGen's weights, of mean one within a pseudo-label; the figures of `refresh` about them."""
        label_of, contents = self.selection.label_of, self.corpus.unlabeled.contents
        read = [[[contents[index] for index in one.confident], *(view[: len(one.confident)] for view in one.views)] for one in self.drawn]
        places: dict[tuple[int, str], int] = {}
        for one, columns in zip(self.drawn, read, strict=True):
            for column in columns:
                for pair in zip(one.confident, column, strict=True):
                    places.setdefault(pair, len(places))
        texts = [text for _, text in places]
        targets = torch.tensor([label_of[index] for index, _ in places], device=self.encoder.device)
        lengths = self.encoder.lengths(texts)
        options = SunGenOptions(outer_iterations=self.options.outer_iterations, inner_learning_rate=self.options.inner_learning_rate)
        judge = self._judge
        inputs = judge.encoder.inputs(texts)
        learned = learn_weights(judge, inputs, targets, options, seed=self.seed, lengths=None if lengths is None else np.array(lengths))
        weights = relative_weights(learned.weights, targets, balance=options.balance)
        self.drawn = [
            replace(one, weights=torch.stack([weights[[places[pair] for pair in zip(one.confident, column, strict=True)]] for column in columns]))
            for one, columns in zip(self.drawn, read, strict=True)
        ]
        return weight_figures(learned, targets)
