"""The tiers of a distillation: what each way to classify gets right, how fast one core computes it, and the table, tiers.json and tiers.svg of all of them."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selftrain.bundle.backends import FOLDER, GRAPHS
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, BundleMetrics, write_bundle
from selftrain.bundle.handover import distilled_card
from selftrain.bundle.predict import predict_all
from selftrain.bundle.reference import FEWEST, Reference, drawn
from selftrain.compress.students import DistilledStudent
from selftrain.data.corpus import Corpus
from selftrain.errors import DataError
from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.evaluation.tiers import Tier, tiers
from selftrain.files.parsing import json_of


@dataclass(frozen=True)
class Measured:
    """A tier, the bundle and the backend that it is of, and which documents it gets right, boolean `[documents]`."""

    tier: Tier
    folder: Path
    backend: str
    right: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What every tier is measured on."""

    texts: Sequence[str]
    labels: np.ndarray | None  # true class indices [texts]; None: tiers are compared with the teacher
    teacher: np.ndarray  # its probabilities [texts, classes]

    @property
    def figure(self) -> str:
        """What a tier's share of right answers is called."""
        return "accuracy" if self.labels is not None else "agreement"

    def right(self, probabilities: np.ndarray) -> np.ndarray:
        """Which texts these probabilities `[texts, classes]` get right, boolean `[texts]`."""
        expected = self.labels if self.labels is not None else self.teacher.argmax(axis=1)
        return np.asarray(probabilities.argmax(axis=1) == expected)

    def write(self, place: Path, card: BundleCard, name: str, student: DistilledStudent) -> Path:
        """The student's bundle, with its metrics where there are labels, and the reference that it is watched by, where its teacher has one; whole or not at all."""
        facts, scratch = distilled_card(card, name, student.changes), place.with_name(f".{place.name}")
        write = partial(write_bundle, scratch, backbone=student.backbone, prototypes=student.weights, bias=student.bias)
        write(card=facts)
        changes: dict[str, Any] = {}
        kept = None
        if self.labels is not None or card.reference is not None:
            classifier = Classifier.load(scratch, device="cpu")
            probabilities, embeddings = classifier.embed(self.texts)
        if self.labels is not None:
            scores = evaluate(probabilities, self.labels, card.labels)
            changes["metrics"] = BundleMetrics(accuracy=scores.accuracy, macro_f1=scores.macro_f1, ece=scores.ece, documents=scores.documents)
        if card.reference is not None and len(self.texts) >= FEWEST:
            chosen = drawn(len(self.texts), card.reference.kept)
            kept = Reference(probabilities[chosen].astype(np.float32), None if embeddings is None else embeddings[chosen])
            changes["reference"] = kept.facts(probabilities, held_out=True, backend=classifier.backend)
        if changes:
            write(card=facts.model_copy(update=changes), reference=kept)
        return scratch.rename(place)

    def measured(self, name: str, folder: Path, backend: str | None = None) -> Measured:
        """One row: what a bundle's backend gets right, and how fast one core computes it.

        Args:
            name: of the row.
            folder: the bundle.
            backend: what computes it; None for the one that it is opened with on the CPU.
        """
        device = "cpu" if backend in (None, "torch") else None
        opened = Classifier.load(folder, device=device, backend=backend)
        backend, right = opened.backend, self.right(predict_all(opened, self.texts, f"{name} ({opened.backend})"))
        weights = [folder / FOLDER / GRAPHS[backend]] if backend in GRAPHS else [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
        size = sum(file.stat().st_size for file in weights)
        with _one_thread():
            one = Classifier.load(folder, device=device, backend=None if backend == "numpy" else backend, threads=1)
            rate = speed(one, self.texts)
        tier = Tier(name=f"{name} ({backend})", right=float(right.mean()), texts_per_second=rate, size_mb=round(size / 1e6, 2))
        return Measured(tier, folder, backend, right)


def speed(classifier: Classifier, texts: Sequence[str]) -> float:
    """Texts a second: the median of five calls, each with as many of `texts` (some of them twice, if need be) as take about half a second, 32 to 4,096."""
    start = time.perf_counter()
    classifier.predict_proba(texts[:32])
    count = int(np.clip(0.5 * len(texts[:32]) / (time.perf_counter() - start), 32, 4096))
    some = [texts[index % len(texts)] for index in range(count)]
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        classifier.predict_proba(some)
        rates.append(count / (time.perf_counter() - start))
    return round(statistics.median(rates), 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch and the tokenizer compute with one thread."""
    threads, parallel = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if parallel is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel


def language_model_tier(folder: Path, corpus: Corpus, labels: np.ndarray | None) -> tuple[list[Tier], str]:
    """(the language model's own zero-shot row, from metrics.json of the run that the bundle belongs to, and a note on it); nothing where there is none.

    Raises:
        DataError: metrics.json is damaged.
    """
    file = folder.absolute().parent / "metrics.json"
    if labels is None or not file.is_file():
        return [], ""
    try:
        metrics = json_of(file.read_text(encoding="utf-8"))
        row = next((row for row in metrics["rows"] if row["variant"] == LANGUAGE_MODEL_ROW and row["scores"] is not None), None)
        if row is None:
            return [], ""
        if metrics["data"]["fingerprint"] != corpus.fingerprint:
            return [], f"; {file} has a row of the language model, but on other documents"
        rate = round(1000 / row["inference_ms"], 2) if row["inference_ms"] else None  # none where all answers came from the cache
        tier = Tier(name=f"{metrics['asked']['llm']} (zero-shot)", right=float(row["scores"]["accuracy"]), texts_per_second=rate, size_mb=None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:100]}); move the bundle away from it.") from None
    return [tier], f"; the language model: {row['documents']:,} of the documents, on all cores, in the run {folder.absolute().parent.name}"


def write_tiers(folder: Path, found: Sequence[Tier], comparison: Comparison, **facts: Any) -> None:
    """tiers.json, with further `facts`, and tiers.svg."""
    measured = {"figure": comparison.figure, "documents": len(comparison.texts), "tiers": [asdict(tier) for tier in found]}
    (folder / "tiers.json").write_text(json.dumps(facts | measured, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tiers.svg").write_bytes(tiers(found, comparison.figure))


def describe_tiers(found: Sequence[Tier], figure: str) -> str:
    """The table of all tiers.

    Args:
        found: the tiers.
        figure: what a tier's share of right answers is called.
    """
    width = max(len(tier.name) for tier in found)
    losses = any(tier.at_most is not None for tier in found)
    head = f"{'tier':<{width}}  {figure:>9}  {'texts/s, one core':>17}  {'MB':>8}"
    lines = [f"{head}  {'loss':>7}  {'at most':>7}" if losses else head]
    for tier in found:
        rate, size = ("-" if value is None else f"{value:,.{places}f}" for value, places in ((tier.texts_per_second, 1), (tier.size_mb, 1)))
        line = f"{tier.name:<{width}}  {tier.right:>9.4f}  {rate:>17}  {size:>8}"
        lines.append(line if tier.at_most is None else f"{line}  {tier.loss:>7.4f}  {tier.at_most:>7.4f}")
    return "\n".join(lines)
