"""The classifier behind HTTP: `serve deploy serve/config.yaml` on a cluster, `selftrain serve` on this machine.

    POST /v1/classify   {"texts": ["...", ...]} or {"text": "..."}, optionally "top_k"
    GET  /v1/models     what is served, and its limits
    GET  /healthz       the process lives
    GET  /readyz        the model is loaded

Texts of all requests that wait at the same moment are classified in one batch, in a thread, so that health checks are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve import Application
from selftrain_serve.requests import MAX_BODY_BYTES, MAX_CHARACTERS, MAX_TEXTS, BodyLimit, ClassifyRequest, answer_each, check, result

from selftrain.errors import UserError, nearest
from selftrain.export.bundle import read_card, read_prototypes
from selftrain.export.classifier import Classifier
from selftrain.tracking import champion_bundle

BATCH_TEXTS = 64
BATCH_WAIT_SECONDS = 0.005
READY_SECONDS = 120.0

api = FastAPI(title="selftrain", description="Text classification")
api.add_middleware(BodyLimit)


@api.exception_handler(RequestValidationError)
async def _refused(request: Request, error: RequestValidationError) -> JSONResponse:
    """One sentence; FastAPI's own answer would send the whole body back."""
    if "json" not in request.headers.get("content-type", ""):
        return JSONResponse({"error": "the body has to be JSON; send the header content-type: application/json"}, status_code=422)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")}, status_code=422)


class Arguments(BaseModel):
    """What `build` takes: a bundle's folder, or the name of a registered model whose champion is served."""

    model_config = ConfigDict(extra="forbid")

    bundle: str | None = Field(default=None, description="folder of a bundle that every node reaches")
    model: str | None = Field(default=None, description="name in the MLflow registry; its champion is served")
    tracking_uri: str | None = Field(default=None, description="the registry; default: MLFLOW_TRACKING_URI of the cluster")
    name: str | None = Field(default=None, description="what the answers call the model; default: the registered or the bundle's own name")
    version: str | None = Field(
        default=None, description="what the answers call its version; default: the registered one, or when the bundle was made"
    )
    threads: int = Field(default=1, ge=1, description="torch threads of a replica")


@serve.ingress(api)
class Classify:
    """One replica: a classifier and the routes in front of it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        given = Arguments.model_validate(arguments)
        torch.set_num_threads(given.threads)
        version = given.version
        if given.bundle is not None:
            folder = Path(given.bundle)
        else:
            assert given.model is not None  # build has seen to it
            folder, registered = champion_bundle(given.model, given.tracking_uri)
            version = version or registered
        self._classifier = Classifier.load(folder, batch_size=BATCH_TEXTS)
        card = self._classifier.card
        self._labels = list(card.labels)
        self._model = {"name": given.name or given.model or card.name, "version": version or card.created}
        self._classifier.predict_proba(["the first text is the slowest"])

    @api.post("/v1/classify")
    async def classify(self, body: ClassifyRequest) -> JSONResponse:
        """Classify one text or several; a text that cannot be classified gets an error of its own."""
        items = [check(value) for value in body.items()]
        usable = [index for index, item in enumerate(items) if item.problem is None]
        answers: dict[int, np.ndarray | str] = {index: f"the text is {item.problem}" for index, item in enumerate(items) if item.problem is not None}
        answers.update(zip(usable, await asyncio.gather(*(self._answer(items[index].text) for index in usable)), strict=True))
        results = [result(item, answers[index], self._labels, body.top_k) for index, item in enumerate(items)]
        return JSONResponse({"model": self._model, "results": results})

    @api.get("/v1/models")
    async def models(self) -> JSONResponse:
        """What is served: classes, how it was trained and measured, and the limits of a request."""
        card = self._classifier.card
        facts = card.model_dump(mode="json", include={"labels", "method", "supervision", "data", "max_tokens", "metrics", "created"})
        limits = {"texts": MAX_TEXTS, "characters": MAX_CHARACTERS, "body_bytes": MAX_BODY_BYTES}
        return JSONResponse({"models": [{**self._model, **facts, "limits": limits}]})

    @api.get("/healthz")
    async def healthz(self) -> JSONResponse:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    @api.get("/readyz")
    async def readyz(self) -> JSONResponse:
        """The model is loaded: a replica takes no request before."""
        return JSONResponse({"status": "ready", "model": self._model})

    @serve.batch(max_batch_size=BATCH_TEXTS, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def _answer(self, texts: list[str]) -> list[np.ndarray | str]:
        return await asyncio.to_thread(answer_each, self._classifier, texts)


_deployment = serve.deployment(
    name="classify",
    max_ongoing_requests=64,
    max_queued_requests=256,
    max_constructor_retry_count=2,
    ray_actor_options={"num_cpus": 1},
    graceful_shutdown_timeout_s=5,
)(Classify)


def build(args: dict[str, Any]) -> Application:
    """The application, from the `args` of a Serve config file; see `Arguments`.

    Raises:
        UserError: an unknown argument, or neither or both of `bundle` and `model`.
    """
    try:
        arguments = Arguments.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(key, Arguments.model_fields) if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"The application does not take args.{key} as it is given; {hint}") from None
    if (arguments.bundle is None) == (arguments.model is None):
        raise UserError("The application serves either args.bundle (a folder) or args.model (a registered model); give one of them.")
    return _deployment.bind(arguments.model_dump())


def require_free_port(host: str, port: int) -> None:
    """Make sure that a server can listen on `host:port`.

    Raises:
        UserError: something listens there already, or it is not ours to take.
    """
    if not 0 < port < 2**16:
        raise UserError(f"Port {port} does not exist; choose one from 1 to 65535 with --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Port {port} of {host} cannot be used ({reason}); choose another with --port.") from None


def run(
    *,
    bundle: str | Path | None = None,
    model: str | None = None,
    tracking_uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
) -> None:
    """Serve on this machine until Ctrl-C or SIGTERM; what `selftrain serve` does.

    Args:
        bundle: a bundle's folder.
        model: instead of it, a registered model, whose champion is served.
        tracking_uri: the registry; default: MLFLOW_TRACKING_URI, else the local SQLite file.
        host: address to listen on; beyond 127.0.0.1 anybody who reaches it may ask, Serve knows no passwords.
        port: port to listen on.
        threads: torch threads; default: all cores but the one that speaks HTTP.

    Raises:
        UserError: no such bundle, no champion, or the port is taken; said before Ray is started.
    """
    arguments: dict[str, Any] = {"threads": threads or max(1, (os.cpu_count() or 2) - 1)}
    if bundle is None and model is not None:
        folder, version = champion_bundle(model, tracking_uri)
        arguments |= {"bundle": str(folder), "name": model, "version": version}
    elif bundle is not None and model is None:
        folder = Path(bundle).resolve()
        arguments["bundle"] = str(folder)
    else:
        raise UserError("Give either a bundle's folder or the name of a registered model to serve.")
    read_prototypes(folder, read_card(folder))
    require_free_port(host, port)

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    with _until_told_to_stop():
        try:
            ray.init(
                address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, num_cpus=max(2, os.cpu_count() or 2)
            )
            _stop_on_signals()  # Ray has put its own in place
            quiet = {"log_level": "WARNING", "enable_access_log": False}
            serve.start(http_options={"host": host, "port": port, "request_timeout_s": 60}, logging_config=quiet)
            serve.run(build(arguments), name="selftrain", route_prefix="/", logging_config=quiet)
            _wait_ready(url)
            print(f"Serving {folder} at {url} (Ctrl-C stops it). Try:", flush=True)
            print(f"""  curl -s {url}/v1/classify -H 'content-type: application/json' -d '{{"texts": ["a text to classify"]}}'""", flush=True)
            threading.Event().wait()
        finally:
            if ray.is_initialized():
                serve.shutdown()
            ray.shutdown()


def _wait_ready(url: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise RuntimeError(f"{url}/readyz did not answer within {READY_SECONDS:.0f} s of the start") from None
            time.sleep(0.2)


def _stop_on_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def _until_told_to_stop() -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does, and neither is an error; afterwards both do again what they did before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _stop_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
