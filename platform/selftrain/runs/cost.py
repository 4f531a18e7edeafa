"""What a run costs: texts, tokens, hours and money, predicted before it starts and counted when it is over.

What trainings do stands here for sweeps too; what texts cost is texts/cost.py's. Predicted hours are from rates of two CPU cores, so those of GPUs are at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus, Documents
from selftrain.data.texts import TextKind, TextRequest
from selftrain.errors import SelfTrainError
from selftrain.methods.base import Method
from selftrain.models.locate import IMAGE_ENCODERS
from selftrain.runs.plan import RunPlan
from selftrain.runtime.hardware import hardware_here
from selftrain.texts.cost import NOTHING, SAMPLED, Cost, Missing, Wanted, missing_texts, priced, tokens_of
from selftrain.texts.prompts import prompt_for, voted

START_SECONDS, TRAIN_START_SECONDS = 60.0, 45.0  # of a run, of Ray Train


@dataclass(frozen=True)
class Work:
    """What one variant is expected to do, with one seed."""

    texts: Mapping[str, float]  # by kind
    most_texts: int
    steps: int
    seconds: float  # of training on two cores

    @classmethod
    def of(cls, method: Method, encoder: str, *, start: float = TRAIN_START_SECONDS) -> Work:
        """Of a method with documents, before or after it has trained.

        Args:
            method: knows its steps and texts.
            encoder: `model.encoder`.
            start: seconds that a training takes to start, if it is not light.
        """
        if not method.rounds:
            return cls({}, 0, 0, 0.0)
        steps = method.planned_steps
        return cls(
            method.texts_expected(),
            method.texts_wanted(),
            steps,
            (0.0 if method.encoder.light else start) + steps * _step_seconds(method, encoder),
        )


@dataclass(frozen=True)
class Asking:
    """What asks for texts: trainings that differ in their seeds alone, and their evaluation.

    Args:
        work: of each training.
        trainings: how many.
        corpus: its documents.
        augment: the language model, and texts a document or pair.
        reads: whether test documents are classified with continuations.
        classified: documents that the language model classifies itself.
    """

    work: Work
    trainings: int
    corpus: Corpus
    augment: AugmentConfig
    reads: bool = False
    classified: int = 0


def wanted_texts(asking: Iterable[Asking]) -> Iterator[Wanted]:
    """The texts of all that has the same text settings and one cache: each counts once, however many trainings ask for it.

    Continuations are known. What is written for pseudo-labels follows from each training: of one the expected number is given, of several the bound, which they
    reach where no two ask for the same.
    """
    groups: dict[str, list[Asking]] = {}
    for one in asking:
        groups.setdefault(one.corpus.fingerprint, []).append(one)
    seen: dict[str, set[str]] = {"unlabeled": set(), "test": set()}
    for group in groups.values():
        corpus, augment = group[0].corpus, group[0].augment
        fresh = _fresh(corpus.unlabeled, seen["unlabeled"])
        part = len(fresh) / max(1, len(corpus.unlabeled))
        inputs = max(one.work.texts.get("input", 0.0) for one in group)
        yield _of_documents("input", fresh, corpus, augment, texts=inputs * part, samples=math.ceil(inputs / max(1, len(corpus.unlabeled))))
        yield _on_pseudo_labels(group, fresh, part)
        read = max((one.augment.input_samples for one in group if one.reads), default=0)
        tested = _fresh(corpus.test, seen["test"])
        yield _of_documents("input", tested, corpus, augment, texts=float(read * len(tested)), samples=read)
        shown = corpus.test if len(corpus.test) else corpus.unlabeled
        count = min(max(one.classified for one in group), len(shown))
        chosen = Documents(shown.ids[:count], shown.contents[:count]) if count else Documents()
        yield _of_documents("classify", chosen, corpus, augment, texts=float(count * len(augment.language_models)), samples=1)


def _fresh(documents: Documents, seen: set[str]) -> Documents:
    """Those that are not `seen`, and from now on are."""
    if not seen:
        seen |= set(documents.ids)
        return documents
    places = [place for place, id_ in enumerate(documents.ids) if id_ not in seen]
    seen |= set(documents.ids)
    return Documents(tuple(documents.ids[place] for place in places), tuple(documents.contents[place] for place in places))


def _on_pseudo_labels(group: Sequence[Asking], documents: Documents, part: float) -> Wanted:
    """Texts that are written for pseudo-labels; `part` of the corpus' documents are these."""
    asking = [one for one in group if one.work.texts.get("conditional")]
    most = sum(one.trainings * (one.work.most_texts - one.work.texts.get("input", 0.0)) for one in asking) * part
    pairs = len(documents) * len(group[0].corpus.labels) * max((one.augment.conditional_samples for one in asking), default=0)
    most = min(most, float(pairs))
    expected = asking[0].work.texts["conditional"] * part if len(asking) == 1 and asking[0].trainings == 1 else most
    return _of_documents("conditional", documents, group[0].corpus, group[0].augment, texts=min(expected, most), samples=1, most=most)


def _of_documents(
    kind: TextKind, documents: Documents, corpus: Corpus, augment: AugmentConfig, *, texts: float, samples: int, most: float | None = None
) -> Wanted:
    """Texts about documents, with the prompts of some of them."""
    each = kind == "classify"
    prompts = []
    for number, place in enumerate(range(0, len(documents), max(1, len(documents) // SAMPLED)) if texts else ()):
        label = number % len(corpus.labels) if kind == "conditional" else -1
        requests = [TextRequest(documents.ids[place], kind, label, sample) for sample in range(samples)]
        prompts += [prompt_for(one, documents.contents[place], corpus.labels, augment) for one in requests]
    if each and augment.teachers:
        prompts = [voted(prompt) for prompt in prompts]
    return Wanted(texts, prompts, float(len(documents) * samples), each=each, known=kind != "conditional", most=most)


def works_of(found: RunPlan) -> dict[str, Work]:
    """What each variant is expected to do, from a method that is opened for it."""
    seed = found.experiment.seeds[0]
    return {name: Work.of(one.recipe.untrained(one.granted(seed), seed=seed), one.recipe.model.encoder) for name, one in found.variants.items()}


def _missing(found: RunPlan, works: Mapping[str, Work], *, cached: bool) -> Missing:
    """What the language model has yet to write."""
    if found.language_model is None:
        return NOTHING
    asked = found.experiment

    def asking(name: str, work: Work) -> Asking:
        own = found.variants[name]
        samples = {key: getattr(own.experiment.augment, key) for key in ("input_samples", "conditional_samples")}
        augment = asked.augment.model_copy(update=samples)  # of the one text service that all variants ask
        return Asking(work, len(own.seeds), own.corpus, augment, asked.evaluation.inference_augmentation, asked.evaluation.llm_documents)

    return missing_texts(asked.augment, found.language_model, wanted_texts(asking(*one) for one in works.items()), cached=cached)


def predicted(found: RunPlan, works: Mapping[str, Work]) -> Cost:
    """What a run is expected to cost with an empty cache of texts.

    Args:
        found: the plan; its GPUs are counted as it is placed, or would be on this machine.
        works: of each variant.
    """
    return _predicted(found, works, _missing(found, works, cached=False))


def _predicted(found: RunPlan, works: Mapping[str, Work], missing: Missing) -> Cost:
    training = sum(work.seconds * len(found.variants[name].seeds) for name, work in works.items())
    hours, gpu_hours = (START_SECONDS + training + missing.seconds) / 3600, _gpu_hours(found, training, missing.seconds)
    return priced(
        found.experiment.augment,
        found.prices,
        texts=missing.texts,
        tokens=missing.tokens,
        hours=hours,
        gpu_hours=gpu_hours,
        at_most=missing.at_most,
    )


def real(found: RunPlan, rows: Iterable[Mapping[str, Any]], texts: Mapping[str, Any], seconds: float) -> Cost:
    """What a run did cost. Texts that the cache held cost nothing; of a resumed run, texts of its last start count.

    Args:
        found: the plan, placed.
        rows: of the run's table.
        texts: counts of the language model's texts, as metrics.json has them.
        seconds: of the run.
    """
    tokens = tokens_of(found.experiment.augment, [texts]) if found.language_model is not None else {}
    training = sum(row["train_seconds"] for row in rows if not row["inference_augmentation"])
    gpu_hours = _gpu_hours(found, training, float(texts["seconds"]))
    return priced(found.experiment.augment, found.prices, texts=texts["generated"], tokens=tokens, hours=seconds / 3600, gpu_hours=gpu_hours)


def _gpu_hours(found: RunPlan, training: float, writing: float) -> float:
    """Hours of GPUs that seconds of training and writing take."""
    asked = found.experiment
    if found.devices is None:
        try:
            found = found.placed(hardware_here())
        except SelfTrainError:  # the numbers that are asked for, which another machine may have
            return (
                training * _number(asked.training.gpu) * asked.training.workers
                + writing * _number(asked.augment.gpus) * asked.augment.engines_at_most
            ) / 3600
    assert found.devices is not None
    worker, workers = found.devices.worker, asked.training.workers
    if worker is None:  # trained in this process, on its GPU where there is one
        worker, workers = (1.0 if hardware_here().here and asked.training.gpu not in (False, 0) else 0.0), 1
    engine = _number(found.augment.gpus) * asked.augment.engines_at_most if found.language_model is not None else 0.0
    return (training * worker * workers + writing * engine) / 3600


def _number(gpus: str | float) -> float:
    return 0.0 if isinstance(gpus, str) else float(gpus)


def _step_seconds(method: Method, encoder: str) -> float:
    """Seconds that a step takes on two CPU cores, about."""
    if method.encoder.frozen:
        return 0.015
    if method.encoder.light:
        return 0.08
    if encoder not in IMAGE_ENCODERS:
        return 0.7
    return 0.1 if encoder == "small-cnn" else 3.0


def plan(found: RunPlan) -> str:
    """What a run would do and cost; nothing is started."""
    experiment, corpus = found.experiment, found.corpus
    works = works_of(found)
    trained = [name for name, work in works.items() if work.steps]
    steps = sum(len(experiment.seeds) * work.steps for work in works.values())
    missing = _missing(found, works, cached=True)
    cost = _predicted(found, works, missing)
    return "\n".join(
        [
            experiment.to_yaml(),
            f"# {len(corpus.unlabeled)} unlabeled and {len(corpus.test)} test documents, {len(corpus.labels)} classes; skipped rows: {len(corpus.skipped)}",
            f"# variants: {', '.join(found.variants)}; trainings: {len(trained) * len(experiment.seeds)}; optimiser steps: {steps}",
            f"# texts to generate at most: {missing.most:.0f} (what the cache {experiment.augment.cache} holds is not generated again)",
            f"# predicted, with hours of two CPU cores: {cost.words()}",
        ]
    )
