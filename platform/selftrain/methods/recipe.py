"""What an experiment comes to, once its method is known: `resolve` looks the method up and validates its options, and nothing after it reads a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selftrain.config import AugmentConfig, Experiment, ModelConfig, TrainingConfig
from selftrain.data.corpus import Corpus
from selftrain.methods import check_kind, method_class, options_of
from selftrain.methods.base import Method, Options
from selftrain.models.encoder import Encoder
from selftrain.models.locate import encoder_folder, fingerprint, masked_lm_folder
from selftrain.models.masked import check_masked, open_masked
from selftrain.models.open import check_encoder, is_light, open_encoder
from selftrain.models.precision import Precision
from selftrain.models.workers import Workers


@dataclass(frozen=True)
class Recipe:
    """A method with valid options, and the sections of the experiment that training reads."""

    method: type[Method]
    options: Options
    model: ModelConfig
    augment: AugmentConfig
    training: TrainingConfig

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def trains(self) -> bool:
        """Whether any weight changes; otherwise the classifier is the encoder as it is, the same for every seed."""
        return self.options.trains

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the language model for anything."""
        return self.trains and self.options.wants_texts

    @property
    def light(self) -> bool:
        """Whether training takes less time than Ray takes to start: a head on frozen embeddings, or a BiLSTM."""
        return not self.method.masked_lm and is_light(self.model)

    @property
    def source(self) -> str:
        """What is trained, by the name that the experiment has for it."""
        return str(self.model.masked_lm) if self.method.masked_lm else self.model.encoder

    def source_fingerprint(self) -> str:
        """What identifies its weights before training."""
        return fingerprint(masked_lm_folder(self.source) if self.method.masked_lm else encoder_folder(self.source))

    def check(self, corpus: Corpus) -> None:
        """Check encoder, documents and granted labels against each other, before anything is opened.

        Raises:
            SelfTrainError: what does not fit, and how to fix it.
        """
        if self.method.masked_lm:
            check_masked(self.model)
        check_encoder(self.model, corpus)
        check_kind(self.name, corpus)
        self.method.check(self.options, corpus)

    def untrained(
        self,
        corpus: Corpus,
        *,
        seed: int,
        device: str = "cpu",
        precision: Precision = "float32",
        workers: Workers | None = None,
        opened: Callable[[], Encoder] | None = None,
    ) -> Method:
        """The method before its first round. This is the one place that seeds weights: a new layer's follow from `seed` alone.

        Args:
            corpus: what the method may see.
            seed: of the training.
            device: where the encoder computes.
            precision: of its matrix products while training.
            workers: of a training that several share.
            opened: opens the encoder, where that is not the one of `model`.

        Raises:
            SelfTrainError: the encoder cannot be opened, or as `build`.
        """
        torch.manual_seed(seed)
        encoder = opened() if opened is not None else open_encoder(self.model, corpus, device=device, precision=precision)
        return self.build(corpus, encoder, workers=workers, seed=seed)

    def build(self, corpus: Corpus, encoder: Encoder, *, workers: Workers | None = None, seed: int = 0) -> Method:
        """The method around `encoder`; one that trains a masked language model opens that instead, on the same device.

        Args:
            corpus: what the method may see.
            encoder: what it trains.
            workers: of a training that several share.
            seed: of the training.

        Raises:
            SelfTrainError: what the method lacks: documents of a kind that it reads, labels, or a masked language model.
        """
        check_kind(self.name, corpus)
        if self.method.masked_lm:
            encoder = open_masked(self.model, device=str(encoder.device), precision=encoder.precision)
        return self.method(
            options=self.options,
            corpus=corpus,
            encoder=encoder,
            workers=workers or Workers(),
            seed=seed,
            scale=self.model.scale if self.model.similarity == "cosine" else 1.0,
            input_samples=self.augment.input_samples,
            conditional_samples=self.augment.conditional_samples,
        )


def resolve(experiment: Experiment) -> Recipe:
    """The recipe of an experiment.

    Raises:
        ConfigError: no such method, an unknown option, or a value out of range.
    """
    options = options_of(experiment.method)
    return Recipe(method_class(str(experiment.method["name"])), options, experiment.model, experiment.augment, experiment.training)
