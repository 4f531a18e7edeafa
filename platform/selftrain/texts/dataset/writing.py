"""Texts for classes out of nothing: the two stages, round after round until every class has what is wanted or the tries are used up.

The n-th try of a class is about subject n modulo the number of subjects, with the next sample number when all subjects had their turn: a plan that depends
on the cached answers alone, so a generation that was killed asks for the same texts again and gets them from the cache. It knows no engine: `Complete` is
the text service, or a dictionary in unit tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from selftrain.config import AugmentConfig
from selftrain.errors import SelfTrainError
from selftrain.texts.cache import Answer
from selftrain.texts.dataset.prompts import STOP, SUBJECT, LabelPrompts, clean_subject, clean_text
from selftrain.texts.prompts import Cleaned, Style
from selftrain.texts.service import PromptRequest

Complete = Callable[[Sequence[PromptRequest]], Mapping[PromptRequest, Answer]]

TRIES = 5  # texts asked for at most, for one that is wanted
SUBJECT_TRIES = 2  # fewer subjects than texts are no harm: they are written about more than once
SUBJECT_TOKENS = 10  # ZeroGen


@dataclass
class Collected:
    """What one class (or one series of subjects) got."""

    texts: list[str] = field(default_factory=list)
    tries: int = 0
    filtered: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Series:
    """A sequence of requests that are tried in order, and the filter of their answers."""

    request: Callable[[int], PromptRequest]
    clean: Callable[[PromptRequest, Answer], Cleaned]


@dataclass(frozen=True)
class LabelTexts:
    """What `write_texts` leaves."""

    classes: tuple[Collected, ...]  # in class order
    subjects: tuple[Collected, ...]  # one if all classes share them, none without a first stage


def write_texts(
    class_names: Sequence[str], prompts: LabelPrompts, complete: Complete, config: AugmentConfig, *, per_class: int, origin: str
) -> LabelTexts:
    """`per_class` texts for every class, or as many as `TRIES` times as many tries bring.

    Args:
        class_names: in class order, as the prompts.
        prompts: of one template.
        complete: the text channel.
        config: style and token limits of the texts.
        per_class: texts a class.
        origin: of the requests; another one gets other texts for the same prompts.

    Raises:
        SelfTrainError: no usable subject, or a class without a single usable text.
    """
    style = config.style
    subjects: list[Collected] = []
    if prompts.subjects is not None:
        shared = tuple(dict.fromkeys(prompts.subjects))
        subjects = collect([_subjects(prompt, style, origin) for prompt in shared], complete, wanted=per_class, tries=SUBJECT_TRIES * per_class)
        for prompt, found in zip(shared, subjects, strict=True):
            _refuse_none(found, f"subject for {prompt!r}")

    def series(label: int) -> Series:
        about: Sequence[str] = ("",)
        if prompts.subjects is not None:
            about = subjects[0 if len(subjects) == 1 else label].texts

        def request(number: int) -> PromptRequest:
            prompt = prompts.texts[label].replace(SUBJECT, about[number % len(about)])
            sample = number // len(about)
            return PromptRequest(origin, "label text", class_names[label], prompt, sample, config.min_tokens, config.max_tokens, STOP[style])

        return Series(request, lambda asked, answer: clean_text(answer.text, asked.prompt, style=style, cut_off=answer.cut_off))

    classes = collect([series(label) for label in range(len(class_names))], complete, wanted=per_class, tries=TRIES * per_class)
    for name, got in zip(class_names, classes, strict=True):
        _refuse_none(got, f"text for the class {name!r}")
    return LabelTexts(tuple(classes), tuple(subjects))


def collect(series: Sequence[Series], complete: Complete, *, wanted: int, tries: int) -> list[Collected]:
    """`wanted` different usable texts of every series; what is filtered out is replaced by the next in line.

    A round asks for what all series still lack, and for as many more as the filter took before. A text counts as `duplicate` if any series has it already
    (case does not count): a text that is written for two classes says nothing about either.

    Args:
        series: of one stage.
        complete: the text channel; a request that it leaves out counts as `failed`.
        wanted: texts a series.
        tries: requests a series, at most.
    """
    found = [Collected() for _ in series]
    seen: set[str] = set()
    while True:
        batch: list[tuple[int, int, PromptRequest]] = []
        for place, (one, got) in enumerate(zip(series, found, strict=True)):
            missing = wanted - len(got.texts)
            rate = max(len(got.texts) / got.tries, 0.1) if got.tries else 1.0
            upto = min(got.tries + math.ceil(missing / rate), tries)
            batch += [(number, place, one.request(number)) for number in range(got.tries, upto)]
            got.tries = upto
        if not batch:
            return found
        answers = complete([request for _, _, request in batch])
        for _, place, request in sorted(batch, key=lambda item: item[:2]):
            answer, got = answers.get(request), found[place]
            cleaned = series[place].clean(request, answer) if answer is not None else Cleaned("", "failed")
            key = cleaned.text.casefold()
            if reason := cleaned.reason or ("duplicate" if key in seen else ""):
                got.filtered[reason] += 1
            elif len(got.texts) < wanted:
                seen.add(key)
                got.texts.append(cleaned.text)


def _subjects(prompt: str, style: Style, origin: str) -> Series:
    def request(number: int) -> PromptRequest:
        return PromptRequest(origin, "subject", "", prompt, number, 1, SUBJECT_TOKENS, STOP[style])

    return Series(request, lambda asked, answer: clean_subject(answer.text, style=style, cut_off=answer.cut_off))


def _refuse_none(got: Collected, what: str) -> None:
    if not got.texts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in got.filtered.most_common())
        raise SelfTrainError(
            f"The language model wrote no usable {what} in {got.tries} tries ({reasons}); describe the classes (data.descriptions), try another --template, "
            "or name a stronger model."
        )
