"""GenDict of GenCo's algorithm 1, made durable: every completion of a language model, by what it was asked.

A folder of Parquet blocks. A block is written whole or not at all, and a killed run loses at most the block in flight. The key covers document, prompt,
model, sampling and sample number: whatever changes the completion changes the key, and nothing else does.

Several processes may write at once. The first completion that is committed for a key counts: a second writer drops its own and reads the first, so a run
reports what every later run reads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.errors import DataError
from selftrain.files.durable import explained, replacing, sync


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
assert _SCHEMA.names == [field.name for field in fields(Completion)]


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


class TextCache:
    """All completions of one cache folder, in memory, with blocks added on disk.

    A block that cannot be parsed costs its own completions and nothing else: it is renamed to `NAME.parquet.broken`, reported on standard error and listed
    in `broken`; its completions are generated anew.

    Raises:
        OutputError: the folder cannot be written.
        DataError: a block cannot be read for a reason other than its content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[Path] = []  # blocks that were set aside
        self._completions: dict[str, Completion] = {}
        self._blocks: set[str] = set()  # names of those that were read
        with self._explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._read_blocks()  # without the lock: a block is whole when it appears, and every writer has read all blocks before its own

    def __len__(self) -> int:
        return len(self._completions)

    def get(self, key: str) -> Completion | None:
        """The completion for `key`, or None."""
        return self._completions.get(key)

    def completions(self) -> Iterator[Completion]:
        """All completions."""
        return iter(self._completions.values())

    def count(self, document_id: str) -> int:
        """The number of completions for a document."""
        return sum(completion.document_id == document_id for completion in self._completions.values())

    def add(self, completions: Iterable[Completion]) -> None:
        """Commit those with a new key as one block: all of it or nothing. Where another process has committed a key, its completion replaces this one.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
            DataError: a block of another process cannot be read.
        """
        new = [completion for completion in completions if completion.key not in self._completions]
        if not new:
            return
        with self._lock():
            self._read_blocks()
            block: dict[str, Completion] = {}
            for completion in new:
                if completion.key not in self._completions:
                    block.setdefault(completion.key, completion)
            if not block:
                return
            file = self.folder / f"{self._next_number():08d}-{uuid.uuid4().hex}.parquet"
            with self._explained(file), replacing(file) as scratch:
                pq.write_table(pa.Table.from_pylist([asdict(completion) for completion in block.values()], schema=_SCHEMA), scratch)
            self._blocks.add(file.name)
            self._completions |= block

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time; the lock of a process that dies is released."""
        path = self.folder / ".lock"
        with self._explained(path):
            file = path.open("a")
        with file:
            with self._explained(path):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _explained(self, file: Path) -> AbstractContextManager[None]:
        return explained(
            file, "free some space, fix the folder's permissions, or set augment.cache; what the cache holds is kept, and a resumed run continues"
        )

    def _read_blocks(self) -> None:
        """Read the blocks that are new since the last time, in the order in which they were committed."""
        for file in sorted((file for file in self.folder.glob("*.parquet") if file.name not in self._blocks), key=lambda file: file.name):
            # Blocks without a number are older than all with one; of these, the last by name has always counted.
            self._read_block(file, overwrite=_number(file) is None)
            self._blocks.add(file.name)

    def _read_block(self, file: Path, *, overwrite: bool) -> None:
        try:
            table = pq.read_table(file, schema=_SCHEMA)
            if any(column.null_count for column in table.columns):
                raise pa.ArrowInvalid("a column is missing or has gaps")
            rows = table.to_pylist()
        except FileNotFoundError:  # another process has set it aside
            return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE):
                raise DataError(
                    f"The text cache's block {file} cannot be read ({error.strerror or error}); fix the cause and repeat the command."
                ) from None
            self._set_aside(file, error)
            return
        for row in rows:
            if overwrite or row["key"] not in self._completions:
                self._completions[row["key"]] = Completion(**row)

    def _set_aside(self, file: Path, error: Exception) -> None:
        aside = file.with_name(f"{file.name}.broken")
        with self._explained(aside):
            try:
                file.rename(aside)
            except FileNotFoundError:  # another process has set it aside
                return
            sync(self.folder)
        self.broken.append(aside)
        reason = " ".join(str(error).split())[:150]
        print(
            f"selftrain: the text cache's block {file} is broken ({reason}); it is now {aside.name}, and its texts are generated anew.",
            file=sys.stderr,
        )

    def _next_number(self) -> int:
        numbers = [number for file in self.folder.glob("*.parquet*") if (number := _number(file)) is not None]
        return max(numbers, default=0) + 1


def broken_blocks(folder: Path) -> set[Path]:
    """Blocks of the cache in `folder` that were set aside because they could not be parsed."""
    return set(folder.glob("*.parquet.broken"))


def _number(file: Path) -> int | None:
    """The place in the order of commits; None for a block of an early version, which did not number them."""
    first, dash, _ = file.name.partition("-")
    return int(first) if dash and first.isdecimal() else None
