"""`selftrain distill`: smaller students that learn the trained classifier's probabilities on unlabeled texts.

They are written as bundles, so that predict, serve and export take them as they are, and compared with their teacher in one table and one picture.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tqdm import tqdm

from selftrain.bundle.backends import FOLDER, GRAPHS
from selftrain.bundle.classifier import Classifier, open_backbone
from selftrain.bundle.documents import labels_of
from selftrain.bundle.format import BundleCard, BundleMetrics, checked_card, read_prototypes, write_bundle
from selftrain.bundle.tokens import FastReader, reader_of
from selftrain.compress.onnx import require_empty, scratch_beside
from selftrain.compress.students import Lesson, Student, layers_of, shallow_student, static_student
from selftrain.data.corpus import Corpus, Truth
from selftrain.errors import SelfTrainError
from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.evaluation.tiers import Tier, tiers
from selftrain.files.parsing import json_of
from selftrain.texts.cache import TextCache

STUDENTS = ("static", "shallow")
FEWEST_DOCUMENTS = 50
_HELD_OUT = 1000  # documents for the agreement, at most and at most a tenth, where there are no labels


@dataclass(frozen=True)
class Distilled:
    """What a distillation left: its folder, with one bundle a student, `tiers.json` and `tiers.svg`, and the rows of the table."""

    folder: Path
    tiers: list[Tier]
    note: str


def distill(
    folder: Path,
    corpus: Corpus,
    truth: Truth,
    *,
    students: Sequence[str] = STUDENTS,
    out: Path | None = None,
    layers: int = 3,
    max_documents: int = 20_000,
    seed: int = 0,
) -> Distilled:
    """Train students on the bundle's own probabilities, and compare all tiers in a table and a picture.

    Args:
        folder: the teacher's bundle.
        corpus: its unlabeled documents are learned from, together with the texts that a language model wrote for them, where the bundle's experiment names
            their cache and it exists; its test documents are measured on, if they have labels, else some of the others are held out.
        truth: true labels of the test documents; they are for measuring alone.
        students: of `STUDENTS`.
        out: a new or empty folder for the bundles, the table and the picture; default: `distilled` beside the bundle.
        layers: of the shallow student.
        max_documents: more unlabeled documents than this are left out.
        seed: of what is random in training.

    Raises:
        SelfTrainError: no bundle, too few documents, `out` is not empty, or a student that cannot be made of this teacher.
    """
    folder = Path(folder)
    card = checked_card(folder)
    if unknown := [name for name in students if name not in STUDENTS]:
        raise SelfTrainError(f"There is no student {unknown[0]!r}; known: {', '.join(STUDENTS)}.")
    out = Path(out) if out is not None else folder.absolute().parent / "distilled"
    require_empty(out)
    labels = labels_of(corpus.test, dict(truth.test))
    texts = list(corpus.unlabeled.texts[:max_documents])
    if labels is not None:
        measured_on = list(corpus.test.texts)
    else:
        count = min(_HELD_OUT, len(texts) // 10)
        measured_on, texts = texts[:count], texts[count:]
    if len(texts) < FEWEST_DOCUMENTS or not measured_on:
        raise SelfTrainError(f"{corpus.name} has {len(texts)} documents to learn from, fewer than {FEWEST_DOCUMENTS}; give more with --documents.")
    texts += generated_texts(card, corpus)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = open_backbone(folder, device)
    weights, bias = read_prototypes(folder, card)
    reader = reader_of(backbone, card.max_tokens)
    if not isinstance(reader, FastReader) or isinstance(backbone[0], StaticEmbedding):
        raise SelfTrainError(
            f"The encoder of {folder} is no transformer, so there is nothing smaller to distill it into; distill a bundle of a sentence encoder."
        )
    makers: dict[str, Callable[[Lesson], Student]] = {"static": static_student, "shallow": partial(shallow_student, layers=layers)}
    if "shallow" in students:
        _, stack = layers_of(backbone)
        if not 1 <= layers < len(stack):
            raise SelfTrainError(f"--layers is {layers} and the teacher has {len(stack)} layers; give a number from 1 to {len(stack) - 1}.")

    teacher = Classifier.load(folder)
    lesson = Lesson(
        backbone, reader, card, weights, bias, [tokens.ids for tokens in reader(texts)], torch.from_numpy(_labeled_by(teacher, texts)).float()
    )
    home = out.absolute()
    scratch = scratch_beside(home)
    try:
        answers = _labeled_by(teacher, measured_on)
        found = [_tier("teacher", folder, teacher.backend, measured_on, answers, labels)]
        if teacher.backend != "torch":
            found.insert(0, _tier("teacher", folder, "torch", measured_on, answers, labels))
        for name in students:
            torch.manual_seed(seed)
            student = makers[name](lesson)
            changes = {
                "name": f"{card.name}_{name}",
                "method": f"distilled from {card.method} ({name})",
                "metrics": BundleMetrics(),
                **student.changes,
            }
            facts = BundleCard.model_validate({**card.model_dump(exclude={"versions", "created", "files"}), **changes})
            place = write_bundle(scratch / name, backbone=student.backbone, prototypes=student.weights, bias=student.bias, card=facts)
            if labels is not None:
                scores = evaluate(Classifier.load(place, device="cpu").predict_proba(measured_on), labels, card.labels)
                metrics = BundleMetrics(accuracy=scores.accuracy, macro_f1=scores.macro_f1, ece=scores.ece, documents=scores.documents)
                facts = facts.model_copy(update={"metrics": metrics})
                write_bundle(place, backbone=student.backbone, prototypes=student.weights, bias=student.bias, card=facts)
            found.append(_tier(name, place, "torch", measured_on, answers, labels))
        llm, note = _language_model(folder, corpus, labels)
        found += llm
        figure = "accuracy" if labels is not None else "agreement"
        document = {
            "teacher": str(folder),
            "figure": figure,
            "documents": len(measured_on),
            "learned_from": len(texts),
            "tiers": [asdict(tier) for tier in found],
        }
        (scratch / "tiers.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (scratch / "tiers.svg").write_bytes(tiers(found, figure))
        if home.exists():
            home.rmdir()
        scratch.rename(home)
        home.chmod(0o755)  # a scratch folder is its owner's alone
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    kind = "labels" if labels is not None else "the teacher's answers"
    learned = f"learned from {len(texts):,} texts of {corpus.name}, measured on {len(measured_on):,} documents against {kind}"
    return Distilled(home, found, f"{learned}{note}")


def generated_texts(card: BundleCard, corpus: Corpus) -> list[str]:
    """Texts that a language model wrote for documents of `corpus`, from the cache that the bundle's experiment names; none where it is not there."""
    augment = card.experiment.get("augment") or {}
    folder = Path(str(augment.get("cache") or ""))
    if card.llm is None or not augment.get("cache") or not folder.is_dir():
        return []
    wanted = set(corpus.unlabeled.ids)
    texts = (answer.text.strip() for answer in TextCache(folder).completions() if answer.document_id in wanted and answer.kind != "classify")
    return sorted({text for text in texts if text})


def _labeled_by(teacher: Classifier, texts: Sequence[str]) -> np.ndarray:
    parts = []
    with tqdm(total=len(texts), desc="teacher", unit=" texts", file=sys.stderr, disable=None) as bar:
        for start in range(0, len(texts), 1024):
            parts.append(teacher.predict_proba(texts[start : start + 1024]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def _tier(name: str, folder: Path, backend: str, texts: Sequence[str], teacher: np.ndarray, labels: np.ndarray | None) -> Tier:
    """One row: what a bundle's backend gets right, and how fast one core computes it."""
    classifier = Classifier.load(folder, device="cpu" if backend == "torch" else None, backend=backend)
    predicted = classifier.predict_proba(texts).argmax(axis=1)
    right = float((predicted == (labels if labels is not None else teacher.argmax(axis=1))).mean())
    if backend == "torch":
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) + sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    else:
        size = (folder / FOLDER / GRAPHS[backend]).stat().st_size
    with _one_thread():
        one = Classifier.load(folder, device="cpu" if backend == "torch" else None, backend=backend, threads=1)
        return Tier(name=f"{name} ({backend})", right=right, texts_per_second=speed(one, texts), size_mb=round(size / 1e6, 2))


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
    """(the language model's own zero-shot row, from metrics.json of the run that the bundle lies in, and a note on it); nothing where there is none.

    Raises:
        SelfTrainError: metrics.json is damaged.
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
        rate = round(1000 / row["inference_ms"], 2) if row["inference_ms"] else None  # none where answers came from the cache
        tier = Tier(name=f"{metrics['asked']['llm']} (zero-shot)", right=float(row["scores"]["accuracy"]), texts_per_second=rate, size_mb=None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SelfTrainError(
            f"{file} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:100]}); move the bundle away from it."
        ) from None
    return [tier], f"; the language model: {row['documents']:,} of the documents, on all cores, in the run {folder.absolute().parent.name}"


def describe(result: Distilled) -> str:
    """The table of all tiers."""
    figure = json.loads((result.folder / "tiers.json").read_text(encoding="utf-8"))["figure"]
    width = max(len(tier.name) for tier in result.tiers)
    lines = [f"{'tier':<{width}}  {figure:>9}  {'texts/s, one core':>17}  {'MB':>8}"]
    for tier in result.tiers:
        rate, size = ("-" if value is None else f"{value:,.{places}f}" for value, places in ((tier.texts_per_second, 1), (tier.size_mb, 1)))
        lines.append(f"{tier.name:<{width}}  {tier.right:>9.4f}  {rate:>17}  {size:>8}")
    return "\n".join([*lines, "", result.note])
