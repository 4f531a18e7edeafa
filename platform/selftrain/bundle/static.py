"""A static student without PyTorch: one vector a token, their mean, and a linear layer are a few lines of NumPy, and PyTorch takes seconds to import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from selftrain.bundle.checking import PROTOTYPES, reason_of
from selftrain.bundle.format import BundleCard, check_prototypes
from selftrain.bundle.tokens import FastReader, cut_tokenizer
from selftrain.errors import BundleError
from selftrain.files.parsing import json_of

_MODULE, _WEIGHT = "StaticEmbedding", "embedding.weight"


class StaticBackend:
    """The mean of the tokens' vectors, compared with the prototypes.

    Args:
        vectors: `[tokens of the vocabulary, dimensions]` in float32.
        prototypes: `[classes, dimensions]`.
        bias: `[classes]` or None.
        scale: factor on the similarities.
        cosine: whether means are normalised to length one.
    """

    name = "numpy"
    pads = False
    on_cpu = True

    def __init__(self, vectors: np.ndarray, prototypes: np.ndarray, bias: np.ndarray | None, scale: float, *, cosine: bool) -> None:
        self.vectors, self.scale, self.cosine = vectors, scale, cosine
        self.weights = prototypes.astype(np.float64).T
        self.bias = 0.0 if bias is None else bias.astype(np.float64)

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return self.embedded(ids, mask)[0]

    def embedded(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Backend`; the embeddings are the means of the tokens' vectors."""
        lengths = mask.sum(axis=1)
        shares = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)  # a text without a known token has the mean zero
        ends = np.append(0, np.cumsum(lengths))
        # A sparse product adds the vectors of a text without a copy of them all, eight times as fast as NumPy's `reduceat`.
        means = csr_array((shares, ids[mask.astype(bool)], ends), shape=(len(ids), len(self.vectors))) @ self.vectors
        if self.cosine:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        logits = self.scale * means.astype(np.float64) @ self.weights + self.bias
        powers: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True), means


def is_static(folder: Path) -> bool:
    """Whether the encoder of a checked bundle is a `StaticEmbedding` alone."""
    modules = json_of((folder / "modules.json").read_text(encoding="utf-8"))
    return [module["type"].rpartition(".")[2] for module in modules] == [_MODULE]


def open_static(folder: Path, card: BundleCard) -> tuple[FastReader, StaticBackend]:
    """Reader and backend of a static student's bundle.

    Args:
        folder: the bundle, checked.
        card: its card.

    Raises:
        BundleError: a file cannot be read, or does not fit the others.
    """
    try:
        vectors = load_file(str(folder / "model.safetensors"))[_WEIGHT].astype(np.float32, copy=False)
        tensors = load_file(str(folder / PROTOTYPES))
        prototypes, bias = tensors["prototypes"], tensors.get("bias")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # safetensors and tokenizers raise classes of their own, and plain Exception
        raise BundleError(f"The bundle {folder} cannot be opened ({reason_of(error)}); write it again.") from None
    check_prototypes(folder, card, prototypes, bias)
    if not np.isfinite(vectors).all():
        raise BundleError(f"The weights {_WEIGHT} of the bundle {folder} hold numbers that are not finite; train it again.")
    if vectors.ndim != 2 or vectors.shape[1] != prototypes.shape[1]:
        raise BundleError(
            f"The prototypes of the bundle {folder} have {prototypes.shape[1]} dimensions, and its encoder gives {vectors.shape[-1]}; write the bundle again."
        )
    if (largest := max(tokenizer.get_vocab().values(), default=0)) >= len(vectors):
        raise BundleError(
            f"The tokenizer of the bundle {folder} has token ids up to {largest:,}, and its encoder {len(vectors):,} vectors; write the bundle again."
        )
    reader = FastReader(cut_tokenizer(tokenizer, card.max_tokens, padding=0, static=True))
    return reader, StaticBackend(vectors, prototypes, bias, card.scale, cosine=card.similarity == "cosine")
