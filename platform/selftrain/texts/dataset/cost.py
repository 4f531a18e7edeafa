"""What `selftrain generate` is expected to cost, and did cost.

The prediction is a rehearsal of the very writing: texts that the cache holds are what they are, and of those that are missing a share comes out usable. How many are
filtered out and replaced depends on the language model, so a bound is given beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from selftrain.config import AugmentConfig, Experiment, Prices
from selftrain.data.corpus import Label
from selftrain.data.texts import TextRequest
from selftrain.models.locate import LanguageModel, contents_fingerprint, each_model
from selftrain.runtime.devices import alone
from selftrain.runtime.hardware import hardware_here
from selftrain.texts.cache import Completion
from selftrain.texts.cost import Cost, Missing, Wanted, missing_texts, opened, priced, teacher_sections, tokens_of
from selftrain.texts.dataset.prompts import LabelPrompts
from selftrain.texts.dataset.writing import SUBJECT_TRIES, TRIES, write_texts
from selftrain.texts.prompts import Prompt, prompt_for, voted
from selftrain.texts.service import TextCounts, key_of
from selftrain.texts.teachers import Turns

USABLE = 0.76  # of what a language model writes: 200 of 264 tries of Gemma 3 270M (docs/howto/generate.md)
START_SECONDS = 30.0  # of Ray
SAMPLED = 2000  # prompts whose tokens are counted
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Rehearsal:
    """A text channel for `write_texts` that answers from the cache, and elsewhere makes up what the language model could have written.

    Args:
        augment: of one language model, or of several.
        model: of `language_model_of`.
    """

    def __init__(self, augment: AugmentConfig, model: LanguageModel) -> None:
        self._held = opened(augment.cache)
        self._sections = teacher_sections(augment)
        models = dict(zip(self._sections, each_model(model), strict=True))
        self._fingerprints = {name: contents_fingerprint(one) for name, one in models.items()} if self._held is not None else {}
        self._turns = Turns(augment.teachers) if augment.teachers else None
        self._made_up: Counter[tuple[str, ...]] = Counter()  # answers of a series, usable and not
        self.missing: list[Prompt] = []
        self.cached: Counter[str] = Counter()  # by kind

    def complete(self, prompts: Sequence[Prompt]) -> dict[Prompt, Completion]:
        """See `texts.dataset.writing.Complete`."""
        keys = {prompt: self._key(prompt) for prompt in prompts} if self._held is not None else {}
        found = self._held.lookup(keys.values()) if self._held is not None else {}
        answers: dict[Prompt, Completion] = {}
        for prompt in prompts:
            if (held := found.get(keys.get(prompt, ""))) is not None:
                self.cached[prompt.kind] += 1
                answers[prompt] = held
                continue
            self.missing.append(prompt)
            series = (prompt.kind, prompt.label, prompt.text if prompt.kind == "subject" else "")
            before = self._made_up[series]
            self._made_up[series] += 1
            if math.ceil((before + 1) * USABLE) > math.ceil(before * USABLE):  # the others count as failed, and are replaced
                answers[prompt] = _made_up(prompt, len(self.missing))
        return answers

    def _key(self, prompt: Prompt) -> str:
        name = self._turns.teacher(prompt) if self._turns is not None else next(iter(self._sections))
        return key_of(prompt, self._sections[name], self._fingerprints[name])


def _made_up(prompt: Prompt, number: int) -> Completion:
    """An answer that no filter refuses; a word is about a token."""
    words = 3 if prompt.kind == "subject" else min(max(3, prompt.sampling.max_tokens // 2), len(_LETTERS) ** 2)
    text = " ".join([f"{number}", *(f"{_LETTERS[place // 26 % 26]}{_LETTERS[place % 26]}" for place in range(words))])
    return Completion("", prompt.document_id, prompt.kind, prompt.label, prompt.sample, f"{text}.", False, 0, 0)


def rehearsed(
    experiment: Experiment, labels: Sequence[Label], prompts: LabelPrompts, model: LanguageModel, *, per_class: int, origin: str
) -> Missing:
    """What the language model has yet to write for a training set.

    Args:
        experiment: its `augment` section.
        labels: of the set.
        prompts: of the classes.
        model: of `language_model_of`.
        per_class: texts a class.
        origin: as in `write_texts`.
    """
    augment = experiment.augment
    rehearsal = Rehearsal(augment, model)
    written = write_texts([label.name for label in labels], prompts, rehearsal.complete, augment, per_class=per_class, origin=origin)
    bounds: Mapping[str, int] = {
        "subject": SUBJECT_TRIES * per_class * len(set(prompts.subjects or ())),
        "label text": TRIES * per_class * len(labels),
    }
    wanted = []
    for kind, bound in bounds.items():
        own = [prompt for prompt in rehearsal.missing if prompt.kind == kind]
        wanted.append(Wanted(float(len(own)), own[:: max(1, len(own) // SAMPLED)], float(len(own)), most=float(bound - rehearsal.cached[kind])))
    if augment.teachers:
        texts = [text for one in written.classes for text in one.texts]
        votes = [voted(prompt_for(TextRequest("", "classify"), text, labels, augment)) for text in texts[:: max(1, len(texts) // SAMPLED)]]
        wanted.append(Wanted(float(len(texts) * len(augment.teachers)), votes, float(len(texts)), each=True))
    return missing_texts(augment, model, wanted, cached=False)  # texts that the cache holds are not among them, and votes come last


def predicted(experiment: Experiment, prices: Prices | None, missing: Missing) -> Cost:
    """What a generation is expected to cost.

    Args:
        experiment: its `augment` section.
        prices: the price file; None: no money.
        missing: of `rehearsed`.
    """
    seconds = (START_SECONDS + missing.seconds) if missing.texts else 0.0
    gpu_hours = missing.seconds * _gpus(experiment.augment) / 3600
    return priced(
        experiment.augment,
        prices,
        texts=missing.texts,
        tokens=missing.tokens,
        hours=seconds / 3600,
        gpu_hours=gpu_hours,
        at_most=missing.at_most,
    )


def real(experiment: Experiment, prices: Prices | None, counts: TextCounts, seconds: float) -> Cost:
    """What a generation did cost; texts that the cache held cost nothing.

    Args:
        experiment: its `augment` section.
        prices: the price file; None: no money.
        counts: of the text service.
        seconds: of the whole.
    """
    tokens = tokens_of(experiment.augment, [counts.to_json()])
    gpu_hours = counts.seconds * _gpus(experiment.augment) / 3600
    return priced(experiment.augment, prices, texts=counts.generated, tokens=tokens, hours=seconds / 3600, gpu_hours=gpu_hours)


def _gpus(augment: AugmentConfig) -> float:
    """Of all engines together, as they would be placed on this machine."""
    return float(alone(augment, hardware_here()).gpus) * augment.engines_at_most
