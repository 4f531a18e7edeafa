"""What methods for labels that may be wrong share: every document has one, and the method finds out which to believe.

They are SunGen and its baselines. The documents are texts that a language model wrote for a label (`data.supervision: all`), or any with noisy labels.
A linear classifier on the encoder is trained with a weighted cross-entropy on the chosen documents, epoch by epoch; a round is an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import ConfigError, DataError
from selftrain.methods.base import ClassifierMethod, Options
from selftrain.methods.orders import LatestOrder


class NoisyLabelOptions(Options):
    """Options of the family."""

    epochs: int = Field(5, ge=1, description="passes over the chosen documents in the training that counts (SunGen appendix F.2: 5 for its LSTM)")
    batch_size: int = Field(32, ge=1)
    steps_per_epoch: int | None = Field(
        None,
        ge=1,
        description="steps of an epoch, over the chosen documents again and again; default: one pass, so that fewer documents are fewer steps",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="AdamW, linear decay to 0; default: 3e-3 for a head, 1e-3 for bilstm, 5e-5 for a full encoder"
    )
    weight_decay: float = Field(0.01, ge=0)


class NoisyLabels(ClassifierMethod):
    """Base of the family; see the module's docstring."""

    supervision = "labels"
    Options = NoisyLabelOptions
    options: NoisyLabelOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        documents, granted = self.corpus.unlabeled, self.corpus.granted
        labeled = [index for index, id_ in enumerate(documents.ids) if id_ in granted]
        self.texts = [documents.contents[index] for index in labeled]
        self.targets = torch.tensor([granted[documents.ids[index]] for index in labeled], device=self.encoder.device)
        lengths = self.encoder.lengths(self.texts)
        self.lengths = None if lengths is None else np.array(lengths)
        self.classifier = self.make_classifier()
        self.choose(np.arange(len(labeled)), torch.ones(len(labeled)))

    @classmethod
    def check(cls, options: Any, corpus: Corpus) -> None:
        if not corpus.granted:
            raise DataError(f"The method {cls.name} needs labels, right or wrong; set data.supervision: all (or few).")

    def check_two_levels(self) -> None:
        """Check that the encoder is small enough for a method with two levels.

        Raises:
            ConfigError: it is a full encoder.
        """
        if not self.encoder.tensors:
            raise ConfigError(
                f"model.train must be 'head' (or model.encoder 'bilstm'): the method {self.name} takes virtual steps, and a full encoder is too slow for that.",
                parameter="model.train",
            )

    def make_classifier(self) -> torch.nn.Linear:
        """What turns embeddings `[N, D]` into logits `[N, L]`."""
        return torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels)).to(self.encoder.device)

    def choose(self, chosen: np.ndarray, weights: torch.Tensor) -> None:
        """Train on chosen documents from here on, with a new optimiser.

        Args:
            chosen: places in `texts`.
            weights: of all documents, `[N]`.
        """
        self.chosen, self.weights = chosen, weights.to(self.encoder.device)
        self._order = LatestOrder()  # of the chosen ones
        self.adamw(self.rate(self.options.learning_rate, of_head=3e-3), self.options.weight_decay, self.options.epochs * self.steps(0))

    def losses(self, batch: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of a step by name; their sum is minimised.

        Args:
            batch: places in `texts`, `[N]`.
            logits: theirs, `[N, L]`, with gradient.
        """
        return {"ce": (self.weights[batch] * F.cross_entropy(logits, self.targets[batch], reduction="none")).mean()}

    @property
    def rounds(self) -> int:
        return self.options.epochs

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        if self.encoder.frozen:  # frozen embeddings are made in large batches, and in the same ones where a training is resumed
            self.encoder.inputs(self.texts)
        return {"labeled": float(len(self.texts)), "chosen": float(len(self.chosen))}

    def steps(self, round_: int) -> int:
        return self.options.steps_per_epoch or self._steps_per_pass

    @property
    def _steps_per_pass(self) -> int:
        return -(-len(self.chosen) // self.options.batch_size)

    def batch(self, round_: int, step: int) -> torch.Tensor:
        """Places in `texts` of the batch (round, step); a pass has every chosen document once."""
        size = self.options.batch_size
        passes, step = divmod(step, self._steps_per_pass)
        seed = [self.seed, round_, passes] if passes else [self.seed, round_]
        order = self._order((round_, passes), lambda: epoch_order(self.chosen, size, np.random.default_rng(seed), self.lengths))
        return torch.from_numpy(order[step * size : (step + 1) * size]).to(self.encoder.device)

    def step(self, round_: int, step: int) -> dict[str, float]:
        batch = self.batch(round_, step)
        losses = self.losses(batch, self.classifier(self.embed(self.texts_of(batch))))
        loss = torch.stack(list(losses.values())).sum()
        value = self.backward(loss)
        self.update()
        return {name: float(part.detach()) for name, part in losses.items()} | {"loss": value}

    def texts_of(self, batch: torch.Tensor) -> list[str]:
        """The texts at the places `batch`."""
        return [self.texts[place] for place in batch.tolist()]

    def probabilities(self, places: Sequence[int] | None = None) -> torch.Tensor:
        """Predictions for the training documents (or those at `places`), `[N, L]`, without gradient."""
        texts = self.texts if places is None else [self.texts[place] for place in places]
        with torch.no_grad():
            return torch.softmax(self.classifier(self.workers.encode(self.encoder.encode, texts, self.encoder.dimensions)), dim=1)

    def state(self) -> dict[str, Any]:
        return super().state() | {"chosen": torch.from_numpy(self.chosen), "weights": self.weights}

    def load_state(self, state: dict[str, Any]) -> None:
        self.choose(state["chosen"].numpy(), state["weights"])
        super().load_state(state)


def check_budget(budget: int | None, corpus: Corpus) -> None:
    """Raise a `ConfigError` where a subset is to have more documents than are labeled."""
    if budget is not None and budget > len(corpus.granted):
        raise ConfigError(
            f"method.budget must be at most the number of labeled documents, {len(corpus.granted)} (got {budget}).", parameter="method.budget"
        )


def epoch_order(places: np.ndarray, size: int, rng: np.random.Generator, lengths: np.ndarray | None = None) -> np.ndarray:
    """`places` in the order of an epoch: its batches are the stretches of `size`.

    With `lengths` a batch holds texts of like length, as with the bucket iterator of SunGen's released code: a hundred random batches at a time are sorted by
    length, and the batches are then shuffled again. A short batch, if there is one, comes last.

    Args:
        places: indices of documents, `[M]`.
        size: of a batch.
        rng: of both shuffles.
        lengths: of all documents, `[N]`.
    """
    order = rng.permutation(places)
    if lengths is None:
        return order
    pools = [order[start : start + 100 * size] for start in range(0, len(order), 100 * size)]
    order = np.concatenate([pool[np.argsort(-lengths[pool], kind="stable")] for pool in pools])
    whole = len(order) // size * size
    return np.concatenate([rng.permutation(order[:whole].reshape(-1, size)).reshape(-1), order[whole:]])
