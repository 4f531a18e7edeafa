"""The Ray Serve deployment: `serve deploy serve/cluster.yaml` on a cluster, `selftrain serve` or serve/config.yaml on one machine. Its parts: `selftrain.serving`.

On one machine each replica listens itself: Serve starts, watches and scales it, without Serve's proxy, which costs more than a small model. The replicas share the
port (SO_REUSEPORT), and the kernel spreads connections over them. On a cluster Serve's proxies listen, and the replicas are behind them.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingContext
from starlette.types import ASGIApp

from selftrain.errors import ConfigError
from selftrain.files.durable import check_writable
from selftrain.passwords import TOKEN_VARIABLE, read_key
from selftrain.runtime.devices import serving_options
from selftrain.runtime.hardware import Claim, Hardware, hardware_here, hardware_of_cluster, require_room
from selftrain.runtime.memory import keep_trimming
from selftrain.runtime.ports import require_free_port
from selftrain.runtime.ray_start import close_serves_port, start_ray
from selftrain.runtime.signals import interruptible
from selftrain.runtime.watch import guarded, ray_is_lost
from selftrain.serving.arguments import Arguments, registry_of
from selftrain.serving.gate import Gate
from selftrain.serving.headers import Hosts
from selftrain.serving.labelling import LABEL, label_routes
from selftrain.serving.language_model import LanguageModel, with_model_name
from selftrain.serving.listener import STOP_SECONDS, ConnectionLimits, Listener
from selftrain.serving.metrics import Metrics
from selftrain.serving.models import Models, ModelSource
from selftrain.serving.routes import make_app
from selftrain.serving.seen import Seen

READY_SECONDS = 120.0
TRIM_SECONDS = 30.0  # large bodies and batches of all shapes leave holes in the heap, which add up over hours
BUSY = "busy"  # the metric by which Serve adds and removes replicas


@serve.ingress()
class Classify:
    """One replica: the models and the routes."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        given = Arguments.model_validate(arguments)
        if given.host is not None:
            self._sockets = close_serves_port()
        keep_trimming(TRIM_SECONDS)
        metrics = Metrics()
        token = given.token()
        augmentation = given.augmentation
        language_model = None if augmentation is None else LanguageModel(augmentation, metrics, read_key(augmentation.key_file))
        self._stopping = False
        self._models = Models(
            given.models,
            tracking_uri=given.tracking_uri,
            threads=given.threads,
            # A replica without a GPU of its own still sees those of its node.
            device=None if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu",
            poll_seconds=given.poll_seconds,
            max_waiting=given.max_waiting_texts,
            max_seconds=given.timeout_seconds,
            metrics=metrics,
        )
        self._seen = Seen(given.seen, metrics) if given.seen is not None else None
        app = make_app(
            self._models,
            metrics,
            timeout_seconds=given.timeout_seconds,
            ready=self._ready,
            language_model=language_model,
            add_label_routes=label_routes(given.labelling),
            seen=self._seen,
        )
        hosts = Hosts.of(given.host, given.allowed_hosts, token=token is not None)
        self._gate = Gate(app, metrics=metrics, token=token, hosts=hosts)
        # Only now: while the models load, other replicas of this machine get the connections.
        limits = ConnectionLimits(given.max_connections, given.max_connections_per_client)
        self._listener = Listener(self._gate, given.host, given.port, limits) if given.host is not None else None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application for Serve's proxies, where they listen."""
        return self._gate

    def _ready(self) -> bool:
        return not self._stopping and self._models.healthy

    def check_health(self) -> None:
        """Raise where Serve must replace this replica."""
        if not self._models.healthy:
            raise RuntimeError("a model does not answer")
        if self._listener is not None and not self._listener.healthy:
            raise RuntimeError("the server no longer listens")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The requests in flight, which Serve cannot count where replicas listen themselves."""
        return {BUSY: float(self._gate.in_flight)}

    def __del__(self) -> None:
        self._stopping = True
        if (listener := getattr(self, "_listener", None)) is not None:
            listener.stop()
        if (seen := getattr(self, "_seen", None)) is not None:
            seen.close()
        if (models := getattr(self, "_models", None)) is not None:
            models.close()


def by_requests(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's autoscaling policy for replicas that listen themselves: one replica for each `target_ongoing_requests` requests in flight."""
    busy = sum((context.aggregated_metrics or {}).get(BUSY, {}).values())
    assert context.config is not None  # Serve calls no policy without it
    return math.ceil(busy / context.config.target_ongoing_requests), {}


_deployment = serve.deployment(
    name="classify",
    max_ongoing_requests=1024,  # more than max_waiting_texts lets through: Serve's own 503 is not JSON
    max_constructor_retry_count=2,
    health_check_period_s=2,
    ray_actor_options={"num_cpus": 1},
    graceful_shutdown_timeout_s=STOP_SECONDS + 10,
)(Classify)


def build(args: dict[str, Any]) -> Application:
    """The application of the `args` of a Serve config file; see `Arguments`.

    Raises:
        ConfigError: an argument is unknown or wrong.
    """
    given = Arguments.checked(args)
    there = hardware_of_cluster() if ray.is_initialized() else Hardware()
    return _deployment.options(ray_actor_options=serving_options(given.gpus, there, None)).bind(given.model_dump())


def run(
    sources: Sequence[ModelSource],
    *,
    tracking_uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    threads: int | None = None,
    gpus: str | float = "auto",
    token_file: str | Path | None = None,
    no_token: bool = False,
    allowed_hosts: Sequence[str] = (),
    timeout_seconds: float = 30.0,
    max_waiting_texts: int = 2048,
    poll_seconds: float = 5.0,
    language_model: str | None = None,
    language_model_name: str | None = None,
    language_model_key_file: str | Path | None = None,
    labelling: str | Path | None = None,
    seen: str | Path | None = None,
    seen_texts: bool = False,
) -> None:
    """Serve on this machine until Ctrl-C or SIGTERM, as `selftrain serve` does.

    Args:
        sources: the models; the first answers requests that name none.
        tracking_uri: the registry; default: MLFLOW_TRACKING_URI, else the local SQLite file.
        host: address to listen on; beyond this machine a token is required.
        port: port to listen on.
        replicas: processes that share the port; each holds all models.
        threads: torch threads of a replica; default: all cores but one, divided among the replicas.
        gpus: GPUs of a replica, one or a part of it; 0 for the CPU; auto: what there is, divided among the replicas.
        token_file: file with the bearer token; default: the environment variable SELFTRAIN_SERVE_TOKEN, if set.
        no_token: listen beyond this machine without a token.
        allowed_hosts: further names that the header host may have; see `Hosts.of`.
        timeout_seconds: seconds after which a request gets 504.
        max_waiting_texts: texts that may wait for one model of a replica; further requests get 503.
        poll_seconds: seconds between two looks at the registry's champion.
        language_model: URL of an OpenAI-compatible server for requests with `augment`, e.g. http://127.0.0.1:8001/v1; None refuses them.
        language_model_name: the model's name there; default: the only one that the server lists.
        language_model_key_file: file with the server's API key; default: the environment variable SELFTRAIN_LANGUAGE_MODEL_KEY, if set.
        labelling: folder of questions that the page at /label asks; None for no such page.
        seen: folder for a sample of what was answered, embeddings and probabilities, for `selftrain watch`; None keeps nothing.
        seen_texts: keep the texts of that sample too.

    Raises:
        ConfigError: a parameter is wrong, or there is no token, champion or language model of that name.
        SelfTrainError: a bundle is damaged, the port is taken, or a server cannot be reached; all before Ray starts.
        ProcessDied: a process of Ray died that nothing replaces.
    """
    for name, value in (("replicas", replicas), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1 (got {value}).", parameter=name)
    arguments = Arguments.checked(
        {
            "models": [source.model_dump() | ({"bundle": _absolute(source.bundle)} if source.bundle else {}) for source in sources],
            "threads": threads or max(1, ((os.cpu_count() or 2) - 1) // replicas),
            "gpus": gpus,
            "host": host,
            "port": port,
            "token_file": _absolute(token_file),
            "no_token": no_token,
            "allowed_hosts": tuple(allowed_hosts),
            "timeout_seconds": timeout_seconds,
            "max_waiting_texts": max_waiting_texts,
            "poll_seconds": poll_seconds,
            "augmentation": _augmentation(language_model, language_model_name, language_model_key_file),
            "labelling": _absolute(labelling),
            "seen": _seen(seen, texts=seen_texts),
            "tracking_uri": registry_of(tracking_uri) if any(source.model is not None for source in sources) else None,
        }
    )
    token = arguments.token()
    names = arguments.check_models()
    label_routes(arguments.labelling)  # what is wrong with the folder is said before Ray starts
    require_free_port(host, port)
    if arguments.augmentation is not None:
        arguments = arguments.model_copy(update={"augmentation": with_model_name(arguments.augmentation)})
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    header = f' -H "authorization: Bearer ${TOKEN_VARIABLE}"' if token is not None else ""
    body = """-H 'content-type: application/json' -d '{"texts": ["a text to classify"]}'"""
    with suppress(KeyboardInterrupt), interruptible(), guarded() as guard:
        try:
            _deploy(arguments, replicas)
            _wait_ready(url)
            print(f"Serving {', '.join(names)} at {url} (Ctrl-C stops it); open it in a browser, or try:", flush=True)
            print(f"  curl -s {url}/v1/classify{header} {body}", flush=True)
            if labelling is not None:
                print(f"Label documents at {url}{LABEL}", flush=True)
            threading.Event().wait()
        finally:
            if ray.is_initialized() and not ray_is_lost():
                serve.shutdown()
            guard.shut_down()
    print("Stopped.", flush=True)


def _absolute(file: str | Path | None) -> str | None:
    return str(Path(file).resolve()) if file is not None else None


def _seen(folder: str | Path | None, *, texts: bool) -> dict[str, Any] | None:
    if folder is None:
        if texts:
            raise ConfigError("seen_texts needs a folder for what is seen; set both.", parameter="seen_texts")
        return None
    check_writable(Path(folder), "seen")
    return {"folder": _absolute(folder), "texts": texts}


def _augmentation(url: str | None, name: str | None, key_file: str | Path | None) -> dict[str, str | None] | None:
    if url is not None:
        return {"url": url, "model": name, "key_file": _absolute(key_file)}
    for parameter, value in (("language_model_name", name), ("language_model_key_file", key_file)):
        if value is not None:
            raise ConfigError(f"{parameter} needs a language_model; set its URL too.", parameter=parameter)
    return None


def _deploy(arguments: Arguments, replicas: int) -> None:
    """Start Ray and Serve on this machine, and the replicas."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    there = hardware_here()
    options = serving_options(arguments.gpus, there, replicas)
    require_room([Claim("gpus", options.get("num_gpus", 0.0))] * replicas, there.nodes)
    start_ray(num_cpus=max(1 + replicas, os.cpu_count() or 2), **({"num_gpus": int(there.gpus)} if there.gpus else {}))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    application = _deployment.options(num_replicas=replicas, ray_actor_options=options).bind(arguments.model_dump())
    serve.run(application, name="selftrain", route_prefix="/", logging_config=quiet)


def _wait_ready(url: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise RuntimeError(f"{url}/readyz did not answer within {READY_SECONDS:.0f} s") from None
            time.sleep(0.2)
