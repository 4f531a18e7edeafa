"""`selftrain distill`: smaller students that learn the trained classifier's probabilities on unlabeled texts.

They are written as bundles, so that predict, serve and export take them as they are, and compared with their teacher in one table and one picture (tiers.py). With a
tolerance they are exported too, and the fastest one that is shown to keep it is chosen (choosing.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from selftrain.bundle.backends import prefer, read_record
from selftrain.bundle.checking import fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import labels_of, load_documents
from selftrain.bundle.format import BundleCard, checked_card, installed_versions, read_prototypes
from selftrain.bundle.predict import predict_all
from selftrain.bundle.pytorch import open_backbone
from selftrain.bundle.tokens import FastReader, reader_of
from selftrain.compress.choosing import Choice, check_tolerance, choose
from selftrain.compress.onnx import CheckDocuments, divided, export_bundle, require_empty, require_export
from selftrain.compress.students import Teacher, layers_of, shallow_student, static_student
from selftrain.compress.tiers import Comparison, Measured, language_model_tier, write_tiers
from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.errors import BundleError, ConfigError, DataError, nearest
from selftrain.evaluation.tiers import Tier
from selftrain.files.durable import continued_folder
from selftrain.texts.cache import TextCache

STUDENTS = ("static", "shallow")
EXPORTED = ("onnx", "onnx-int8")  # of which a student is chosen
FEWEST_DOCUMENTS = 50
_HELD_OUT = 1000  # documents for the agreement, at most and at most a tenth, where there are no labels


@dataclass(frozen=True)
class DistillResult:
    """The result of a distillation.

    Attributes:
        folder: one bundle a student, `tiers.json` and `tiers.svg`.
        tiers: the rows of the table.
        figure: what a row's share of right answers is called, accuracy or agreement.
        note: what it was learned from and measured on.
        chosen: the bundle of the chosen student; None where none was chosen, or none was to be.
        verdict: why it was chosen, or why none was; empty where none was to be.
    """

    folder: Path
    tiers: list[Tier]
    figure: str
    note: str
    chosen: Path | None = None
    verdict: str = ""


@dataclass(frozen=True)
class _Planned:
    """A student that is to be made; `layers` is None for the static one, and all of the teacher's for the teacher itself, exported."""

    name: str
    layers: int | None
    whole: bool = False

    @property
    def candidates(self) -> int:
        """Ways to compute it, of which one may be chosen."""
        return 1 if self.layers is None else len(EXPORTED)


def distill(
    folder: str | Path,
    documents: str | Path | tuple[Corpus, TrueLabels] | None = None,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    generated: Sequence[str] = (),
    students: Sequence[str] = STUDENTS,
    out: str | Path | None = None,
    layers: int | Sequence[int] = 3,
    within: float | None = None,
    max_documents: int = 20_000,
    seed: int = 0,
) -> DistillResult:
    """Train students on the bundle's own probabilities, compare all tiers in a table and a picture, and choose one, if it is to be chosen.

    Students that are finished when it is stopped are kept beside `out`, and the same call goes on behind them.

    Args:
        folder: the teacher's bundle.
        documents: a corpus with its true labels, a file, or a name of the catalogue; None for those of the bundle's own experiment. Its unlabeled documents are
            learned from; its test documents are measured on, if they have labels, else some of the others are held out. Labels are for measuring alone.
        text_column: column of the texts in a file.
        label_column: column of the true labels in a file.
        generated: further texts to learn from, such as those that a language model wrote for the documents.
        students: of `STUDENTS`.
        out: a new or empty folder for the bundles, the table and the picture; default: `distilled` beside the bundle.
        layers: of the shallow student; several make one student each. With `within`, all of the teacher's stand for the teacher itself, exported.
        within: choose the fastest student whose loss of accuracy (of agreement, where there are no labels) is shown to be at most this, in float32 or int8.
        max_documents: unlabeled documents that are learned from at most.
        seed: of the training's random numbers.

    Raises:
        BundleError: there is no bundle, or no such student can be made of it.
        ConfigError: an argument is wrong.
        DataError: there are too few documents.
        MissingExtraError: students are to be exported, and a package for it is missing.
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
    if within is not None:
        require_export(EXPORTED)
    if not isinstance(documents, tuple):
        documents = load_documents(card, documents, text_column=text_column, label_column=label_column)
    corpus, truth = documents
    texts, measured_on, labels = _divided(corpus, truth, max_documents)
    texts += generated
    backbone, reader = _encoder(folder, card)
    planned = _planned(students, (layers,) if isinstance(layers, int) else tuple(layers), backbone, within)
    if within is not None:
        check_tolerance(within, len(measured_on), sum(one.candidates for one in planned), corpus.name)
    settings = [fingerprint_of(folder), texts, measured_on, None if labels is None else labels.tolist(), layers, list(students), within, seed]
    key = hashlib.sha256(json.dumps([*settings, installed_versions()]).encode()).hexdigest()
    with continued_folder(home, key) as place:
        work = _Work(place, folder, card, texts, CheckDocuments(measured_on, corpus.name, labels), backbone, reader, within, seed)
        own, rows, choice = work.made(planned)
        llm, note = language_model_tier(folder, corpus, labels)
        found = [*own, *rows, *llm]
        facts = {} if choice is None else {"within": within, "verdict": choice.sentence}
        write_tiers(place, found, work.comparison, teacher=str(folder), learned_from=len(texts), **facts)
    kind = "labels" if labels is not None else "the teacher's answers"
    learned = f"learned from {len(texts):,} texts of {corpus.name}, measured on {len(measured_on):,} documents against {kind}"
    chosen = None if choice is None or choice.chosen is None else home / choice.chosen.folder.name
    return DistillResult(home, found, work.comparison.figure, f"{learned}{note}", chosen, "" if choice is None else choice.sentence)


@dataclass(frozen=True)
class _Work:
    """A distillation at work: where students are made, of what, and what they are measured on."""

    place: Path
    folder: Path  # of the teacher
    card: BundleCard
    texts: Sequence[str]  # that are learned from
    documents: CheckDocuments  # that are measured on
    backbone: SentenceTransformer
    reader: FastReader
    within: float | None
    seed: int

    @cached_property
    def classifier(self) -> Classifier:
        """The teacher, as it is opened."""
        return Classifier.load(self.folder)

    @cached_property
    def comparison(self) -> Comparison:
        """What tiers are measured on."""
        return Comparison(self.documents.texts, self.documents.labels, predict_all(self.classifier, self.documents.texts, "teacher"))

    @cached_property
    def teacher(self) -> Teacher:
        """What students learn from."""
        windows = divided(self.reader, self.card, self.texts)[0]  # a student's answers are averaged over them as the teacher's are
        weights, bias = read_prototypes(self.folder, self.card)
        soft = torch.from_numpy(predict_all(self.classifier, windows, "teacher")).float()
        return Teacher(self.backbone, self.reader, self.card, weights, bias, [tokens.ids for tokens in self.reader(windows)], soft)

    def made(self, planned: Sequence[_Planned]) -> tuple[list[Tier], list[Tier], Choice | None]:
        """(the teacher's rows, the students', which one is chosen); students that an earlier call has finished are taken over."""
        comparison = self.comparison
        own = [comparison.measured("teacher", self.folder, name).tier for name in dict.fromkeys(("torch", self.classifier.backend))]
        candidates = [row for one in planned for row in self._rows(one)]
        if self.within is None:
            return own, [one.tier for one in candidates], None
        right, rate, number = comparison.right(comparison.teacher), own[-1].texts_per_second or 0.0, sum(one.candidates for one in planned)
        choice = choose(candidates, right, rate, within=self.within, students=number, figure=comparison.figure)
        if (chosen := choice.chosen) is not None and chosen.backend in EXPORTED:
            prefer(chosen.folder, chosen.backend)
        return own, choice.rows, choice

    def _rows(self, one: _Planned) -> Iterator[Measured]:
        place = self.place / one.name
        if not one.whole and not place.is_dir():
            torch.manual_seed(self.seed)
            student = static_student(self.teacher) if one.layers is None else shallow_student(self.teacher, layers=one.layers)
            self.comparison.write(place, self.card, one.name, student)
        if self.within is None or one.layers is None:
            yield self.comparison.measured(one.name, place, None if one.layers is None else "torch")
            return
        if not place.is_dir() or read_record(place) is None:
            source, out = (self.folder, place) if one.whole else (place, None)
            export_bundle(source, self.documents, out=out, max_accuracy_loss=self.within, backends=EXPORTED, threads=1)
        record = read_record(place)
        assert record is not None
        for name in (entry.backend for entry in record.measured if entry.backend in EXPORTED):  # int8 may have lost too much
            yield self.comparison.measured(one.name, place, name)


def _planned(students: Sequence[str], layers: Sequence[int], backbone: SentenceTransformer, within: float | None) -> list[_Planned]:
    """The students to make.

    Args:
        students: of `STUDENTS`.
        layers: of shallow ones.
        backbone: of the teacher.
        within: whether they are exported, so that the teacher itself may be one: None for not.

    Raises:
        ConfigError: the teacher has not so many layers, or a number is there twice.
        BundleError: the teacher's layers were not found.
    """
    found = [_Planned("static", None)] if "static" in students else []
    if "shallow" not in students:
        return found
    depth = len(layers_of(backbone)[1])
    most = depth if within is not None else depth - 1
    for one in layers:
        if not 1 <= one <= most:
            raise ConfigError(f"layers must be from 1 to {most}, since the teacher has {depth} (got {one}).", parameter="layers")
    if not layers or len(set(layers)) < len(layers):
        raise ConfigError(f"layers must be different numbers (got {', '.join(map(str, layers)) or 'none'}).", parameter="layers")
    names = [f"shallow_{one}" if len(layers) > 1 else "shallow" for one in layers]
    return found + [_Planned("exported" if one == depth else name, one, one == depth) for one, name in zip(layers, names, strict=True)]


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


def _encoder(folder: Path, card: BundleCard) -> tuple[SentenceTransformer, FastReader]:
    """The teacher's encoder and its reader; raises unless students can be made of it."""
    backbone = open_backbone(folder, "cuda" if torch.cuda.is_available() else "cpu")
    reader = reader_of(backbone, card.max_tokens)
    if not isinstance(reader, FastReader) or isinstance(backbone[0], StaticEmbedding):
        raise BundleError(
            f"The encoder of {folder} is not a transformer, so there is nothing smaller to distill it into; distill a bundle of a sentence encoder."
        )
    return backbone, reader
