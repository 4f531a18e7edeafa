"""The story of one run, from top to bottom: data -> texts -> training -> evaluation -> bundle -> tracking -> report.

Everything a run leaves is in one folder, and one MLflow run has the same figures: metrics.json is written once and everything else reads it.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selftrain.config import Experiment
from selftrain.data.texts import no_texts
from selftrain.errors import ConfigError, OutputError, ProcessDied, SelfTrainError
from selftrain.evaluation.decisions import decisions
from selftrain.evaluation.report import Findings, hardest_documents
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.evaluation.summary import text_table
from selftrain.files.durable import disk_problem, explained, write_whole
from selftrain.models.locate import contents_fingerprint
from selftrain.models.names import NameScores
from selftrain.runs.context import RunContext
from selftrain.runs.cost import Work, plan, predicted, real
from selftrain.runs.handover import main_scores, register_run_bundle, write_labeled_documents, write_run_bundle
from selftrain.runs.home import below, opened
from selftrain.runs.naming import names_found, read_names, write_names
from selftrain.runs.plan import Variant, prepare
from selftrain.runs.record import file_name, metrics_of, tags_of
from selftrain.runs.report import pictures_of, write_report
from selftrain.runs.resume import Finished, Starts, previous_metrics
from selftrain.runs.rows import figures_of, language_model_row, rows_of, teacher_rows
from selftrain.runs.stages import Events, Stages
from selftrain.runs.versions import code_version
from selftrain.runtime.background import in_order
from selftrain.runtime.cluster import session
from selftrain.runtime.hardware import hardware_here
from selftrain.runtime.memory import trim
from selftrain.runtime.threads import OtherWork, choose_threads
from selftrain.runtime.watch import cause_of, listen
from selftrain.texts.cache import check_cache
from selftrain.tracking import Tracker, figures_of_round
from selftrain.tracking.spool import Spool, unsent_sentence
from selftrain.training.checkpoints import RoundCheckpoint
from selftrain.training.fit import fit, probabilities
from selftrain.training.light import LightTrainers, LightTraining
from selftrain.training.loop import Fitted, StepDone
from selftrain.training.ray import Workgroup
from selftrain.training.steps import StepBar

if TYPE_CHECKING:
    from selftrain.texts.channel import Texts

__all__ = ["RunResult", "code_version", "new_folder", "plan", "prepare", "run"]


@dataclass(frozen=True)
class RunResult:
    """What a run leaves."""

    folder: Path | str  # or its address
    metrics: dict[str, Any]
    bundle: Path | str | None  # None where the documents are images: a bundle reads texts
    unsent: str | None = None  # a sentence where tracking did not get everything

    @property
    def table(self) -> str:
        """The table of variants, for a terminal."""
        return text_table(self.metrics["summary"])


def run(
    experiment: Experiment,
    *,
    command: str = "",
    resume: Path | str | None = None,
    at_once: int | None = None,
    step_done: StepDone | None = None,
) -> RunResult:
    """Run an experiment.

    Args:
        experiment: what to do.
        command: how it was asked for, for the report.
        resume: the folder or the address of a killed run of the same experiment; what it finished is not done again.
        at_once: trainings at the same time; default: as many as a cluster has room for, one on a machine of its own. One at a time, heads and BiLSTMs train in
            this process, with the cores that other work leaves free where `training.threads` is not set; else in actors of Ray, with one core each. With the
            same threads the figures are the same.
        step_done: called after every step of a training in this process with (round, rounds, step, steps), all counted from one.

    Raises:
        SelfTrainError: whatever a user can fix; nothing is written before all inputs were checked.
    """
    if at_once is not None and at_once < 1:
        raise ConfigError(f"at_once must be at least 1 (got {at_once}).", parameter="at_once")
    started, others = time.monotonic(), OtherWork()
    stages = Stages()
    with stages("data", say=sys.stderr.isatty()):  # elsewhere, bad input is one sentence and nothing before it
        found = prepare(experiment)
    experiment = found.experiment
    busy = 0.0 if experiment.training.threads else others.busy_cores()  # before Ray and an engine add to it
    with ExitStack() as stack:
        home = stack.enter_context(opened(resume or new_folder(experiment), "run", new=not resume))
        folder = home.folder
        if found.language_model is not None:
            check_cache(experiment.augment.cache)
        tracker = Tracker(experiment.tracking, home.place, experiment.name)
        if found.needs_ray(at_once):
            with stages("start of Ray"):
                there = stack.enter_context(session(experiment, lambda there: found.placed(there, at_once).needs))
        else:
            there = hardware_here()
        found = found.placed(there, at_once)
        threads = choose_threads(experiment.training.threads, busy)
        starts = Starts(folder / "checkpoints" / "parts.json", command, started, stages, threads)
        torch.set_num_threads(starts.threads.count)
        with explained(folder):
            write_whole(folder / "config.yaml", experiment.to_yaml())
            starts.begin()
        stack.callback(starts.end)
        events = Events(folder / "events.jsonl")
        home.tell(events)
        listen(lambda sentence: events("warning", what=sentence))
        events("run resumed" if resume else "run started", folder=str(home.place), config=experiment.fingerprint())
        events("threads chosen", count=starts.threads.count, why=starts.threads.why)
        for sentence in found.notes:
            events("a GPU is not used", why=sentence)
        mlflow_id = tracker.start(folder.name, experiment.model_dump(mode="json"), tags_of(found))
        spool = Spool(tracker, folder, events)
        llm_fingerprint = contents_fingerprint(found.language_model) if found.language_model is not None else None
        context = RunContext(found, home, events, stages, starts, tracker, spool, mlflow_id, llm_fingerprint)
        with _end_recorded(context):
            metrics, bundle, unregistered = _Work(context, step_done).done()
        reason = spool.close() or unregistered
        unsent = unsent_sentence(tracker, home.place, reason, "run") if reason is not None else None
        events("run finished", report=home.at("report.html"), **({"tracking": "not all of it was sent"} if unsent else {}))
    kept = bundle if home.address is None else metrics["bundle"]
    return RunResult(home.place, metrics, kept, unsent)


@contextmanager
def _end_recorded(context: RunContext) -> Iterator[None]:
    """A `with` block whose end, good or bad, is in events.jsonl and in MLflow.

    Raises:
        ProcessDied: with how to continue.
        OutputError: instead of an error that means a full or broken disk.
    """
    place, spool = context.home.place, context.spool
    try:
        yield
        spool.finish("FINISHED")
    except BaseException as error:
        cause = cause_of(error)
        with suppress(SelfTrainError):  # no space left for it
            context.events.stopped("run stopped", cause)
            spool.finish("KILLED" if isinstance(cause, KeyboardInterrupt) else "FAILED")
        spool.close(5.0)
        if isinstance(cause, ProcessDied):
            raise ProcessDied(f"{cause} Continue with selftrain run --resume {place}.") from None
        if isinstance(error, Exception) and not isinstance(error, SelfTrainError) and (problem := disk_problem(error)):
            raise OutputError(
                f"The run in {place} cannot go on: {problem}; free some space and continue with selftrain run --resume {place}, what it finished is kept."
            ) from error
        raise


def new_folder(experiment: Experiment) -> Path | str:
    """`runs/<name>-<time>-<short id>`, or such an address."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return below(experiment.output, f"{experiment.name}-{stamp}-{uuid.uuid4().hex[:6]}")


class _Work:
    """What a run does once everything is checked and open: `done` is the story, the other methods are its paragraphs."""

    def __init__(self, context: RunContext, step_done: StepDone | None) -> None:
        self.context = context
        self.step_done = step_done
        self.plan = context.plan
        self.rows: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.works: dict[str, Work] = {}  # of each variant, for what was to be expected of the cost
        self.finished = Finished(context.folder / "checkpoints" / "rows.jsonl")
        # What is bundled: the main variant with the first seed, and its probabilities on the documents.
        self.main: tuple[Fitted, np.ndarray] | None = None
        self.trainers = LightTrainers() if self.plan.at_once > 1 else None

    def done(self) -> tuple[dict[str, Any], Path | None, str | None]:
        """(metrics.json, the bundle, why the registry has no version of it)."""
        from selftrain.runs.language_model import NO_TEXTS, started_texts

        context, corpus = self.context, self.context.corpus
        with started_texts(context) if self.plan.language_model is not None else nullcontext() as texts:
            self._train_and_score_all(texts)
            if self.plan.experiment.evaluation.llm_documents:
                self._ask_the_language_model(texts)
            counts, examples, conditional = texts.summary() if texts is not None else (None, [], [])
        previous = previous_metrics(context.folder)  # of the same run with fewer seeds or variants
        scores = main_scores(context, self.rows)
        readable = corpus.kind == "text"  # what is bundled and served reads texts
        with context.stages("bundle" if readable else "final predictions"):
            student, found = self._main_student()
            bundle = write_run_bundle(context, student, found, scores, previous) if readable else None
            labeled = write_labeled_documents(context, found) if readable and not len(corpus.test) else None
        with context.stages("report"):
            pictures = pictures_of(context, student, conditional)
        registered, unregistered = register_run_bundle(context, bundle, scores, previous) if bundle is not None else (None, None)
        facts = (counts.to_json() if counts is not None else NO_TEXTS) | (
            {"broken_blocks": sorted(map(str, context.broken_blocks))} if context.broken_blocks else {}
        )
        cost = {"predicted": predicted(self.plan, self.works), "real": real(self.plan, self.rows, facts, context.starts.seconds)}
        metrics = metrics_of(context, self.rows, self.rounds, facts, cost, bundle=bundle, labeled=labeled, registered=registered)
        shown = context.documents
        hardest = (
            hardest_documents(found, context.labels, shown.ids, shown.contents, corpus.class_names)
            if len(shown) and readable and not context.multi_label
            else []
        )
        findings = Findings(examples=examples, hardest=hardest, names=read_names(context.folder))  # type: ignore[arg-type]
        write_report(context, metrics, findings, pictures)
        return metrics, bundle, unregistered

    def _train_and_score_all(self, texts: Texts | None) -> None:
        """Every variant with every seed, in the order of the plan, whichever ends first."""
        asked = [(name, variant, seed) for name, variant in self.plan.variants.items() for seed in variant.seeds]
        missing = [(name, variant, seed) for name, variant, seed in asked if not self.finished.get(name, seed)]
        trained = in_order((partial(self._fitted, *one, texts) for one in missing), self.plan.at_once, "selftrain-training")
        for name, variant, seed in asked:
            if found := self.finished.get(name, seed):
                self.rows += found["rows"]
                self.rounds += found["rounds"]
                self.works |= {name: Work(**found["work"])} if "work" in found else {}
                continue
            trim()  # what reading the data, or the last variant, left
            recipe = variant.recipe
            with self.context.stages("training and texts" if recipe.wants_texts else "training") if recipe.trains else nullcontext():
                fitted = next(trained)
            self._score(name, variant, seed, fitted, texts)

    def _score(self, name: str, variant: Variant, seed: int, fitted: Fitted, texts: Texts | None) -> None:
        bundled = name == self.plan.main_name and seed == self.plan.experiment.seeds[0]
        with self.context.stages("evaluation"):
            predicted = probabilities(fitted.student, self.context.documents, gpu=self.plan.evaluation_gpu)
            if bundled:
                self.main = fitted, predicted
            rows = rows_of(self.context, name, seed, variant, fitted, predicted, texts, self.rows)
        rounds = [figures_of_round(entry) for entry in fitted.rounds]
        own = [{"variant": name, "seed": seed, **entry} for entry in rounds]
        checkpoint = self._checkpoint(name, variant, seed) if fitted.rounds and fitted.method.encoder.light else None
        if checkpoint is not None and bundled:
            checkpoint.finish(fitted.state())  # a resumed run bundles these weights
        self.works[name] = Work.of(fitted.method, variant.recipe.model.encoder)
        self.finished.add(name, seed, rows, own, work=asdict(self.works[name]))
        if checkpoint is not None and not bundled:
            checkpoint.remove()
        title = f"{name} seed {seed}"
        params = {"method": variant.experiment.method, "seed": seed}
        self.context.spool.child(title, key=title, params=params, tags={"selftrain.variant": name}, rounds=rounds, metrics=figures_of(rows))
        self.rows += rows
        self.rounds += own
        for decision in decisions(own):  # type: ignore[arg-type]
            used = "used" if decision["used"] else "not used"
            self.context.events(f"{decision['question']} {used}", variant=name, seed=seed, why=decision["why"])
        accuracy = {"accuracy": rows[0]["scores"]["accuracy"]} if rows[0]["scores"] else {}
        self.context.events("variant done", variant=name, seed=seed, train_seconds=round(fitted.seconds, 1), **accuracy)

    def _fitted(self, name: str, variant: Variant, seed: int, texts: Texts | None) -> Fitted:
        """Train, or go on from the last checkpoint of the same training."""
        recipe, corpus = variant.recipe, variant.granted(seed)
        asked, home = self.plan.experiment.training.storage, self.context.home
        storage = below(asked, home.folder.name) if asked else home.checkpoints  # runs that share a storage have trainings of the same names
        one_machine = variant.experiment.ray.address is None
        threads = self.context.starts.threads.count if one_machine else None  # the load of other nodes is not known here
        workgroup = Workgroup(f"{file_name(name)}-seed{seed}", storage, one_machine=one_machine, threads=threads)
        checkpoint = self._checkpoint(name, variant, seed)
        resume = checkpoint.read()
        if resume is None and checkpoint.file.exists():
            self.context.events("checkpoint cannot be used", file=str(checkpoint.file), effect="the training starts at its first round")
        channel, bundled = texts or no_texts, name == self.plan.main_name and seed == self.plan.experiment.seeds[0]
        if self.trainers is not None and recipe.light and recipe.trains and not bundled:
            resume = self.trainers.trained(LightTraining(recipe, corpus, channel, seed, variant.validation, variant.tested, checkpoint))
        with closing(StepBar(f"{name} seed {seed}")) as bar:

            def step_done(*step: int) -> None:
                bar(*step)
                if self.step_done is not None:
                    self.step_done(*step)

            return fit(
                recipe,
                corpus,
                channel,
                seed=seed,
                validation=variant.validation,
                tested=variant.tested,
                workgroup=workgroup,
                report=checkpoint,
                resume=resume,
                step_done=step_done,
                names_read=self._names_read if bundled else None,
            )

    def _names_read(self, read: NameScores) -> None:
        """Say what the class names look like before training, and keep it for the report."""
        found = names_found(self.plan.main.corpus, read)
        write_names(self.context.folder, found)
        self.context.events("class names read", documents=found.documents, separation=round(found.separation, 2), warnings=len(found.warnings))
        for sentence in found.warnings:
            self.context.events("warning", what=sentence)

    def _checkpoint(self, name: str, variant: Variant, seed: int) -> RoundCheckpoint:
        """Of a training in this process."""
        unrelated = {"augment": {"placement", "gpu_memory", "key_variable"}, "training": {"placement"}}
        if not variant.experiment.augment.teachers:  # checkpoints from before there were several keep their identity
            unrelated["augment"].add("teachers")
        asked = variant.experiment.model_dump(mode="json", include={"data", "model", "method", "augment", "training"}, exclude=unrelated)
        identity = json.dumps([asked, variant.corpus.fingerprint, seed], sort_keys=True)  # all that the weights depend on
        return RoundCheckpoint(self.context.folder / "checkpoints" / f"{file_name(name)}-seed{seed}.pt", identity)

    def _main_student(self) -> tuple[Any, np.ndarray]:
        """What is bundled, and its probabilities; a resumed run that had finished this training takes the weights from its last checkpoint."""
        if self.main is None:
            with self.context.stages("training"):
                fitted = self._fitted(self.plan.main_name, self.plan.main, self.plan.experiment.seeds[0], None)
            self.main = fitted, probabilities(fitted.student, self.context.documents, gpu=self.plan.evaluation_gpu)
        fitted, found = self.main
        return fitted.student, found

    def _ask_the_language_model(self, texts: Texts | None) -> None:
        assert texts is not None
        seed = self.plan.experiment.seeds[0]
        if found := self.finished.get(LANGUAGE_MODEL_ROW, seed):
            self.rows += found["rows"]
            return
        if self.plan.experiment.augment.teachers:
            rows = teacher_rows(self.context, texts)
            self.context.events("teachers weighed", **{row["variant"]: row["reliability"] for row in rows[1:]})
        else:
            rows = [language_model_row(self.context, texts)]
        self.finished.add(LANGUAGE_MODEL_ROW, seed, rows, [])
        self.rows += rows
