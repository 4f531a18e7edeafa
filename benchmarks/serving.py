"""The endpoint against its limit and against a plain server: `python benchmarks/serving.py BUNDLE FILE [--column text] [--seconds 10] [--threads 1]`.

In one run, on the texts of a Parquet, CSV or JSONL file:
  limit     `Classifier.predict_proba` in a loop, at the best batch size: what the backend gives where nothing is in between
  endpoint  `selftrain serve`: lists of 64 texts over 4 connections; one text a request over 32; single texts at 50 requests/s and at half of its capacity
  plain     FastAPI and sentence-transformers, as one writes it in ten lines: one text a request over 32 connections
Prints JSON. Goals: lists at 0.8 of the limit; single texts 3 times the plain server; p99 below 50 ms at 50 requests/s and below 100 ms at half load.
The load is made on the same cores. `serving_listeners.py` compares the ways to listen.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

CLIENTS, LISTS, LIST_TEXTS, RATE = 32, 4, 64, 50.0
SELFTRAIN = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())"]


def request(texts: Sequence[str]) -> bytes:
    """A whole HTTP request, made before the clock runs: the client shares the server's cores."""
    body = json.dumps({"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}).encode()
    return b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Connection:
    """One HTTP connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, sent: bytes) -> str:
        """Send a request; the status of its answer."""
        self.writer.write(sent)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        await self.reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        return head.split()[1].decode()


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Each client asks as soon as it is answered: throughput at saturation."""
    supply, found, end = itertools.cycle(requests), Found(), time.monotonic() + seconds

    async def client() -> None:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        while time.monotonic() < end:
            start = time.perf_counter()
            found.add(start, await connection.ask(next(supply)))
        connection.writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found.figures(seconds)


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
        return {"requests_a_second": round(len(self.seconds) / seconds, 1), **quantiles}


def limit(bundle: str, texts: Sequence[str], seconds: float, threads: int) -> dict[str, Any]:
    """Texts a second of the backend alone, by the best of some batch sizes."""
    from selftrain import Classifier

    found: dict[int, float] = {}
    backend = ""
    for size in (16, 64, 256):
        classifier = Classifier.load(bundle, threads=threads, batch_size=size)
        backend = classifier.backend
        groups = itertools.cycle([texts[at : at + 256] for at in range(0, len(texts) - 255, 256)])
        classifier.predict_proba(next(groups))
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 3:
            done += len(classifier.predict_proba(next(groups)))
        found[size] = done / (time.perf_counter() - start)
    best = max(found, key=found.__getitem__)
    return {"backend": backend, "batch_size": best, "texts_a_second": round(found[best], 1)}


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[psutil.Process]:
    """A server in a process of its own, from its first answer on."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        raise SystemExit(f"the server did not start:\n{log.read().decode(errors='replace')[-2000:]}") from None
                    time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def memory_mb(process: psutil.Process) -> int:
    """Private resident memory of a server and all its processes."""
    infos = [one.memory_info() for one in (process, *process.children(recursive=True))]
    return sum(info.rss - info.shared for info in infos) >> 20


def plain(bundle: str, port: int, threads: int) -> None:
    """The server that one writes in ten lines."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    card = json.loads((Path(bundle) / "selftrain.json").read_text())
    model, prototypes = SentenceTransformer(bundle, device="cpu"), load_file(str(Path(bundle) / "prototypes.safetensors"))["prototypes"]
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ok"

    @app.post("/v1/classify")
    def classify(body: dict[str, str]) -> dict[str, float]:
        scores = model.encode([body["text"]], convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False) @ prototypes.T
        return dict(zip(card["labels"], torch.softmax(card["scale"] * scores[0], 0).tolist(), strict=True))

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure all of them, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("file", nargs="?")
    parser.add_argument("--column", default="text")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain-port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain_port:
        plain(options.bundle, options.plain_port, options.threads)
        return
    if options.file is None:
        parser.error("a FILE with texts is needed")
    import pandas

    readers = {".parquet": pandas.read_parquet, ".csv": pandas.read_csv, ".jsonl": lambda file: pandas.read_json(file, lines=True)}
    texts = readers[Path(options.file).suffix](options.file)[options.column].dropna().astype(str).tolist()[:4096]
    if len(texts) < 256:
        parser.error(f"{options.file} has {len(texts)} texts; at least 256 are needed")
    single = [request([one]) for one in texts]
    lists = [request(texts[at : at + LIST_TEXTS]) for at in range(0, len(texts) - LIST_TEXTS + 1, LIST_TEXTS)]
    seconds, threads = options.seconds, str(options.threads)
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "threads": options.threads, "mean_characters": round(np.mean([*map(len, texts)]))}
    found["limit"] = limit(options.bundle, texts, seconds, options.threads)

    port = free_port()
    with server([*SELFTRAIN, "serve", "--bundle", options.bundle, "--port", str(port), "--threads", threads], port) as process:
        asyncio.run(closed_loop(port, single, 4, 2))
        ours: dict[str, Any] = {"lists": asyncio.run(closed_loop(port, lists, LISTS, seconds))}
        ours["lists"]["texts_a_second"] = round(LIST_TEXTS * ours["lists"]["requests_a_second"], 1)
        ours["single"] = asyncio.run(closed_loop(port, single, CLIENTS, seconds))
        ours["at_50_a_second"] = asyncio.run(open_loop(port, single, RATE, seconds))
        ours["at_half_load"] = asyncio.run(open_loop(port, single, ours["single"]["requests_a_second"] / 2, seconds))
        ours["memory_mb"] = memory_mb(process)
    found["endpoint"] = ours

    port = free_port()
    with server([sys.executable, __file__, options.bundle, "--plain-port", str(port), "--threads", threads], port) as process:
        asyncio.run(closed_loop(port, single, 4, 2))
        found["plain"] = asyncio.run(closed_loop(port, single, CLIENTS, seconds)) | {"memory_mb": memory_mb(process)}

    found["ratios"] = {
        "lists_to_limit": round(ours["lists"]["texts_a_second"] / found["limit"]["texts_a_second"], 2),
        "single_to_plain": round(ours["single"]["requests_a_second"] / found["plain"]["requests_a_second"], 2),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
