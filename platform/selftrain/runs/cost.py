"""What a run costs: texts, tokens, hours and money, predicted before it starts and counted when it is over.

Predicted tokens are those of the prompts of a sample of documents, by the language model's own tokenizer where its folder is at hand, else a
token for four characters; a text is taken to be as long as it may be. Predicted hours are from rates of two CPU cores, so those of GPUs are at
most. Money is what a price file says (`cost.prices`): without a price that is needed there is none, and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from selftrain.data.texts import TextRequest
from selftrain.errors import SelfTrainError
from selftrain.methods.base import Method
from selftrain.models.locate import IMAGE_ENCODERS, each_model
from selftrain.runs.plan import RunPlan, teacher_sections
from selftrain.runtime.hardware import gpu_name, hardware_here
from selftrain.texts.prompts import prompt_for

SAMPLED = 100  # documents whose prompts are counted, evenly spread
CHARACTERS_A_TOKEN = 4  # where the tokenizer is a server's; English text
START_SECONDS, TRAIN_START_SECONDS, ENGINE_SECONDS = 60.0, 45.0, 90.0  # of a run, of Ray Train, of an engine
TOKENS_A_SECOND = 100  # that a language model of 270 million weights writes on two cores

Tokens = tuple[float, float]  # of prompts, of texts


@dataclass(frozen=True)
class Work:
    """What one variant is expected to do, with one seed."""

    texts: Mapping[str, float]  # by kind
    most_texts: int
    steps: int
    seconds: float  # of training on two cores

    @classmethod
    def of(cls, method: Method, encoder: str) -> Work:
        """Of a method with documents, before or after it has trained.

        Args:
            method: knows its steps and texts.
            encoder: `model.encoder`.
        """
        if not method.rounds:
            return cls({}, 0, 0, 0.0)
        start = 0.0 if method.encoder.light else TRAIN_START_SECONDS
        steps = method.planned_steps
        return cls(method.texts_expected(), method.texts_wanted(), steps, start + steps * _step_seconds(method, encoder))


@dataclass(frozen=True)
class Cost:
    """One side of the comparison; `metrics.json` has both."""

    texts: int
    prompt_tokens: int
    generated_tokens: int
    hours: float
    gpu_hours: float
    money: float | None  # None: see `why`
    currency: str | None
    why: str  # why there is no money; empty where there is

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"hours": round(self.hours, 4), "gpu_hours": round(self.gpu_hours, 4)}

    def words(self) -> str:
        """In one line, for a terminal."""
        money = f"{self.money:,.4g} {self.currency}" if self.money is not None else f"no money: {self.why}"
        tokens = f"{self.prompt_tokens:,} tokens of prompts and {self.generated_tokens:,} of texts"
        return f"{self.texts:,} texts, {tokens}; {self.hours:.2f} hours, {self.gpu_hours:.2f} GPU-hours; {money}"


def works_of(found: RunPlan) -> dict[str, Work]:
    """What each variant is expected to do, from a method that is opened for it."""
    seed = found.experiment.seeds[0]
    return {name: Work.of(one.recipe.untrained(one.granted(seed), seed=seed), one.recipe.model.encoder) for name, one in found.variants.items()}


def most_texts(found: RunPlan, works: Mapping[str, Work]) -> int:
    """Texts that are generated at most, with an empty cache: variants and seeds share it."""
    return max((work.most_texts for work in works.values()), default=0) + round(sum(_evaluated(found).values()))


def predicted(found: RunPlan, works: Mapping[str, Work]) -> Cost:
    """What a run is expected to cost with an empty cache of texts.

    Args:
        found: the plan; its GPUs are counted as it is placed, or would be on this machine.
        works: of each variant.
    """
    kinds = _evaluated(found)
    for kind in ("input", "conditional"):
        kinds[kind] = kinds.get(kind, 0.0) + max((work.texts.get(kind, 0.0) for work in works.values()), default=0.0)
    tokens = _expected_tokens(found, kinds) if found.language_model is not None else {}
    training = sum(work.seconds * len(found.variants[name].seeds) for name, work in works.items())
    writing = ENGINE_SECONDS + sum(written for _, written in tokens.values()) / TOKENS_A_SECOND if tokens else 0.0
    gpu_hours = _gpu_hours(found, training, writing)
    return _cost(found, round(sum(kinds.values())), tokens, (START_SECONDS + training + writing) / 3600, gpu_hours)


def real(found: RunPlan, rows: Iterable[Mapping[str, Any]], texts: Mapping[str, Any], seconds: float) -> Cost:
    """What a run did cost. Texts that the cache held cost nothing; of a resumed run, texts of its last start count.

    Args:
        found: the plan, placed.
        rows: of the run's table.
        texts: counts of the language model's texts, as metrics.json has them.
        seconds: of the run.
    """
    each = texts.get("teachers") or ({str(found.experiment.augment.name): texts} if found.language_model is not None else {})
    tokens = {name: (float(one["prompt_tokens"]), float(one["generated_tokens"])) for name, one in each.items()}
    training = sum(row["train_seconds"] for row in rows if not row["inference_augmentation"])
    return _cost(found, int(texts["generated"]), tokens, seconds / 3600, _gpu_hours(found, training, float(texts["seconds"])))


def _cost(found: RunPlan, texts: int, tokens: Mapping[str, Tokens], hours: float, gpu_hours: float) -> Cost:
    money, why = _money(found, tokens, gpu_hours)
    prompt, generated = (round(sum(one[place] for one in tokens.values())) for place in (0, 1))
    return Cost(texts, prompt, generated, hours, gpu_hours, money, found.prices.currency if found.prices is not None else None, why)


def _money(found: RunPlan, tokens: Mapping[str, Tokens], gpu_hours: float) -> tuple[float | None, str]:
    """(what it comes to, empty), or (None, what is missing)."""
    prices = found.prices
    if prices is None:
        return None, "no price file (cost.prices)"
    total = 0.0
    for name, (prompt, generated) in tokens.items():
        section = teacher_sections(found.experiment.augment)[name]
        price = prices.teachers.get(name)
        if price is None and section.server is not None and not section.prompt_price + section.generated_price:
            return None, f"the price file has no teacher {name!r}"
        each = (price.prompt, price.generated) if price is not None else (section.prompt_price, section.generated_price)
        total += (prompt * each[0] + generated * each[1]) / 1e6
    if gpu_hours:
        gpu = gpu_name()
        if gpu is None or gpu not in prices.gpu_hours:
            return None, f"the price file has no GPU {gpu!r}" if gpu else "the GPUs have no name, or several"
        total += gpu_hours * prices.gpu_hours[gpu]
    return total, ""


def _evaluated(found: RunPlan) -> dict[str, float]:
    """Texts that evaluation asks for, by kind."""
    asked, corpus = found.experiment, found.corpus
    classified = min(asked.evaluation.llm_documents, len(corpus.test)) * len(asked.augment.language_models)
    read = len(corpus.test) * asked.augment.input_samples if asked.evaluation.inference_augmentation else 0
    return {"input": float(read), "classify": float(classified)}


def _expected_tokens(found: RunPlan, kinds: Mapping[str, float]) -> dict[str, Tokens]:
    """Tokens by language model: of several each writes its share, and all of them classify."""
    augment, corpus = found.experiment.augment, found.corpus
    every = max(1, len(corpus.unlabeled) // SAMPLED)
    places = range(0, len(corpus.unlabeled), every)
    shares = [one.share for one in augment.teachers] or [1.0]
    assert found.language_model is not None
    models = each_model(found.language_model)
    result = {}
    for (name, section), model, share in zip(teacher_sections(augment).items(), models, shares, strict=True):
        count = _counter(model)
        prompt = generated = 0.0
        for kind, texts in kinds.items():
            own = texts / len(models) if kind == "classify" else texts * share / sum(shares)
            if not own:
                continue
            requests = [
                TextRequest(corpus.unlabeled.ids[place], kind, number % len(corpus.labels) if kind == "conditional" else -1)  # type: ignore[arg-type]
                for number, place in enumerate(places)
            ]
            prompts = [prompt_for(one, corpus.unlabeled.contents[place], corpus.labels, section) for one, place in zip(requests, places, strict=True)]
            prompt += own * sum(count(one.text) for one in prompts) / len(prompts)
            choices = prompts[0].sampling.choices
            generated += own * (sum(map(count, choices)) / len(choices) if choices else section.max_tokens)
        result[name] = (prompt, generated)
    return result


@cache
def _counter(model: Path | str) -> Callable[[str], float]:
    """Tokens of a text, special ones included, for a language model."""
    if isinstance(model, Path) and (model / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        return lambda text: len(tokenizer.encode(text).ids)
    return lambda text: len(text) / CHARACTERS_A_TOKEN


def _gpu_hours(found: RunPlan, training: float, writing: float) -> float:
    """Hours of GPUs that seconds of training and writing take."""
    asked = found.experiment
    if found.devices is None:
        try:
            found = found.placed(hardware_here())
        except SelfTrainError:  # the numbers that are asked for, which another machine may have
            return (
                training * _number(asked.training.gpu) * asked.training.workers + writing * _number(asked.augment.gpus) * asked.augment.engines
            ) / 3600
    assert found.devices is not None
    worker, workers = found.devices.worker, asked.training.workers
    if worker is None:  # trained in this process, on its GPU where there is one
        worker, workers = (1.0 if hardware_here().here and asked.training.gpu not in (False, 0) else 0.0), 1
    engine = _number(found.augment.gpus) * asked.augment.engines if found.language_model is not None else 0.0
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
    cost = predicted(found, works)
    return "\n".join(
        [
            experiment.to_yaml(),
            f"# {len(corpus.unlabeled)} unlabeled and {len(corpus.test)} test documents, {len(corpus.labels)} classes; skipped rows: {len(corpus.skipped)}",
            f"# variants: {', '.join(found.variants)}; trainings: {len(trained) * len(experiment.seeds)}; optimiser steps: {steps}",
            f"# texts to generate at most: {most_texts(found, works)} (what the cache {experiment.augment.cache} holds is not generated again)",
            f"# predicted, with an empty cache and hours of two CPU cores: {cost.words()}",
        ]
    )
