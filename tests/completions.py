"""A small HTTP server that speaks completions and chat completions as a language model's server does, so that a test can have it fail in any way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

WRITTEN = "The coach and the team of the league said so. And then it st"  # cut off by the limit of tokens
USED = "The coach and the team of the league said so."  # what the filter leaves of it


def choices(body: dict[str, Any], texts: list[str], finish: str = "length") -> dict[str, Any]:
    """An answer to `body` of these texts."""
    named = [{"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text} for text in texts]
    return {"object": "answer", "choices": [{"index": index, "finish_reason": finish, **one} for index, one in enumerate(named)]}


def write(body: dict[str, Any]) -> Any:
    """What a good server does: `n` continuations."""
    return choices(body, [WRITTEN] * body["n"])


@contextmanager
def completions(reply: Callable[[dict[str, Any]], Any] = write, models: tuple[str, ...] = ("writer",)) -> Iterator[SimpleNamespace]:
    """`url`, `asked` (route, headers and body of every request that came), `models` and `reply`.

    What `reply` makes of a body is sent as JSON; bytes as they are; a number as a status without a body; a tuple as (status, headers, one of these).
    """
    server_of = SimpleNamespace(asked=[], reply=reply, models=models)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server_of.asked.append((self.path, dict(self.headers), None))
            self._send({"data": [{"id": name} for name in server_of.models]} if self.path == "/v1/models" else 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server_of.asked.append((self.path, dict(self.headers), body))
            self._send(server_of.reply(body))

        def _send(self, answer: Any) -> None:
            status, headers, content = answer if isinstance(answer, tuple) else (200, {}, answer)
            if isinstance(content, int):
                status, content = content, b""
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            try:
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the one who asked has left

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    server_of.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield server_of
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
