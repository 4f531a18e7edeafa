"""What the tokenizer makes of a text, kept: every step of a training and every round asks for texts that were read before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:  # the import takes seconds, and a process that only names what is here does not need it
    from sentence_transformers import SentenceTransformer

KEPT_TEXTS = 1 << 14  # at most; 64 tokens of each take 10 MB, and the texts what they take

Features = dict[str, Any]  # of sentence-transformers: `input_ids` and the like, `[texts, tokens]`, and words about them


class KeptTokens:
    """The features of texts as `SentenceTransformer.preprocess` gives them, number for number, with each text tokenised once.

    Only the plain form is kept: integers that are padded behind the text to the longest of the batch. Any other backbone is asked every time.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, np.ndarray]] = {}  # tokens read at most -> text -> [features, tokens]
        self._ends: dict[int, dict[str, int]] = {}  # likewise -> characters that they cover
        self._ids: dict[int, dict[str, list[int]]] = {}
        self._names: tuple[str, ...] = ()  # of the features
        self._words: Features = {}  # what goes with them and is no tensor
        self._plain = True
        self._lock = threading.Lock()  # copies share what is kept, and may be in several threads

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptTokens:
        return self  # a copy of an encoder has the same tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptTokens, ()  # another process keeps its own

    def features(self, backbone: SentenceTransformer, texts: Sequence[str], longest: int) -> Features:
        """Features of a batch.

        Args:
            backbone: its `max_seq_length` is `longest`.
            texts: at least one.
            longest: tokens of a text that are read.
        """
        if not self._plain or len(texts) > KEPT_TEXTS:
            return _preprocessed(backbone, texts)
        with self._lock:
            kept = self._rows.setdefault(longest, {})
            missing = _missing(kept, self._rows, texts)
            self._plain = not missing or self._keep(kept, missing, _preprocessed(backbone, missing))
            rows = [kept[text] for text in texts] if self._plain else []
        return self._batch(backbone.tokenizer, rows) if rows else _preprocessed(backbone, texts)

    def ends(self, tokenizer: Any, texts: Sequence[str], longest: int) -> list[int]:
        """Characters at the beginning of each text that `longest` tokens, special ones included, cover."""

        def found(some: Sequence[str]) -> list[int]:
            encoded = tokenizer(list(some), truncation=True, max_length=longest, return_offsets_mapping=True)
            return [max((end for _, end in offsets), default=0) for offsets in encoded["offset_mapping"]]

        return self._once(self._ends, texts, longest, found)

    def ids(self, tokenizer: Any, texts: Sequence[str], longest: int) -> list[list[int]]:
        """Token ids of each text, special ones included; the caller may change the lists."""
        found = self._once(self._ids, texts, longest, lambda some: tokenizer(list(some), truncation=True, max_length=longest)["input_ids"])
        return [list(row) for row in found]

    def _once(self, store: dict[int, dict[str, Any]], texts: Sequence[str], longest: int, made: Callable[[Sequence[str]], list[Any]]) -> list[Any]:
        if len(texts) > KEPT_TEXTS:
            return made(texts)
        with self._lock:
            kept = store.setdefault(longest, {})
            if missing := _missing(kept, store, texts):
                kept |= zip(missing, made(missing), strict=True)
            return [kept[text] for text in texts]

    def _keep(self, kept: dict[str, np.ndarray], texts: Sequence[str], features: Features) -> bool:
        """Keep what `texts` are without their padding; whether that is all that there is of them."""
        tensors = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
        mask = tensors.get("attention_mask")
        if mask is None or not tensors.keys() <= {"input_ids", "attention_mask", "token_type_ids"}:
            return False
        lengths = mask.sum(dim=1)
        padded_behind = torch.arange(mask.shape[1]) < lengths.unsqueeze(1)
        if mask.shape[1] != int(lengths.max()) or not torch.equal(mask.bool(), padded_behind):
            return False
        self._names, self._words = tuple(tensors), {name: value for name, value in features.items() if name not in tensors}
        columns = torch.stack(list(tensors.values()), dim=1).to(torch.int32).numpy()  # [texts, features, tokens]
        kept |= ((text, columns[place, :, :length].copy()) for place, (text, length) in enumerate(zip(texts, lengths.tolist(), strict=True)))
        return True

    def _batch(self, tokenizer: Any, rows: Sequence[np.ndarray]) -> Features:
        """Features of texts with these `rows`, padded to the longest of them."""
        paddings = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
        shape = len(self._names), len(rows), max(row.shape[1] for row in rows)
        found = np.empty(shape, dtype=np.int64)
        for place, name in enumerate(self._names):
            found[place] = paddings[name]
        for place, row in enumerate(rows):
            found[:, place, : row.shape[1]] = row
        return {name: torch.from_numpy(column) for name, column in zip(self._names, found, strict=True)} | self._words


def _preprocessed(backbone: SentenceTransformer, texts: Sequence[str]) -> Features:
    found: Features = backbone.preprocess(list(texts))
    return found


def _missing(kept: dict[str, Any], everything: dict[int, dict[str, Any]], texts: Sequence[str]) -> list[str]:
    """The texts that are not kept yet, each once; where there is no room for them, all is forgotten first.

    Args:
        kept: of the texts, a part of `everything`.
        everything: that is kept.
        texts: no more than may be kept.
    """
    missing = [text for text in dict.fromkeys(texts) if text not in kept]
    if missing and sum(map(len, everything.values())) + len(missing) > KEPT_TEXTS:
        for one in everything.values():
            one.clear()
        return list(dict.fromkeys(texts))
    return missing
