"""Windows: the parts of a long document that the encoder reads one by one.

A document that is longer than what the encoder reads becomes up to `most` texts, evenly spread from its beginning to its end:

    f(x) = mean over the windows w of f(w)

A similarity is linear in f, so a document's is the mean of its windows', and its probabilities are the geometric mean of theirs, scaled to sum 1. What computes
one window (a graph, a batch of the endpoint) therefore needs to know nothing of the others. The mean is not scaled to length one again: a document whose windows
disagree is less confident, and its class is the same either way.

Windows are texts, cut where tokens begin and end. A document that the encoder reads whole is its own only window, unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from selftrain.errors import ConfigError

if TYPE_CHECKING:  # the imports take seconds, and a process that only names what is here, or classifies by a graph, does not need them
    import torch
    from sentence_transformers import SentenceTransformer

DOCUMENT_TOKENS = 4096  # of a document over which its windows are spread
DOCUMENT_CHARACTERS = 16 * DOCUMENT_TOKENS  # that the tokenizer gets to see; English has four or five a token
_KEPT_TEXTS = 1 << 14  # whose windows are kept while training: every step asks for some


class Split(NamedTuple):
    """The windows of one text."""

    windows: tuple[str, ...]  # the text itself where it is one window
    truncated: bool  # whether the text goes on behind the last one


def places(tokens: int, room: int, most: int) -> list[tuple[int, int]]:
    """(first token, token behind the last) of each window.

    Where `most` windows hold the whole text, it is divided into as few as hold it, all of one size; a longer text has `most` full windows with gaps between them.

    Args:
        tokens: of the text.
        room: tokens of a window at most.
        most: windows at most.
    """
    count = max(1, min(most, -(-tokens // room)))
    size = min(room, -(-tokens // count))
    return [(at, at + size) for at in (index * (tokens - size) // max(1, count - 1) for index in range(count))]


class Splitter:
    """Divides texts into windows.

    Args:
        tokenizer: of the encoder, with the special tokens that it puts around a text.
        max_tokens: of a window, special ones included.
        most: windows of a text at most.
        keeps: whether the windows of the latest texts are kept, for texts that come again and again.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, most: int, *, keeps: bool = False) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(DOCUMENT_TOKENS)
        self._room = max(1, max_tokens - tokenizer.num_special_tokens_to_add(False))
        self._most = most
        self._kept: dict[str, Split] | None = {} if keeps else None

    def __call__(self, texts: Sequence[str]) -> list[Split]:
        """The windows of each text."""
        if self._kept is None:
            return self._divided(texts)
        found = {text: self._kept[text] for text in texts if text in self._kept}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        found |= zip(new, self._divided(new), strict=True)
        if len(self._kept) + len(new) > _KEPT_TEXTS:
            self._kept.clear()
        self._kept |= {text: found[text] for text in new[:_KEPT_TEXTS]}
        return [found[text] for text in texts]

    def _divided(self, texts: Sequence[str]) -> list[Split]:
        heads = [text[:DOCUMENT_CHARACTERS] for text in texts]
        result = []
        for text, head, encoding in zip(texts, heads, self._tokenizer.encode_batch(heads, add_special_tokens=False), strict=True):
            offsets = encoding.offsets
            several = places(len(offsets), self._room, self._most)
            windows = tuple(head[offsets[first][0] : offsets[end - 1][1]] for first, end in several) if len(several) > 1 else (text,)
            result.append(Split(windows, bool(encoding.overflowing) or bool(text[len(head) :].strip())))
        return result


def splitter_of(backbone: SentenceTransformer, max_tokens: int, most: int) -> Splitter:
    """The splitter of an encoder's texts.

    Args:
        backbone: the encoder.
        max_tokens: of a window, special ones included.
        most: windows of a text at most.

    Raises:
        ConfigError: its tokenizer does not say where tokens begin and end.
    """
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    found = backbone.tokenizer
    tokenizer = found if isinstance(found, Tokenizer) else getattr(found, "backend_tokenizer", None)
    if tokenizer is None:
        raise ConfigError(
            f"model.windows must be 1: the encoder's tokenizer does not say where tokens begin and end (got {most}).", parameter="model.windows"
        )
    if isinstance(backbone[0], StaticEmbedding):  # it averages the words alone
        tokenizer = Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), "post_processor": None}))
    return Splitter(tokenizer, max_tokens, most, keeps=True)


def mean_over_windows(split: Sequence[Split], embed: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """f of texts from f of their windows, `[texts, dimensions]`, with the gradient that `embed` has.

    Args:
        split: the windows of each text, at least one text.
        embed: f of texts that are one window each, `[windows, dimensions]`.
    """
    import torch

    counts = [len(one.windows) for one in split]
    rows = embed([*chain.from_iterable(one.windows for one in split)])
    if max(counts) == 1:
        return rows
    numbers = torch.tensor(counts, device=rows.device)
    owners = torch.repeat_interleave(numbers)
    total = torch.zeros(len(counts), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add(0, owners, rows)
    return total / numbers.unsqueeze(1)


def geometric_mean(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities `[classes]` of a text from those of its parts, `[parts, classes]`: the softmax of the mean of their logarithms."""
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)).mean(axis=0)
    powers: np.ndarray = np.exp(logarithms - logarithms.max())
    return powers / powers.sum()


def over_windows(probabilities: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Probabilities of texts from those of their windows.

    Args:
        probabilities: `[windows, classes]`, text by text.
        counts: windows of each text.

    Returns:
        `[texts, classes]`; those of a text of one window are that window's.
    """
    if len(counts) == len(probabilities):
        return probabilities
    parts = np.split(probabilities, np.cumsum(counts)[:-1])
    return np.stack([geometric_mean(rows) if len(rows) > 1 else rows[0] for rows in parts])
