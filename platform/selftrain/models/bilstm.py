"""A bidirectional LSTM without pre-training, as SunGen and ZeroGen use it: what it knows, it has from the training documents.

    f(x) = mean over the words of [h_forward; h_backward],   h = LSTM(word embeddings)

The vocabulary is that of the training documents, all weights start as U(-1/sqrt(2H), 1/sqrt(2H)) (SunGen's released code; one layer, 100 word dimensions, H = 150
a direction, no dropout). It is made of modules of sentence-transformers, so a bundle of it opens like any other. The released code takes the last state of each
direction instead of the mean; no module of sentence-transformers gives the backward one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import PackedSequence

from selftrain.models.encoder import TextEncoder

if TYPE_CHECKING:  # the import takes seconds, and a process that only names what is here does not need it
    from sentence_transformers import SentenceTransformer

PADDING = "PADDING_TOKEN"  # word 0; texts are lower-cased, so none holds it


def vocabulary(texts: Sequence[str], size: int) -> list[str]:
    """The `size` most frequent lower-cased words of `texts`, by falling frequency and then by the alphabet, without the padding."""
    counts = Counter(word for text in texts for word in text.lower().split())
    return sorted(counts, key=lambda word: (-counts[word], word))[:size]


def bilstm(words: Sequence[str], *, word_dimensions: int = 100, hidden: int = 150, device: str = "cpu") -> SentenceTransformer:
    """The modules with new weights, which follow from torch's seed.

    Args:
        words: the vocabulary; other words are skipped where they are met (in a text, punctuation around a word is cut off before it is given up).
        word_dimensions: length of a word's embedding.
        hidden: H, the state of a direction; an embedding has twice its length.
        device: where it computes.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    bound = (2 * hidden) ** -0.5
    tokenizer = WhitespaceTokenizer([PADDING, *words], stop_words=[], do_lower_case=True)
    layer = LSTM(word_dimensions, hidden)
    with torch.no_grad():
        weights = torch.empty(1 + len(words), word_dimensions).uniform_(-bound, bound)
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound)
    return SentenceTransformer(
        modules=[WordEmbeddings(tokenizer, weights, update_embeddings=True), layer, Pooling(2 * hidden, "mean")], device=device
    )


class BiLSTMEncoder(TextEncoder):
    """A `TextEncoder` of word ids: `inputs` are padded with 0, and `of_inputs` reads the words alone.

    Args:
        backbone: see `bilstm`; its weights are trained in place.
        max_tokens, batch_size, normalize: as in `TextEncoder`; a token is a known word.
    """

    light = True
    tensors = True
    drawn = True
    default_rate = 1e-3  # SunGen appendix F.2

    def __init__(self, backbone: SentenceTransformer, *, max_tokens: int = 64, batch_size: int = 64, normalize: bool = False) -> None:
        super().__init__(backbone, max_tokens=max_tokens, batch_size=batch_size, normalize=normalize)
        self._ids: dict[str, np.ndarray] = {}

    def inputs(self, texts: Sequence[str]) -> torch.Tensor:
        """Word ids `[texts, longest of them]`, 0 behind a text's end."""
        return self._padded(texts, self.max_tokens)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Words of each text that are read."""
        return [int(length) for length in (self.inputs(texts) != 0).sum(dim=1)]

    def of_inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Embeddings of `inputs`, `[N, dimensions]`; a row without words is zero, as sentence-transformers has it."""
        lengths = (rows != 0).sum(dim=1)
        read, order = lengths.clamp(min=1).sort(descending=True, stable=True)
        # Packed by hand, which differentiates in forward mode too: all first words, all second words, ..., longest text first.
        steps = torch.arange(int(read[0]), device=rows.device).unsqueeze(1)
        there = steps < read.unsqueeze(0)
        words, layer, _ = self.backbone
        ids = rows[order, : len(steps)].T[there]
        states = layer.encoder(PackedSequence(words.emb_layer(ids), there.sum(dim=1).cpu()))[0].data
        owners = order.expand_as(there)[there]
        total = torch.zeros(len(rows), states.shape[1], dtype=states.dtype, device=rows.device).index_add(0, owners, states)
        found = torch.where((lengths > 0).unsqueeze(1), total / lengths.clamp(min=1).unsqueeze(1), 0.0)
        return F.normalize(found, dim=-1) if self.normalize else found

    def forward(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        """Embeddings `[texts, dimensions]`, with gradient."""
        return self.of_inputs(self._padded(texts, max_tokens or self.max_tokens))

    def fresh(self) -> dict[str, torch.Tensor]:
        """See `Encoder.fresh`: new weights from torch's generator."""
        bound = self.dimensions**-0.5
        return {name: torch.empty_like(value).uniform_(-bound, bound) for name, value in self.named_parameters()}

    def cut(self, texts: Sequence[str]) -> list[str]:
        """The first `max_tokens` words of each text."""
        return [" ".join(text.split()[: self.max_tokens]) for text in texts]

    def _padded(self, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
        tokenizer = self.backbone[0].tokenizer
        for text in texts:
            if text not in self._ids:
                self._ids[text] = np.array(tokenizer.tokenize(text), dtype=np.int64)
        found = [self._ids[text][:max_tokens] for text in texts]
        rows = np.zeros((len(found), max((len(ids) for ids in found), default=0) or 1), dtype=np.int64)
        for row, ids in zip(rows, found, strict=True):
            row[: len(ids)] = ids
        return torch.from_numpy(rows).to(self.device)
