"""GenDict of GenCo's algorithm 1, made durable: every text that a language model wrote, by what was asked.

A folder of Parquet blocks. A block is written under a temporary name and renamed, so a reader never sees half of one, and a killed run loses at most the
block in flight. The key covers document, prompt, model, sampling and sample number: whatever changes the answer changes the key, and nothing else does.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.errors import UserError


@dataclass(frozen=True)
class Answer:
    """One raw answer of a language model, as it is stored."""

    key: str
    document_id: str
    kind: str
    label: str  # class name for `conditional`, else ""
    sample: int
    text: str
    cut_off: bool  # ended by the token limit
    prompt_tokens: int
    generated_tokens: int


_SCHEMA = pa.schema(
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
assert _SCHEMA.names == [field.name for field in fields(Answer)]


def cache_key(*, document: str, prompt: str, model: str, sampling: Mapping[str, Any], sample: int) -> str:
    """The key of one text: 32 hexadecimal digits.

    Args:
        document: id of the whole document; two that begin alike are still two.
        prompt: the filled template; it holds the document's beginning and the label.
        model: fingerprint of the language model.
        sampling: temperature, token limits, and so on.
        sample: number of the sample; a second sample of the same prompt is another text.
    """
    text = json.dumps([document, prompt, model, dict(sampling), sample], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


class TextCache:
    """All answers of one cache folder, in memory, with blocks added on disk.

    Raises:
        UserError: the folder holds a block that cannot be read; it is named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._answers: dict[str, Answer] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob("*.parquet")):
            try:
                rows = pq.read_table(file, schema=_SCHEMA).to_pylist()
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(
                    f"The text cache holds a block that cannot be read, {file} ({error}); delete that file, its texts are generated anew."
                ) from None
            for row in rows:
                self._answers[row["key"]] = Answer(**row)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer for `key`, or None."""
        return self._answers.get(key)

    def answers(self) -> Iterator[Answer]:
        """All answers."""
        return iter(self._answers.values())

    def count(self, document_id: str) -> int:
        """How many answers there are for a document."""
        return sum(answer.document_id == document_id for answer in self._answers.values())

    def add(self, answers: Iterable[Answer]) -> None:
        """Write one block: all of it or nothing."""
        block: Sequence[Answer] = [answer for answer in answers if answer.key not in self._answers]
        if not block:
            return
        name = uuid.uuid4().hex
        scratch = self.folder / f".{name}.tmp"
        pq.write_table(pa.Table.from_pylist([asdict(answer) for answer in block], schema=_SCHEMA), scratch)
        os.replace(scratch, self.folder / f"{name}.parquet")
        self._answers.update((answer.key, answer) for answer in block)
