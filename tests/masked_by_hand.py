"""A masked language model that fits on a line, for iPET and LOTClass by hand; its tokenizer is a real one, and all of it is float64.

State of token t of a text:  h_t = E[token t] + the mean of E over the text's tokens. The language model's logits there are U h_t, and the classifier's embedding is
tanh(D h_t); the text's is that of its first token. E, U of the language model and E, D of the body are weights of their own, as they are after `deepcopy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BertTokenizerFast

from selftrain.models.masked import MaskedEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class LinearLanguageModel(torch.nn.Module):
    """E `[V, d]` and U `[V, d]`."""

    def __init__(self, count: int, dimensions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.E = torch.nn.Parameter(torch.randn(count, dimensions, dtype=torch.float64, generator=generator))
        self.U = torch.nn.Parameter(torch.randn(count, dimensions, dtype=torch.float64, generator=generator))


class LinearMasked(MaskedEncoder):
    """See the module's docstring.

    Args:
        words: the vocabulary behind the special tokens, in one string.
        dimensions: d.
        seed: of all weights.
        max_tokens: tokens of a document that are read, with the two special ones.
        dropout: in front of the classifier.
    """

    def __init__(self, words: str, *, dimensions: int = 3, seed: int = 0, max_tokens: int = 8, dropout: float = 0.0) -> None:
        torch.nn.Module.__init__(self)
        self.vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys([*SPECIAL, *words.split()]))}
        tokenizer = BertTokenizerFast(vocab=self.vocabulary, do_lower_case=True, model_max_length=64)
        generator = torch.Generator().manual_seed(seed)
        self._language_model = (LinearLanguageModel(len(self.vocabulary), dimensions, generator),)
        self.E = torch.nn.Parameter(torch.randn(len(self.vocabulary), dimensions, dtype=torch.float64, generator=generator))
        self.D = torch.nn.Parameter(torch.randn(dimensions, dimensions, dtype=torch.float64, generator=generator))
        self.max_tokens, self.batch_size, self.dropout, self._longest = max_tokens, 4, dropout, 64
        self.backbone = SimpleNamespace(tokenizer=tokenizer)

    @property
    def dimensions(self) -> int:
        return len(self.D)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def words(self, model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return padded([states(model.E, row) @ model.U.T for row in rows])

    def words_at(self, model: Any, rows: Sequence[Sequence[int]], places: torch.Tensor) -> torch.Tensor:
        return self.words(model, rows)[places]

    def classify_tokens(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return padded([torch.tanh(states(self.E, row) @ self.D.T) for row in rows])

    def forward(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        return self.classify_tokens(self.tokens_of(texts))[:, 0]


def states(E: torch.Tensor, row: Sequence[int]) -> torch.Tensor:
    """h_t of every token, `[tokens, d]`."""
    return E[list(row)] + E[list(row)].mean(dim=0)


def padded(parts: list[torch.Tensor]) -> torch.Tensor:
    """Texts of different length in one tensor; behind the end stands what nobody may read."""
    longest = max(len(part) for part in parts)
    return torch.stack([torch.cat([part, part.new_full((longest - len(part), part.shape[1]), float("nan"))]) for part in parts])
