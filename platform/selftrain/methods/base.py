"""What a method is: the contract between the training loop and each file of this room.

The loop (training/loop.py) calls, for every round: `refresh` (new pseudo-labels, new texts wanted), then `steps(round)` times `step`. A method owns its
optimiser, because two-level methods take inner and outer steps inside one `step`; `update` is the plain single-level case. A method runs in any Python
process: it imports neither ray nor mlflow nor vllm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict

from selftrain.data.corpus import Corpus, Kind
from selftrain.data.texts import TextChannel
from selftrain.errors import SelfTrainError
from selftrain.models.encoder import Encoder
from selftrain.models.student import Student
from selftrain.models.workers import Workers

ONE_WORKER = Workers()


class Options(BaseModel):
    """Base of every method's options: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return False

    @property
    def trains(self) -> bool:
        """Whether training changes any weight."""
        return True


class Method(ABC):
    """One way of training the classifier `argmax_j sim(f(x), f(p_j))` of GenCo's equations 1 and 2."""

    name: ClassVar[str]  # that of its options, and of its file
    paper: ClassVar[str]
    summary: ClassVar[str]
    supervision: ClassVar[str]  # what data.supervision must grant: none, or labels (of few documents or of all)
    kinds: ClassVar[tuple[Kind, ...]] = ("text",)  # of documents that it learns from
    language_model: ClassVar[str] = "nothing"  # what it wants of the language model
    masked_lm: ClassVar[bool] = False  # whether model.masked_lm is what it trains, instead of the sentence encoder
    Options: ClassVar[type[Options]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Options" in cls.__dict__ and "name" in cls.Options.model_fields:
            cls.name = cls.Options.model_fields["name"].default

    def __init__(
        self,
        *,
        options: Any,
        corpus: Corpus,
        encoder: Encoder,
        workers: Workers = ONE_WORKER,
        seed: int = 0,
        scale: float = 1.0,
        input_samples: int = 1,
        conditional_samples: int = 1,
    ) -> None:
        self.check(options, corpus)
        self.options = options
        if workers.size > 1 and any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in encoder.modules()):
            raise SelfTrainError(
                "The encoder has batch normalization, and each of several workers would take its statistics from its own part of a batch; set training.workers: 1."
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
        """What of `options` cannot be done with the documents and the labels granted of them, in so far as no model is needed to know.

        An experiment asks it for all of its rows before the first is trained.

        Raises:
            SelfTrainError: what does not fit, and how to mend it.
        """

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Self-training iterations T of algorithm 1; 0 for a method that does not train."""

    @property
    def wants_texts(self) -> bool:
        """Whether training asks the text channel for anything."""
        return self.rounds > 0 and bool(self.options.wants_texts)

    @property
    def output_scale(self) -> float:
        """Factor on the similarity in the probabilities that are reported and served: softmax(scale * sim / tau).

        With `tau` that is Q of GenCo's equation 4. P of equation 3 has the same order, but on cosines it never exceeds e^2 / (e^2 + L - 1): as a statement
        of confidence it says little.
        """
        return self.scale / float(getattr(self.options, "tau", 1.0))

    @property
    def planned_steps(self) -> int:
        """Steps of the whole training, as far as they are known before it; what `--dry-run` prints."""
        return self.rounds * self.steps(0)

    def texts_wanted(self) -> int:
        """Upper bound of the texts that training will ask for; what `--dry-run` prints."""
        return 0

    @abstractmethod
    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        """New pseudo-labels from the present weights, and the texts that go with them; returns figures to report (none of them from true labels)."""

    @abstractmethod
    def steps(self, round_: int) -> int:
        """Steps in the round; known after its `refresh`."""

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

    def embed(self, texts: Sequence[Any]) -> torch.Tensor:
        """f(x) of a global batch with gradient, `[texts, dimensions]`; this worker computes its own part of it."""
        mine = self.workers.share(texts)
        # More workers than texts: one that has none embeds the first text and keeps no row of it, so that all take part in the backward pass.
        return self.workers.gather(self.encoder(mine or texts[:1])[: len(mine)], len(texts))

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return list(self.encoder.parameters())

    def rate(self, of_head: float) -> float:
        """The option `learning_rate`, else what suits what is trained: the encoder's own rate, or `of_head`, since a head hardly moves at that."""
        return float(self.options.learning_rate or (of_head if self.encoder.frozen else self.encoder.default_rate))

    def adamw(self, learning_rate: float, weight_decay: float, total_steps: int) -> None:
        """AdamW on `parameters`, its rate falling linearly to 0 over the run."""
        # Fused where word vectors are trained: one pass over millions of moments instead of ten.
        fused = self.encoder.light and not self.encoder.frozen
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: max(0.0, 1.0 - step / total_steps))

    def _mean_prompts(self, encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
        prompts = self.corpus.label_prompts()
        flat = encode([prompt for group in prompts for prompt in group])
        return torch.stack([part.mean(dim=0) for part in flat.split([len(group) for group in prompts])])

    def backward(self, loss: torch.Tensor) -> float:
        """Add the gradient of `loss` to that of the present step, and free the graph that it came from; returns the loss as a number."""
        loss.backward()
        return float(loss.detach())

    def update(self, *, clip: float | None = None) -> None:
        """One optimiser step on what `backward` added up, averaged over the workers; `clip` is the longest that the gradient may be."""
        assert self.optimizer is not None
        self.workers.average_gradients(self.parameters())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the round's number."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Back to where `state` was taken."""
        self.encoder.load_state_dict(state["encoder"])
        if self.optimizer is not None and state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
