"""Bundles, and the endpoint without Ray: the same routes, gate and models behind the same server, in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.bundle.reference import Reference
from selftrain.serving.gate import Gate
from selftrain.serving.headers import Hosts
from selftrain.serving.labelling import label_routes
from selftrain.serving.language_model import Augmentation, LanguageModel
from selftrain.serving.listener import ConnectionLimits, Listener
from selftrain.serving.metrics import Metrics
from selftrain.serving.models import Models, ModelSource
from selftrain.serving.routes import make_app
from selftrain.serving.seen import Seen, SeenSettings

LABELS = ("sport", "tech", "politics")
VERSION = "2024-05-06T07:08:09+00:00"


def make_bundle(
    folder: Path,
    *,
    seed: int = 0,
    name: str = "news",
    labels: tuple[str, ...] = LABELS,
    poison: str | None = None,
    augment: dict[str, Any] | None = None,
    known: Sequence[str] = (),
    **card: Any,
) -> Path:
    """A bundle that reads 64 tokens; a text with the word `poison` gets numbers that are none. `augment` is what its experiment says of the language model, and
    `known` are the documents that it keeps."""
    backbone = tiny_backbone(folder.parent / f"{folder.name}-backbone", seed=seed)
    prototypes = backbone.encode([f"about {label}" for label in labels], convert_to_tensor=True)
    if poison is not None:
        row = backbone.tokenizer.convert_tokens_to_ids(poison)
        with torch.no_grad():
            backbone[0].auto_model.embeddings.word_embeddings.weight[row] = 1e38  # finite, as a bundle has to be; its square is not
    experiment = {} if augment is None else {"augment": augment}
    facts = BundleCard(name=name, labels=labels, method="genco", created=VERSION, experiment=experiment, **card)
    reference = None
    if known:
        probabilities, embeddings = Classifier(backbone, prototypes, facts).embed(known)
        reference = Reference(probabilities, embeddings)
        facts = facts.model_copy(update={"reference": reference.facts(probabilities, held_out=False)})
    return write_bundle(folder, backbone=backbone, prototypes=prototypes, card=facts, reference=reference)


def known_texts(count: int = 240) -> list[str]:
    """Documents of three kinds, which are near each other."""
    kinds = ("the team and its coach won the match", "the computer and its software on the phone", "the minister and the party lost the vote")
    return [" ".join([kinds[n % 3], *["the"] * (n % 4), *["and"] * (n % 5), *["of"] * (n % 3), *["to"] * (n % 2)]) for n in range(count)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def endpoint(
    *sources: ModelSource,
    token: bytes | None = None,
    timeout_seconds: float = 30.0,
    max_waiting: int = 2048,
    port: int | None = None,
    augmentation: Augmentation | None = None,
    key: str | None = None,
    limits: ConnectionLimits | None = None,
    labelling: Path | None = None,
    seen: SeenSettings | None = None,
    **gate,
) -> Iterator[SimpleNamespace]:
    """`url`, `metrics` and `models` of an endpoint that answers."""
    port = port or free_port()
    metrics = Metrics()
    with patch("selftrain.serving.models.settle"):  # half a second in a process with the objects of all tests
        models = Models(sources, tracking_uri=None, threads=1, poll_seconds=1, max_waiting=max_waiting, max_seconds=timeout_seconds, metrics=metrics)
    keeper = None if seen is None else Seen(seen, metrics)
    language_model = None if augmentation is None else LanguageModel(augmentation, metrics, key)
    app = make_app(
        models,
        metrics,
        timeout_seconds=timeout_seconds,
        ready=lambda: models.healthy,
        language_model=language_model,
        add_label_routes=label_routes(None if labelling is None else str(labelling)),
        seen=keeper,
    )
    gate.setdefault("hosts", Hosts.of("127.0.0.1", token=token is not None))
    listener = Listener(Gate(app, metrics=metrics, token=token, **gate), "127.0.0.1", port, limits)
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, metrics=metrics, models=models, listener=listener)
    finally:
        listener.stop()
        if keeper is not None:
            keeper.close()
        models.close()
