"""What the processes of a prediction do: open the bundle once, then read, classify and write one part after the other.

Reading is done here, and not by Ray Data's own readers: a row keeps its place in its file, a wrong row costs itself, and a file from anyone is held against the
same bounds as everywhere (data/parquet.py, data/records.py) before anything of it is decoded.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain import errors
from selftrain.data.tables import Table, TableRow, open_result, open_table
from selftrain.errors import DataError, OutputError, SelfTrainError
from selftrain.files.remote import named_as
from selftrain.passes.bundles import SentBundle
from selftrain.passes.inputs import Source, check_unchanged, describe, described_to_json
from selftrain.passes.parts import Part
from selftrain.passes.places import Output, Scratch, open_output

if TYPE_CHECKING:
    from selftrain.bundle.classifier import Classifier

STATE = "_pass.json"  # in the folder of results, from the start on: what is written there


@dataclass(frozen=True)
class Work:
    """What is the same for all parts."""

    out: str
    state: bytes  # what STATE holds
    text_column: str
    columns: pa.Schema  # of the files that are read
    file_column: str  # says which file a row is from
    added: tuple[str, ...]  # columns of label, probability, error, groups, each class, the set and so on, of `bundle.predict.result_columns`
    result: pa.Schema  # all columns of the result
    threads: int
    gpus: float
    abstain: bool  # no label where the bundle's promise takes it
    sets: bool  # the classes of each row's prediction set
    none_of_these: float | None  # the typicality up to which a row gets no label; None where that is not asked


@dataclass
class Counts:
    """What is counted of rows."""

    rows: int = 0
    failed: int = 0  # rows that cannot be classified
    abstained: int = 0  # rows on which the bundle is not sure enough for its promise, or that fit no class
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, labels: list[str | None], errors: list[str | None]) -> None:
        """Count rows by their labels, or by why they have none."""
        self.rows += len(labels)
        self.failed += sum(error is not None for error in errors)
        self.abstained += sum(label is None and error is None for label, error in zip(labels, errors, strict=True))
        self.labels.update(label for label in labels if label is not None)

    def add_all(self, other: Counts) -> None:
        """Count what `other` has counted."""
        self.rows += other.rows
        self.failed += other.failed
        self.abstained += other.abstained
        self.labels.update(other.labels)


def read_error(found: list[Any]) -> SelfTrainError:
    """The error of an answer."""
    name, message, parameter = found
    kind: type[SelfTrainError] = getattr(errors, name)
    return kind(message, parameter=parameter)


def _error(error: SelfTrainError) -> dict[str, Any]:
    return {"error": [type(error).__name__, str(error), error.parameter]}


class Describer:
    """Says what text files hold; the questions are files. See `stream.answers`."""

    def __init__(self, text_column: str) -> None:
        self._text_column = text_column
        self._scratch = Scratch()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What one file holds."""
        number, *facts = json.loads(str(batch["asked"][0]))
        source = Source(*facts)
        answer: dict[str, Any] = {"number": number}
        try:
            check_unchanged(source)
            answer |= {"described": described_to_json(describe(source, self._text_column, self._scratch))}
        except SelfTrainError as error:
            answer |= _error(error)
        return {"asked": batch["asked"], "answer": [json.dumps(answer)]}


class Predictor:
    """Classifies; the questions are parts. See `stream.answers`.

    What is wrong with a file or the bundle is an answer too: as an exception it would reach the driver in an envelope of Ray's, or end the process.
    """

    def __init__(self, work: Work, bundle: SentBundle) -> None:
        self._work = work
        self._problem: SelfTrainError | None = None
        self._read: tuple[Source, Table, Path] | None = None  # the file of the part before, which is often that of the next
        try:
            self._output = open_output(work.out)
            self._check_output(self._output)
            self._classifier = self._opened(bundle)
            self._threshold = self._classifier.promised_threshold() if work.abstain else 0.0
            self._sets = self._classifier.promised_sets() if work.sets else None
            if work.none_of_these is not None:
                self._classifier.typicality(["a text"])  # or say why that is not possible
        except SelfTrainError as error:
            self._problem = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Classify one part, and count it."""
        part = Part.from_json(str(batch["asked"][0]))
        answer: dict[str, Any] = {"part": part.number}
        try:
            if self._problem is not None:
                raise self._problem
            found = self._counted(part)
            counts = found or self._classified(part)
            answer |= {"found": found is not None, "counts": vars(counts)}
        except SelfTrainError as error:
            answer |= _error(error)
        return {"asked": batch["asked"], "answer": [json.dumps(answer)]}

    def _check_output(self, output: Output) -> None:
        if output.found(STATE) != self._work.state:
            import socket

            raise OutputError(
                f"out {output.location} is not the same folder on {socket.gethostname()}; pass a folder that all nodes share, or an address.",
                parameter="out",
            )

    def _opened(self, bundle: SentBundle) -> Classifier:
        from selftrain.bundle.classifier import Classifier
        from selftrain.runtime.devices import keep_to_share

        device = "cuda" if self._work.gpus else "cpu"
        keep_to_share(self._work.gpus, device)
        return Classifier.load(bundle.unpacked(), device=device, threads=self._work.threads)

    def _counted(self, part: Part) -> Counts | None:
        """The counts of a part that is written; None where it is not, or is damaged."""
        counts = Counts()
        label, _, error, *_ = self._work.added
        try:
            with self._output.reading(part.name) as stream, pq.ParquetFile(stream) as file:
                for batch in file.iter_batches(columns=[label, error]):
                    counts.add(batch.column(label).to_pylist(), batch.column(error).to_pylist())
        except SelfTrainError:  # a ServiceError is an OSError too
            raise
        except (OSError, pa.ArrowException):
            return None
        return counts if counts.rows == part.rows else None

    def _classified(self, part: Part) -> Counts:
        from selftrain.bundle.predict import batches, classified

        work, counts = self._work, Counts()
        label, _, error, *_ = work.added
        with self._output.writing(part.name) as file, open_result(file, ".parquet", work.result) as writer:
            for piece in part.slices:
                path, before = piece.source.path, counts.rows
                table, copied = self._table(piece.source)
                with named_as(path, copied):
                    for batch in batches(table.read(piece.start, piece.stop)):
                        rows = [TableRow({**row.cells, work.file_column: path}, row.characters, row.slipped) for row in batch]
                        written = classified(self._classifier, rows, work.text_column, work.added, self._threshold, self._sets, work.none_of_these)
                        writer.write(written)
                        counts.add([row[label] for row in written], [row[error] for row in written])
                if counts.rows - before != piece.stop - piece.start:
                    raise DataError(f"{path} was changed while it was read; repeat the command, and leave the files as they are.")
        return counts

    def _table(self, source: Source) -> tuple[Table, Path]:
        """A file, open, and the path that errors about it name."""
        check_unchanged(source)
        if self._read is None or self._read[0] != source:
            self._read = None
            copied = self._scratch.copy(source.path) if source.remote else Path(source.path)
            types = {column.name: column.type for column in self._work.columns}
            with named_as(source.path, copied):
                self._read = source, open_table(copied, self._work.text_column, json_types=types), copied
        return self._read[1:]

    @cached_property
    def _scratch(self) -> Scratch:
        return Scratch()
