"""One completion: what is stored of it, and what it is stored under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Completion:
    """One raw completion of a language model, as it is stored."""

    key: str
    document_id: str
    kind: str
    label: str  # class name, or ""
    sample: int
    text: str
    cut_off: bool  # the token limit ended it
    prompt_tokens: int
    generated_tokens: int


SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("document_id", pa.string()),
        ("kind", pa.string()),
        ("label", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("cut_off", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("generated_tokens", pa.int32()),
    ]
)
assert SCHEMA.names == [field.name for field in fields(Completion)]
HASH = "hash"  # of the key: what merged files are sorted by
HASHED_SCHEMA = SCHEMA.insert(0, pa.field(HASH, pa.uint64()))


def cache_key(*, document: str, prompt: str, model: str, sampling: Mapping[str, Any], sample: int) -> str:
    """The key of one completion: 32 hexadecimal digits.

    Args:
        document: id of the whole document; two documents with the same beginning have different ids.
        prompt: the filled template; it holds the document's beginning and the label.
        model: fingerprint of the language model.
        sampling: temperature, token limits, and so on.
        sample: number of the sample; a second sample of the same prompt is another completion.
    """
    text = json.dumps([document, prompt, model, dict(sampling), sample], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def key_hashes(keys: Iterable[str]) -> Hashes:
    """64 bits a key, of any key. Two keys may share them (of 10 million, with a chance of 1 in 400,000): the key itself decides."""
    digests = b"".join(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False)


def to_table(completions: Sequence[Completion]) -> pa.Table:
    """Rows of `SCHEMA`, in the same order."""
    return pa.Table.from_pydict({name: [getattr(one, name) for one in completions] for name in SCHEMA.names}, schema=SCHEMA)


def to_completions(table: pa.Table) -> list[Completion]:
    """The rows of a table that has the columns of `SCHEMA`, in the same order."""
    return [Completion(*row) for row in zip(*(table.column(name).to_pylist() for name in SCHEMA.names), strict=True)]
