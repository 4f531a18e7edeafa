"""A head: a trained residual dense layer on embeddings that the frozen encoder makes once and a cache keeps.

    f(x) = trunk(x) + tanh(W trunk(x) + b),   W and b zero at the start

So the untrained f is the sentence encoder as it is, zero-shot methods can start from it, and what was trained opens anywhere as one more module of
sentence-transformers. A step takes milliseconds instead of a second, which is what makes sweeps and many seeds affordable on a CPU.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from selftrain.files.durable import explained, replacing
from selftrain.models.encoder import TextEncoder
from selftrain.models.windows import mean_over_windows, splitter_of

if TYPE_CHECKING:  # the import takes seconds, and a process that only names what is here does not need it
    from sentence_transformers import SentenceTransformer


_LATEST = 1 << 14  # texts whose rows are found without a hash of all of their characters


class EmbeddingCache:
    """Embeddings by text, in memory and, where a folder is given, on disk: blocks of arrays without pickle, each written whole or not at all."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._rows: dict[bytes, np.ndarray] = {}
        self._latest: dict[str, np.ndarray] = {}  # of texts that were asked for: a step asks for some again, and their keys would take a tenth of it
        self._read: set[str] = set()
        self._read_blocks()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """A lock under which one process of a machine at a time embeds what is missing; what others have added until then is read first."""
        if self._folder is None:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._read_blocks()
            yield

    def _read_blocks(self) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        for file in sorted(self._folder.glob("*.npz")):
            if file.name not in self._read:
                self._read.add(file.name)
                with np.load(file, allow_pickle=False) as block:
                    self._rows.update(zip((key.tobytes() for key in block["keys"]), block["rows"], strict=True))

    def get(self, text: str) -> np.ndarray | None:
        """The embedding of `text`, `[dimensions]`."""
        found = self._latest.get(text)
        if found is None and (found := self._rows.get(_key(text))) is not None:
            if len(self._latest) == _LATEST:
                self._latest.clear()
            self._latest[text] = found
        return found

    def add(self, texts: Sequence[str], rows: np.ndarray) -> None:
        """Keep `rows[i]` for `texts[i]`."""
        keys = [_key(text) for text in texts]
        self._rows.update(zip(keys, rows, strict=True))
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{uuid.uuid4().hex}.npz"
        block = self._folder / name
        with (
            explained(block, "free some space, or set model.cache to a folder on another disk"),
            replacing(block) as scratch,
            scratch.open("wb") as file,
        ):
            np.savez(file, keys=np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1), rows=rows)
        self._read.add(name)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()[:16]


class HeadEncoder(TextEncoder):
    """A `TextEncoder` of which the residual layer alone is trained.

    Args:
        trunk: the frozen encoder; its parameters are neither trained nor part of the state.
        cache: folder of its embeddings; None keeps them in memory.
        max_tokens, batch_size, normalize, windows: as in `TextEncoder`. A training step reads the mean of a document's windows, the untrained embedding of the whole
            (`inputs`); predictions are, like those of a bundle, the mean over windows of f.
    """

    frozen = True
    light = True
    tensors = True
    continuous = True

    def __init__(
        self,
        trunk: SentenceTransformer,
        *,
        cache: Path | None = None,
        max_tokens: int = 64,
        batch_size: int = 64,
        normalize: bool = True,
        windows: int = 1,
    ) -> None:
        from sentence_transformers.sentence_transformer.modules import Dense

        torch.nn.Module.__init__(self)
        # In a tuple, so that torch does not count the trunk among what is trained and saved.
        self._trunk = (TextEncoder(trunk, max_tokens=max_tokens, batch_size=batch_size, normalize=normalize).eval(),)
        self.max_tokens, self.batch_size, self.normalize, self.precision = max_tokens, batch_size, normalize, "float32"
        if windows > 1:
            self.splitter = splitter_of(trunk, min(max_tokens, self.longest), windows)
        self._cache_folder = cache
        self._caches: dict[str, EmbeddingCache] = {}
        dimensions = int(trunk.get_embedding_dimension() or 0)
        self.layer = Dense(
            dimensions, dimensions, init_weight=torch.zeros(dimensions, dimensions), init_bias=torch.zeros(dimensions), use_residual=True
        ).to(trunk.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> HeadEncoder:
        """Another layer with the same weights on the same trunk and the same embeddings."""
        twin = HeadEncoder(self.trunk, cache=self._cache_folder, max_tokens=self.max_tokens, batch_size=self.batch_size, normalize=self.normalize)
        twin.splitter = self.splitter
        twin.layer.load_state_dict(self.layer.state_dict())
        twin._caches = self._caches
        return twin.train(self.training)

    def _move(self, device: str) -> None:
        super()._move(device)
        self._trunk[0].to(device)  # it is no part of this module

    def uncached(self) -> HeadEncoder:
        """See `Encoder.uncached`; the copy keeps its embeddings in memory of its own."""
        twin = copy.deepcopy(self)
        twin._cache_folder, twin._caches = None, {}
        return twin

    @property
    def trunk(self) -> SentenceTransformer:
        """The frozen encoder."""
        return self._trunk[0].backbone

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return int(self.trunk.get_embedding_dimension() or 0)

    @property
    def device(self) -> torch.device:
        """Where embeddings are."""
        return self.layer.linear.weight.device

    @property
    def longest(self) -> int:
        """Tokens of a text that can be read at most."""
        return self._trunk[0].longest

    def cut(self, texts: Sequence[str]) -> list[str]:
        """See `TextEncoder.cut`."""
        return self._trunk[0].cut(texts)

    def export(self) -> SentenceTransformer:
        """The trunk with the trained layer as one more module."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize

        modules = list(self.trunk)
        if self.normalize and not any(isinstance(module, Normalize) for module in modules):
            modules.append(Normalize())
        return SentenceTransformer(modules=[*modules, self.layer], device=str(self.device))

    def inputs(self, texts: Sequence[str]) -> torch.Tensor:
        """The frozen embeddings that the layer gets, `[texts, dimensions]`; of several windows their mean, as long as one of them."""
        if self.splitter is None or not texts:
            return self._embeddings(texts, self.max_tokens)
        split = self.splitter(texts)
        rows = mean_over_windows(split, lambda windows: self._embeddings(windows, self.max_tokens))
        if not self.normalize:
            return rows
        several = torch.tensor([len(one.windows) > 1 for one in split], device=rows.device)
        return torch.where(several.unsqueeze(1), F.normalize(rows, dim=-1), rows)

    def of_inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Embeddings of (perturbed or mixed) `inputs`, `[texts, dimensions]`, with gradient."""
        return self.of_linear(self.layer.linear(rows), rows)

    def of_linear(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Embeddings `[texts, dimensions]` from what the layer's linear part makes of `inputs`, and these; both `[texts, dimensions]`."""
        found: torch.Tensor = self.layer.activation_function(values) + rows  # what the layer does to the dictionary that it takes
        return F.normalize(found, dim=-1) if self.normalize else found

    def forward(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        """Embeddings `[texts, dimensions]`, with gradient to the layer; those of `unnormalized` have the trunk's length, times what the layer does to it."""
        if not self._own_length:
            return self.of_inputs(self.inputs(texts) if max_tokens is None else self._embeddings(texts, max_tokens))
        if self.splitter is not None and max_tokens is None:
            return mean_over_windows(self.splitter(texts), lambda windows: self(windows, self.max_tokens))
        longest = max_tokens or self.max_tokens
        rows = self._embeddings(texts, longest)
        return self.of_inputs(rows) * (self._own_lengths(texts, longest) / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        """Embeddings `[texts, dimensions]` without gradient."""
        if self.splitter is not None and max_tokens is None and texts:
            return mean_over_windows(self.splitter(texts), lambda windows: self.encode(windows, self.max_tokens))
        with torch.no_grad():
            return self(texts, max_tokens) if texts else torch.empty(0, self.dimensions)

    def _embeddings(self, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
        return self._cached(f"tokens-{max_tokens}", texts, lambda missing: self._trunk[0].encode(missing, max_tokens))

    def _own_lengths(self, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
        """Lengths of the trunk's embeddings before anything normalises them, `[texts, 1]`."""
        trunk = self._trunk[0].unnormalized()
        return self._cached(f"lengths-{max_tokens}", texts, lambda missing: trunk.encode(missing, max_tokens).norm(dim=1, keepdim=True))

    def _cached(self, name: str, texts: Sequence[str], made: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
        if name not in self._caches:
            self._caches[name] = EmbeddingCache(self._cache_folder / name if self._cache_folder is not None else None)
        cache = self._caches[name]
        rows = [cache.get(text) for text in texts]
        if any(row is None for row in rows):
            with cache.filling():
                if missing := [text for text in dict.fromkeys(texts) if cache.get(text) is None]:
                    cache.add(missing, made(missing).cpu().numpy())
            rows = [cache.get(text) for text in texts]
        return torch.from_numpy(np.stack([row for row in rows if row is not None])).to(self.device)
