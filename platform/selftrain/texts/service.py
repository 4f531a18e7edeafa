"""The text channel of a run: looks answers up in the cache, has the missing ones generated, filters and counts.

It knows no engine: `Engine` is a protocol, kept by texts/remote.py with Ray Serve and vLLM and by a dictionary in unit tests.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus, Label
from selftrain.data.texts import TextRequest
from selftrain.texts.cache import Answer, TextCache, cache_key
from selftrain.texts.prompts import Prompt, clean, prompt_for

BLOCK = 32  # answers a Parquet block: what a killed run may lose


@dataclass(frozen=True)
class EngineRequest:
    """What the engine is given."""

    key: str
    prompt: str
    sampling: dict[str, Any]


@dataclass(frozen=True)
class EngineAnswer:
    """What the engine gives back; `error` is empty when it worked."""

    key: str
    text: str
    prompt_tokens: int
    generated_tokens: int
    error: str = ""


@dataclass(frozen=True)
class PromptRequest:
    """One text that is wanted for a prompt of its own, with no document of the corpus behind it (texts/dataset/writing.py)."""

    origin: str  # stands in the document's place: the same prompt of two origins gets two texts
    kind: str
    label: str  # class name, or ""
    prompt: str
    sample: int
    min_tokens: int
    max_tokens: int
    stop: tuple[str, ...] = ()  # the text ends before the first of these


class Engine(Protocol):
    """Generates texts; started at the first call of a run and kept until `close`."""

    def generate(self, requests: Sequence[EngineRequest]) -> Iterator[EngineAnswer]:
        """Answers in the order in which they become ready; every request gets one."""
        ...

    def close(self) -> None:
        """End the engine and its processes."""
        ...


@dataclass
class Counts:
    """What a run asked of the language model, for metrics.json and the report."""

    requested: int = 0
    generated: int = 0
    cached: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0  # waiting for the engine, its start included

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
        }


@dataclass(frozen=True)
class Progress:
    """Where the present batch of texts stands; what the progress bar shows."""

    wanted: int = 0
    done: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0  # since the first answer of the batch: the engine's start is not its speed
    starting: bool = False
    answered: int = 0  # of all batches so far
    notices: tuple[str, ...] = ()  # what went wrong and was mended, so far


class TextService:
    """Answers `TextRequest`s for one corpus and one language model. `answer` may be called from one thread at a time, `progress` from any."""

    def __init__(self, config: AugmentConfig, corpus: Corpus, model_fingerprint: str, cache: TextCache, engine: Engine) -> None:
        self.config = config
        self.labels: tuple[Label, ...] = corpus.labels
        self.documents = {id_: text for part in (corpus.unlabeled, corpus.test) for id_, text in zip(part.ids, part.texts, strict=True)}
        self.model_fingerprint = model_fingerprint
        self.cache = cache
        self.engine = engine
        self.counts = Counts()
        self.examples: list[dict[str, Any]] = []
        self.conditional: list[tuple[int, str]] = []  # (class asked for, text), for the label alignment picture
        self._seen: set[str] = set()
        self._progress = Progress()
        self._lock = threading.Lock()

    def answer(self, requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        """The usable texts for `requests`; those that were filtered out are missing.

        Raises:
            KeyError: a request names a document that the corpus does not hold.
            SelfTrainError: the engine cannot start, or stalls.
        """
        prompts = {
            request: prompt_for(request, self.documents[request.document_id], self.labels, style=self.config.style, words=self.config.document_words)
            for request in requests
        }
        keys = {request: self._key(request, prompt) for request, prompt in prompts.items()}
        missing = {keys[request]: request for request in requests if self.cache.get(keys[request]) is None}
        self._generate(
            [
                (EngineRequest(key, prompts[request].text, self._sampling(request, prompts[request])), self._blank(request, key))
                for key, request in missing.items()
            ]
        )

        usable: dict[TextRequest, str] = {}
        for request, key in keys.items():
            answer = self.cache.get(key)
            reason = "failed"
            if answer is not None:
                cleaned = clean(answer.text, self.documents[request.document_id], cut_off=answer.cut_off) if request.kind != "classify" else None
                text, reason = (cleaned.text, cleaned.reason) if cleaned is not None else (answer.text.strip(), "")
                if not reason:
                    usable[request] = text
                    if request.kind == "conditional" and key not in self._seen and len(self.conditional) < 1000:
                        self.conditional.append((request.label, text))
                self._remember(request, text or answer.text, reason)
            self._count(key, fresh=key in missing, reason=reason)
        return usable

    def complete(self, requests: Sequence[PromptRequest]) -> dict[PromptRequest, Answer]:
        """The raw answers for `requests`, which the caller filters; those that the engine failed on are missing.

        Raises:
            SelfTrainError: the engine cannot start, or stalls.
        """
        wanted: dict[PromptRequest, EngineRequest] = {}
        for request in requests:
            sampling = self._free_sampling(request.min_tokens, request.max_tokens) | ({"stop": list(request.stop)} if request.stop else {})
            key = self._cache_key(request.origin, request.prompt, sampling, request.sample)
            wanted[request] = EngineRequest(key, request.prompt, sampling)
        missing = {asked.key: (request, asked) for request, asked in wanted.items() if self.cache.get(asked.key) is None}
        self._generate(
            [
                (asked, Answer(key, request.origin, request.kind, request.label, request.sample, "", False, 0, 0))
                for key, (request, asked) in missing.items()
            ]
        )
        found: dict[PromptRequest, Answer] = {}
        for request, asked in wanted.items():
            answer = self.cache.get(asked.key)
            if answer is not None:
                found[request] = answer
            self._count(asked.key, fresh=asked.key in missing, reason="" if answer is not None else "failed")
        return found

    def progress(self) -> Progress:
        """Where the present call of `answer` or `complete` stands."""
        with self._lock:
            return self._progress

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def _generate(self, wanted: Sequence[tuple[EngineRequest, Answer]]) -> None:
        """Have the texts written and cached; each request comes with its cache row, still without the text."""
        if not wanted:
            return
        by_key = {asked.key: (asked, blank) for asked, blank in wanted}
        start = time.monotonic()
        first: float | None = None
        before = self._progress.answered
        with self._lock:
            self._progress = Progress(wanted=len(wanted), starting=True, answered=before)
        block: list[Answer] = []
        tokens = 0
        try:
            for number, answer in enumerate(self.engine.generate([asked for asked, _ in wanted]), 1):
                first = first or time.monotonic()
                tokens += answer.generated_tokens
                self.counts.prompt_tokens += answer.prompt_tokens
                self.counts.generated_tokens += answer.generated_tokens
                if not answer.error:
                    asked, blank = by_key[answer.key]
                    block.append(
                        replace(
                            blank,
                            text=answer.text,
                            cut_off=answer.generated_tokens >= asked.sampling["max_tokens"],
                            prompt_tokens=answer.prompt_tokens,
                            generated_tokens=answer.generated_tokens,
                        )
                    )
                if len(block) >= BLOCK:
                    self.cache.add(block)
                    block = []
                with self._lock:
                    self._progress = Progress(len(wanted), number, tokens, time.monotonic() - first, answered=before + number)
        finally:
            self.cache.add(block)
            self.counts.seconds += time.monotonic() - start
            with self._lock:
                self._progress = Progress(answered=self._progress.answered)

    def _blank(self, request: TextRequest, key: str) -> Answer:
        label = self.labels[request.label].name if request.kind == "conditional" else ""
        return Answer(key, request.document_id, request.kind, label, request.sample, "", False, 0, 0)

    def _sampling(self, request: TextRequest, prompt: Prompt) -> dict[str, Any]:
        if request.kind == "classify":
            return {"temperature": 0.0, "max_tokens": 16, "structured_outputs": {"choice": list(prompt.choices)}}
        return self._free_sampling(self.config.min_tokens, self.config.max_tokens)

    def _free_sampling(self, min_tokens: int, max_tokens: int) -> dict[str, Any]:
        sampling: dict[str, Any] = {"temperature": self.config.temperature, "max_tokens": max_tokens, "min_tokens": min(min_tokens, max_tokens)}
        if self.config.top_p < 1:
            sampling["top_p"] = self.config.top_p
        return sampling

    def _key(self, request: TextRequest, prompt: Prompt) -> str:
        return self._cache_key(request.document_id, prompt.text, self._sampling(request, prompt), request.sample)

    def _cache_key(self, document: str, prompt: str, sampling: dict[str, Any], sample: int) -> str:
        return cache_key(document=document, prompt=f"{self.config.style}\n{prompt}", model=self.model_fingerprint, sampling=sampling, sample=sample)

    def _count(self, key: str, *, fresh: bool, reason: str) -> None:
        """Every text counts once a run, however often rounds and seeds ask for it."""
        if key in self._seen:
            return
        self._seen.add(key)
        self.counts.requested += 1
        if fresh:
            self.counts.generated += 1
        else:
            self.counts.cached += 1
        if reason:
            self.counts.filtered[reason] += 1

    def _remember(self, request: TextRequest, text: str, reason: str) -> None:
        """Up to 20 examples for the report, a few of each kind, filtered ones among them."""
        same = sum(example["kind"] == request.kind and example["kept"] == (not reason) for example in self.examples)
        if request.kind == "classify" or same >= (6 if not reason else 3):
            return
        label = self.labels[request.label].name if request.kind == "conditional" else None
        document = " ".join(self.documents[request.document_id].split()[: self.config.document_words])
        self.examples.append({"document": document, "kind": request.kind, "label": label, "text": text, "kept": not reason, "reason": reason or None})
