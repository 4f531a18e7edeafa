"""Bundles, and the endpoint without Ray: the same routes, gate and models behind the same server, in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from selftrain_serve.app import Listener
from selftrain_serve.limits import Gate
from selftrain_serve.metrics import Metrics
from selftrain_serve.models import Models, Source
from selftrain_serve.routes import make_app
from tiny import tiny_backbone

from selftrain.export.bundle import BundleCard, write_bundle

LABELS = ("sport", "tech", "politics")
VERSION = "2024-05-06T07:08:09+00:00"


def make_bundle(folder: Path, *, seed: int = 0, name: str = "news", labels: tuple[str, ...] = LABELS, poison: str | None = None) -> Path:
    """A bundle that reads 64 tokens; a text with the word `poison` gets numbers that are none."""
    backbone = tiny_backbone(folder.parent / f"{folder.name}-backbone", seed=seed)
    prototypes = backbone.encode([f"about {label}" for label in labels], convert_to_tensor=True)
    if poison is not None:
        row = backbone.tokenizer.convert_tokens_to_ids(poison)
        with torch.no_grad():
            backbone[0].auto_model.embeddings.word_embeddings.weight[row] = torch.nan
    return write_bundle(folder, backbone=backbone, prototypes=prototypes, card=BundleCard(name=name, labels=labels, method="genco", created=VERSION))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def endpoint(
    *sources: Source, token: bytes | None = None, timeout_seconds: float = 30.0, max_waiting: int = 2048, port: int | None = None, **gate
) -> Iterator[SimpleNamespace]:
    """`url`, `metrics` and `models` of an endpoint that answers."""
    port = port or free_port()
    metrics = Metrics()
    models = Models(sources, tracking_uri=None, threads=1, poll_seconds=1, max_waiting=max_waiting, max_seconds=timeout_seconds, metrics=metrics)
    app = make_app(models, metrics, timeout_seconds=timeout_seconds, ready=lambda: models.healthy)
    listener = Listener(Gate(app, metrics=metrics, token=token, **gate), "127.0.0.1", port)
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, metrics=metrics, models=models, listener=listener)
    finally:
        listener.stop()
        models.close()
