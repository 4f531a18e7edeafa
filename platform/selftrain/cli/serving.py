"""Commands that serve: serve, ui."""

from __future__ import annotations

import argparse
from typing import Any

from selftrain.cli.common import add_command, add_listening, add_tracking_uri


def add_commands(commands: Any) -> None:
    """Add this file's commands."""
    serve = add_command(
        commands,
        "serve",
        _serve,
        "serve registered models and bundles: a page, and POST /v1/classify",
        examples=("selftrain serve --model mail", "selftrain serve --bundle bundle --host 0.0.0.0 --token-file token.txt"),
        sets={
            "model": "models",
            "allowed_host": "allowed_hosts",
            "timeout": "timeout_seconds",
            "max_waiting": "max_waiting_texts",
            "labelling": "folder",
        },
    )
    serve.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[@VERSION]",
        help="name in the registry: its champion is served and followed, or one version",
    )
    serve.add_argument("--bundle", action="append", default=[], metavar="FOLDER", help="a bundle folder, without a registry")
    add_tracking_uri(serve)
    add_listening(serve, "requests carry", ", e.g. of a proxy in front (default: localhost, --host; beyond with a token, any)")
    serve.add_argument("--replicas", type=int, default=1, metavar="N", help="processes that share the port (default: 1)")
    serve.add_argument("--threads", type=int, metavar="N", help="torch threads of a replica (default: all cores but one, divided among the replicas)")
    serve.add_argument(
        "--gpus",
        default="auto",
        metavar="N",
        help="GPUs of a replica, such as 0.5; 0: the CPU (default: auto, what there is, divided among the replicas)",
    )
    serve.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="after which a request gets 504 (default: 30)")
    serve.add_argument(
        "--max-waiting", type=int, default=2048, metavar="TEXTS", help="texts that may wait for a model; beyond it requests get 503 (default: 2048)"
    )
    serve.add_argument(
        "--language-model",
        metavar="URL",
        help="of an OpenAI-compatible server (vllm serve), e.g. http://127.0.0.1:8001/v1: requests may say augment, and texts are read with its continuations",
    )
    serve.add_argument("--language-model-name", metavar="NAME", help="of the model there (default: the only one that the server lists)")
    serve.add_argument(
        "--language-model-key-file", metavar="FILE", help="API key of that server; default: the variable SELFTRAIN_LANGUAGE_MODEL_KEY, if set"
    )

    serve.add_argument("--seen", metavar="FOLDER", help="keep a sample of what was answered, embeddings and probabilities, for selftrain watch")
    serve.add_argument("--seen-texts", action="store_true", help="with --seen: keep the texts of the sample too")
    serve.add_argument("--labelling", metavar="FOLDER", help="of questions (selftrain audit): the page at /label asks them")

    ui = add_command(commands, "ui", _ui, "open MLflow on the runs", examples=("selftrain ui --port 5001",), sets={"tracking_uri": "uri"})
    ui.add_argument("--port", type=int, default=5000, help="port of the page (default: 5000)")
    add_tracking_uri(ui)


def _serve(options: argparse.Namespace) -> int:
    from selftrain_serve.app import run

    from selftrain.serving.sources import ModelSource

    sources = [*map(ModelSource.registered, options.model), *(ModelSource(bundle=folder) for folder in options.bundle)]
    run(
        sources or [ModelSource(model="bbc_news")],
        tracking_uri=options.tracking_uri,
        host=options.host,
        port=options.port,
        replicas=options.replicas,
        threads=options.threads,
        gpus=options.gpus,
        token_file=options.token_file,
        no_token=options.no_token,
        allowed_hosts=options.allowed_host,
        timeout_seconds=options.timeout,
        max_waiting_texts=options.max_waiting,
        language_model=options.language_model,
        language_model_name=options.language_model_name,
        language_model_key_file=options.language_model_key_file,
        labelling=options.labelling,
        seen=options.seen,
        seen_texts=options.seen_texts,
    )
    return 0


def _ui(options: argparse.Namespace) -> int:
    from selftrain.tracking.ui import show_runs

    show_runs(options.tracking_uri, options.port)
    return 0
