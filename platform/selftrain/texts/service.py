"""The text service of a run: looks completions up in the cache, has the missing ones generated, filters and counts.

It knows no engine but by its protocol (engines/base.py): vLLM in a run, a dictionary in unit tests.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, get_args

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus, Label
from selftrain.data.index import DocumentIndex
from selftrain.data.texts import TextKind, TextRequest
from selftrain.data.words import first_words
from selftrain.texts.cache import Completion, TextCache, cache_key
from selftrain.texts.engines.base import Engine, Generation
from selftrain.texts.filter import FilteredText, filter_completion
from selftrain.texts.prompts import Prompt, prompt_for, voted

BLOCK, BLOCK_SECONDS = 32, 1.0  # completions that a Parquet block holds at least, and the time between two of them: what a killed run may lose
MAX_CONDITIONAL = 1000  # conditional texts kept for the label alignment picture
MAX_EXAMPLES = {True: 6, False: 3}  # for the report, of each kind: used ones, filtered ones


@dataclass
class TextCounts:
    """What a run requested of the language model, for metrics.json and the report."""

    requested: int = 0
    generated: int = 0
    cached: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0  # waiting for the engine, its start included
    teachers: Mapping[str, TextCounts] = field(default_factory=dict)  # of each teacher, where there are several

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        speed = self.generated_tokens / self.seconds if self.seconds else 0.0
        return {
            "requested": self.requested,
            "generated": self.generated,
            "cached": self.cached,
            "filtered": dict(self.filtered),
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(speed, 1),
        } | ({"teachers": {name: one.to_json() for name, one in self.teachers.items()}} if self.teachers else {})


@dataclass(frozen=True)
class Progress:
    """The state of the present batch of texts; what the progress bar shows."""

    total: int = 0  # texts of the batch; 0 between batches
    done: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0  # since the first text of the batch: the engine's start is not its speed
    starting: bool = False
    done_so_far: int = 0  # of all batches
    notices: tuple[str, ...] = ()  # see `Engine`


class TextSummary(NamedTuple):
    """What the report shows of a run's texts."""

    counts: TextCounts
    examples: list[dict[str, Any]]
    conditional: list[tuple[int, str]]  # (class index, text)


class TextService:
    """Serves one corpus and one language model. It works on one request at a time; `progress` may be called meanwhile.

    Args:
        config: style, sampling and limits of the prompts.
        corpus: documents and classes that requests are about.
        model_fingerprint: of the language model, for the cache keys.
        cache: of completions.
        engine: generates what the cache lacks.
    """

    def __init__(self, config: AugmentConfig, corpus: Corpus, model_fingerprint: str, cache: TextCache, engine: Engine) -> None:
        self.config = config
        self.labels: tuple[Label, ...] = corpus.labels
        self.documents = DocumentIndex([corpus.unlabeled, corpus.test])
        self.model_fingerprint = model_fingerprint
        self.cache = cache
        self.engine = engine
        self.counts = TextCounts()
        self.examples: list[dict[str, Any]] = []
        self.conditional: list[tuple[int, str]] = []
        self._counted: set[str] = set()  # keys
        self._progress = Progress()
        self._progress_lock = threading.Lock()
        self._request_lock = threading.Lock()

    def usable_texts(self, requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        """The texts for `requests` that pass the filter; the others are missing.

        Raises:
            KeyError: a request has a document id that the corpus does not hold.
            SelfTrainError: the engine cannot start, dies or stalls, or the cache cannot be written.
        """
        prompts = {request: prompt_for(request, self.documents[request.document_id], self.labels, self.config) for request in requests}
        with self._request_lock:
            keys, found, generated = self._complete_missing(prompts.values())
            usable: dict[TextRequest, str] = {}
            for request, prompt in prompts.items():
                key = keys[prompt]
                completion = found.get(key)
                cleaned = self._filtered(request, completion)
                if not cleaned.reason:
                    usable[request] = cleaned.text
                    if request.kind == "conditional" and key not in self._counted and len(self.conditional) < MAX_CONDITIONAL:
                        self.conditional.append((request.label, cleaned.text))
                if completion is not None:
                    self._add_example(request, cleaned.text or completion.text, cleaned.reason)
                self._count(key, generated=key in generated, reason=cleaned.reason)
        return usable

    __call__ = usable_texts  # what a `TextChannel` is

    def complete(self, prompts: Sequence[Prompt]) -> dict[Prompt, Completion]:
        """The raw completions of `prompts`, which the caller filters; those that the engine failed on are missing.

        Raises:
            SelfTrainError: the engine cannot start, dies or stalls, or the cache cannot be written.
        """
        with self._request_lock:
            keys, found, generated = self._complete_missing(prompts)
            for key in keys.values():
                self._count(key, generated=key in generated, reason="" if key in found else "failed")
        return {prompt: found[key] for prompt, key in keys.items() if key in found}

    def votes(self, documents: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """The name of the class that each language model chooses for each document, by the language model's name and the document's id.

        Args:
            documents: id -> text; of any kind, the corpus need not hold them. One without an answer is missing in the result.

        Raises:
            SelfTrainError: as `complete`.
        """
        return {str(self.config.name): self.chosen(documents)}

    def chosen(self, documents: Mapping[str, str]) -> dict[str, str]:
        """What `votes` holds of this one language model."""
        prompts = {id_: voted(prompt_for(TextRequest(id_, "classify"), text, self.labels, self.config)) for id_, text in documents.items()}
        found = self.complete(list(prompts.values()))
        answers = {id_: found[prompt].text.strip() for id_, prompt in prompts.items() if prompt in found}
        names = {label.name for label in self.labels}
        return {id_: answer for id_, answer in answers.items() if answer in names}

    def progress(self) -> Progress:
        """The state of the present call of `usable_texts` or `complete`."""
        with self._progress_lock:
            found = self._progress
        return replace(found, starting=bool(found.total) and self.engine.starting, notices=tuple(self.engine.notices))

    def summary(self) -> TextSummary:
        """Counts and samples of all that was requested so far."""
        return TextSummary(self.counts, self.examples, self.conditional)

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def _complete_missing(self, prompts: Iterable[Prompt]) -> tuple[dict[Prompt, str], dict[str, Completion], set[str]]:
        """Have everything in the cache that can be; returns the key of every prompt, the completions by key, and the keys that were missing."""
        keys = {prompt: key_of(prompt, self.config, self.model_fingerprint) for prompt in prompts}
        found = self.cache.lookup(keys.values())
        missing = {key: prompt for prompt, key in keys.items() if key not in found}
        if missing:
            self._generate(missing)
            found |= self.cache.lookup(missing)
        return keys, found, set(missing)

    def _generate(self, prompts: Mapping[str, Prompt]) -> None:
        """Generate and cache; `prompts` by key."""
        keys = {prompt: key for key, prompt in prompts.items()}
        start, first, committed = time.monotonic(), 0.0, -math.inf  # the first block is written at once, however short the machine has been up
        done_before = self._progress.done_so_far
        self._set_progress(Progress(total=len(prompts), done_so_far=done_before))
        block: list[Completion] = []
        tokens = 0
        try:
            for number, generation in enumerate(self.engine.generate(list(prompts.values())), 1):
                first = first or time.monotonic()
                tokens += generation.generated_tokens
                self.counts.prompt_tokens += generation.prompt_tokens
                self.counts.generated_tokens += generation.generated_tokens
                if not generation.error:
                    block.append(_completion(keys[generation.prompt], generation))
                if len(block) >= BLOCK and time.monotonic() - committed >= BLOCK_SECONDS:
                    self.cache.add(block)
                    block, committed = [], time.monotonic()
                self._set_progress(Progress(len(prompts), number, tokens, time.monotonic() - first, done_so_far=done_before + number))
        finally:
            self.cache.add(block)
            self.counts.seconds += time.monotonic() - start
            self._set_progress(Progress(done_so_far=self._progress.done_so_far))

    def _set_progress(self, progress: Progress) -> None:
        with self._progress_lock:
            self._progress = progress

    def _filtered(self, request: TextRequest, completion: Completion | None) -> FilteredText:
        if completion is None:
            return FilteredText("", "failed")
        if request.kind == "classify":  # one of the class names
            return FilteredText(completion.text.strip())
        return filter_completion(completion.text, self.documents[request.document_id], cut_off=completion.cut_off)

    def _count(self, key: str, *, generated: bool, reason: str) -> None:
        """Every text counts once a run, however often rounds and seeds request it."""
        if key in self._counted:
            return
        self._counted.add(key)
        self.counts.requested += 1
        if generated:
            self.counts.generated += 1
        else:
            self.counts.cached += 1
        if reason:
            self.counts.filtered[reason] += 1

    def _add_example(self, request: TextRequest, text: str, reason: str) -> None:
        """Up to 20 examples for the report, a few of each kind, filtered ones among them."""
        same = sum(example["kind"] == request.kind and example["kept"] == (not reason) for example in self.examples)
        if request.kind == "classify" or same >= MAX_EXAMPLES[not reason]:
            return
        label = self.labels[request.label].name if request.kind == "conditional" else None
        document = first_words(self.documents[request.document_id], self.config.document_words)
        self.examples.append({"document": document, "kind": request.kind, "label": label, "text": text, "kept": not reason, "reason": reason or None})


def key_of(prompt: Prompt, config: AugmentConfig, model_fingerprint: str) -> str:
    """What the cache knows a completion by.

    Args:
        prompt: what is asked.
        config: of the language model: style, and the seed that tells runs apart.
        model_fingerprint: of the language model.
    """
    model = model_fingerprint
    if config.engine_seed and prompt.kind in get_args(TextKind):  # `selftrain generate` has the seed in the names of its prompts
        model = f"{model} seed {config.engine_seed}"
    return cache_key(
        document=prompt.document_id,
        prompt=f"{config.style if config.frame is None else 'framed'}\n{prompt.text}",
        model=model,
        sampling=prompt.sampling.options(),
        sample=prompt.sample,
    )


def _completion(key: str, generation: Generation) -> Completion:
    prompt = generation.prompt
    return Completion(
        key=key,
        document_id=prompt.document_id,
        kind=prompt.kind,
        label=prompt.label,
        sample=prompt.sample,
        text=generation.text,
        cut_off=generation.generated_tokens >= prompt.sampling.max_tokens,
        prompt_tokens=generation.prompt_tokens,
        generated_tokens=generation.generated_tokens,
    )
