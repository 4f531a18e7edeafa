"""Any OpenAI-compatible server: `augment.server` says where it is and `augment.model` what the model is called there; its key comes from the environment.

    TextService -> ResilientEngine -> ServerDeployment --HTTP--> vllm serve, llama.cpp, Ollama, a provider

The prompts, the filter and the cache are those of every engine. A request is sent again where the server is busy, late or fails, each time longer after the
last; what the user wants to spend at most is never exceeded, since every request is booked at its largest before it is sent (spending.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, NamedTuple

from selftrain.config import AugmentConfig
from selftrain.errors import ConfigError, MissingExtraError, SelfTrainError, ServiceError, nearest
from selftrain.runtime.cluster import Needs
from selftrain.texts.engines.resilient import PromptRefused, Written
from selftrain.texts.engines.spending import Spending

TRIES = 8  # of a prompt, over about two minutes
BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.5, 30.0
_BOOK_SECONDS = 0.05  # between two tries to book, while requests under way might take the rest
CHAT_TOKENS = 256  # that a server's chat template may put around a prompt
_VLLM = "vllm"  # who owns the models of a vLLM server, by its own list


def needs() -> Needs:
    """Nothing: the model runs elsewhere."""
    return Needs(0.0, 0.0, 0.0)


class _Request(NamedTuple):
    """What is sent for one prompt, and the most that it can cost."""

    arguments: dict[str, Any]
    prompt_tokens: int
    generated_tokens: int
    choices: tuple[str, ...]


class ServerDeployment:
    """The `Deployment` of a server that someone else runs.

    Args:
        config: `server`, `model`, `style`, prices, time-outs.
        spending: what may be spent, on all servers of the command.
        key: the server's key; None for a server that wants none.
    """

    def __init__(self, config: AugmentConfig, spending: Spending, key: str | None) -> None:
        self._config = config
        self._spending = spending
        self._key = key
        self._is_vllm = False
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        self._last_success = 0.0

    def start(self) -> None:
        """See `Deployment.start`: asks the server for its models.

        Raises:
            ServiceError: it cannot be reached, refuses the key, or is not OpenAI-compatible.
            ConfigError: it does not have the model.
        """
        openai = _openai()
        client = openai.OpenAI(**self._client_arguments())
        try:
            owners = {model.id: getattr(model, "owned_by", None) for model in client.models.list()}
        except openai.OpenAIError as error:
            raise self._failed(error) from None
        finally:
            client.close()
        if owners and self._config.model not in owners:
            hint = nearest(str(self._config.model), owners)
            raise ConfigError(
                f"augment.model must be a model that {self._config.server} has (got {self._config.model!r}); {hint}", parameter="augment.model"
            )
        self._is_vllm = owners.get(str(self._config.model)) == _VLLM

    async def complete(self, prompt: str, options: dict[str, Any]) -> Written:
        """See `Deployment.complete`.

        Raises:
            PromptRefused: the server refuses this prompt, or fails on it alone.
            ServiceError: it refuses the key, or has answered nothing while this prompt was tried `TRIES` times.
            ResourceError: the prompt could cost more than may still be spent.
        """
        openai = _openai()
        request = self._request(prompt, options)
        client, started, wait = self._client(), time.monotonic(), BACKOFF_SECONDS
        for last in [*[False] * (TRIES - 1), True]:
            while (booked := self._spending.book(request.prompt_tokens, request.generated_tokens, self._config)) is None:
                await asyncio.sleep(_BOOK_SECONDS)
            try:
                answer = await (client.chat.completions if "messages" in request.arguments else client.completions).create(**request.arguments)
            except openai.RateLimitError as error:  # refused before it was read
                self._spending.settle(booked, 0, 0)
                failure: Any = error
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                self._spending.settle(booked, 0, 0)
                raise PromptRefused(_reason(error)) from None
            except (
                openai.APIConnectionError,
                openai.InternalServerError,
            ) as error:  # a time-out is one, too; what was written counts although nobody has it
                self._spending.settle(booked)
                failure = error
            except openai.OpenAIError as error:
                self._spending.settle(booked, 0, 0)
                raise self._failed(error) from None
            else:
                return self._written(answer, request, booked)
            if last:
                break
            await asyncio.sleep(max(wait * (0.5 + random.random()), _asked_to_wait(failure)))
            wait = min(2 * wait, MOST_BACKOFF_SECONDS)
        if self._last_success > started:
            raise PromptRefused(_reason(failure))
        raise self._failed(failure)

    def _request(self, prompt: str, options: dict[str, Any]) -> _Request:
        choices = tuple(options.get("structured_outputs", {}).get("choice", ()))
        most = int(options["max_tokens"])
        arguments: dict[str, Any] = {"model": self._config.model, "temperature": options["temperature"], "max_tokens": most}
        arguments |= {name: options[name] for name in ("top_p", "stop") if name in options}
        extra: dict[str, Any] = {}
        if self._is_vllm:  # what is left open, it takes from the model's generation_config.json
            extra = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0} | {name: options[name] for name in ("min_tokens",) if name in options}
        tokens = len(prompt.encode("utf-8")) + 1  # no tokenizer makes more tokens than bytes, but for the beginning of the sequence
        if self._config.chats:
            arguments["messages"] = [{"role": "user", "content": prompt}]
            tokens += CHAT_TOKENS
            if choices:
                schema = {"type": "object", "properties": {"choice": {"enum": list(choices)}}, "required": ["choice"], "additionalProperties": False}
                arguments["response_format"] = {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}
                arguments["max_tokens"] = most = most + CHAT_TOKENS  # the braces, and blanks that some servers write
        else:
            arguments["prompt"] = prompt
            if choices and self._is_vllm:
                extra["structured_outputs"] = {"choice": list(choices)}
        if extra:
            arguments["extra_body"] = extra
        return _Request(arguments, tokens, most, choices)

    def _written(self, answer: Any, request: _Request, booked: int) -> Written:
        usage = getattr(answer, "usage", None)
        used = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (request.prompt_tokens, request.generated_tokens)
        self._spending.settle(booked, *used)
        try:
            first = answer.choices[0]
            text = (first.message.content if "messages" in request.arguments else first.text) or ""
            if request.choices and "response_format" in request.arguments:
                text = json.loads(text)["choice"]
        except (AttributeError, IndexError, TypeError, KeyError, ValueError):
            raise PromptRefused("the answer holds no text where an OpenAI-compatible one has it") from None
        if request.choices and text.strip() not in {choice.strip() for choice in request.choices}:
            raise PromptRefused(f"the answer {text[:80]!r} is none of the choices")
        self._last_success = time.monotonic()
        # A server that stops at the limit may count the token that ends the text or not: what it says decides.
        generated = max(used[1], request.generated_tokens) if first.finish_reason == "length" else min(used[1], request.generated_tokens - 1)
        return text, used[0], generated

    def deaths(self) -> list[str]:
        """See `Deployment.deaths`: nobody sees them here."""
        return []

    def ready(self) -> bool:
        """See `Deployment.ready`."""
        return True

    def waiting(self) -> bool:
        """See `Deployment.waiting`."""
        return False

    def stop(self) -> None:
        """See `Deployment.stop`: the server is not ours."""

    def _client(self) -> Any:
        """The client of the running event loop; a connection belongs to one."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients = {loop: _openai().AsyncOpenAI(**self._client_arguments())}
        return self._clients[loop]

    def _client_arguments(self) -> dict[str, Any]:
        # It must not send a request again by itself: each one is booked.
        return {"base_url": self._config.server, "api_key": self._key or "none", "max_retries": 0, "timeout": self._config.server_seconds}

    def _failed(self, error: Exception) -> SelfTrainError:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return ServiceError(
                f"The language model's server {self._config.server} does not accept the key ({status}); set {self._config.key_variable} to one of its keys."
            )
        if status == 404:
            return ServiceError(
                f"augment.server {self._config.server} has no OpenAI-compatible routes (404); its address ends in the version, /v1 mostly."
            )
        return ServiceError(
            f"The language model's server {self._config.server} cannot be used ({_reason(error)}); start it, or set augment.server. What was generated is cached."
        )


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise MissingExtraError(
            "A language model's server is asked by the package openai; install the extra (pip install 'selftrain[openai]')."
        ) from None
    return openai


def _reason(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    words = " ".join(str(getattr(error, "message", error)).split())[:200]
    return f"{status}: {words}" if status else f"{type(error).__name__}: {words}"


def _asked_to_wait(error: Any) -> float:
    """Seconds of the header `retry-after`, a minute at most."""
    response = getattr(error, "response", None)
    after = response.headers.get("retry-after", "") if response is not None else ""
    return min(float(after), 60.0) if after.isascii() and after.isdigit() else 0.0
