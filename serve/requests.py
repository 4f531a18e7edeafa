"""What a request to the classifier may look like, and what it gets back: limits and checks that need no Ray.

A request as a whole is refused only where it cannot be understood (422) or is too large (413); a text that cannot be classified fails alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selftrain.export.classifier import Classifier, problem_with

MAX_TEXTS = 256  # texts in one request
MAX_CHARACTERS = 20_000  # of one text; what is longer is cut, and the result says so
MAX_BODY_BYTES = 8 * 2**20
FAILED = "the model failed on this text"
_log = logging.getLogger("ray.serve")


class ClassifyRequest(BaseModel):
    """The body of POST /v1/classify: one `text` or a list of `texts`."""

    model_config = ConfigDict(extra="forbid")

    # Any, because one bad item must not fail the others.
    text: Any = None
    texts: list[Any] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    top_k: int | None = Field(default=None, ge=1, description="give the probabilities of this many classes only, the most probable ones")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if len(self.model_fields_set & {"text", "texts"}) != 1 or ("texts" in self.model_fields_set and self.texts is None):
            raise ValueError('give either "text" with one text or "texts" with a list of them')
        return self

    def items(self) -> list[Any]:
        """What is to be classified, in order."""
        return [self.text] if self.texts is None else self.texts


class Item(NamedTuple):
    """One text, checked."""

    text: str
    problem: str | None  # why it cannot be classified
    truncated: bool


def check(value: object) -> Item:
    """Cut `value` to `MAX_CHARACTERS` and say what is wrong with it, if anything."""
    truncated = isinstance(value, str) and len(value) > MAX_CHARACTERS
    text = value[:MAX_CHARACTERS] if isinstance(value, str) else ""
    problem = problem_with(text if isinstance(value, str) else value)
    return Item(text, problem, truncated)


def answer_each(classifier: Classifier, texts: list[str]) -> list[np.ndarray | str]:
    """Probabilities `[classes]` of each text, or why there are none.

    An exception would answer 500 to every request whose text shares the batch, so a batch that fails is tried text by text.
    """
    try:
        probabilities = classifier.predict_proba(texts)
    except Exception:
        if len(texts) > 1:
            return [answer for text in texts for answer in answer_each(classifier, [text])]
        _log.exception("a text of %d characters could not be classified", len(texts[0]))
        return [FAILED]
    return [row if np.isfinite(row).all() else FAILED for row in probabilities]


def result(item: Item, answer: np.ndarray | str, labels: Sequence[str], top_k: int | None) -> dict[str, Any]:
    """One entry of `results`.

    Args:
        item: the text as it was checked.
        answer: its probabilities `[classes]`, or why there are none.
        labels: class names in the order of the probabilities.
        top_k: as in the request.
    """
    if isinstance(answer, str):
        return {"error": answer}
    order = np.argsort(-answer, kind="stable")
    return {
        "label": labels[order[0]],
        "probability": float(answer[order[0]]),
        "probabilities": {labels[index]: float(answer[index]) for index in order[:top_k]},
        "truncated": item.truncated,
    }


class BodyLimit:
    """ASGI middleware that refuses a body over `limit` bytes with 413, by what it says of its length and by what really comes; Serve has no limit."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self.limit:
            await self._refuse(send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                await self._refuse(send)
                return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)

    async def _refuse(self, send: Send) -> None:
        text = f"the body is larger than {self.limit} bytes; send fewer or shorter texts"
        content = json.dumps({"error": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": content})
