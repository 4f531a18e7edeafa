"""What is committed in a text cache, as far as this process has looked: the newest manifest, and the blocks of the log that came after it.

The order in which blocks count, where two of them have a key (caches of early versions alone): merged files, blocks without a number from the last name to the
first, blocks by number.
"""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.errors import DataError, SelfTrainError
from selftrain.files.remote import at_once
from selftrain.texts.cache.block import Block, BrokenBlock, RowGroups, among, log_bytes, merged_bytes
from selftrain.texts.cache.completion import HASH, SCHEMA, Hashes
from selftrain.texts.cache.manifest import MERGED, Manifest, MergedFile, manifest_name, merged_name, newest_generation, unlisted
from selftrain.texts.cache.store import Store

BROKEN = ".broken"  # after the name of a block that was set aside
THROUGH = b"selftrain.through"  # of merged files: what is in them of the log, should the manifest be lost
_TRIES = 100  # for a name that is listed and not there: on NFS for up to a minute, while the listing is old
_BLOCK = re.compile(r"[^.].*\.parquet")
_NUMBERED = re.compile(r"(\d+)-.*\.parquet(?:\.broken)?")


def block_name(number: int) -> str:
    """The block of the log with this number; whoever creates it has committed it. Early versions had a random part in place of `texts`."""
    return f"{number:08d}-texts.parquet"


class Contents:
    """The blocks of one cache.

    Args:
        store: that holds them.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.manifest = Manifest()
        self.log: list[Block] = []
        self.broken: list[str] = []  # paths of the blocks that were set aside by this process
        self.last_number = 0  # in the log
        self._kept = RowGroups()
        self._log_hashes: Hashes | None = None  # of the log without what was appended since, sorted
        self._appended: set[int] = set()  # hashes
        self._merged: dict[str, Block] = {}

    @property
    def blocks(self) -> list[Block]:
        """All, in the order in which they count."""
        return [*self.merged_blocks(self.manifest.files), *self.log]

    def blocks_for(self, wanted: Hashes) -> list[Block]:
        """Those in which hashes may be found. To ask hundreds of small blocks takes longer than to write one, so that the log is left out where it has none."""
        if self._log_hashes is None:
            self._log_hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *(block.hashes for block in self.log)]))
            self._appended = set()
        in_log = among(wanted, self._log_hashes).any() or not self._appended.isdisjoint(wanted.tolist())
        return self.blocks if in_log else self.merged_blocks(self.manifest.files)

    def merged_blocks(self, files: Iterable[MergedFile]) -> list[Block]:
        """The blocks of files of the manifest."""
        return [self._merged.setdefault(file.name, Block(self.store, file.name, self._kept, file)) for file in files]

    def refresh(self, known: int = 0) -> bool:
        """Look at what was committed since the last time; returns whether anything was.

        Args:
            known: a number in the log that exists, whatever a listing says: one on NFS may be old.

        Raises:
            DataError: something is listed and cannot be read.
            OutputError: a broken block cannot be set aside.
        """
        before = self.manifest.generation, [block.name for block in self.log]
        for attempt in range(_TRIES):
            names = self._names()
            if known and not any(number_of(name) == known for name in names):
                names.append(block_name(known))
            if self._read_manifest(names) and self._read_log(names):
                return before != (self.manifest.generation, [block.name for block in self.log])
            time.sleep(min(attempt * 0.02, 1.0))
        raise DataError(f"The text cache {self.store.location} lists files that are not there; check its file system, and repeat the command.")

    def newer_manifest(self) -> bool:
        """Whether there is a generation that this process has not seen."""
        return newest_generation(self.store.names()) > self.manifest.generation

    def append(self, number: int, table: pa.Table) -> None:
        """Take in the block of `table` that this process has committed under the next number."""
        block = Block(self.store, block_name(number), self._kept)
        block.hold(table)
        self.log.append(block)
        self._appended.update(block.hashes.tolist())
        self.last_number = number

    def commit(self, manifest: Manifest) -> bool:
        """Make `manifest`, the next generation, the newest, and remove what it took up; False where another process was first."""
        if not self.store.create(manifest_name(manifest.generation), manifest.to_bytes()):
            return False
        self._take(manifest)
        merged = {block.name for block in self.log if number_of(block.name) <= manifest.through}
        self._set_log([block for block in self.log if block.name not in merged])
        # Also what a killed process left. A file by another name that somebody has put there stays, though it does not count.
        done = [
            name for name in self.store.names() if name in merged or (name == block_name(number_of(name)) and number_of(name) <= manifest.through)
        ]
        self.store.remove([*done, *unlisted(self.store.names(MERGED), manifest)])
        if manifest.generation > 2:
            self.store.replace(manifest_name(manifest.generation - 2), b"")
        return True

    def write_merged(self, table: pa.Table, generation: int, through: int) -> MergedFile:
        """Write a file for a merge that wants to become `generation`.

        Args:
            table: sorted by hash; at least one row.
            generation: that will have the file.
            through: of that generation.
        """
        content = merged_bytes(table.replace_schema_metadata({THROUGH: str(through)}))
        file = merged_name(generation, uuid.uuid4().hex)
        self.store.create(file, content)
        hashes = table.column(HASH)
        return MergedFile(file, table.num_rows, table.nbytes, len(content), hashes[0].as_py(), hashes[-1].as_py())

    def set_aside(self, problem: BrokenBlock) -> None:
        """Have a broken block cost itself alone: it is kept under another name and reported, and what can be read of a merged one goes on counting."""
        block = problem.block
        if block.entry is not None:
            self._set_aside_merged(block, problem)
            return
        if not problem.gone:
            self._empty(problem)
            self._set_log([one for one in self.log if one is not block])
        self.refresh()

    def _empty(self, problem: BrokenBlock) -> None:
        block = problem.block
        with suppress(FileNotFoundError):
            self.store.create(block.name + BROKEN, self.store.read(block.name))
            # Its number stays taken: a writer that has not seen the blocks after it must not commit there.
            self.store.replace(block.name, log_bytes(SCHEMA.empty_table()))
            self._report(problem, "its texts are")

    def _set_aside_merged(self, block: Block, problem: BrokenBlock) -> None:
        while True:
            self.refresh()
            if block.entry not in self.manifest.files:  # merged, or set aside, by another process
                return
            rest = block.readable().sort_by(HASH)
            with suppress(FileNotFoundError):
                self.store.create(block.name + BROKEN, self.store.read(block.name))
            generation, through = self.manifest.generation + 1, self.manifest.through
            files = [self.write_merged(rest, generation, through)] if rest.num_rows else []
            if self.commit(self.manifest.swapped(block.name, files)):
                self._report(problem, f"{len(block) - rest.num_rows} of its {len(block)} texts are")
                return

    def _report(self, problem: BrokenBlock, texts: str) -> None:
        file = self.store.path(problem.block.name)
        where = "" if problem.gone else f"; it is now {file.rpartition('/')[2]}{BROKEN}"
        self.broken.append(file if problem.gone else file + BROKEN)
        print(f"selftrain: the text cache's block {file} is broken ({problem.reason}){where}, and {texts} generated anew.", file=sys.stderr)

    def _names(self) -> list[str]:
        """What is there, with the blocks of the log that the newest manifest among them does not hold.

        Blocks are removed after the manifest that holds them has appeared. A listing takes a while: one during which none appeared lacks no block.
        """
        names = self.store.names()
        while newest_generation(names) != newest_generation(again := self.store.names()):
            names = again
        return names

    def _read_manifest(self, names: list[str]) -> bool:
        generation = newest_generation(names)
        if generation <= self.manifest.generation:
            return True
        name = manifest_name(generation)
        try:
            content = self.store.read(name)
        except FileNotFoundError:
            return False
        if not content and newest_generation(self.store.names()) > generation:
            return False
        try:
            self._take(Manifest.from_bytes(content, self.store.path(name)))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            self._write_manifest_anew(generation, content, str(error))
            return False
        return True

    def _write_manifest_anew(self, generation: int, content: bytes, reason: str) -> None:
        """Commit the generation after a broken manifest: every merged file that is there. They hold nothing but committed texts, some of them twice."""
        files, through = [], -1
        self.store.create(manifest_name(generation) + BROKEN, content)
        for name in sorted(unlisted(self.store.names(MERGED), Manifest(generation))):  # all but those of a merge that is at work
            try:
                whole = self.store.read(name)
                table = pq.read_table(pa.BufferReader(whole), page_checksum_verification=True)
                through = max(through, int(table.schema.metadata[THROUGH]))
                hashes = table.column(HASH)
                files.append(MergedFile(name, table.num_rows, table.nbytes, len(whole), hashes[0].as_py(), hashes[-1].as_py()))
            except FileNotFoundError:
                continue
            except SelfTrainError:
                raise
            except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                self.store.create(name + BROKEN, whole)
                self._report(BrokenBlock(Block(self.store, name, self._kept), " ".join(str(error).split())[:150]), "its texts are")
        if self.store.create(manifest_name(generation + 1), Manifest(generation + 1, through, tuple((file,) for file in files)).to_bytes()):
            path = self.store.path(manifest_name(generation))
            self.broken.append(path + BROKEN)
            print(f"selftrain: the text cache's manifest {path} is broken ({reason}); it is made anew of the files that are there.", file=sys.stderr)

    def _take(self, manifest: Manifest) -> None:
        self.manifest = manifest
        names = {file.name for file in manifest.files}
        self._merged = {name: block for name, block in self._merged.items() if name in names}

    def _set_log(self, log: list[Block]) -> None:
        self.log, self._log_hashes = log, None

    def _read_log(self, names: list[str]) -> bool:
        """Read the blocks that are new; False where one is gone: merged in the meantime, or set aside."""
        have = {block.name: block for block in self.log}
        there = sorted((name for name in names if _BLOCK.fullmatch(name) and number_of(name) > self.manifest.through), key=_place)
        log = [have.get(name) or Block(self.store, name, self._kept) for name in there]
        problems = [problem for problem in at_once(_load, (block for block in log if block.name not in have)) if problem]
        for problem in problems:
            if not problem.gone:
                self._empty(problem)
        if problems:
            return False
        if log != self.log:
            self._set_log(log)
        self.last_number = max(0, self.manifest.through, *map(number_of, names))
        return True


def number_of(name: str) -> int:
    """The number in the log; 0 for everything else. A block of an early version that was set aside still has its number."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else 0


def _place(name: str) -> tuple[int, str | tuple[int, ...]]:
    """The place of a block in the log. Of blocks without a number, which are older than all with one, the last by name has always counted."""
    number = number_of(name)
    return (number, name) if number else (0, tuple(-ord(character) for character in name))


def _load(block: Block) -> BrokenBlock | None:
    try:
        _ = block.hashes
    except BrokenBlock as problem:
        return problem
    return None
