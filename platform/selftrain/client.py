"""A client of the endpoint: `Client("http://127.0.0.1:8000").classify(texts)`; with the standard library alone, so that it runs anywhere.

Texts are sent in requests of a size that the server takes; after a busy answer, a broken connection or a timeout it retries, with longer and longer pauses.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from selftrain.errors import ConfigError, DataError, ServiceError

TOKEN_VARIABLE = "SELFTRAIN_SERVE_TOKEN"
_RETRIED = (502, 503, 504)  # busy, starting, stopping or too slow; classifying a text twice does no harm
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class ServingError(ServiceError):
    """The server did not classify the texts.

    Attributes:
        status: HTTP status of its answer; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Prediction:
    """The server's answer for one text."""

    label: str | None  # None where it abstains or fails
    probability: float | None  # of the most probable class
    probabilities: dict[str, float]  # by class, the most probable first; empty where it fails
    abstain: bool  # the highest probability is below the threshold, of the request or of the promise; or the text fits no class
    truncated: bool  # the model did not read all of the text
    error: str | None  # why this text could not be classified
    model: str  # NAME@VERSION that answered
    set: tuple[str, ...] | None = None  # with sets: the classes that may be the true one, the most probable first
    continuations: int | None = None  # with augment: continuations by the language model that the text was read with
    parents: dict[str, float] = field(
        default_factory=dict
    )  # of a tree: the most probable class's groups, the outermost first, with their probabilities
    none_of_these: bool | None = None  # with none_of_these: the text fits no class
    typicality: float | None = (
        None  # with none_of_these: share of the documents that the model's bundle keeps that are as strange as the text or more
    )
    labels: tuple[str, ...] | None = None  # of a model with several labels a text, which has no `label`: its classes, the surest first


class Client:
    """The endpoint, over one connection that stays open; one client for each thread.

    Args:
        url: its address, e.g. http://127.0.0.1:8000.
        token: its bearer token; default: the environment variable SELFTRAIN_SERVE_TOKEN, if set.
        model: NAME or NAME@VERSION; default: the server's first.
        timeout_seconds: for one answer.
        patience_seconds: how long a failing request is repeated.
        batch_size: texts in one request; at most the server's limit.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        model: str | None = None,
        timeout_seconds: float = 60.0,
        patience_seconds: float = 60.0,
        batch_size: int = 64,
    ) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
            raise ConfigError(f"url must be a server's address, e.g. http://127.0.0.1:8000 (got {url!r}).", parameter="url")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 (got {batch_size}).", parameter="batch_size")
        self._url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout_seconds, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_seconds)
        self._token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
        self._model = model
        self._patience = patience_seconds
        self._batch_size = batch_size
        self._limits: dict[str, int] | None = None

    def classify(
        self,
        texts: Iterable[str],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        abstain: bool = False,
        sets: bool = False,
        augment: bool = False,
        none_of_these: float | Literal["promise"] | None = None,
    ) -> list[Prediction]:
        """Classify texts; `[texts]`, in order. A text that cannot be classified gets an `error`; the others are classified.

        Args:
            texts: any number of them.
            top_k: return the probabilities of this many classes only.
            threshold: abstain where the highest probability is below this.
            abstain: abstain where the model's promise takes it, which `models()` states.
            sets: give the prediction set of each text too; how often it holds the true class is what `models()` states of `sets`.
            augment: read each text with continuations of the server's language model; a small `batch_size` keeps such requests within the server's time.
            none_of_these: abstain too where a text fits no class: a share of the documents that the model's bundle keeps, of which as many would be taken for such,
                or "promise", for what `models()` states.

        Raises:
            DataError: `texts` is one string, or holds something that is not a string.
            ServingError: the server refuses, or did not answer within `patience_seconds`; earlier answers of this call are lost.
        """
        if isinstance(texts, str | bytes):
            raise DataError(f"texts must be a list of texts (got {type(texts).__name__}); for one text write classify([text]).", parameter="texts")
        given = list(texts)
        if (wrong := next((index for index, text in enumerate(given) if not isinstance(text, str)), None)) is not None:
            raise DataError(f"Text {wrong} of {len(given)} is not a string but {type(given[wrong]).__name__}; fix it or leave it out.")
        if not given:
            return []
        options = {
            "top_k": top_k,
            "threshold": threshold,
            "model": self._model,
            "abstain": abstain or None,
            "sets": sets or None,
            "augment": augment or None,
            "none_of_these": none_of_these,
        }
        asked = {name: value for name, value in options.items() if value is not None}
        found: list[Prediction] = []
        for part in self._parts(given):
            answer = self._ask("POST", "/v1/classify", {"texts": part, **asked})
            model = f"{answer['model']['name']}@{answer['model']['version']}"
            found.extend(_prediction(one, model) for one in answer["results"])
        return found

    def models(self) -> list[dict[str, Any]]:
        """The models that the server serves, each with its name, version, labels, metrics and more.

        Raises:
            ServingError: as `classify`.
        """
        return list(self._ask("GET", "/v1/models")["models"])

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _parts(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """The texts, divided into requests that the server takes."""
        if self._limits is None:
            self._limits = self._ask("GET", "/v1/models")["limits"]
        most, longest = min(self._batch_size, self._limits["texts"]), self._limits["characters"]
        room = self._limits["body_bytes"] - 4096  # for the rest of the body
        part: list[str] = []
        size = 0
        for text in texts:
            text = text[: longest + 1]  # the server cuts at `longest`, and has to see that there is more
            bytes_ = len(json.dumps(text)) + 2
            if part and (len(part) == most or size + bytes_ > room):
                yield part
                part, size = [], 0
            part.append(text)
            size += bytes_
        yield part

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        end = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            wait = 0.0
            status = None
            try:
                status, headers, content = self._exchange(method, path, body)
                if status < 300:
                    return dict(json.loads(content))
                reason = _error_of(content) or f"status {status}"
                if status not in _RETRIED:
                    raise ServingError(f"{self._url} refuses the request ({status}): {reason}", status)
                wait = _seconds(headers.get("retry-after"))
            except ServingError:  # an OSError too
                raise
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                reason = str(error) or type(error).__name__
            except ValueError:
                raise ServingError(f"{self._url} does not answer like a selftrain server; check the address.", status) from None
            pause = min(2 * pause, _LONGEST_PAUSE)
            wait = max(wait, pause * random.uniform(0.5, 1.0))  # many clients must not retry at the same moment
            if time.monotonic() + wait > end:
                raise ServingError(f"{self._url} did not answer within {self._patience:g} s ({reason}); check that it is running.", status)
            time.sleep(wait)

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = {"accept": "application/json"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body).encode()
        self._connection.request(method, self._path + path, content, headers)
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()


def _prediction(one: dict[str, Any], model: str) -> Prediction:
    return Prediction(
        label=one.get("label"),
        probability=one.get("probability"),
        probabilities=one.get("probabilities", {}),
        abstain=one.get("abstain", False),
        truncated=one.get("truncated", False),
        error=one.get("error"),
        model=model,
        set=tuple(one["set"]) if "set" in one else None,
        continuations=one.get("continuations"),
        parents=one.get("parents", {}),
        none_of_these=one.get("none_of_these"),
        typicality=one.get("typicality"),
        labels=tuple(one["labels"]) if "labels" in one else None,
    )


def _error_of(content: bytes) -> str | None:
    try:
        return str(json.loads(content)["error"])[:300]
    except (ValueError, TypeError, KeyError):
        return None


def _seconds(retry_after: str | None) -> float:
    return min(float(retry_after), 60.0) if retry_after is not None and retry_after.isdigit() else 0.0
