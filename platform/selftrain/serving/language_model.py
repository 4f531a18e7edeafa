"""A language model in front of the classifier, for requests with `augment`: each text is read with continuations, as in GenCo's equation 9.

The model runs in an OpenAI-compatible server (`vllm serve MODEL`), not in a replica. It gets the prompts and the sampling that the bundle was trained with
(texts/prompts.py), and its continuations pass the same filter (texts/filter.py). Requests without `augment` use nothing of this.
The HTTP client is aiohttp's: the `openai` package bounds neither the bytes of an answer nor the time of a whole request.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selftrain.bundle.format import BundleCard
from selftrain.config import AugmentConfig
from selftrain.data.texts import TextRequest
from selftrain.errors import BundleError, ConfigError, SelfTrainError, ServiceError, nearest
from selftrain.models.windows import geometric_mean
from selftrain.passwords import KEY_VARIABLE, read_key
from selftrain.serving.metrics import Metrics
from selftrain.serving.schemas import Refused, TextProbabilities
from selftrain.texts.filter import filter_completion
from selftrain.texts.prompts import prompt_for

MAX_ANSWER_BYTES = 4 * 2**20
_TEXT_REFUSED = (400, 413, 422)  # the server refuses one text, for instance because it has too many tokens for the model
_BUSY = (429, 503)


class Augmentation(BaseModel):
    """The language model's server: `augmentation` in the `args` of a Serve config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="of an OpenAI-compatible server, with its version: http://127.0.0.1:8001/v1")
    model: str | None = Field(default=None, min_length=1, description="its name there; default: the only one that the server lists")
    concurrency: int = Field(default=32, ge=1, description="texts that a replica sends at a time; further requests get 503")
    timeout_seconds: float = Field(default=20.0, gt=0, description="for the continuations of one text; after that, 504")
    key_file: str | None = Field(
        default=None, description=f"file with the server's API key; default: the environment variable {KEY_VARIABLE}, if set"
    )

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
        except ValueError:
            good = False
        if not good or "@" in parts.netloc:  # Serve's configuration would show a password there
            raise ValueError("must be the address of an OpenAI-compatible server, e.g. http://127.0.0.1:8001/v1; a key goes into a file")
        return url.rstrip("/")


def training_settings(card: BundleCard) -> AugmentConfig:
    """Style and sampling of the continuations that the model was trained with; what its experiment leaves open has its default.

    Raises:
        BundleError: the experiment holds a value that this version does not know.
    """
    stated = card.experiment.get("augment")
    known = {key: value for key, value in stated.items() if key in AugmentConfig.model_fields} if isinstance(stated, dict) else {}
    try:
        return AugmentConfig.model_validate(known)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BundleError(
            f"augment: the model {card.name} was trained with a setting that is not known here (augment.{key}); upgrade selftrain."
        ) from None


class TextContinuations(NamedTuple):
    """What the language model wrote for one text."""

    continuations: list[str]  # that passed the filter
    problem: str | None = None  # why it refuses this text


class LanguageModel:
    """The client of a language model's server, in one replica; one event loop uses it.

    Args:
        settings: address, name and limits.
        metrics: counts completions and failures.
        key: the server's API key; None if it needs none.
    """

    def __init__(self, settings: Augmentation, metrics: Metrics, key: str | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._name = settings.model
        self._free = asyncio.Semaphore(settings.concurrency)
        self._texts = 0  # in progress
        self._seconds_a_text = 1.0

    async def write(self, texts: Sequence[str], card: BundleCard, model: str) -> list[TextContinuations]:
        """Continuations of each text; `[texts]`.

        A request is accepted while fewer than `concurrency` texts of others are in progress; at most `concurrency` are sent at a time.

        Args:
            texts: to continue.
            card: of the classifier that will read them.
            model: the classifier's name in the metrics.

        Raises:
            Refused: the classifier was trained without continuations, too many texts are in progress, or the server cannot be reached, is late, fails, or
                does not answer as an OpenAI-compatible one.
        """
        try:
            training = training_settings(card)
        except SelfTrainError as error:
            raise Refused(422, str(error)) from None
        if training.input_samples == 0:
            raise Refused(422, f'augment: the model {model} was trained without continuations (augment.input_samples is 0); leave out "augment"')
        if self._texts >= self._settings.concurrency:
            ahead = self._texts - self._settings.concurrency + 1
            seconds = max(1, math.ceil(ahead * self._seconds_a_text / self._settings.concurrency))
            raise self._failure("busy", 503, f"the language model has {self._texts} texts in progress already; try again in {seconds} s", seconds)
        self._texts += len(texts)
        try:
            async with self._session() as session:
                name = self._name = self._name or await self._only_model(session)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._continue(session, name, text, training, model)) for text in texts]
        except ExceptionGroup as failed:  # the others are cancelled: the request fails as a whole
            raise failed.exceptions[0] from None
        finally:
            self._texts -= len(texts)
        return [task.result() for task in tasks]

    async def models(self) -> list[str]:
        """The names that the server lists.

        Raises:
            Refused: the server cannot be reached, is late, fails, or does not answer as an OpenAI-compatible one.
        """
        async with self._session() as session:
            return await self._listed(session)

    def _session(self) -> aiohttp.ClientSession:
        # One for each request: it costs nothing beside the language model, and none outlives the event loop.
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_seconds)
        return aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def _only_model(self, session: aiohttp.ClientSession) -> str:
        names = await self._listed(session)
        if len(names) != 1:
            raise self._failure("nonsense", 502, f"the language model's server lists {len(names)} models; set augmentation.model to one of them")
        return names[0]

    async def _listed(self, session: aiohttp.ClientSession) -> list[str]:
        answer = await self._ask(session, "GET", "/models")
        try:
            return [str(one["id"]) for one in answer["data"]]
        except (KeyError, TypeError):
            raise self._nonsense() from None

    async def _continue(self, session: aiohttp.ClientSession, name: str, text: str, training: AugmentConfig, model: str) -> TextContinuations:
        async with self._free:
            path, body = completion_request(text, name, training)
            start = time.monotonic()
            try:
                answer = await self._ask(session, "POST", path, body)
            except RefusedText as refused:
                return TextContinuations([], str(refused))
            seconds = time.monotonic() - start
        self._metrics.language_model_seconds.observe(seconds)
        self._seconds_a_text += 0.1 * (seconds - self._seconds_a_text)
        choices = self._choices(answer, body["n"])
        # In a thread: the filter takes milliseconds for a long text, and others wait for the event loop.
        cleaned = await asyncio.to_thread(lambda: [filter_completion(raw, text, cut_off=cut_off) for raw, cut_off in choices])
        for one in cleaned:
            self._metrics.continuations.labels(model, one.reason or "used").inc()
        return TextContinuations([one.text for one in cleaned if not one.reason])

    def _choices(self, answer: Any, wanted: int) -> list[tuple[str, bool]]:
        """(text, whether the token limit cut it off) of each continuation."""
        try:
            found = [
                ((one["text"] if "text" in one else one["message"]["content"]) or "", one["finish_reason"] == "length") for one in answer["choices"]
            ]
        except (KeyError, TypeError):
            raise self._nonsense() from None
        if not all(isinstance(text, str) for text, _ in found):
            raise self._nonsense()
        if len(found) != wanted:
            raise self._failure(
                "nonsense", 502, f"the language model's server gave {len(found)} continuations where {wanted} were asked for (n={wanted})"
            )
        return found

    async def _ask(self, session: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer.

        Args:
            session: with the key.
            method: GET or POST.
            path: below the server's address.
            body: sent as JSON; it is about one text.

        Raises:
            RefusedText: the server refuses this text.
            Refused: it cannot be reached, is late, fails, or does not answer as an OpenAI-compatible one.
        """
        try:
            async with session.request(method, self._settings.url + path, json=body, allow_redirects=False) as response:
                status, headers, content = response.status, response.headers, bytearray()
                async for part in response.content.iter_chunked(2**16):
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise self._nonsense()
        except TimeoutError:
            raise self._failure("timeout", 504, f"the language model did not answer within {self._settings.timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure("unreachable", 502, f"the language model's server cannot be reached ({type(error).__name__})") from None
        if status in _TEXT_REFUSED and body is not None:
            self._metrics.language_model_errors.labels("refused").inc()
            raise RefusedText(f"the language model refuses this text ({status}{_message(content)})")
        if status in _BUSY:
            after = headers.get("retry-after", "")
            seconds = min(int(after), 60) if after.isascii() and after.isdigit() else 1
            raise self._failure("busy", 503, f"the language model's server is busy ({status}); try again in {seconds} s", seconds)
        if status in (401, 403):
            raise self._failure("status", 502, f"the language model's server does not accept this server's key ({status})")
        if status == 404:
            what = f"no model {self._name!r}, or no {path}," if body is not None else f"no {path}"
            raise self._failure("status", 502, f"the language model's server has {what} at the address that is configured (404)")
        if status != 200:
            raise self._failure("status", 502, f"the language model's server failed ({status})")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise self._nonsense() from None

    def _nonsense(self) -> Refused:
        return self._failure("nonsense", 502, "the language model's server does not answer as an OpenAI-compatible one does")

    def _failure(self, reason: str, status: int, text: str, retry_after: int | None = None) -> Refused:
        self._metrics.language_model_errors.labels(reason).inc()
        return Refused(status, text, None if retry_after is None else {"retry-after": str(retry_after)})


class RefusedText(Exception):
    """The server refuses this text, and accepts others."""


def completion_request(text: str, model: str, training: AugmentConfig) -> tuple[str, dict[str, Any]]:
    """(route, body) for the continuations of `text`, with prompt and sampling of the training.

    No seed is sent: a seed of a request's own kills vLLM on a CPU.

    Args:
        text: to continue.
        model: its name on the server.
        training: the classifier's `training_settings`.
    """
    prompt = prompt_for(TextRequest("", "input"), text, (), training)
    body: dict[str, Any] = {
        "model": model,
        "n": training.input_samples if training.temperature > 0 else 1,  # without chance they would all be the same, and vLLM refuses several
        "temperature": prompt.sampling.temperature,
        "top_p": prompt.sampling.top_p,
        "min_tokens": prompt.sampling.min_tokens,
        "max_tokens": prompt.sampling.max_tokens,
        # The training's values. vLLM takes what is left open from the model's generation_config.json.
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    if training.chats:
        return "/chat/completions", {**body, "messages": [{"role": "user", "content": prompt.text}]}
    return "/completions", {**body, "prompt": prompt.text}


def mean_over_continuations(answers: Sequence[TextProbabilities], continuations: int) -> TextProbabilities:
    """One answer from those to x ⊕ x_1, ..., x ⊕ x_K: the softmax of the mean of their log-probabilities.

    A logit is linear in the embedding, and a softmax ignores what all logits share. So for a dot product these are the probabilities of the mean embedding:
    GenCo's equation 9. For cosines they are those of the mean embedding, too, but without `TextEncoder.encode_augmented`'s scaling to length one. The mean of
    unit vectors is shorter, so without a bias the label is the same and its probability a little lower.

    Args:
        answers: of the batcher, one for each continuation, or the one to the text alone.
        continuations: the number of continuations that the text was read with.
    """
    rows = [one.probabilities for one in answers if one.probabilities is not None]
    truncated = any(one.truncated for one in answers)
    if len(rows) < len(answers):
        return TextProbabilities(None, truncated)
    if len(rows) == 1:
        return TextProbabilities(rows[0], truncated, continuations)
    return TextProbabilities(geometric_mean(np.array(rows)).tolist(), truncated, continuations)


def with_model_name(settings: Augmentation) -> Augmentation:
    """`settings` with the name of the model; the server is asked for it.

    Raises:
        ServiceError: the server does not answer as it should.
        ConfigError: the server has no model of this name, or several where no name is set.
    """
    try:
        names = asyncio.run(LanguageModel(settings, Metrics(), read_key(settings.key_file)).models())
    except Refused as refused:
        raise ServiceError(
            f"The language model at {settings.url} cannot be used: {refused}; check the address and the server, or leave out language_model."
        ) from None
    if settings.model is None and len(names) != 1:
        listed = ", ".join(sorted(names)[:10]) or "none"
        raise ConfigError(f"The server at {settings.url} lists {len(names)} models ({listed}); set language_model_name to one of them.")
    if settings.model is not None and settings.model not in names:
        raise ConfigError(f"The server at {settings.url} has no model {settings.model!r}; {nearest(settings.model, names)}")
    return settings.model_copy(update={"model": settings.model or names[0]})


def _message(content: bytearray) -> str:
    """The message of an OpenAI-compatible server's error, to follow the status; empty without one."""
    try:
        answer = json.loads(content)
        error = answer.get("error", answer)
        said = " ".join(str(error["message"]).split())[:200]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return ""
    return f": {said}" if said else ""
