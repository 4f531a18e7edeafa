"""`selftrain label`: the page that asks about the documents of a folder, served from this process without Ray or a model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.retraining import Retraining
from selftrain.runtime.ports import require_free_port
from selftrain.runtime.signals import interruptible
from selftrain.serving.arguments import token_for
from selftrain.serving.gate import Gate
from selftrain.serving.headers import Hosts
from selftrain.serving.labelling import LABEL, labelling_app
from selftrain.serving.listener import Listener
from selftrain.serving.metrics import Metrics


def checked_token(host: str, port: int, token_file: str | None, *, no_token: bool) -> bytes | None:
    """The token that requests must carry, after a look at the address, before anything is made for it.

    Args:
        host: address to listen on; beyond this machine a token is required.
        port: port to listen on.
        token_file: file with the bearer token; default: the environment variable SELFTRAIN_SERVE_TOKEN, if set.
        no_token: listen beyond this machine without a token.

    Raises:
        ConfigError: the token is missing or cannot be read, or there is no such port.
        ResourceError: the port is taken.
    """
    token = token_for(host, token_file, no_token=no_token)
    require_free_port(host, port)
    return token


def serve_desk(desk: Desk, *, host: str, port: int, token: bytes | None, allowed_hosts: Sequence[str] = ()) -> Path:
    """Ask until Ctrl-C or SIGTERM, then write the answers as a file, whose path is returned.

    Args:
        desk: hands out the questions.
        host: address to listen on.
        port: port to listen on.
        token: that requests must carry; None for none.
        allowed_hosts: further names that the header host may have; see `Hosts.of`.

    Raises:
        OutputError: the file of answers cannot be written.
    """
    retraining = Retraining(desk.folder, Path.cwd())
    gate = Gate(labelling_app(desk, retraining), metrics=Metrics(), token=token, hosts=Hosts.of(host, allowed_hosts, token=token is not None))
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    with suppress(KeyboardInterrupt), interruptible():
        listener = Listener(gate, host, port)
        try:
            print(f"{desk.folder.purpose}: {len(desk.folder.questions)} questions at http://{shown}:{port}{LABEL} (Ctrl-C stops it)", flush=True)
            threading.Event().wait()
        finally:
            listener.stop()
            retraining.stop()
    return desk.folder.write(desk.answers())
