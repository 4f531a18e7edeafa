"""`selftrain export`: a bundle's classifier as an ONNX graph, checked against PyTorch, in 8 bits where that costs little, and the fastest backend of this machine.

Nothing is written unless every float32 graph computes what PyTorch does, on real documents of every length and in batches of many sizes.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from selftrain.bundle.backends import (
    BACKENDS,
    FOLDER,
    GRAPHS,
    INPUTS,
    OUTPUT,
    PACKAGES,
    RECORD,
    TOKENIZER,
    Backend,
    Int8Cost,
    Measured,
    OnnxBackend,
    OpenVinoBackend,
    Record,
    TorchBackend,
    check_name,
    cores,
    require_packages,
    sha256,
    this_machine,
)
from selftrain.bundle.classifier import open_backbone
from selftrain.bundle.documents import labels_of, load_documents
from selftrain.bundle.format import BundleCard, checked_card, read_prototypes
from selftrain.bundle.tokens import FastReader, batches, padded, reader_of
from selftrain.errors import SelfTrainError

TOLERANCE = 1e-4  # largest difference of a probability between a float32 graph and PyTorch
DOCUMENTS = 1000  # at most; int8 is judged on them
FEWEST_DOCUMENTS = 100  # fewer cannot show a loss of a percent
_BATCH_SIZES = (1, 2, 3, 5, 8, 13, 21, 32)
_MEASURED_ROUNDS, _MEASURED_SECONDS = 5, 8.0
_NEWEST_FORMAT = 20  # ONNX operators of this set: ONNX Runtime and OpenVINO of the last two years read it


@dataclass(frozen=True)
class CheckedOn:
    """The documents of an export: texts, where they are from in words, and true class indices `[texts]` or None."""

    texts: Sequence[str]
    source: str
    labels: np.ndarray | None = None


def documents_to_check(card: BundleCard, source: str | None, *, text_column: str = "text", label_column: str | None = None) -> CheckedOn:
    """The documents of an export: those of `source`, with their labels where it has any, else the validation documents of the bundle's own experiment, else its
    unlabeled ones, without labels.

    Args:
        card: of the bundle.
        source: a file, a name of the catalogue, or None for the bundle's own data.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file; documents without one are left out.

    Raises:
        SelfTrainError: as `load_documents`.
    """
    corpus, truth = load_documents(card, source, text_column=text_column, label_column=label_column, test_documents=0)
    if source is None and len(corpus.validation):
        return CheckedOn(
            list(corpus.validation.texts), f"the validation split of {corpus.name}", labels_of(corpus.validation, dict(truth.validation))
        )
    labels = dict(truth.unlabeled) if source is not None else {}
    pairs = [(text, labels.get(id_)) for id_, text in zip(corpus.unlabeled.ids, corpus.unlabeled.texts, strict=True) if not labels or id_ in labels]
    return CheckedOn([text for text, _ in pairs], corpus.name, np.array([label for _, label in pairs]) if labels else None)


class Graph(torch.nn.Module):
    """The whole classifier as one function of two tensors, ids and mask `[texts, tokens]`, to probabilities `[texts, classes]` in float32."""

    def __init__(self, backbone: SentenceTransformer, card: BundleCard, weights: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(list(backbone))
        self.cosine = card.similarity == "cosine"
        self.register_buffer("weights", (card.scale * weights).float())
        self.register_buffer("bias", torch.zeros(len(weights)) if bias is None else bias.float())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        for part in self.parts:
            if isinstance(part, StaticEmbedding):
                there = attention_mask.unsqueeze(-1).float()
                total = (part.embedding.weight[input_ids] * there).sum(dim=1)
                features["sentence_embedding"] = total / there.sum(dim=1).clamp(min=1.0)  # a text without a known token is zero
            else:
                features = part(features)
        embeddings = features["sentence_embedding"]
        if self.cosine:
            embeddings = F.normalize(embeddings, dim=-1)
        assert isinstance(self.weights, torch.Tensor)
        return torch.softmax(embeddings @ self.weights.T + self.bias, dim=-1)


def export_bundle(
    folder: Path,
    documents: CheckedOn,
    *,
    out: Path | None = None,
    max_accuracy_loss: float = 0.005,
    backends: Sequence[str] = BACKENDS,
    threads: int | None = None,
) -> Record:
    """Put ONNX graphs and the record of the fastest backend into a bundle; a kill at any moment leaves a bundle that opens.

    Args:
        folder: the bundle.
        documents: real documents; those beyond the first `DOCUMENTS` are left out.
        out: an empty or new folder that becomes a copy of the bundle with them; None puts them into the bundle itself.
        max_accuracy_loss: of the int8 graph, in accuracy where the documents have labels, else in agreement with the float32 graph; 0 to 1.
        backends: which to make and measure, of `BACKENDS`; PyTorch is always measured, and is what the others are compared with.
        threads: cores for the measurement; default: all that this process may use.

    Returns:
        What was written as backend.json.

    Raises:
        SelfTrainError: no bundle, a missing package, an encoder that ONNX cannot hold, a graph that computes something else, too few documents for int8, int8
            beyond the limit where it was the only graph asked for, or `out` is not empty.
    """
    for name in backends:
        check_name(name)
    wanted = [name for name in BACKENDS if name in backends or name == "torch"]
    graphs = [name for name in wanted if name != "torch"]
    if not graphs:
        raise SelfTrainError("There is nothing to export to; name at least one of onnx, onnx-int8 and openvino with --backends.")
    if not 0 <= max_accuracy_loss <= 1:
        raise SelfTrainError(f"--max-accuracy-loss is {max_accuracy_loss:g}; give a share from 0 to 1, such as 0.005.")
    require_packages("onnx", "onnxscript", "onnxruntime", *(PACKAGES[name] for name in graphs))
    folder = Path(folder)
    card = checked_card(folder)
    if out is not None:
        require_empty(out)
    texts = list(documents.texts[:DOCUMENTS])
    if not texts:
        raise SelfTrainError(f"{documents.source} holds no document to check the graph on; name some with --documents FILE.")
    if "onnx-int8" in graphs and len(texts) < FEWEST_DOCUMENTS:
        raise SelfTrainError(
            f"{documents.source} has {len(texts)} documents, too few to judge int8 ({FEWEST_DOCUMENTS} are needed); give more with --documents, or leave int8 "
            "out with --backends onnx,openvino."
        )
    weights, bias = read_prototypes(folder, card)
    backbone = open_backbone(folder, "cpu").eval()
    reader = reader_of(backbone, card.max_tokens)
    if not isinstance(reader, FastReader):
        raise SelfTrainError(
            f"The encoder of {folder} has no tokenizer of the library tokenizers (it is of words, as a BiLSTM is), and no ONNX graph is made of it."
        )
    rows = [tokens.ids for tokens in reader(texts)]
    threads = threads or cores()
    opened: dict[str, Backend] = {"torch": TorchBackend(backbone, weights, bias, card.scale, cosine=card.similarity == "cosine")}

    with _whole_or_not_at_all(folder, out) as place, _torch_threads(threads):
        graph_file = place / GRAPHS["onnx"]
        write_graph(Graph(backbone, card, weights, bias).eval(), graph_file)
        reader.save(place / TOKENIZER)
        differences = {"torch": 0.0}
        for name in ("onnx", "openvino"):
            if name in graphs or name == "onnx":  # int8 is compared with the float32 graph
                opened[name] = OpenVinoBackend(graph_file, threads) if name == "openvino" else OnnxBackend(graph_file, "onnx", threads)
                differences[name] = largest_difference(opened["torch"], opened[name], rows, reader.padding, card.max_tokens)
                if not differences[name] <= TOLERANCE:
                    raise SelfTrainError(
                        f"The graph of {folder} by {PACKAGES[name]} differs from PyTorch by {differences[name]:.2g} in a probability, the tolerance is "
                        f"{TOLERANCE:g}; nothing was written: leave {name} out with --backends, or report it."
                    )
        cost = None
        if "onnx-int8" in graphs:
            file = place / GRAPHS["onnx-int8"]
            quantize(graph_file, file)
            opened["onnx-int8"] = OnnxBackend(file, "onnx-int8", threads)
            before, after = (_probabilities(opened[name], rows, reader.padding) for name in ("onnx", "onnx-int8"))
            differences["onnx-int8"] = float(np.abs(before - after).max())
            cost = int8_cost(before, after, documents.labels, max_accuracy_loss)
            if cost.refused:
                if graphs == ["onnx-int8"]:
                    raise SelfTrainError(f"{cost.sentence()[:-1]}; nothing was written: raise the limit, or name other backends.")
                del opened["onnx-int8"]
                file.unlink()
        opened = {name: opened[name] for name in wanted if name in opened}
        if not {"onnx", "openvino"} & set(opened):
            graph_file.unlink()
        sizes = {name: (place / GRAPHS[name]).stat().st_size for name in opened if name != "torch"}
        sizes["torch"] = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        speeds = measure(opened, rows, reader.padding)
        measured = [
            Measured(backend=name, one=one, many=many, size_mb=round(sizes[name] / 1e6, 2), difference=differences[name])
            for name, (one, many) in speeds.items()
        ]
        record = Record(
            chosen=max(measured, key=lambda entry: entry.one * entry.many).backend,
            machine=this_machine(),
            threads=threads,
            measured=tuple(measured),
            tolerance=TOLERANCE,
            documents=f"{len(texts):,} documents of {documents.source}",
            int8=cost,
            files={file.name: sha256(file) for file in sorted(place.iterdir())},
            versions={name: version(name) for name in ("torch", "onnx", *sorted({PACKAGES[name] for name in opened if name != "torch"}))},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        (place / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return record


def write_graph(graph: Graph, file: Path) -> None:
    """Write `graph` as ONNX with free batch and length.

    Raises:
        SelfTrainError: PyTorch cannot turn the encoder into a graph.
    """
    ids = torch.arange(5, 37).reshape(2, 16) % 5
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it reports every torchvision operator that it does not find
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (ids, mask),
                str(file),
                dynamo=True,
                external_data=False,
                opset_version=_NEWEST_FORMAT,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes=(free, free),
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its stages raise
        raise SelfTrainError(
            f"The encoder cannot be turned into an ONNX graph ({' '.join(str(error).split())[:200]}); use it with PyTorch."
        ) from None
    finally:
        log.setLevel(level)


def quantize(source: Path, target: Path) -> None:
    """Write `source` with the weights of its matrix products and embeddings in 8 bits, a scale for each output of a product; the prototypes stay as they are."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [node.name for node in onnx.load(str(source), load_external_data=False).graph.node if node.op_type in ("MatMul", "Gemm")]
    # The last product is that with the prototypes: a few rows, of which every digit counts.
    kinds = ["MatMul", "Gemm", "Gather"]
    # Without VNNI, AVX2 adds pairs of products of signed weights in 16 bits, which overflow; with unsigned ones it takes another way, slower and exact.
    signed = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"} & set(this_machine().instructions)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises on the root logger to optimise first, which dynamic shapes do not need
    try:
        quantize_dynamic(
            str(source),
            str(target),
            per_channel=True,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            op_types_to_quantize=kinds,
            nodes_to_exclude=products[-1:],
        )
    finally:
        logger.setLevel(level)


def largest_difference(reference: Backend, other: Backend, rows: Sequence[Sequence[int]], padding: int, longest: int) -> float:
    """Largest difference of a probability: documents cut to every length from 1 to `longest` tokens, in batches from 1 to 32 of mixed lengths."""
    by_length = sorted((row for row in rows if row), key=len)
    if not by_length:
        raise SelfTrainError("No document holds a token that the encoder knows; name other documents with --documents FILE.")
    lengths = np.random.default_rng(0).permutation(np.arange(1, longest + 1))
    # For every length a document that is as long, or the longest there is.
    starts = np.searchsorted([len(row) for row in by_length], lengths)
    cut = [
        by_length[min(int(start) + turn % 7, len(by_length) - 1)][:length] for turn, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    cut += [list(row) for row in rows[: max(64, sum(_BATCH_SIZES) - len(cut))]]
    found, start, turn = 0.0, 0, 0
    while start < len(cut):
        size = _BATCH_SIZES[turn % len(_BATCH_SIZES)]
        ids, mask = padded(cut[start : start + size], padding)
        difference = float(np.abs(reference(ids, mask) - other(ids, mask)).max())
        if not np.isfinite(difference):
            return float("inf")
        found, start, turn = max(found, difference), start + size, turn + 1
    return found


def int8_cost(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None, limit: float) -> Int8Cost:
    """What 8 bits cost: of probabilities `[documents, classes]` by the float32 and the int8 graph, and true class indices where there are labels."""
    if labels is not None:
        labels = labels[: len(before)]
        shares = [float((found.argmax(axis=1) == labels).mean()) for found in (before, after)]
        return Int8Cost(figure="accuracy", before=shares[0], after=shares[1], limit=limit, documents=len(before))
    agreement = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
    return Int8Cost(figure="agreement", before=1.0, after=agreement, limit=limit, documents=len(before))


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


def describe(record: Record) -> str:
    """The table of an export, and what was chosen."""
    lines = [f"{'backend':<10}  {'1 text a call':>14}  {'32 texts a call':>15}  {'MB':>7}  {'difference':>10}"]
    for entry in record.measured:
        lines.append(f"{entry.backend:<10}  {entry.one:>10.0f} t/s  {entry.many:>11.0f} t/s  {entry.size_mb:>7.1f}  {entry.difference:>10.1e}")
    if record.int8 is not None:
        lines += ["", record.int8.sentence()]
    threads = f"{record.threads} thread{'s' if record.threads > 1 else ''}"
    return "\n".join([*lines, "", f"chosen: {record.chosen}, the fastest on this machine ({record.machine.cpu}, {threads}), on {record.documents}"])


def require_empty(out: Path) -> None:
    """Raise a `SelfTrainError` unless `out` is a new or empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SelfTrainError(f"{out} exists and is not an empty folder; name a new one with --out, so that nothing of yours is overwritten.")


def scratch_beside(home: Path) -> Path:
    """A new folder beside `home`, on the same disk, to work in and rename from.

    Raises:
        SelfTrainError: nothing can be written there.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{home.name}.partial-", dir=home.parent))
    except OSError as error:
        raise SelfTrainError(f"Nothing can be written in {home.parent} ({error.strerror}); name another folder with --out.") from None


def _probabilities(computes: Backend, rows: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    parts: dict[int, np.ndarray] = {}
    for batch in batches([len(row) for row in rows], 32):
        parts.update(zip(batch, computes(*padded([rows[index] for index in batch], padding)), strict=True))
    return np.stack([parts[index] for index in range(len(rows))])


@contextmanager
def _whole_or_not_at_all(folder: Path, out: Path | None) -> Iterator[Path]:
    """A scratch folder for the graphs and the record; they move to their places when everything has succeeded, the record last."""
    home = (out or folder).absolute()
    scratch = scratch_beside(home)
    try:
        place = scratch / FOLDER
        place.mkdir()
        yield place
        record = scratch / RECORD
        (place / RECORD).rename(record)
        if out is not None:
            whole = scratch / "bundle"
            shutil.copytree(folder, whole, ignore=lambda where, _: (FOLDER, RECORD) if Path(where) == Path(folder) else ())
            place.rename(whole / FOLDER)
            record.rename(whole / RECORD)
            if out.exists():
                out.rmdir()
            whole.rename(home)
        else:
            # Without its record a bundle is opened with PyTorch: so it opens at every moment of the exchange.
            (folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
            place.rename(folder / FOLDER)
            os.replace(record, folder / RECORD)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
