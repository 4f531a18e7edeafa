"""What a method is: the contract between the training loop and each file of this room.

The loop (training/loop.py) calls, for every round: `refresh` (new pseudo-labels, new texts wanted), then `steps(round)` times `step`. A method owns its
optimiser, because two-level methods take inner and outer steps inside one `step`; `update` is the plain single-level case. A method runs in any Python
process: it imports neither ray nor mlflow nor vllm.

Each method's file opens with its paper, what it computes, what it needs, and what differs from the paper or the released code. `losses.py` opens with an index of
all equations. Families are folders, by the supervision that they need; what several families share stands beside this file.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel

from selftrain.data.corpus import Corpus, DocumentKind
from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError
from selftrain.models.encoder import Encoder
from selftrain.models.names import NameScores
from selftrain.models.student import Student
from selftrain.models.workers import Workers

ONE_WORKER = Workers()


class Options(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Base of every method's options: immutable, and strict about unknown keys."""

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return False

    @property
    def trains(self) -> bool:
        """Whether anything is trained; without training every seed gives the same classifier."""
        return True

    @property
    def checks_start(self) -> bool:
        """Whether the start is handed over where training made it worse, as far as that can be told without labels (training/start_check.py)."""
        return False

    @property
    def settled_rounds(self) -> int:
        """Rounds after which every loss has its full weight; a search does not judge a training before."""
        return 1


_Options = Options  # inside of Method, `Options` is the class variable


class Method(ABC):
    """One way of training the classifier `argmax_j sim(f(x), f(p_j))` of GenCo's equations 1 and 2."""

    name: ClassVar[str]  # that of its options, and of its file
    paper: ClassVar[str]  # title, authors, year and arXiv number where there is one
    summary: ClassVar[str]
    supervision: ClassVar[str]  # what data.supervision must grant: none, labels (of few documents or of all), or candidates
    kinds: ClassVar[tuple[DocumentKind, ...]] = ("text",)  # of documents that it learns from
    language_model: ClassVar[str] = "nothing"  # what it asks the language model for
    stateful: ClassVar[tuple[str, ...]] = ()  # attributes that a checkpoint holds besides encoder and optimiser: modules, further optimisers
    remembered: ClassVar[tuple[str, ...]] = ()  # the same, of which it holds the value: tensors, numbers, lists of numbers, None
    multi_label: ClassVar[bool] = False  # whether a document may have none, one or several of the classes (data.multi_label)
    masked_lm: ClassVar[bool] = False  # whether it trains model.masked_lm instead of the sentence encoder
    Options: ClassVar[type[Options]]
    options: _Options  # every class states its own type
    name_scores: NameScores | None = None  # of documents and class names before training; None where the method has not compared them in this process

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Options" in cls.__dict__ and "name" in cls.Options.model_fields:
            cls.name = cls.Options.model_fields["name"].default

    def __init__(
        self,
        *,
        options: _Options,
        corpus: Corpus,
        encoder: Encoder,
        workers: Workers = ONE_WORKER,
        seed: int = 0,
        scale: float = 1.0,
        input_samples: int = 1,
        conditional_samples: int = 1,
    ) -> None:
        """Check the options and keep the parts.

        Args:
            options: an instance of the class's `Options`.
            corpus: documents, classes, and the labels that the experiment grants.
            encoder: is trained in place.
            workers: the processes that train together.
            seed: of every draw.
            scale: factor on the similarity (of cosines; 1 for plain dot products).
            input_samples: continuations of a document, K of equation 9.
            conditional_samples: texts of a document on its pseudo-label, M of algorithm 1.

        Raises:
            ConfigError: an option does not fit the encoder or the workers.
            DataError: the documents lack what the method learns from.
        """
        self.check(options, corpus)
        self.options = options
        if workers.size > 1 and any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in encoder.modules()):
            raise ConfigError(
                "training.workers must be 1: the encoder has batch normalization, and each of several workers would take its statistics from its own part of "
                f"a batch (got {workers.size}).",
                parameter="training.workers",
            )
        self.corpus = corpus
        self.encoder = encoder
        self.workers = workers
        self.seed = seed
        self.scale = scale  # of the similarity
        self.input_samples = input_samples  # K of equation 9
        self.conditional_samples = conditional_samples  # M of algorithm 1
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    @classmethod  # noqa: B027  (most methods take any options with any documents)
    def check(cls, options: Any, corpus: Corpus) -> None:
        """Check, without a model, that `options` can be used with the documents and the granted labels.

        An experiment calls it for all of its variants before it trains the first. `options` is an instance of the class's `Options`.

        Raises:
            ConfigError: an option does not fit the documents.
            DataError: the documents lack what the method learns from.
        """

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Self-training iterations T of algorithm 1; 0 for a method that does not train."""

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return self.rounds > 0 and self.options.wants_texts

    @property
    def output_temperature(self) -> float:
        """Temperature of the probabilities that are reported and served; 1 leaves the similarity as it is."""
        return 1.0

    @property
    def output_scale(self) -> float:
        """Factor on the similarity in the probabilities that are reported and served: softmax(scale * sim / temperature).

        With tau as the temperature that is Q of GenCo's equation 4. P of equation 3 has the same order, but on cosines it never exceeds
        e^2 / (e^2 + L - 1): as a confidence it says little.
        """
        return self.scale / self.output_temperature

    @property
    def planned_steps(self) -> int:
        """Steps of all rounds, as far as they are known before the first `refresh`; a dry run prints them."""
        return sum(self.steps(round_) for round_ in range(self.rounds))

    def texts_wanted(self) -> int:
        """Upper bound of the texts that training will ask for; a dry run prints it."""
        return 0

    def texts_expected(self) -> dict[str, float]:
        """About how many texts of each kind training will ask for: what a prediction of cost rests on."""
        return {"input": float(self.texts_wanted())}

    @abstractmethod
    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        """New pseudo-labels from the present weights, and the texts that go with them.

        Args:
            round_: counted from 0.
            texts: answers requests for texts of the language model.

        Returns:
            Numbers to report, none of them from true labels.
        """

    @abstractmethod
    def steps(self, round_: int) -> int:
        """Steps in the round; exact after its `refresh`."""

    @abstractmethod
    def step(self, round_: int, step: int) -> dict[str, float]:
        """One parameter update on the batch (round, step); returns the losses by the names of the paper."""

    def student(self) -> Student:
        """The trained classifier, as it is evaluated, bundled and served."""
        return Student(self.encoder, self.prototypes(), self.output_scale)

    def prototypes(self) -> torch.Tensor:
        """The class embeddings that the trained classifier is served with, `[classes, dimensions]`: the mean of each class's prompt embeddings."""
        return self._mean_prompts(self.encoder.encode)

    def label_embeddings(self) -> torch.Tensor:
        """f(p_j) with gradient, `[classes, dimensions]`: prompts and documents share the encoder's weights."""
        return self._mean_prompts(self.embed)

    def embed(self, texts: Sequence[Any], encoder: Encoder | None = None) -> torch.Tensor:
        """f(x) of a global batch with gradient, `[texts, dimensions]`, by the method's encoder or another; this worker computes its own part of it."""
        mine = self.workers.share(texts)
        # With more workers than texts, one without a text embeds the first and keeps no row of it, so that all take part in the backward pass.
        return self.workers.gather((self.encoder if encoder is None else encoder)(mine or texts[:1])[: len(mine)], len(texts))

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return list(self.encoder.parameters())

    def rate(self, given: float | None, *, of_head: float) -> float:
        """The learning rate: `given`, else the encoder's own, or `of_head` where a head is trained, which hardly moves at the encoder's."""
        return given or (of_head if self.encoder.frozen else self.encoder.default_rate)

    def adamw(self, learning_rate: float, weight_decay: float, total_steps: int) -> None:
        """Start AdamW on `parameters`, with a rate that falls linearly to 0.

        Args:
            learning_rate: of the first step.
            weight_decay: times the rate, taken off the weights in every step.
            total_steps: after which the rate is 0.
        """
        # Fused where word vectors are trained: one pass over millions of moments instead of ten.
        fused = self.encoder.light and not self.encoder.frozen
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: max(0.0, 1.0 - step / total_steps))

    def _mean_prompts(self, encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
        prompts = self.corpus.label_prompts()
        flat = encode([prompt for group in prompts for prompt in group])
        return torch.stack([part.mean(dim=0) for part in flat.split([len(group) for group in prompts])])

    def backward(self, loss: torch.Tensor) -> float:
        """Add the gradient of `loss` to that of the present step, and free its graph; returns the loss as a number."""
        loss.backward()
        return float(loss.detach())

    def update(self, *, clip: float | None = None) -> None:
        """One optimiser step on what `backward` added up, averaged over the workers; a gradient longer than `clip` is shortened to it."""
        assert self.optimizer is not None
        self.workers.average_gradients(self.parameters())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the number of the round."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            **{name: getattr(self, name).state_dict() for name in self.stateful},
            **{name.lstrip("_"): _copied(getattr(self, name)) for name in self.remembered},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.encoder.load_state_dict(state["encoder"])
        if self.optimizer is not None and state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for name in self.stateful:
            getattr(self, name).load_state_dict(state[name])
        for name in self.remembered:
            if (key := name.lstrip("_")) in state:  # a checkpoint of an earlier version may lack it
                setattr(self, name, _copied(state[key], self.encoder.device))


class ClassifierMethod(Method):
    """A method that trains a classifier on the encoder, by default a linear one, instead of comparing documents with label prompts."""

    stateful: ClassVar[tuple[str, ...]] = ("classifier",)
    classifier: torch.nn.Module  # embeddings `[N, D]` to logits `[N, L]`

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.encoder.parameters(), *self.classifier.parameters()]

    @property
    def served(self) -> tuple[Encoder, torch.nn.Module]:
        """The encoder and the classifier that are evaluated and served."""
        return self.encoder, self.classifier

    def student(self) -> Student:
        return linear_student(*self.served)


def _copied(value: Any, device: torch.device | None = None) -> Any:
    return value.to(device or value.device, copy=True) if isinstance(value, torch.Tensor) else copy.copy(value)


def linear_student(encoder: Encoder, classifier: torch.nn.Module) -> Student:
    """An encoder with a linear classifier, as they are served."""
    assert isinstance(classifier, torch.nn.Linear)
    return Student(encoder, classifier.weight.detach(), 1.0, classifier.bias.detach())
