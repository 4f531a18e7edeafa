"""What a run will do, found and checked before anything long starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from selftrain.config import AugmentConfig, Experiment, Prices
from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import ConfigError
from selftrain.methods import METHODS, method_class
from selftrain.methods.recipe import Recipe, resolve
from selftrain.models.locate import IMAGE_ENCODERS, LanguageModel, encoder_folder, language_model_of
from selftrain.models.open import located
from selftrain.runtime.cluster import Needs, needs
from selftrain.runtime.devices import Devices, decide
from selftrain.runtime.hardware import Hardware, packs
from selftrain.texts.cost import prices_of
from selftrain.texts.engines import engine_needs
from selftrain.training.loop import Validation


@dataclass(frozen=True)
class Variant:
    """One row of the experiment's table: a complete experiment of its own on the same test documents."""

    experiment: Experiment  # as it was asked for
    recipe: Recipe
    corpus: Corpus  # without labels
    truth: TrueLabels

    def granted(self, seed: int) -> Corpus:
        """What the learner may see with this seed."""
        return grant(self.corpus, self.truth, self.experiment.data, seed)

    @cached_property
    def validation(self) -> Validation | None:
        """Labeled documents to choose a round by; no part of what the learner sees."""
        return Validation.of(self.corpus, self.truth)

    @cached_property
    def tested(self) -> Validation | None:
        """Test documents that are scored after every round, where the experiment asks for that."""
        return Validation.of_test(self.corpus, self.truth) if self.experiment.evaluation.every_round else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """What it is trained with: one seed alone where nothing is trained."""
        return self.experiment.seeds if self.recipe.trains else self.experiment.seeds[:1]


@dataclass(frozen=True)
class RunPlan:
    """An experiment whose every input was found and checked."""

    experiment: Experiment
    corpus: Corpus
    truth: TrueLabels
    variants: dict[str, Variant]  # what is trained, in order; the first is the one that is bundled
    language_model: LanguageModel | None
    devices: Devices | None = None  # None before `placed`
    at_once: int = 1  # trainings at the same time
    prices: Prices | None = None

    @property
    def main_name(self) -> str:
        """The variant that the run is about."""
        return next(iter(self.variants))

    @property
    def main(self) -> Variant:
        """The same, itself."""
        return self.variants[self.main_name]

    def needs_ray(self, at_once: int | None = None) -> bool:
        """Whether anything runs on Ray: a language model that is not a server's, a training that is not light, or light ones side by side.

        Args:
            at_once: as in `placed`.
        """
        side_by_side = self.experiment.ray.address is not None if at_once is None else at_once > 1
        return bool(self._engines or self._workers or (side_by_side and self._trainings(light=True) > 1))

    def _trainings(self, *, light: bool) -> int:
        return sum(len(one.seeds) for one in self.variants.values() if one.recipe.trains and one.recipe.light == light)

    @property
    def _engines(self) -> int:
        return self.experiment.augment.engines if self.language_model is not None else 0

    @property
    def _workers(self) -> int:
        return self.experiment.training.workers if any(one.recipe.trains and not one.recipe.light for one in self.variants.values()) else 0

    def placed(self, there: Hardware, at_once: int | None = None) -> RunPlan:
        """The plan with numbers for GPUs in what trains and writes; `experiment` stays as it was asked for, so that it resumes on another machine.

        Args:
            there: what there is.
            at_once: trainings at the same time; None: as many as a cluster has room for now, one on a machine of its own.

        Raises:
            SelfTrainError: as `runtime.devices.decide`.
        """
        trainings = self._trainings(light=False) or self._trainings(light=True)
        workers = self._workers * (1 if at_once is None else max(1, min(at_once, trainings)))
        devices = decide(self.experiment, there, engines=self._engines, workers=workers)
        variants = {
            name: replace(one, recipe=replace(one.recipe, training=devices.training(one.recipe.training))) for name, one in self.variants.items()
        }
        most = self._room(devices, there) if at_once is None else at_once
        return replace(self, variants=variants, devices=devices, at_once=max(1, min(most, trainings)))

    def _room(self, devices: Devices, there: Hardware) -> int:
        """Trainings that a cluster has room for beside the language model, as far as its nodes are there; one on a machine of its own."""
        if self.experiment.ray.address is None:
            return 1
        beside, one = self._needs(devices, 0), self._needs(devices, 1)
        room = int((there.cpus - beside.cpus) / (one.cpus - beside.cpus))

        def fits(trainings: int) -> bool:
            return packs(sorted(self._needs(devices, trainings).claims, key=lambda claim: -claim.gpus), there.nodes)

        return next((count for count in range(room, 1, -1) if fits(count)), 1)

    @property
    def augment(self) -> AugmentConfig:
        """The section of the language model, with numbers for GPUs once the plan is `placed`."""
        return self.devices.augment(self.experiment.augment) if self.devices is not None else self.experiment.augment

    @property
    def evaluation_gpu(self) -> str | float:
        """`training.gpu` for what this process computes itself, once the plan is `placed`."""
        training = self.experiment.training
        return (self.devices.training(training) if self.devices is not None else training).gpu

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each thing that stays on the CPU although there are GPUs."""
        return self.devices.notes if self.devices is not None else ()

    @property
    def needs(self) -> Needs:
        """What a plan that is `placed` asks of Ray."""
        assert self.devices is not None
        return self._needs(self.devices, self.at_once)

    def _needs(self, devices: Devices, at_once: int) -> Needs:
        asked = devices.experiment(self.experiment)
        engine = engine_needs(asked.augment, self.language_model)
        if self._workers or (at_once == 1 and self.experiment.ray.address is None):  # beside workers, a light training takes the place of one
            return needs(asked, engine, trainings=at_once)
        return needs(asked, engine, trainings=0, light=at_once)


def prepare(experiment: Experiment) -> RunPlan:
    """Read the data and check methods, models and variants.

    Raises:
        SelfTrainError: whatever a user can fix.
    """
    if experiment.model.encoder not in IMAGE_ENCODERS:
        encoder_folder(experiment.model.encoder)
    experiment = _with_absolute_folders(experiment)
    prices = prices_of(experiment)
    _check_multi_label(experiment)
    corpus, truth = load_corpus(experiment.data)
    if experiment.evaluation.every_round and not truth.test:
        raise ConfigError(
            "evaluation.every_round must be false where test documents have no labels, since nothing can be scored (got true).",
            parameter="evaluation.every_round",
        )
    main = resolve(experiment).name
    if main in experiment.variants:
        raise ConfigError(f"variants.{main} has the name of the experiment's own row; rename the variant.")
    variants = {main: _variant(main, experiment.model_copy(update={"variants": {}}), corpus, truth, experiment.data)}
    for name in experiment.variants:
        variants[name] = _variant(name, _with_absolute_folders(experiment.variant(name)), corpus, truth, experiment.data)
    evaluation = experiment.evaluation
    asked = bool(evaluation.llm_documents) or evaluation.inference_augmentation or any(one.recipe.wants_texts for one in variants.values())
    if asked and corpus.kind == "image":
        raise ConfigError("evaluation.llm_documents and evaluation.inference_augmentation want texts, and the documents are images; leave both out.")
    if asked and not experiment.augment.writes:
        raise ConfigError(
            "The experiment wants texts of a language model, and augment.model is not set; set it (augment.model: gemma-3-270m), or do without texts "
            "(method.input_augmentation: false, method.conditional_augmentation: false)."
        )
    return RunPlan(experiment, corpus, truth, variants, language_model_of(experiment.augment) if asked else None, prices=prices)


def _check_multi_label(experiment: Experiment) -> None:
    """Raise a `ConfigError` unless all methods, and all that is measured, are for as many labels a document as the data has."""
    several, evaluation = experiment.data.multi_label, experiment.evaluation
    for one in (experiment, *map(experiment.variant, experiment.variants)):
        recipe = resolve(one)
        if one.data.multi_label != several:
            raise ConfigError(
                "data.multi_label must be the same in all variants, which are compared on the same documents; set it for the experiment alone."
            )
        if recipe.method.multi_label != several:
            able = ", ".join(name for name in METHODS if method_class(name).multi_label == several) if several else "another method"
            raise ConfigError(
                f"data.multi_label must be {str(not several).lower()} with the method {recipe.name} (got {str(several).lower()}); set it so, or choose {able}.",
                parameter="data.multi_label",
            )
    for key, asked in (
        ("inference_augmentation", evaluation.inference_augmentation),
        ("llm_documents", evaluation.llm_documents),
        ("every_round", evaluation.every_round),
    ):
        if several and asked:
            raise ConfigError(f"evaluation.{key} must be left out with data.multi_label: true, since it is for one class a document (got {asked!r}).")
    if several and experiment.model.windows > 1:
        raise ConfigError(
            f"model.windows must be 1 with data.multi_label: true, since means over windows are for one class a document (got {experiment.model.windows}); "
            "raise model.max_tokens for longer documents.",
            parameter="model.windows",
        )


def _variant(name: str, experiment: Experiment, corpus: Corpus, truth: TrueLabels, shared: object) -> Variant:
    """The variant `name`, checked with every seed. `corpus` and `truth` are its documents too, where its data section is the `shared` one."""
    own, own_truth = (corpus, truth) if experiment.data == shared else load_corpus(experiment.data)
    if own.test.ids != corpus.test.ids:
        raise ConfigError(
            f"variants.{name} changes the test documents. Variants are compared on the same ones: leave data.source, test_split and test_documents alone."
        )
    variant = Variant(experiment, resolve(experiment), own, own_truth)
    for seed in experiment.seeds:
        variant.recipe.check(variant.granted(seed))  # a class without labels is an error now, and not after an hour
    return variant


def _with_absolute_folders(experiment: Experiment) -> Experiment:
    prices = experiment.cost.prices
    cost = experiment.cost.model_copy(update={"prices": str(Path(prices).expanduser().absolute())}) if prices is not None else experiment.cost
    return experiment.model_copy(update={"model": located(experiment.model), "cost": cost})
