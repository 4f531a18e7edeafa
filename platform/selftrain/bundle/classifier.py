"""The trained classifier: `Classifier.load(folder).predict(texts)`, with scikit-learn's conventions and without Ray."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selftrain.bundle.backends import FOLDER, TOKENIZER, Backend, check_name, choose, cores, open_graph, read_record
from selftrain.bundle.checking import reason_of
from selftrain.bundle.format import BundleCard, checked_card, read_prototypes
from selftrain.bundle.promise import PredictionSets, kept
from selftrain.bundle.reference import units
from selftrain.bundle.texts import checked_texts
from selftrain.bundle.tokens import (
    BATCH_START_TOKENS,
    BATCH_TOKENS_CPU,
    BATCH_TOKENS_GPU,
    Beginning,
    Continued,
    FastReader,
    Reader,
    Tokens,
    batches,
    padded,
    reader_of,
)
from selftrain.bundle.typicality import Wanted, known_documents, threshold_of
from selftrain.errors import BundleError, ConfigError, say
from selftrain.evaluation.typicality import Surroundings
from selftrain.models.windows import over_windows

if TYPE_CHECKING:  # the imports take seconds, and a process that only names what is here, or classifies by a graph, does not need them
    import torch
    from sentence_transformers import SentenceTransformer

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of the drivers on Linux: without any of them, PyTorch need not be asked
_say_once = cache(say)


class Classifier:
    """`argmax_j sim(f(x), p_j)` of GenCo's equations 1 and 2, with the probabilities of its equation 3.

    Args:
        backbone: the encoder f.
        prototypes: p, `[classes, dimensions]`; an embedding is multiplied by them without further scaling.
        card: class names, similarity, scale and tokens to read.
        bias: `[classes]`, added to the scaled similarities; None for none.
        batch_size: texts in a batch of the encoder at most.

    Attributes:
        classes_: class names, `[classes]`, in the order of `predict_proba`'s columns.
        card: what the bundle states about itself.
        backend: torch, onnx, onnx-int8, openvino, or numpy for a static student.
        most_padding: with more tokens of padding than this, two batches are faster than one; infinite for a static model, which computes no padding.
        most_tokens: of a batch, padding included; more take more memory and no less time. Infinite for a static model.
    """

    def __init__(
        self, backbone: SentenceTransformer, prototypes: torch.Tensor, card: BundleCard, *, bias: torch.Tensor | None = None, batch_size: int = 64
    ) -> None:
        from selftrain.bundle.pytorch import TorchBackend

        computes = TorchBackend(backbone, prototypes, bias, card.scale, cosine=card.similarity == "cosine", independent=card.multi_label)
        self._assemble(card, reader_of(backbone, card.max_tokens), computes, batch_size)

    def _assemble(self, card: BundleCard, reader: Reader, computes: Backend, batch_size: int, folder: Path | None = None) -> None:
        self.card, self._folder = card, folder
        self.classes_ = np.array(card.labels)
        self.backend = computes.name
        self.most_padding = BATCH_START_TOKENS if computes.pads else math.inf
        self.most_tokens = (BATCH_TOKENS_CPU if computes.on_cpu else BATCH_TOKENS_GPU) if computes.pads else math.inf
        self._read, self._compute, self._batch_size = reader, computes, batch_size
        self._split = reader.splitter(card.windows) if card.windows > 1 else None

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | None = None,
        batch_size: int = 64,
        backend: str | None = None,
        threads: int | None = None,
        tracking_uri: str | None = None,
    ) -> Classifier:
        """Open a bundle.

        Args:
            source: its folder, or `models:/NAME@ALIAS` or `models:/NAME/VERSION` of an MLflow registry.
            device: of PyTorch; default: a GPU where there is one, else the CPU. ONNX Runtime and OpenVINO compute on the CPU.
            batch_size: texts in a batch of the encoder at most.
            backend: torch, onnx, onnx-int8 or openvino. Default: on the CPU what `selftrain export` found fastest, where its package is installed and the
                machine is of the same kind, else PyTorch, with the reason on the standard error stream; for a static student that was not exported NumPy.
            threads: cores to compute with; default: all that this process may use. PyTorch has one such number for the whole process.
            tracking_uri: the registry; default: MLFLOW_TRACKING_URI, else the local SQLite file.

        Raises:
            BundleError: there is no bundle, it is damaged, or it has no such backend.
            ConfigError: an argument is wrong.
            ServiceError: the registry does not answer, or has no such model.
            MissingExtraError: the package of the backend, or MLflow for a registered model, is not installed.
        """
        _check_choices(device, backend, threads)
        if isinstance(source, str) and source.startswith("models:/"):
            from selftrain.tracking import registered_bundle  # MLflow takes seconds to import, and a folder needs none

            source = registered_bundle(source, tracking_uri).folder
        folder = Path(source)
        card = checked_card(folder)
        where = device or ("cuda" if _gpu_here() else "cpu")
        record = read_record(folder) if backend != "torch" and (where == "cpu" or backend is not None) else None
        if backend is None and record is None and where == "cpu":
            from selftrain.bundle.static import is_static, open_static

            if is_static(folder):
                return cls._opened(folder, card, *open_static(folder, card), batch_size)
        if backend is None:
            choice = choose(record)
            if choice.why is not None and record is not None:
                _say_once(f"{folder} is opened with PyTorch instead of {record.chosen}: {choice.why}.")
            backend = choice.name
        if backend != "torch":
            computes = open_graph(folder, backend, record, threads or cores())
            return cls._opened(folder, card, FastReader.load(folder / FOLDER / TOKENIZER), computes, batch_size)
        import torch

        from selftrain.bundle.pytorch import open_backbone

        if threads is not None:
            torch.set_num_threads(threads)
        prototypes, bias = read_prototypes(folder, card)
        backbone = open_backbone(folder, where)
        if (dimensions := backbone.get_embedding_dimension()) != prototypes.shape[1]:
            raise BundleError(
                f"The prototypes of the bundle {folder} have {prototypes.shape[1]} dimensions, and its encoder gives {dimensions}; write the bundle again."
            )
        opened = cls(backbone, prototypes, card, bias=bias, batch_size=batch_size)
        opened._folder = folder
        opened._try(folder)
        return opened

    @classmethod
    def _opened(cls, folder: Path, card: BundleCard, reader: Reader, computes: Backend, batch_size: int) -> Classifier:
        opened = cls.__new__(cls)
        opened._assemble(card, reader, computes, batch_size, folder)
        opened._try(folder)
        return opened

    def _try(self, folder: Path) -> None:
        """Classify one text; raise a `BundleError` where that does not give probabilities."""
        try:
            found = self.predict_proba(["a text"])
        except Exception as error:  # whatever a library raises for weights, ids or graphs that do not fit each other
            raise BundleError(f"The bundle {folder} cannot classify ({reason_of(error)}); write it again.") from None
        if found.shape != (1, len(self.classes_)) or not np.isfinite(found).all():
            raise BundleError(f"The bundle {folder} gives numbers that are not probabilities; train it again.")

    def predict(self, texts: Iterable[str], *, abstain: bool = False, none_of_these: Wanted | None = None) -> np.ndarray:
        """The name of each text's most probable class, `[texts]`; of a bundle with several labels a text the names of all its classes, a tuple each.

        Args:
            texts: any number of them.
            abstain: give None instead of a name where the bundle's promise takes it (`promised_threshold`).
            none_of_these: give None too where a text is too little typical (`typicality`): up to this share, in which about so many texts like the known
                documents get None; or "promise", up to what an audit has promised.

        Raises:
            DataError: `texts` is one string, or holds something that is not a text; the message says where.
            ConfigError: as `promised_threshold` and `none_threshold`.
        """
        threshold = self.promised_threshold() if abstain else 0.0
        least = None if none_of_these is None else self.none_threshold(none_of_these)
        probabilities, typicality = (self.predict_proba(texts), None) if least is None else self.typicality(texts)
        if self.card.multi_label:
            several = np.empty(len(probabilities), dtype=object)
            several[:] = [tuple(str(self.classes_[index]) for index in self.card.labels_of(row)) for row in probabilities]
            return several
        names = self.classes_[probabilities.argmax(axis=1)]
        if not abstain and typicality is None:
            return names
        found = names.astype(object)
        found[probabilities.max(axis=1) < threshold] = None
        if typicality is not None:
            found[typicality <= least] = None
        return found

    def promised_threshold(self) -> float:
        """The probability of the most probable class below which a text gets no answer, so that the bundle's promise holds (`card.promise`).

        Raises:
            ConfigError: the bundle states no promise, or this backend does not keep it.
        """
        return kept(self.card.promise, self.backend).threshold

    def predict_sets(self, texts: Iterable[str]) -> list[list[str]]:
        """The class names of each text's prediction set, the most probable first.

        Raises:
            DataError: as `predict`.
            ConfigError: as `promised_sets`.
        """
        sets = self.promised_sets()
        return [[str(self.classes_[index]) for index in sets.members(row.tolist())] for row in self.predict_proba(texts)]

    def promised_sets(self) -> PredictionSets:
        """How sets are made and what is promised of them (`card.sets`).

        Raises:
            ConfigError: the bundle states no promise of sets, or this backend does not keep it.
        """
        return kept(self.card.sets, self.backend, "sets")

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Probability of every class, `[texts, classes]` in float64, each row of sum 1: the softmax of scale times the cosines (equation 4).

        Of a bundle with several labels a text each class has a probability of its own, and rows have any sum.

        Raises:
            DataError: as `predict`.
        """
        probabilities, _, counts = self._computed(texts)
        return over_windows(probabilities, counts)

    def embed(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray | None]:
        """`predict_proba`, and the embeddings that it is computed from, `[texts, dimensions]` in float16 and of length one; of a text of several windows their mean.

        They are None where a graph computes (ONNX, OpenVINO), which does not give them.

        Raises:
            DataError: as `predict`.
        """
        probabilities, embeddings = self._embedded(texts)
        return probabilities, None if embeddings is None else units(embeddings)

    def _embedded(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray | None]:
        """`embed`, with embeddings in float32 and of any length."""
        probabilities, embeddings, counts = self._computed(texts)
        if embeddings is not None and len(counts) < len(embeddings):
            embeddings = np.add.reduceat(embeddings, np.append(0, np.cumsum(counts)[:-1]), axis=0)
        return over_windows(probabilities, counts), embeddings

    def typicality(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """`predict_proba`, and how typical each text is of the documents that the bundle keeps, `[texts]` in (0, 1]: the share of these that lie as far from the
        others as the text, or farther.

        Raises:
            DataError: as `predict`.
            ConfigError: the bundle keeps no documents, or this backend gives no embeddings.
            BundleError: what it keeps is damaged.
        """
        known = self.known
        probabilities, embeddings = self._embedded(texts)
        return probabilities, np.empty(0) if embeddings is None else known.typicality(embeddings)  # None: there are no texts

    def none_threshold(self, none_of_these: Wanted) -> float:
        """The typicality up to which a text is of none of the classes.

        Raises:
            ConfigError: as `typicality`; it is no share of the known documents; the bundle states no promise; or a text may have no label anyway.
        """
        self.card.check_one_label("answers of none of these")
        return threshold_of(none_of_these, self.card.none_of_these, len(self.known), self.backend)

    @cached_property
    def known(self) -> Surroundings:
        """The documents that the bundle keeps, which `typicality` compares texts with.

        Raises:
            ConfigError, BundleError: as `typicality`.
        """
        found = known_documents(self._folder, self.card.reference, self.card.labels, self.backend)
        try:
            found.typicality(np.asarray(self._embedded(["a text"])[1]))
        except ValueError as error:  # embeddings of other dimensions
            raise BundleError(f"The documents that the bundle {self._folder} keeps do not fit it ({reason_of(error)}); write it again.") from None
        return found

    def _computed(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray | None, list[int]]:
        """(probabilities and embeddings of all windows, text by text; windows of each text)."""
        read = self._tokens(checked_texts(texts))
        rows = [row for tokens in read for row in tokens.windows]
        probabilities, embeddings = np.empty((len(rows), len(self.classes_))), None
        for batch in batches([len(row) for row in rows], self._batch_size, self.most_padding):
            probabilities[batch], found = self._compute.embedded(*padded([rows[index] for index in batch], self._read.padding))
            if found is not None:
                embeddings = np.empty((len(rows), found.shape[1]), dtype=np.float32) if embeddings is None else embeddings
                embeddings[batch] = found
        return probabilities, embeddings, [len(tokens.windows) for tokens in read]

    def tokenize(self, texts: Iterable[str], *, checked: bool = False) -> list[Tokens]:
        """The first half of `predict_proba`, for callers that make batches: token ids of each text, special ones included, and whether it was cut.

        Args:
            texts: any number of them.
            checked: whether they are a list of Python's own strings of which `problem_with` has found nothing.

        Raises:
            DataError: as `predict`.
        """
        return self._tokens(list(texts) if checked else checked_texts(texts))

    def _tokens(self, texts: list[str]) -> list[Tokens]:
        found = self._read(texts)
        if self._split is None:
            return found
        long = [index for index, tokens in enumerate(found) if tokens.truncated]
        split = self._split([texts[index] for index in long])
        rows = iter(self._read([window for one in split for window in one.windows]))
        for index, one in zip(long, split, strict=True):
            first, *further = [next(rows).ids for _ in one.windows]
            found[index] = Tokens(first, one.truncated, tuple(further))
        return found

    def tokenize_continued(self, texts: Sequence[Continued]) -> list[Tokens]:
        """`tokenize` for texts with a continuation, as `TextEncoder.encode_augmented` reads them: the text is cut where `tokenize` cuts it (and says so), the
        continuation follows, and both together are read up to twice that length, or as far as the encoder reads. Of several windows the first is continued.

        Raises:
            DataError: as `predict`.
        """
        different = checked_texts(list(dict.fromkeys(one.text for one in texts)))  # a text is here once for each of its continuations
        beginnings = dict(zip(different, self._read.cut(different), strict=True))
        further: dict[str, tuple[list[int], ...]] = {}
        for text, one in zip(different, self._split(different), strict=True) if self._split is not None else ():
            if len(one.windows) > 1:
                beginnings[text] = Beginning(one.windows[0], one.truncated)
                further[text] = tuple(tokens.ids for tokens in self._read(one.windows[1:]))
        joined = self._read_continued([f"{beginnings[one.text].text} {one.continuation}".rstrip() for one in texts])
        return [Tokens(tokens.ids, beginnings[one.text].truncated, further.get(one.text, ())) for one, tokens in zip(texts, joined, strict=True)]

    @cached_property
    def _read_continued(self) -> Reader:
        tokens = 2 * self.card.max_tokens
        return self._read.up_to(tokens if self.card.longest is None else min(tokens, self.card.longest))

    def classify(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The second half of `predict_proba`: probabilities `[rows, classes]` of token ids, as one batch padded to its longest row."""
        return self._compute(*padded(rows, self._read.padding))


def _check_choices(device: str | None, backend: str | None, threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1 (got {threads}).", parameter="threads")
    if backend is not None:
        check_name(backend, "backend")
        if backend != "torch" and device not in (None, "cpu"):
            raise ConfigError(f"device must be cpu or None with the backend {backend} (got {device!r}).", parameter="device")


def _gpu_here() -> bool:
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_FILES)):
        return False
    import torch

    return torch.cuda.is_available()
