"""The small model f(x): what an encoder is to a method, and the sentence encoder, trained and served alike.

`TextEncoder` wraps a `sentence_transformers.SentenceTransformer`, so that what opens there can be trained here, and what is trained here opens there.
models/open.py opens the encoder that an experiment sets.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F

from selftrain.models.tokens import KeptTokens
from selftrain.models.windows import Splitter, mean_over_windows, splitter_of

if TYPE_CHECKING:  # the import takes seconds, and checking the options of a method does not need it
    from sentence_transformers import SentenceTransformer


class Encoder(torch.nn.Module):
    """Documents in, embeddings out. Its parameters are trained, and a checkpoint keeps its `state_dict`.

    An encoder with `tensors` is made of two halves: `inputs` turns documents into one tensor, and `of_inputs` is a function of that tensor and the
    parameters. That is what two-level methods differentiate. Where the tensor is also `continuous`, methods may perturb and mix its rows.
    """

    frozen: ClassVar[bool] = False  # whether the parameters are a head on embeddings that never change
    tensors: ClassVar[bool] = False
    continuous: ClassVar[bool] = False
    couples: ClassVar[bool] = False  # whether, while training, an embedding depends on the other documents of its pass (batch normalisation)
    light: ClassVar[bool] = False  # whether it trains in the driver in less time than Ray takes to start
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products while training
    drawn: ClassVar[bool] = False  # whether its first weights are drawn at random, so that two networks need not start as one
    default_rate: ClassVar[float] = 5e-5  # learning rate, where the experiment sets none

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Length of an embedding."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where embeddings are."""

    @abstractmethod
    def encode(self, documents: Sequence[Any]) -> torch.Tensor:
        """Embeddings `[documents, dimensions]` without gradient or dropout; the mode of the module is left as it was."""

    @contextmanager
    def moved(self, device: str) -> Iterator[Encoder]:
        """Compute on `device` (`cpu`, `cuda:0`) in a `with` block, and where it did before after that."""
        before = str(self.device)
        if device == before:
            yield self
            return
        self._move(device)
        try:
            yield self
        finally:
            self._move(before)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # other processes share the card

    def _move(self, device: str) -> None:
        self.to(device)

    def uncached(self) -> Encoder:
        """An encoder with the same weights and no cache of embeddings, to measure what classifying documents costs."""
        return self

    def inputs(self, documents: Sequence[Any]) -> torch.Tensor:
        """`[documents, ...]`, without gradient."""
        raise NotImplementedError(f"{type(self).__name__} is not made of two halves")

    def of_inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Embeddings `[documents, dimensions]` of `inputs`, with gradient."""
        raise NotImplementedError(f"{type(self).__name__} is not made of two halves")

    def fixed_statistics(self) -> AbstractContextManager[None]:
        """A context in which the running means of batch normalisation, which evaluation uses, do not change."""
        return nullcontext()

    def fresh(self) -> dict[str, torch.Tensor]:
        """First parameters of a second network of the same kind, by name: zero, unless an encoder overrides it."""
        return {name: torch.zeros_like(value) for name, value in self.named_parameters()}

    def lengths(self, documents: Sequence[Any]) -> list[int] | None:
        """Length of each document, where it decides what a batch costs; None where all cost the same."""
        return None


class TextEncoder(Encoder):
    """f(x) of GenCo's equation 1: texts in, embeddings out; all of its weights are trained (models/head.py trains a head instead).

    Args:
        backbone: the encoder; its weights are trained in place.
        max_tokens: tokens of a document that are read, or of each of its windows.
        batch_size: texts in one inference batch.
        normalize: embeddings of length one, so that a dot product is a cosine.
        precision: of matrix products (autocast); weights and embeddings are float32 either way.
        windows: of a longer document that are read at most; see models/windows.py.
    """

    splitter: Splitter | None = None  # into windows; None: the beginning of a document is read
    _own_length: bool = False  # see `unnormalized`
    _kept: KeptTokens | None = None  # until the first text is read

    def __init__(
        self,
        backbone: SentenceTransformer,
        *,
        max_tokens: int = 64,
        batch_size: int = 64,
        normalize: bool = True,
        precision: Literal["float32", "bfloat16"] = "float32",
        windows: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.normalize = normalize
        self.precision = precision
        self._longest = backbone.max_seq_length or 512
        if windows > 1:
            self.splitter = splitter_of(backbone, min(max_tokens, self.longest), windows)

    def unnormalized(self) -> Self:
        """The same weights, and embeddings of the length that the model gives them, also where a last module of the backbone would make it one."""
        twin = copy.copy(self)
        twin.normalize, twin._own_length = False, True
        return twin

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return int(self.backbone.get_embedding_dimension() or 0)

    @property
    def device(self) -> torch.device:
        """Where embeddings are."""
        return torch.device(self.backbone.device)

    @property
    def _tokens(self) -> KeptTokens:
        """What the tokenizer has made of texts."""
        if self._kept is None:
            self._kept = KeptTokens()
        return self._kept

    @property
    def longest(self) -> int:
        """Tokens of a text that can be read at most."""
        return int(self._longest)

    def export(self) -> SentenceTransformer:
        """What a bundle holds: an encoder that gives these embeddings without selftrain, up to their length."""
        return self.backbone

    def forward(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        """Embeddings `[texts, dimensions]`, with gradient; with `max_tokens` that much of each text is read, as one window."""
        if self.splitter is not None and max_tokens is None:
            return mean_over_windows(self.splitter(texts), lambda windows: self(windows, self.max_tokens))
        longest = min(max_tokens or self.max_tokens, self._longest)
        self.backbone.max_seq_length = longest
        features = self._tokens.features(self.backbone, texts, longest)
        device = self.backbone.device
        features = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in features.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            embeddings: torch.Tensor = self._pooled(features)["sentence_embedding"].float()
        return F.normalize(embeddings, dim=-1) if self.normalize else embeddings

    def _pooled(self, features: Any) -> Any:
        if not self._own_length:
            return self.backbone(features)
        from sentence_transformers.sentence_transformer.modules import Normalize

        modules = list(self.backbone)
        while isinstance(modules[-1], Normalize):
            modules.pop()
        for module in modules:
            features = module(features)
        return features

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        """Embeddings `[texts, dimensions]` without gradient or dropout, in batches sorted by length; the mode of the module is left as it was."""
        if not texts:
            return torch.empty(0, self.dimensions)
        if self.splitter is not None and max_tokens is None:
            return mean_over_windows(self.splitter(texts), lambda windows: self.encode(windows, self.max_tokens))
        training = self.training
        self.eval()
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts = []
        with torch.no_grad():
            for start in range(0, len(order), self.batch_size):
                parts.append(self(([texts[index] for index in order[start : start + self.batch_size]]), max_tokens))
        self.train(training)
        sorted_rows = torch.cat(parts)
        rows = torch.empty_like(sorted_rows)
        rows[torch.tensor(order, device=rows.device)] = sorted_rows
        return rows

    def cut(self, texts: Sequence[str]) -> list[str]:
        """The beginning of each text that `max_tokens` tokens cover: a continuation is appended there, so that the encoder gets to read it."""
        ends = self._tokens.ends(self.backbone.tokenizer, texts, min(self.max_tokens, self._longest))
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    def encode_augmented(self, texts: Sequence[str], continuations: Sequence[Sequence[str]]) -> torch.Tensor:
        """Equation 9 of GenCo: the mean over k of f(x ⊕ x_k), `[texts, dimensions]`; a text without continuations keeps f(x).

        Documents are cut at `max_tokens` before the continuation is appended (the paper's documents are short enough to need no cut). Of a document of several
        windows the first is continued, and the others are read as they are.
        """
        beginnings = self.cut(texts)
        further: list[tuple[str, ...]] = [()] * len(texts)
        for index, one in enumerate(self.splitter(texts) if self.splitter is not None else ()):
            if len(one.windows) > 1:
                beginnings[index], further[index] = one.windows[0], one.windows[1:]
        joined: list[str] = []
        owner: list[int] = []
        for index, (text, samples) in enumerate(zip(beginnings, continuations, strict=True)):
            # The cut text, not the whole one: a document's embedding must not depend on whether its continuation was filtered out.
            for sample in samples or [""]:
                joined.append(f"{text} {sample}".rstrip())
                owner.append(index)
        embeddings = self.encode(joined, max_tokens=2 * self.max_tokens)
        owners = torch.tensor(owner, device=embeddings.device)
        total = torch.zeros(len(texts), embeddings.shape[1], device=embeddings.device).index_add_(0, owners, embeddings)
        mean = total / torch.bincount(owners, minlength=len(texts)).unsqueeze(1)
        mean = F.normalize(mean, dim=-1) if self.normalize else mean
        if not any(further):
            return mean
        others = self.encode([window for windows in further for window in windows], max_tokens=self.max_tokens)
        counts = torch.tensor([len(windows) for windows in further], device=mean.device)
        return mean.index_add(0, torch.repeat_interleave(counts), others) / (1 + counts).unsqueeze(1)
