"""`selftrain export`: a bundle's classifier as ONNX graphs, checked against PyTorch, in 8 bits where that costs little, and the fastest backend of this machine.

Nothing is written unless every float32 graph computes what PyTorch does, on real documents of every length and in batches of many sizes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from selftrain.bundle.backends import (
    BACKENDS,
    FOLDER,
    GRAPHS,
    PACKAGES,
    RECORD,
    TOKENIZER,
    Backend,
    BackendRecord,
    Int8Cost,
    Measured,
    OnnxBackend,
    OpenVinoBackend,
    check_name,
    cores,
    require_packages,
    sha256,
    this_machine,
)
from selftrain.bundle.documents import labels_of, load_documents
from selftrain.bundle.format import BundleCard, checked_card, read_prototypes
from selftrain.bundle.pytorch import TorchBackend, open_backbone
from selftrain.bundle.tokens import FastReader, Reader, batches, padded, reader_of
from selftrain.compress.graph import Graph, int8_cost, largest_difference, quantize, write_graph
from selftrain.errors import BundleError, ConfigError, DataError, OutputError
from selftrain.files.durable import check_folder, check_writable, replacing_folder
from selftrain.models.windows import over_windows
from selftrain.runtime.progress import progress_bar

TOLERANCE = 1e-4  # largest difference of a probability between a float32 graph and PyTorch
DOCUMENTS = 1000  # at most; int8 is judged on them
FEWEST_DOCUMENTS = 100  # fewer cannot show a loss of a percent
_MEASURED_ROUNDS, _MEASURED_SECONDS = 5, 8.0


@dataclass(frozen=True)
class CheckDocuments:
    """The documents of an export: texts, where they are from in words, and true class indices `[texts]` or None."""

    texts: Sequence[str]
    source: str
    labels: np.ndarray | None = None


def require_empty(out: Path) -> None:
    """Raise an `OutputError` unless `out` is a new or empty folder that can be written: what export and distillation check before the work."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"out {str(out)!r} is not an empty folder; pass a new one, so that nothing of yours is overwritten.", parameter="out")
    check_folder(out, "out")


def require_export(graphs: Sequence[str]) -> None:
    """Raise a `MissingExtraError` unless the packages for these backends are installed."""
    require_packages("onnx", "onnxscript", "onnxruntime", *(PACKAGES[name] for name in graphs))


def documents_to_check(card: BundleCard, source: str | Path | None, *, text_column: str = "text", label_column: str | None = None) -> CheckDocuments:
    """The documents of an export: those of `source`, with their labels where it has any; else the validation documents of the bundle's own experiment; else its
    unlabeled ones, without labels.

    Args:
        card: of the bundle.
        source: a file, a name of the catalogue, or None for the bundle's own data.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file; documents without one are left out.

    Raises:
        ConfigError, DataError, BundleError: as `load_documents`.
    """
    corpus, truth = load_documents(card, source, text_column=text_column, label_column=label_column, test_documents=0)
    if source is None and len(corpus.validation):
        return CheckDocuments(
            list(corpus.validation.contents), f"the validation split of {corpus.name}", labels_of(corpus.validation, dict(truth.validation))
        )
    labels = dict(truth.unlabeled) if source is not None else {}
    pairs = [
        (text, labels.get(id_)) for id_, text in zip(corpus.unlabeled.ids, corpus.unlabeled.contents, strict=True) if not labels or id_ in labels
    ]
    return CheckDocuments([text for text, _ in pairs], corpus.name, np.array([label for _, label in pairs]) if labels else None)


def export_bundle(
    folder: str | Path,
    documents: CheckDocuments | str | Path | None = None,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    out: str | Path | None = None,
    max_accuracy_loss: float = 0.005,
    backends: Sequence[str] = BACKENDS,
    threads: int | None = None,
) -> BackendRecord:
    """Put ONNX graphs and the record of the fastest backend into a bundle; a kill at any moment leaves a bundle that opens.

    Args:
        folder: the bundle.
        documents: real documents to check and measure on, or what `documents_to_check` takes; those beyond the first `DOCUMENTS` are left out.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file; documents without one are left out.
        out: an empty or new folder that becomes a copy of the bundle with them; None puts them into the bundle itself.
        max_accuracy_loss: of the int8 graph, in accuracy where the documents have labels, else in agreement with the float32 graph; 0 to 1.
        backends: which to make and measure, of `BACKENDS`; PyTorch is always measured, and is what the others are compared with.
        threads: cores for the measurement; default: all that this process may use.

    Returns:
        What was written as backend.json.

    Raises:
        ConfigError: an argument is wrong.
        MissingExtraError: a package is not installed.
        DataError: there are too few documents.
        BundleError: there is no bundle, ONNX cannot hold its encoder, a graph computes something else, or int8 was the only graph asked for and loses too much.
        OutputError: `out` is not empty, or cannot be written.
    """
    graphs = _graphs(backends)
    if not 0 <= max_accuracy_loss <= 1:
        raise ConfigError(f"max_accuracy_loss must be a share from 0 to 1, such as 0.005 (got {max_accuracy_loss:g}).", parameter="max_accuracy_loss")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1 (got {threads}).", parameter="threads")
    require_export(graphs)
    folder = Path(folder)
    out = Path(out) if out is not None else None
    card = checked_card(folder)
    card.check_one_label("graphs")
    if out is not None:
        require_empty(out)
    if not isinstance(documents, CheckDocuments):
        documents = documents_to_check(card, documents, text_column=text_column, label_column=label_column)
    texts = _texts(documents, graphs)
    work = _Export(folder, card, texts, threads or cores())
    with _whole_or_not_at_all(folder, out) as place, _torch_threads(work.threads):
        work.make_float32(place, graphs)
        cost = work.make_int8(place, documents.labels, max_accuracy_loss, only=graphs == ["onnx-int8"]) if "onnx-int8" in graphs else None
        record = work.record(place, ["torch", *graphs], f"{len(texts):,} documents of {documents.source}", cost)
        (place / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return record


def _graphs(backends: Sequence[str]) -> list[str]:
    """The backends with a graph among `backends`, in the order of `BACKENDS`."""
    for name in backends:
        check_name(name, "backends")
    graphs = [name for name in BACKENDS if name in backends and name != "torch"]
    if not graphs:
        raise ConfigError("backends must hold at least one of onnx, onnx-int8 and openvino.", parameter="backends")
    return graphs


def _texts(documents: CheckDocuments, graphs: Sequence[str]) -> list[str]:
    texts = list(documents.texts[:DOCUMENTS])
    if not texts:
        raise DataError(f"{documents.source} has no document to check the graph on; pass other documents.")
    if "onnx-int8" in graphs and len(texts) < FEWEST_DOCUMENTS:
        raise DataError(
            f"{documents.source} has {len(texts)} documents, too few to judge int8 ({FEWEST_DOCUMENTS} are needed); pass more documents, or leave out the "
            "backend onnx-int8."
        )
    return texts


def divided(reader: Reader, card: BundleCard, texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """(the windows that a bundle reads of texts, text by text; windows of each text)."""
    if card.windows == 1:
        return list(texts), [1] * len(texts)
    split = reader.splitter(card.windows)(texts)
    return [window for one in split for window in one.windows], [len(one.windows) for one in split]


class _Export:
    """An export in progress: a backend is opened as soon as its graph is there.

    Args:
        folder: the bundle.
        card: its card.
        texts: to check and measure on.
        threads: cores to compute with.
    """

    def __init__(self, folder: Path, card: BundleCard, texts: Sequence[str], threads: int) -> None:
        self.folder, self.card, self.threads = folder, card, threads
        self.weights, self.bias = read_prototypes(folder, card)
        self.backbone = open_backbone(folder, "cpu").eval()
        reader = reader_of(self.backbone, card.max_tokens)
        if not isinstance(reader, FastReader):
            raise BundleError(
                f"The encoder of {folder} has no tokenizer of the library tokenizers (it reads words, as a BiLSTM does), so no ONNX graph is made of it."
            )
        self.reader, self.padding = reader, reader.padding
        windows, self.counts = divided(reader, card, texts)
        self.rows = [tokens.ids for tokens in reader(windows)]
        torch_backend = TorchBackend(self.backbone, self.weights, self.bias, card.scale, cosine=card.similarity == "cosine")
        self.opened: dict[str, Backend] = {"torch": torch_backend}
        self.differences = {"torch": 0.0}

    def make_float32(self, place: Path, graphs: Sequence[str]) -> None:
        """Write the float32 graph and the tokenizer into `place`, and check the graph by the backends of `graphs` that compute it."""
        file = place / GRAPHS["onnx"]
        write_graph(Graph(self.backbone, self.card, self.weights, self.bias).eval(), file)
        self.reader.save(place / TOKENIZER)
        for name in ("onnx", "openvino"):
            if name not in graphs and name != "onnx":  # int8 is compared with the float32 graph
                continue
            opened = OpenVinoBackend(file, self.threads) if name == "openvino" else OnnxBackend(file, "onnx", self.threads)
            difference = largest_difference(self.opened["torch"], opened, self.rows, self.padding, self.card.max_tokens)
            if not difference <= TOLERANCE:
                raise BundleError(
                    f"The graph of {self.folder} by {PACKAGES[name]} differs from PyTorch by {difference:.2g} in a probability, the tolerance is "
                    f"{TOLERANCE:g}; nothing was written: leave out the backend {name}, or report it."
                )
            self.opened[name], self.differences[name] = opened, difference

    def make_int8(self, place: Path, labels: np.ndarray | None, limit: float, *, only: bool) -> Int8Cost:
        """Write the int8 graph into `place`, unless it loses more than `limit`; that is an error where it is the `only` one that was asked for."""
        file = place / GRAPHS["onnx-int8"]
        quantize(place / GRAPHS["onnx"], file)
        int8 = OnnxBackend(file, "onnx-int8", self.threads)
        before, after = (
            over_windows(_probabilities(computes, self.rows, self.padding, f"check of {name}"), self.counts)
            for name, computes in (("float32", self.opened["onnx"]), ("int8", int8))
        )
        cost = int8_cost(before, after, labels, limit)
        if cost.refused:
            if only:
                raise BundleError(f"{cost.sentence()[:-1]}; nothing was written: raise the limit, or choose other backends.")
            file.unlink()
        else:
            self.opened["onnx-int8"], self.differences["onnx-int8"] = int8, float(np.abs(before - after).max())
        return cost

    def record(self, place: Path, wanted: Sequence[str], documents: str, cost: Int8Cost | None) -> BackendRecord:
        """Measure the backends of `wanted` that are open, and delete the float32 graph from `place` where none of them computes it."""
        opened = {name: self.opened[name] for name in wanted if name in self.opened}
        if not {"onnx", "openvino"} & set(opened):
            (place / GRAPHS["onnx"]).unlink()
        sizes = {name: (place / GRAPHS[name]).stat().st_size for name in opened if name != "torch"}
        sizes["torch"] = sum(file.stat().st_size for file in self.folder.rglob("*.safetensors"))
        measured = [
            Measured(backend=name, one=one, many=many, size_mb=round(sizes[name] / 1e6, 2), difference=self.differences[name])
            for name, (one, many) in measure(opened, self.rows, self.padding).items()
        ]
        return BackendRecord(
            chosen=max(measured, key=lambda entry: entry.one * entry.many).backend,
            machine=this_machine(),
            threads=self.threads,
            measured=tuple(measured),
            tolerance=TOLERANCE,
            documents=documents,
            int8=cost,
            files={file.name: sha256(file) for file in sorted(place.iterdir())},
            versions={name: version(name) for name in ("torch", "onnx", *sorted({PACKAGES[name] for name in opened if name != "torch"}))},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def measure(opened: Mapping[str, Backend], rows: Sequence[Sequence[int]], padding: int) -> dict[str, tuple[float, float]]:
    """Texts a second of each backend, (one text a call, 32 texts a call): medians over rounds in which the backends take turns."""
    ordered = sorted((row for row in rows if row), key=len)
    at = [int(share * (len(ordered) - 1)) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    ones = [padded([ordered[index]], padding) for index in at]
    many = [padded([ordered[min(index + step, len(ordered) - 1)] for step in range(32)], padding) for index in (at[0], at[2], at[4])]
    for computes in opened.values():
        for ids, mask in (*ones, *many):  # the first time of a shape is the slowest
            computes(ids, mask)
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in opened}
    end = time.monotonic() + _MEASURED_SECONDS
    rounds = 0
    while rounds < _MEASURED_ROUNDS or time.monotonic() < end:
        rounds += 1
        for name, computes in opened.items():
            for inputs, texts, kept in ((ones, 1, rates[name][0]), (many, 32, rates[name][1])):
                start = time.perf_counter()
                for ids, mask in inputs:
                    computes(ids, mask)
                kept.append(texts * len(inputs) / (time.perf_counter() - start))
    return {name: (round(statistics.median(one), 1), round(statistics.median(many), 1)) for name, (one, many) in rates.items()}


def describe_export(record: BackendRecord) -> str:
    """The table of an export, and what was chosen."""
    lines = [f"{'backend':<10}  {'1 text a call':>14}  {'32 texts a call':>15}  {'MB':>7}  {'difference':>10}"]
    for entry in record.measured:
        lines.append(f"{entry.backend:<10}  {entry.one:>10.0f} t/s  {entry.many:>11.0f} t/s  {entry.size_mb:>7.1f}  {entry.difference:>10.1e}")
    if record.int8 is not None:
        lines += ["", record.int8.sentence()]
    threads = f"{record.threads} thread{'s' if record.threads > 1 else ''}"
    return "\n".join([*lines, "", f"chosen: {record.chosen}, the fastest on this machine ({record.machine.cpu}, {threads}), on {record.documents}"])


def _probabilities(computes: Backend, rows: Sequence[Sequence[int]], padding: int, what: str) -> np.ndarray:
    parts: dict[int, np.ndarray] = {}
    with progress_bar(what, "text", len(rows)) as bar:
        for batch in batches([len(row) for row in rows], 32):
            parts.update(zip(batch, computes(*padded([rows[index] for index in batch], padding)), strict=True))
            bar.update(len(batch))
    return np.stack([parts[index] for index in range(len(rows))])


@contextmanager
def _whole_or_not_at_all(folder: Path, out: Path | None) -> Iterator[Path]:
    """A scratch folder for the graphs and the record; they move to their places when everything has succeeded, the record last."""
    if out is not None:
        with replacing_folder(out.absolute()) as whole:
            shutil.copytree(folder, whole, ignore=lambda where, _: (FOLDER, RECORD) if Path(where) == Path(folder) else (), dirs_exist_ok=True)
            place = whole / FOLDER
            place.mkdir()
            yield place
            (place / RECORD).rename(whole / RECORD)
        return
    home = folder.absolute()
    check_writable(home.parent, "the folder that holds the bundle")
    # Not `replacing_folder`, which takes a new folder: here a bundle stays and two of its parts change.
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.partial-", dir=home.parent) as scratch:
        place, record = Path(scratch) / FOLDER, Path(scratch) / RECORD
        place.mkdir()
        yield place
        (place / RECORD).rename(record)
        # Without its record a bundle is opened with PyTorch: so it opens at every moment of the exchange.
        (folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        place.rename(folder / FOLDER)
        os.replace(record, folder / RECORD)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
