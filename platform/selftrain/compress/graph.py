"""A bundle's classifier as an ONNX graph: how it is made, in 8 bits too, and how far its probabilities are from PyTorch's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from selftrain.bundle.backends import INPUTS, OUTPUT, Backend, Int8Cost, this_machine
from selftrain.bundle.format import BundleCard
from selftrain.bundle.tokens import padded
from selftrain.errors import BundleError, DataError

_BATCH_SIZES = (1, 2, 3, 5, 8, 13, 21, 32)
_NEWEST_FORMAT = 20  # ONNX operators of this set: ONNX Runtime and OpenVINO of the last two years read it


class Graph(torch.nn.Module):
    """The whole classifier as one function of two tensors, ids and mask `[texts, tokens]`, to probabilities `[texts, classes]` in float32.

    Args:
        backbone: the encoder.
        card: of the bundle, for similarity and scale.
        weights: `[classes, dimensions]`.
        bias: `[classes]` or None.
    """

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


def write_graph(graph: Graph, file: Path) -> None:
    """Write `graph` as ONNX with free batch and length.

    Raises:
        BundleError: PyTorch cannot turn the encoder into a graph.
    """
    ids = torch.arange(5, 37).reshape(2, 16) % 5
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        # The exporter reports every torchvision operator that it does not find.
        with _errors_only("torch.onnx"), warnings.catch_warnings(), torch.no_grad():
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
        raise BundleError(f"The encoder cannot be turned into an ONNX graph ({' '.join(str(error).split())[:200]}); use it with PyTorch.") from None


def quantize(source: Path, target: Path) -> None:
    """Write `source` with the weights of its matrix products and embeddings in 8 bits, a scale for each output of a product; the prototypes stay as they are."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [node.name for node in onnx.load(str(source), load_external_data=False).graph.node if node.op_type in ("MatMul", "Gemm")]
    # Without VNNI, AVX2 adds pairs of products of signed weights in 16 bits, which overflow; with unsigned ones it takes another way, slower and exact.
    signed = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"} & set(this_machine().instructions)
    with _errors_only(None):  # it advises on the root logger to optimise first, which dynamic shapes do not need
        quantize_dynamic(
            str(source),
            str(target),
            per_channel=True,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            nodes_to_exclude=products[-1:],  # with the prototypes: a few rows, of which every digit counts
        )


def largest_difference(reference: Backend, other: Backend, rows: Sequence[Sequence[int]], padding: int, longest: int) -> float:
    """Largest difference of a probability between two backends, on documents of every length in batches from 1 to 32 of mixed lengths.

    Args:
        reference: one backend.
        other: the other one.
        rows: token ids of each document.
        padding: id that fills the end of a shorter row.
        longest: documents are cut to every length from 1 to this many tokens.

    Raises:
        DataError: no document holds a token that the encoder knows.
    """
    by_length = sorted((row for row in rows if row), key=len)
    if not by_length:
        raise DataError("The documents hold no token that the encoder knows; pass other documents.")
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
    """The cost of 8 bits.

    Args:
        before: probabilities of the float32 graph, `[documents, classes]`.
        after: probabilities of the int8 graph, of the same shape.
        labels: true class indices, at least `[documents]`; None where there are none.
        limit: largest loss that is allowed.
    """
    if labels is not None:
        labels = labels[: len(before)]
        shares = [float((found.argmax(axis=1) == labels).mean()) for found in (before, after)]
        return Int8Cost(figure="accuracy", before=shares[0], after=shares[1], limit=limit, documents=len(before))
    agreement = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
    return Int8Cost(figure="agreement", before=1.0, after=agreement, limit=limit, documents=len(before))


@contextmanager
def _errors_only(logger: str | None) -> Iterator[None]:
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
