"""`selftrain distill`: smaller students that learn the trained classifier's probabilities on unlabeled texts.

They are written as bundles, so that predict, serve and export take them as they are, and compared with their teacher in one table and one picture.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tqdm import tqdm

from selftrain.bundle.backends import FOLDER, GRAPHS
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import labels_of, load_documents
from selftrain.bundle.format import BundleCard, BundleMetrics, checked_card, read_prototypes, write_bundle
from selftrain.bundle.handover import distilled_card
from selftrain.bundle.pytorch import open_backbone
from selftrain.bundle.reference import FEWEST, Reference, drawn
from selftrain.bundle.tokens import FastReader, reader_of
from selftrain.compress.onnx import divided, require_empty
from selftrain.compress.students import DistilledStudent, Teacher, layers_of, shallow_student, static_student
from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.errors import BundleError, ConfigError, DataError, nearest
from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.evaluation.tiers import Tier, tiers
from selftrain.files.durable import replacing_folder
from selftrain.files.parsing import json_of
from selftrain.texts.cache import TextCache

STUDENTS = ("static", "shallow")
FEWEST_DOCUMENTS = 50
_HELD_OUT = 1000  # documents for the agreement, at most and at most a tenth, where there are no labels


@dataclass(frozen=True)
class DistillResult:
    """The result of a distillation: its folder, with one bundle a student, `tiers.json` and `tiers.svg`; the rows of the table; and a note below it."""

    folder: Path
    tiers: list[Tier]
    note: str


def distill(
    folder: str | Path,
    documents: str | Path | tuple[Corpus, TrueLabels] | None = None,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    generated: Sequence[str] = (),
    students: Sequence[str] = STUDENTS,
    out: str | Path | None = None,
    layers: int = 3,
    max_documents: int = 20_000,
    seed: int = 0,
) -> DistillResult:
    """Train students on the bundle's own probabilities, and compare all tiers in a table and a picture.

    Args:
        folder: the teacher's bundle.
        documents: a corpus with its true labels, a file, or a name of the catalogue; None for those of the bundle's own experiment. Its unlabeled documents are
            learned from; its test documents are measured on, if they have labels, else some of the others are held out. Labels are for measuring alone.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file.
        generated: further texts to learn from, such as those that a language model wrote for the documents.
        students: of `STUDENTS`.
        out: a new or empty folder for the bundles, the table and the picture; default: `distilled` beside the bundle.
        layers: of the shallow student.
        max_documents: unlabeled documents that are learned from at most.
        seed: of the training's random numbers.

    Raises:
        BundleError: there is no bundle, or no such student can be made of it.
        ConfigError: an argument is wrong.
        DataError: there are too few documents.
        OutputError: `out` is not empty, or cannot be written.
    """
    folder = Path(folder)
    card = checked_card(folder)
    card.check_one_label("distilled students")
    if unknown := [name for name in students if name not in STUDENTS]:
        raise ConfigError(f"students {unknown[0]!r} is not one; {nearest(unknown[0], STUDENTS)}", parameter="students")
    if max_documents < 1:
        raise ConfigError(f"max_documents must be at least 1 (got {max_documents}).", parameter="max_documents")
    home = (Path(out) if out is not None else folder.absolute().parent / "distilled").absolute()
    require_empty(home)
    if not isinstance(documents, tuple):
        documents = load_documents(card, documents, text_column=text_column, label_column=label_column)
    corpus, truth = documents
    texts, measured_on, labels = _divided(corpus, truth, max_documents)
    texts += generated
    backbone, reader = _encoder(folder, card, layers if "shallow" in students else None)
    weights, bias = read_prototypes(folder, card)
    classifier = Classifier.load(folder)
    windows = divided(reader, card, texts)[0]  # what is learned; a student's answers are averaged over them as the teacher's are
    soft = torch.from_numpy(_probabilities(classifier, windows)).float()
    teacher = Teacher(backbone, reader, card, weights, bias, [tokens.ids for tokens in reader(windows)], soft)
    with replacing_folder(home) as scratch:
        comparison = _Comparison(measured_on, labels, _probabilities(classifier, measured_on))
        found = [comparison.tier("teacher", folder, backend) for backend in dict.fromkeys(("torch", classifier.backend))]
        for name in students:
            torch.manual_seed(seed)
            student = static_student(teacher) if name == "static" else shallow_student(teacher, layers=layers)
            place = comparison.write(scratch / name, card, name, student)
            found.append(comparison.tier(name, place, "torch"))
        llm, note = _language_model(folder, corpus, labels)
        found += llm
        _write_tiers(scratch, found, comparison, teacher=str(folder), learned_from=len(texts))
    kind = "labels" if labels is not None else "the teacher's answers"
    learned = f"learned from {len(texts):,} texts of {corpus.name}, measured on {len(measured_on):,} documents against {kind}"
    return DistillResult(home, found, f"{learned}{note}")


def generated_texts(card: BundleCard, corpus: Corpus) -> list[str]:
    """Texts that a language model wrote for documents of `corpus`, from the cache of the bundle's experiment; none where there is no such cache."""
    augment = card.experiment.get("augment") or {}
    cache = str(augment.get("cache") or "")
    if card.llm is None or not cache or not ("://" in cache or Path(cache).is_dir()):
        return []
    wanted = set(corpus.unlabeled.ids)
    texts = (one.text.strip() for one in TextCache(cache).completions() if one.document_id in wanted and one.kind != "classify")
    return sorted({text for text in texts if text})


def _divided(corpus: Corpus, truth: TrueLabels, max_documents: int) -> tuple[list[str], list[str], np.ndarray | None]:
    """(texts to learn from, texts to measure on, true class indices of the latter or None)."""
    labels = labels_of(corpus.test, dict(truth.test))
    texts = list(corpus.unlabeled.contents[:max_documents])
    if labels is not None:
        measured_on = list(corpus.test.contents)
    else:
        count = min(_HELD_OUT, len(texts) // 10)
        measured_on, texts = texts[:count], texts[count:]
    if len(texts) < FEWEST_DOCUMENTS or not measured_on:
        raise DataError(f"{corpus.name} has {len(texts)} documents to learn from, fewer than {FEWEST_DOCUMENTS}; pass more documents.")
    return texts, measured_on, labels


def _encoder(folder: Path, card: BundleCard, layers: int | None) -> tuple[SentenceTransformer, FastReader]:
    """The teacher's encoder and its reader; raises unless students, and one of so many layers, can be made of it."""
    backbone = open_backbone(folder, "cuda" if torch.cuda.is_available() else "cpu")
    reader = reader_of(backbone, card.max_tokens)
    if not isinstance(reader, FastReader) or isinstance(backbone[0], StaticEmbedding):
        raise BundleError(
            f"The encoder of {folder} is not a transformer, so there is nothing smaller to distill it into; distill a bundle of a sentence encoder."
        )
    if layers is not None:
        _, stack = layers_of(backbone)
        if not 1 <= layers < len(stack):
            raise ConfigError(f"layers must be from 1 to {len(stack) - 1}, since the teacher has {len(stack)} (got {layers}).", parameter="layers")
    return backbone, reader


@dataclass(frozen=True)
class _Comparison:
    """What every tier is measured on."""

    texts: Sequence[str]
    labels: np.ndarray | None  # true class indices [texts]; None: tiers are compared with the teacher
    teacher: np.ndarray  # its probabilities [texts, classes]

    @property
    def figure(self) -> str:
        """What a tier's share of right answers is called."""
        return "accuracy" if self.labels is not None else "agreement"

    def write(self, place: Path, card: BundleCard, name: str, student: DistilledStudent) -> Path:
        """The student's bundle, with its metrics where there are labels, and the reference that it is watched by, where its teacher has one."""
        facts = distilled_card(card, name, student.changes)
        write = partial(write_bundle, place, backbone=student.backbone, prototypes=student.weights, bias=student.bias)
        write(card=facts)
        changes: dict[str, Any] = {}
        kept = None
        if self.labels is not None or card.reference is not None:
            classifier = Classifier.load(place, device="cpu")
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
        return place

    def tier(self, name: str, folder: Path, backend: str) -> Tier:
        """One row: what a bundle's backend gets right, and how fast one core computes it."""
        device = "cpu" if backend == "torch" else None
        predicted = Classifier.load(folder, device=device, backend=backend).predict_proba(self.texts).argmax(axis=1)
        right = float((predicted == (self.labels if self.labels is not None else self.teacher.argmax(axis=1))).mean())
        weights = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")] if backend == "torch" else [folder / FOLDER / GRAPHS[backend]]
        size = sum(file.stat().st_size for file in weights)
        with _one_thread():
            one = Classifier.load(folder, device=device, backend=backend, threads=1)
            return Tier(name=f"{name} ({backend})", right=right, texts_per_second=speed(one, self.texts), size_mb=round(size / 1e6, 2))


def _write_tiers(folder: Path, found: Sequence[Tier], comparison: _Comparison, *, teacher: str, learned_from: int) -> None:
    document = {
        "teacher": teacher,
        "figure": comparison.figure,
        "documents": len(comparison.texts),
        "learned_from": learned_from,
        "tiers": [asdict(tier) for tier in found],
    }
    (folder / "tiers.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tiers.svg").write_bytes(tiers(found, comparison.figure))


def _probabilities(teacher: Classifier, texts: Sequence[str]) -> np.ndarray:
    parts = []
    with tqdm(total=len(texts), desc="teacher", unit=" texts", file=sys.stderr, disable=None) as bar:
        for start in range(0, len(texts), 1024):
            parts.append(teacher.predict_proba(texts[start : start + 1024]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


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


def _language_model(folder: Path, corpus: Corpus, labels: np.ndarray | None) -> tuple[list[Tier], str]:
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


def describe_tiers(result: DistillResult) -> str:
    """The table of all tiers."""
    figure = json.loads((result.folder / "tiers.json").read_text(encoding="utf-8"))["figure"]
    width = max(len(tier.name) for tier in result.tiers)
    lines = [f"{'tier':<{width}}  {figure:>9}  {'texts/s, one core':>17}  {'MB':>8}"]
    for tier in result.tiers:
        rate, size = ("-" if value is None else f"{value:,.{places}f}" for value, places in ((tier.texts_per_second, 1), (tier.size_mb, 1)))
        lines.append(f"{tier.name:<{width}}  {tier.right:>9.4f}  {rate:>17}  {size:>8}")
    return "\n".join([*lines, "", result.note])
