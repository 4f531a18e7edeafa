"""iPET: iterative pattern-exploiting training, in its zero-shot form.

Paper: Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference (Schick & Schütze 2021, arXiv:2001.07676); a row
of GenCo's table 2. A pattern P turns a document into a cloze question ("[MASK] News: ..."), a verbaliser v gives every class one word. A masked language model
then scores

    s(l | x) = the logit of v(l) at the mask of P(x),      q(l | x) = softmax over the classes

Generation 0 is the language model as it is, once a pattern. In generation j every model is trained anew on examples that a random part of the other models
of generation j - 1 labels together; the examples become d times as many in each. A round is a generation. The last round distils the mean of the last
generation's scores, at temperature T, into a classifier on the language model's body: that is what is evaluated and bundled.
Loss: (1 - alpha) cross-entropy + alpha L_MLM; then `distillation`.
Needs: class names that are one word each for a masked language model (`model.masked_lm`).
Differs: one of the paper's patterns goes between headline and body and is left out; steps and batch sizes that the paper does not settle are ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError, nearest
from selftrain.methods.base import ClassifierMethod, Options
from selftrain.methods.losses import distillation
from selftrain.models.masked import INFERENCE_TEXTS, MaskedEncoder

MASKED_SHARE = 0.15  # of BERT's pre-training
CLIP = 1.0  # longest gradient
PATTERN_TOKENS = 24  # most that a pattern adds to a document
# Those of the paper for AG News; its second one goes between headline and body, which a document here does not tell apart.
AG_NEWS_PATTERNS = ("{mask}: {text}", "{mask} - {text}", "{text} ({mask})", "{mask} News: {text}", "[Category: {mask}] {text}")


class IPETOptions(Options):
    """Options of iPET; defaults are the paper's (sections 3 and 4)."""

    name: Literal["ipet"] = "ipet"
    patterns: tuple[str, ...] = Field(AG_NEWS_PATTERNS, min_length=2, description="with {text} and {mask}; default: the paper's for AG News")
    verbalizers: dict[str, str] = Field(default_factory=dict, description="class name -> its word v(l); default: the class's words, if one token")
    repeats: int = Field(3, ge=1, description="models a pattern")
    generations: int = Field(4, ge=1, description="k; 10 examples times 5 each time make 1,250 in the fourth (the paper: at least 1,000)")
    first_examples: int = Field(10, ge=1, description="examples of generation 1, over all classes")
    first_candidates: int = Field(100, ge=1, description="documents with the highest s(l | x) of each class that those are drawn from")
    growth: int = Field(5, ge=1, description="d: examples of a generation over those of the one before")
    labelers: float = Field(0.25, gt=0, le=1, description="lambda: share of the other models that label a model's examples")
    model_steps: int = Field(250, ge=1, description="optimiser steps of one model of a generation")
    batch_size: int = Field(4, ge=1, description="labeled examples in a batch")
    unlabeled_batch: int = Field(12, ge=0, description="documents in a batch for the masked language model's own loss")
    mlm_weight: float = Field(1e-4, ge=0, lt=1, description="alpha: L = (1 - alpha) L_CE + alpha L_MLM")
    learning_rate: float = Field(1e-5, gt=0, description="AdamW, of all models; linear decay to 0")
    weight_decay: float = Field(0.01, ge=0)
    classifier_steps: int = Field(5000, ge=1, description="optimiser steps of the classifier that is distilled")
    classifier_batch: int = Field(16, ge=1)
    temperature: float = Field(2.0, gt=0, description="T of the distillation")

    @field_validator("patterns")
    @classmethod
    def _cloze(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.count("{mask}") != 1 or pattern.count("{text}") != 1:
                raise ValueError(f"a pattern must hold {{text}} and {{mask}} once each (got {pattern!r})")
            if "{" in pattern.replace("{mask}", "").replace("{text}", ""):
                raise ValueError(f"a pattern must hold no other braces than {{text}} and {{mask}} (got {pattern!r})")
        return patterns


class IPET(ClassifierMethod):
    """See the module's docstring."""

    paper = (
        "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference "
        "(Schick & Schütze 2021, arXiv:2001.07676); baseline of GenCo"
    )
    summary = "an ensemble of cloze questions to a masked language model labels examples for its next generation; distilled into a classifier"
    supervision = "none"
    masked_lm = True
    Options = IPETOptions
    options: IPETOptions
    encoder: MaskedEncoder

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        longest = self.encoder.longest - PATTERN_TOKENS
        if self.encoder.max_tokens > longest:
            raise ConfigError(
                f"model.max_tokens must be at most {longest}, so that iPET's patterns fit into this model (got {self.encoder.max_tokens}).",
                parameter="model.max_tokens",
            )
        self.words = self._verbalizer()
        self.models = [pattern for pattern in self.options.patterns for _ in range(self.options.repeats)]
        self._scores: torch.Tensor | None = None  # s of the last complete generation, [models, documents, classes]
        self._next: list[torch.Tensor] = []  # of the generation that is being trained
        self._training: tuple[Any, torch.optim.Optimizer] | None = None
        self._examples: list[tuple[int, int]] = []  # (document index, label) of the model that is being trained
        self.classifier = torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels)).to(self.encoder.device)
        self.adamw(self.options.learning_rate, self.options.weight_decay, self.options.classifier_steps)

    @classmethod
    def check(cls, options: IPETOptions, corpus: Corpus) -> None:
        for name in options.verbalizers:
            if name not in corpus.class_names:
                raise ConfigError(f"method.verbalizers: {name!r} is not a class; {nearest(name, corpus.class_names)}", parameter="method.verbalizers")

    @property
    def rounds(self) -> int:
        """The generations, and the distillation."""
        return self.options.generations + 1

    def steps(self, round_: int) -> int:
        distilled = round_ == self.options.generations
        return self.options.classifier_steps if distilled else len(self.models) * self.options.model_steps

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        if self._scores is None:
            untrained = [self.scores(self.encoder.language_model, pattern) for pattern in self.options.patterns]
            self._scores = torch.stack([scores for scores in untrained for _ in range(self.options.repeats)])
        self._next = []
        labels = self._scores.argmax(dim=2)
        agreement = (labels == labels.mode(dim=0).values).double().mean()
        return {"examples": float(self.examples_per_class(round_) * len(self.words)), "models_agree": float(agreement)}

    def step(self, round_: int, step: int) -> dict[str, float]:
        if round_ == self.options.generations:
            return self._distil(step)
        model, own_step = divmod(step, self.options.model_steps)
        if own_step == 0:
            self._begin(round_, model)
        losses = self._train(model, np.random.default_rng([self.seed, round_, step]))
        if own_step == self.options.model_steps - 1:
            self._end(model)
        return losses

    def examples_per_class(self, round_: int) -> int:
        """c_j(l) of generation j = `round_` + 1: the same for all classes, since nothing is known about their shares."""
        return math.ceil(self.options.first_examples / len(self.words) * self.options.growth**round_)

    def draw(self, round_: int, model: int) -> list[tuple[int, int]]:
        """(document, label) pairs that a model of generation `round_` + 1 is trained on, labeled by some of the others of the generation before."""
        assert self._scores is not None
        rng = np.random.default_rng([self.seed, round_, model, 1])
        others = [other for other in range(len(self.models)) if other != model]
        chosen = rng.choice(others, size=max(1, round(self.options.labelers * len(others))), replace=False)
        probabilities = torch.softmax(self._scores[torch.from_numpy(chosen)].double().mean(dim=0), dim=1).cpu().numpy()
        predicted, wanted = probabilities.argmax(axis=1), self.examples_per_class(round_)
        examples: list[tuple[int, int]] = []
        for label in range(len(self.words)):
            own = probabilities[:, label]
            if round_ == 0:  # an untrained model may never predict a class: the documents with its highest scores are used instead
                candidates = np.argsort(-own, kind="stable")[: self.options.first_candidates]
                weights = np.ones(len(candidates))
            else:
                candidates = np.flatnonzero(predicted == label)
                weights = own[candidates]
            if len(candidates):
                drawn = rng.choice(candidates, size=min(wanted, len(candidates)), replace=False, p=weights / weights.sum())
                examples += [(int(index), label) for index in drawn]
        return examples

    def scores(self, model: Any, pattern: str) -> torch.Tensor:
        """s(l | x) of all unlabeled documents, `[documents, classes]`."""
        model.eval()

        def score(mine: Sequence[str]) -> torch.Tensor:
            parts = [
                self._at_mask(model, self._cloze(mine[start : start + INFERENCE_TEXTS], pattern)) for start in range(0, len(mine), INFERENCE_TEXTS)
            ]
            return torch.cat(parts)

        with torch.no_grad():
            return self.workers.encode(score, self.corpus.unlabeled.contents, len(self.words)).cpu()

    def state(self) -> dict[str, Any]:
        return super().state() | {"scores": self._scores}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._scores = state["scores"]

    def _verbalizer(self) -> list[int]:
        """The token of each class's word v(l)."""
        given = self.options.verbalizers
        tokens = []
        for label in self.corpus.labels:
            word = given.get(label.name, label.words)
            token = self.encoder.word_token(word)
            if token is None:
                raise ConfigError(
                    f"The word {word!r} of the class {label.name!r} is not one token of the masked language model; set a shorter one: "
                    f"method.verbalizers: {{{label.name}: ...}}."
                )
            if token in tokens:
                raise ConfigError(f"The word {word!r} stands for two classes; set one for each (method.verbalizers).")
            tokens.append(token)
        return tokens

    def _cloze(self, texts: Sequence[str], pattern: str) -> list[list[int]]:
        """Tokens of P(x); the document is cut at `max_tokens`, and the pattern's own tokens are added to that."""
        encoder = self.encoder
        mask = encoder.tokenizer.mask_token
        parts = [pattern.format(text=text, mask=mask) for text in encoder.cut([text.replace(mask, " ") for text in texts])]
        rows: list[list[int]] = encoder.tokenizer(parts)["input_ids"]
        return rows

    def _at_mask(self, model: Any, rows: list[list[int]]) -> torch.Tensor:
        """Logits of the classes' words at the mask, `[texts, classes]`."""
        mask = self.encoder.tokenizer.mask_token_id
        places = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.bool)
        places[torch.arange(len(rows)), [row.index(mask) for row in rows]] = True
        return self.encoder.words_at(model, rows, places)[:, self.words]

    def _begin(self, round_: int, model: int) -> None:
        """A fresh copy of the language model, and its examples."""
        copied = copy.deepcopy(self.encoder.language_model).train()
        optimizer = torch.optim.AdamW(copied.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay)
        self._training, self._examples = (copied, optimizer), self.draw(round_, model)

    def _train(self, model: int, rng: np.random.Generator) -> dict[str, float]:
        """One step of L = (1 - alpha) L_CE + alpha L_MLM."""
        assert self._training is not None
        options, (language_model, optimizer) = self.options, self._training
        drawn = [self._examples[int(place)] for place in rng.integers(len(self._examples), size=options.batch_size)]
        unlabeled = [self.corpus.unlabeled.contents[int(index)] for index in rng.integers(len(self.corpus.unlabeled), size=options.unlabeled_batch)]
        masked = [self._masked(row, rng) for row in self.encoder.tokens_of(unlabeled)] if options.mlm_weight and unlabeled else []

        mine, factor = self.workers.part(len(drawn))
        rows = self._cloze([self.corpus.unlabeled.contents[drawn[place][0]] for place in mine], self.models[model])
        targets = torch.tensor([drawn[place][1] for place in mine], device=self.encoder.device)
        ce = F.cross_entropy(self._at_mask(language_model, rows), targets, reduction="sum") * factor
        losses, loss = {"ce": self.workers.mean(float(ce.detach()))}, (1.0 - options.mlm_weight) * ce
        if masked:
            mine, factor = self.workers.part(len(masked))
            own = [masked[place] for place in mine]
            places = torch.zeros(len(own), max(len(row) for row, _ in own), dtype=torch.bool)
            for number, (_, hidden) in enumerate(own):
                places[number, [position for position, _ in hidden]] = True
            logits = self.encoder.words_at(language_model, [row for row, _ in own], places)
            wanted = torch.tensor([token for _, hidden in own for _, token in hidden], dtype=torch.long, device=logits.device)
            # A mean over masked tokens, as in pre-training; a worker's own tokens count with the share that they are of all.
            total = max(1, sum(len(hidden) for _, hidden in masked))
            mlm = F.cross_entropy(logits, wanted, reduction="sum") * factor * len(masked) / total
            losses["mlm"] = self.workers.mean(float(mlm.detach()))
            loss = loss + options.mlm_weight * mlm
        loss.backward()
        self.workers.average_gradients(language_model.parameters())
        torch.nn.utils.clip_grad_norm_(language_model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._count_down(optimizer)
        return losses

    def _count_down(self, optimizer: torch.optim.Optimizer) -> None:
        """Linear decay to 0 over the model's steps."""
        for group in optimizer.param_groups:
            group["lr"] = max(0.0, group["lr"] - self.options.learning_rate / self.options.model_steps)

    def _masked(self, row: list[int], rng: np.random.Generator) -> tuple[list[int], list[tuple[int, int]]]:
        """BERT's pre-training on one document: (tokens of which some are hidden, their places and what stood there)."""
        tokenizer = self.encoder.tokenizer
        special = set(tokenizer.all_special_ids)
        hidden = [(place, token) for place, token in enumerate(row) if token not in special and rng.random() < MASKED_SHARE]
        shown = list(row)
        for place, _ in hidden:
            how = rng.random()  # 80 % the mask, 10 % a random word, 10 % the word itself
            shown[place] = tokenizer.mask_token_id if how < 0.8 else int(rng.integers(len(tokenizer))) if how < 0.9 else shown[place]
        return shown, hidden

    def _end(self, model: int) -> None:
        """Keep the trained model's scores of all documents; the model is not needed any more."""
        assert self._training is not None
        self._next.append(self.scores(self._training[0], self.models[model]))
        self._training = None
        if len(self._next) == len(self.models):
            self._scores, self._next = torch.stack(self._next), []

    def _distil(self, step: int) -> dict[str, float]:
        """One step of the classifier on the ensemble's soft labels at temperature T."""
        assert self._scores is not None
        rng = np.random.default_rng([self.seed, self.options.generations, step])
        batch = rng.integers(len(self.corpus.unlabeled), size=self.options.classifier_batch)
        embeddings = self.embed([self.corpus.unlabeled.contents[int(index)] for index in batch])
        logits = self.classifier(F.dropout(embeddings, self.encoder.dropout, self.encoder.training))
        teacher = self._scores.mean(dim=0)[torch.from_numpy(batch)].to(logits.device)
        loss = distillation(logits, teacher, self.options.temperature)
        value = self.backward(loss)
        self.update(clip=CLIP)
        return {"loss": self.workers.mean(value)}
