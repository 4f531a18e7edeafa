"""What the benchmarks of the endpoint share: a server in a process of its own, and clients that cost little, because they share its cores."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

SELFTRAIN = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())"]


def request(texts: Sequence[str]) -> bytes:
    """A whole HTTP request to classify `texts`."""
    return http("/v1/classify", {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)})


def http(path: str, content: Any) -> bytes:
    """A whole HTTP request with `content` as JSON, made before the clock runs: the client shares the server's cores."""
    body = json.dumps(content).encode()
    return b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


class Connection:
    """One HTTP connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, sent: bytes) -> str:
        """Send a request; the status of its answer."""
        self.writer.write(sent)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            await self.reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        else:  # in chunks
            while size := int(await self.reader.readline(), 16):
                await self.reader.readexactly(size + 2)
            await self.reader.readline()
        return head.split()[1].decode()


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Each client asks as soon as it is answered: throughput at saturation."""
    supply, found, begun = itertools.cycle(requests), Found(), time.monotonic()

    async def client() -> None:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        while time.monotonic() < begun + seconds:
            start = time.perf_counter()
            found.add(start, await connection.ask(next(supply)))
        connection.writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    # By the time of the last answer: requests that take seconds would else be counted in full, though part of their work comes after the end.
    return found.figures(time.monotonic() - begun)


async def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at random moments, `rate` a second, whether or not the last ones are answered; seconds count from the moment that each was due."""
    supply, found, free = itertools.cycle(requests), Found(), asyncio.LifoQueue[Connection]()
    chance = np.random.default_rng(0)

    async def one(due: float) -> None:
        connection = free.get_nowait() if not free.empty() else Connection(*await asyncio.open_connection("127.0.0.1", port))
        found.add(due, await connection.ask(next(supply)))
        free.put_nowait(connection)

    begun, due = [], time.perf_counter()
    end = due + seconds
    while (due := due + float(chance.exponential(1 / rate))) < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        begun.append(asyncio.create_task(one(due)))
    await asyncio.gather(*begun)
    return found.figures(seconds)


class Found:
    """Latencies and statuses."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()

    def add(self, start: float, status: str) -> None:
        """An answer has come."""
        self.seconds.append(time.perf_counter() - start)
        self.statuses[status] += 1

    def figures(self, seconds: float) -> dict[str, Any]:
        """Requests a second and quantiles in milliseconds; an answer that is none ends the benchmark."""
        if set(self.statuses) != {"200"}:
            raise SystemExit(f"not every request was answered: {dict(self.statuses)}")
        quantiles = {f"p{100 * q:g}_ms": round(1000 * float(np.quantile(self.seconds, q)), 1) for q in (0.5, 0.95, 0.99)}
        return {"requests_a_second": round(len(self.seconds) / seconds, 2), **quantiles}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(port: int, alive: Callable[[], bool] = lambda: True, seconds: float = 180.0, path: str = "/readyz") -> None:
    """Return as soon as a server answers at `path` that it is ready.

    Raises:
        TimeoutError: it did not come up, or is not `alive` any more.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        except OSError:
            if not alive() or time.monotonic() > end:
                raise TimeoutError(f"nothing answers on port {port}") from None
            time.sleep(0.2)


@contextmanager
def server(command: Sequence[str], port: int, ready: str = "/readyz") -> Iterator[psutil.Process]:
    """A server in a process of its own, from its first answer at `ready` on."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            try:
                wait_until_ready(port, lambda: process.poll() is None, path=ready)
            except TimeoutError:
                log.seek(0)
                raise SystemExit(f"the server did not start:\n{log.read().decode(errors='replace')[-2000:]}") from None
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
