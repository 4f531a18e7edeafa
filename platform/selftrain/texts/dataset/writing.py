"""The writing of texts for classes: two stages, round after round until every class has enough texts or the tries are used up.

The n-th try of a class is about subject n modulo the number of subjects, with the next sample number after all subjects: a plan that depends on the cached
completions alone, so a generation that was killed repeats its requests and finds them in the cache. It knows no engine: `Complete` is the text service, or
a dictionary in unit tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from selftrain.config import AugmentConfig
from selftrain.errors import DataError
from selftrain.texts.cache import Completion
from selftrain.texts.dataset.prompts import STOP, SUBJECT, LabelPrompts, clean_subject, clean_text
from selftrain.texts.filter import FilteredText
from selftrain.texts.prompts import Prompt, free_sampling

Complete = Callable[[Sequence[Prompt]], Mapping[Prompt, Completion]]

TRIES = 5  # prompts at most for one text
SUBJECT_TRIES = 2  # for one subject; fewer subjects than texts do no harm: there is more than one text about some
SUBJECT_TOKENS = 10  # ZeroGen


@dataclass
class CollectedTexts:
    """The texts of one class (or one series of subjects), and what they took."""

    texts: list[str] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)  # of each text
    tries: int = 0
    filtered: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PromptSeries:
    """A sequence of prompts that are tried in order, and the filter of their completions."""

    prompt: Callable[[int], Prompt]  # by the number of the try
    clean: Callable[[Prompt, Completion], FilteredText]


@dataclass(frozen=True)
class LabelTexts:
    """The result of `write_texts`."""

    classes: tuple[CollectedTexts, ...]  # in class order
    subjects: tuple[CollectedTexts, ...]  # one if all classes share them, empty without a first stage
    votes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of several teachers: name -> document id -> class name


def write_texts(
    class_names: Sequence[str], prompts: LabelPrompts, complete: Complete, config: AugmentConfig, *, per_class: int, origin: str
) -> LabelTexts:
    """`per_class` texts for every class, or as many as `TRIES * per_class` tries yield.

    Args:
        class_names: in class order, as the prompts.
        prompts: of one template.
        complete: the text channel.
        config: style and sampling of the texts.
        per_class: texts a class.
        origin: stands in the prompts where a document's id would; with another one the same prompts get other texts.

    Raises:
        DataError: no usable subject, or a class without a single usable text.
    """
    style = config.style
    subjects: list[CollectedTexts] = []
    if prompts.subjects is not None:
        shared = tuple(dict.fromkeys(prompts.subjects))
        subjects = collect([_subjects(prompt, config, origin) for prompt in shared], complete, wanted=per_class, tries=SUBJECT_TRIES * per_class)
        for prompt, found in zip(shared, subjects, strict=True):
            _refuse_none(found, f"subject for {prompt!r}")
    sampling = free_sampling(config, stop=STOP[style])

    def series(label: int) -> PromptSeries:
        about: Sequence[str] = ("",)
        if prompts.subjects is not None:
            about = subjects[0 if len(subjects) == 1 else label].texts

        def prompt(number: int) -> Prompt:
            text = prompts.texts[label].replace(SUBJECT, about[number % len(about)])
            return Prompt(text, origin, "label text", class_names[label], number // len(about), sampling)

        return PromptSeries(prompt, lambda prompt, completion: clean_text(completion.text, prompt.text, style=style, cut_off=completion.cut_off))

    classes = collect([series(label) for label in range(len(class_names))], complete, wanted=per_class, tries=TRIES * per_class)
    for name, got in zip(class_names, classes, strict=True):
        _refuse_none(got, f"text for the class {name!r}")
    return LabelTexts(tuple(classes), tuple(subjects))


def collect(series: Sequence[PromptSeries], complete: Complete, *, wanted: int, tries: int) -> list[CollectedTexts]:
    """`wanted` different usable texts of every series; the next in line replaces what is filtered out.

    A round requests what all series still lack, and as many more as the filter removed before. A text counts as `duplicate` if any series has it already
    (case does not count): a text that is written for two classes tells nothing about either.

    Args:
        series: of one stage.
        complete: the text channel; a prompt that is missing in its result counts as `failed`.
        wanted: texts a series.
        tries: prompts a series, at most.
    """
    found = [CollectedTexts() for _ in series]
    seen: set[str] = set()
    while True:
        batch: list[tuple[int, int, Prompt]] = []  # (number of the try, index of the series, prompt)
        for index, (one, got) in enumerate(zip(series, found, strict=True)):
            missing = wanted - len(got.texts)
            rate = max(len(got.texts) / got.tries, 0.1) if got.tries else 1.0
            upto = min(got.tries + math.ceil(missing / rate), tries)
            batch += [(number, index, one.prompt(number)) for number in range(got.tries, upto)]
            got.tries = upto
        if not batch:
            return found
        completions = complete([prompt for _, _, prompt in batch])
        for _, index, prompt in sorted(batch, key=lambda item: item[:2]):
            completion, got = completions.get(prompt), found[index]
            cleaned = series[index].clean(prompt, completion) if completion is not None else FilteredText("", "failed")
            key = cleaned.text.casefold()
            if reason := cleaned.reason or ("duplicate" if key in seen else ""):
                got.filtered[reason] += 1
            elif len(got.texts) < wanted:
                seen.add(key)
                got.texts.append(cleaned.text)
                got.prompts.append(prompt)


def _subjects(text: str, config: AugmentConfig, origin: str) -> PromptSeries:
    style = config.style
    sampling = free_sampling(config, min_tokens=1, max_tokens=SUBJECT_TOKENS, stop=STOP[style])
    return PromptSeries(
        lambda number: Prompt(text, origin, "subject", "", number, sampling),
        lambda _, completion: clean_subject(completion.text, style=style, cut_off=completion.cut_off),
    )


def _refuse_none(got: CollectedTexts, what: str) -> None:
    if not got.texts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in got.filtered.most_common())
        raise DataError(
            f"The language model wrote no usable {what} in {got.tries} tries ({reasons}); describe the classes (data.descriptions), try another template, "
            "or set a stronger model (augment.model)."
        )
