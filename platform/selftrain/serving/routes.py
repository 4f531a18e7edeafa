"""The routes. Every refusal is one JSON object, `{"error": "..."}`.

POST /v1/classify   {"texts": ["...", {"id": 7, "text": "..."}]} or {"text": "..."}, optional "top_k", "threshold", "model",
                    "abstain": true and "sets": true where the model states a promise of it, "none_of_these": 0.05 where its bundle keeps documents,
                    and "augment": true where a language model is configured
POST /predict       {"inputs": "..."} or {"inputs": ["...", ...]}, as clients of text-embeddings-inference send it
GET  /v1/models     the models and the limits
GET  /metrics       Prometheus
GET  /healthz       the process runs
GET  /readyz        the models are loaded and warm
GET  /              a page to try the models; /docs and /openapi.json describe the routes

With a folder of questions, also those of labelling.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json
from starlette.exceptions import HTTPException

from selftrain.serving.dispatch import Dispatch, none_threshold, promised_sets, promised_threshold
from selftrain.serving.language_model import LanguageModel
from selftrain.serving.metrics import CONTENT_TYPE, Metrics
from selftrain.serving.models import LoadedModel, Models
from selftrain.serving.page import Page
from selftrain.serving.schemas import (
    FAILED,
    MAX_BODY_BYTES,
    MAX_CHARACTERS,
    MAX_TEXTS,
    ClassifyRequest,
    ClassifyResponse,
    PredictRequest,
    Problem,
    Refused,
    Score,
    Status,
    check,
    result,
    several_labels,
)
from selftrain.serving.seen import Seen

ANYWHERE: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "the headers are ambiguous: host is missing, or a header repeats that must not",
        403: "a page of another site sent the request",
        421: "the header host names another server",
        431: "the address and the headers are too large",
    }.items()
}
REFUSALS: dict[int | str, dict[str, Any]] = ANYWHERE | {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "the body is not UTF-8 or not readable JSON, or the headers are ambiguous",
        401: "the token is missing or wrong",
        404: "there is no such model",
        408: "the body arrived too slowly",
        413: "the body is too large",
        415: "the body is compressed",
        422: "the body does not fit this route; the message names the field",
        503: "too many texts wait; the header retry-after says when to try again",
        504: "the answer took too long",
    }.items()
}
_LANGUAGE_MODEL: dict[int | str, dict[str, Any]] = {502: {"model": Problem, "description": "the language model cannot be reached, or fails"}}


class Json(JSONResponse):
    """JSON by pydantic's writer, several times as fast as the standard library's."""

    def render(self, content: Any) -> bytes:
        """The bytes of `content`."""
        try:
            return to_json(content)
        except PydanticSerializationError:  # an id may hold half of a surrogate pair; JSON in ASCII can carry it, UTF-8 cannot
            return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


class BodyRoute(APIRoute):
    """A route whose function takes the body, or nothing.

    Not FastAPI's own reading: its dependencies, exit stacks and parser of mail headers cost as much as a small model (`benchmarks/serving_lists.py`), and its
    refusals quote the body. FastAPI still writes the OpenAPI document. The gate, which has read the body, asks `answer_body` and spares itself the way through
    FastAPI's middleware.

    Attributes:
        answer_body: (body, header content-type) -> the answer or a refusal; None for a route without a body.
    """

    answer_body: Callable[[bytes, str], Coroutine[Any, Any, Response]] | None = None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        if self.body_field is None:
            return super().get_route_handler()
        form = self.body_field.field_info.annotation
        assert form is not None  # FastAPI knows the type of every body
        adapter: TypeAdapter[Any] = TypeAdapter(form)

        async def answer_body(body: bytes, content_type: str) -> Response:
            try:
                return await self.endpoint(read_body(body, content_type, adapter))
            except Refused as refusal:
                return _refusal(refusal)

        async def answer(request: Request) -> Response:
            return await answer_body(await request.body(), request.headers.get("content-type", ""))

        self.answer_body = answer_body
        return answer


def read_body(body: bytes, content_type: str, adapter: TypeAdapter[Any]) -> Any:
    """The content of a JSON body, validated.

    Args:
        body: the bytes.
        content_type: the header; `application/json`, or a type that ends with `+json`.
        adapter: validates the content.

    Raises:
        Refused: the content does not fit (422, with the field) or cannot be parsed (400).
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise Refused(422, "the body must be JSON; send the header content-type: application/json")
    try:
        return adapter.validate_python(parsed(body))
    except json.JSONDecodeError as error:
        raise Refused(422, f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValidationError as error:
        # The first problem in one sentence; all of them would quote the body back.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:100] for part in first["loc"])
        raise Refused(422, f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")) from None
    except (ValueError, RecursionError):  # a bad encoding, a number with too many digits, or lists nested too deep
        raise Refused(400, "the body cannot be read as JSON") from None


def parsed(body: bytes) -> Any:
    """The content of a JSON body, by pydantic's reader, several times as fast as the standard library's; what it refuses the latter reads, or says what is wrong.

    Raises:
        ValueError: it is not JSON.
        RecursionError: its lists are nested too deep.
    """
    try:
        return from_json(body, cache_strings="keys")  # texts are not kept
    except ValueError:
        return json.loads(body)


def bare_app() -> FastAPI:
    """An application without routes, which reads bodies and refuses as all of ours do."""
    app = FastAPI(title="selftrain", description="Text classification", docs_url=None, redoc_url=None, default_response_class=Json)
    app.router.route_class = BodyRoute
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Refused, _refused)
    return app


def make_app(
    models: Models,
    metrics: Metrics,
    *,
    timeout_seconds: float,
    ready: Callable[[], bool],
    language_model: LanguageModel | None = None,
    add_label_routes: Callable[[FastAPI], None] | None = None,
    seen: Seen | None = None,
) -> FastAPI:
    """The application: all routes over `models`.

    Args:
        models: the models that classify.
        metrics: the metrics that GET /metrics shows.
        timeout_seconds: seconds after which a request gets 504.
        ready: whether the replica takes requests.
        language_model: writes continuations for requests with `augment`; None refuses them.
        add_label_routes: adds those of labelling.py; None for none.
        seen: keeps a sample of what was answered; None keeps nothing.
    """
    app = bare_app()
    dispatch = Dispatch(models, timeout_seconds=timeout_seconds, language_model=language_model, seen=seen)

    @app.post("/v1/classify", response_model=ClassifyResponse, responses=REFUSALS | _LANGUAGE_MODEL)
    async def classify(body: ClassifyRequest) -> Response:
        """Classify one text or several; a text that cannot be classified gets an error of its own."""
        items = [check(value) for value in body.items()]
        loaded, answers = await dispatch.ask(body.model, items, augment=body.augment, none_of_these=body.none_of_these)
        threshold = promised_threshold(loaded) if body.abstain else body.threshold
        sets = promised_sets(loaded) if body.sets else None
        least = None if body.none_of_these is None else none_threshold(loaded, body.none_of_these)
        card, tree = loaded.card, loaded.card if loaded.card.parents else None
        results = [
            several_labels(item, answer, card, top_k=body.top_k, threshold=threshold)
            if card.multi_label
            else result(item, answer, card.labels, top_k=body.top_k, threshold=threshold, sets=sets, least=least, tree=tree)
            for item, answer in zip(items, answers, strict=True)
        ]
        counts = {"label": 0, "abstain": 0, "error": 0}
        for one in results:
            counts["error" if "error" in one else "abstain" if one.get("abstain") else "label"] += 1
        _count(metrics, loaded, counts)
        return Json({"model": loaded.id, "results": results})

    @app.post("/predict", response_model=list[Score] | list[list[Score]], responses=REFUSALS | {424: {"model": Problem, "description": FAILED}})
    async def predict(body: PredictRequest) -> Response:
        """Classify as text-embeddings-inference does: a list of label and score for one text, a list of such lists for several.

        Its answer has no field for the error of one text, so a text that cannot be classified fails the request.
        """
        items = [check(value) for value in body.items()]
        if (bad := next((index for index, item in enumerate(items) if item.problem is not None), None)) is not None:
            raise Refused(422, f"inputs.{bad}: {items[bad].problem}")
        loaded, answers = await dispatch.ask(None, items)
        results = [result(item, answer, loaded.card.labels) for item, answer in zip(items, answers, strict=True)]
        failed = [index for index, one in enumerate(results) if "error" in one]
        _count(metrics, loaded, {"label": len(results) - len(failed), "error": len(failed)})
        if failed:
            raise Refused(424, f"inputs.{failed[0]}: {FAILED}")
        scores = [[{"label": label, "score": value} for label, value in one["probabilities"].items()] for one in results]
        return Json(scores[0] if isinstance(body.inputs, str) else scores)

    @app.get("/v1/models", responses=ANYWHERE | {401: REFUSALS[401]})
    async def list_models() -> Response:
        """The models with their versions, classes, training, metrics and promises; the limits of a request; and whether it may set augment."""
        limits = {"texts": MAX_TEXTS, "characters": MAX_CHARACTERS, "body_bytes": MAX_BODY_BYTES, "seconds": timeout_seconds}
        return Json({"models": models.facts(), "limits": limits, "augment": language_model is not None})

    @app.get(
        "/metrics",
        response_class=Response,
        responses=ANYWHERE | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: REFUSALS[401]},
    )
    async def read_metrics() -> Response:
        """The metrics of the replica that answers, for Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/healthz", response_model=Status, responses=ANYWHERE)
    async def healthz() -> Response:
        """The process runs."""
        return Json({"status": "ok"})

    @app.get("/readyz", response_model=Status, responses=ANYWHERE | {503: {"model": Status, "description": "not ready"}})
    async def readyz() -> Response:
        """All models are loaded, warm, and answer."""
        return Json({"status": "ready"}) if ready() else Json({"status": "not ready"}, status_code=503, headers={"retry-after": "1"})

    if add_label_routes is not None:
        add_label_routes(app)
    for path, page in (("/", Page.of_texts(labelling=add_label_routes is not None)), ("/docs", Page.of_routes(app.openapi()))):
        app.add_api_route(path, page.show, include_in_schema=False)

    return app


def _count(metrics: Metrics, loaded: LoadedModel, counts: Mapping[str, int]) -> None:
    for outcome, number in counts.items():
        if number:
            metrics.texts.labels(loaded.name, outcome).inc(number)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {
        404: "there is no such route; GET /docs lists them",
        405: f"this route does not take {request.method[:20]}; GET /docs lists the routes",
    }
    return Json({"error": texts.get(error.status_code, str(error.detail))}, status_code=error.status_code, headers=error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _refusal(error)


def _refusal(error: Refused) -> Response:
    return Json({"error": str(error)}, status_code=error.status, headers=error.headers)
