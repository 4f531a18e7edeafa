"""GenDict of GenCo's algorithm 1, made durable: every text that a language model wrote, by what was asked.

A folder of Parquet blocks. A block is written whole or not at all, and a killed run loses at most the block in flight. The key covers document, prompt,
model, sampling and sample number: whatever changes the answer changes the key, and nothing else does.

Several processes may write at once. The first text that is committed for a key is the one that counts: whoever comes second drops its own and reads the
first, so that what a run reports is what every later run reads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.errors import SelfTrainError
from selftrain.files.durable import explained, replacing, sync


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

    A block that cannot be understood costs its own texts and nothing else: it is renamed to `NAME.parquet.broken`, said on standard error and listed in
    `broken`; its texts are generated anew.

    Raises:
        SelfTrainError: the folder cannot be written, or a block not be read for a reason that is not its content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[Path] = []  # blocks that were set aside
        self._answers: dict[str, Answer] = {}
        self._read: set[str] = set()
        with self._explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._read_blocks()  # without a turn: a block is whole when it appears, and whoever commits has read all before it

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
        """Commit what has no text yet, as one block: all of it or nothing. Of a key that another process has committed, its text is taken over.

        Raises:
            SelfTrainError: the disk is full, or the folder cannot be written.
        """
        wanted = [answer for answer in answers if answer.key not in self._answers]
        if not wanted:
            return
        with self._alone():
            self._read_blocks()
            block = [answer for answer in {answer.key: answer for answer in reversed(wanted)}.values() if answer.key not in self._answers][::-1]
            if not block:
                return
            file = self.folder / f"{self._next():08d}-{uuid.uuid4().hex}.parquet"
            with self._explained(file), replacing(file) as scratch:
                pq.write_table(pa.Table.from_pylist([asdict(answer) for answer in block], schema=_SCHEMA), scratch)
            self._read.add(file.name)
            self._answers.update((answer.key, answer) for answer in block)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time; a process that dies gives its turn back."""
        lock = self.folder / ".lock"
        with self._explained(lock):
            turn = lock.open("a")
        with turn:
            with self._explained(lock):
                fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    def _explained(self, file: Path) -> Any:
        return explained(
            file, "free some space, fix the folder's permissions, or set augment.cache; what the cache holds is kept, and --resume goes on"
        )

    def _read_blocks(self) -> None:
        """Read the blocks that are new since the last time, in the order in which they were committed."""
        for file in sorted((file for file in self.folder.glob("*.parquet") if file.name not in self._read), key=lambda file: file.name):
            # Blocks without a number are older than all with one; of these, the last by name has always counted.
            self._take(file, overwrite=_number(file) is None)
            self._read.add(file.name)

    def _take(self, file: Path, *, overwrite: bool) -> None:
        try:
            table = pq.read_table(file, schema=_SCHEMA)
            if any(column.null_count for column in table.columns):
                raise pa.ArrowInvalid("a column is missing or has gaps")
            rows = table.to_pylist()
        except FileNotFoundError:  # set aside by another process
            return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE):
                raise SelfTrainError(
                    f"The text cache's block {file} cannot be read ({error.strerror or error}); fix that and repeat the command."
                ) from None
            self._set_aside(file, error)
            return
        for row in rows:
            if overwrite or row["key"] not in self._answers:
                self._answers[row["key"]] = Answer(**row)

    def _set_aside(self, file: Path, error: Exception) -> None:
        aside = file.with_name(f"{file.name}.broken")
        with self._explained(aside):
            try:
                file.rename(aside)
            except FileNotFoundError:  # by another process
                return
            sync(self.folder)
        self.broken.append(aside)
        reason = " ".join(str(error).split())[:150]
        print(
            f"selftrain: the text cache's block {file} is broken ({reason}); it is now {aside.name}, and its texts are generated anew.",
            file=sys.stderr,
        )

    def _next(self) -> int:
        numbers = [number for file in self.folder.glob("*.parquet*") if (number := _number(file)) is not None]
        return max(numbers, default=0) + 1


def broken_blocks(folder: Path) -> set[Path]:
    """Blocks of the cache in `folder` that were set aside because they could not be understood."""
    return set(folder.glob("*.parquet.broken"))


def _number(file: Path) -> int | None:
    """The place in the order of commits; None for a block of a selftrain that numbered none."""
    first, dash, _ = file.name.partition("-")
    return int(first) if dash and first.isdecimal() else None
