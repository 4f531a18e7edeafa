"""Ten bad minutes for the endpoint: `python benchmarks/serving_load.py BUNDLE [--minutes 10]`.

Starts `selftrain serve` on a bundle and asks it all at once for texts of all lengths, alone and in lists, for what is no request at all, and by clients that
send slowly or leave early. Prints as JSON how many answers of each status came, what they took, how often the server died, and its memory after the first
minute and at the end. Goals: no crash, no 500, memory at most 5 % above the first minute's. Exit code 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import httpx
import numpy as np
import psutil
from endpoint_load import SELFTRAIN, free_port

VOCABULARY = "the a of and match goal team market bank profit shares minister election vote phone software network film music actor album"
WORDS = VOCABULARY.split()
BAD = [
    b"",
    b"nonsense",
    b"[]",
    b"{}",
    b'{"texts": []}',
    b'{"text": "a", "typo": 1}',
    b'{"text": "\xff"}',
    b'{"texts": [1, null, {}, [], ""]}',
    b"[" * 100_000,
    b'{"text": "a", "model": "none@such"}',
    b'{"texts": [' + b",".join([b'"a"'] * 300) + b"]}",
    b'{"text": "' + b"x" * 9 * 2**20 + b'"}',
]


class Figures:
    """What came back."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.texts = 0
        self.wrong: list[str] = []


def text(chance: random.Random) -> str:
    """A few words mostly, sometimes thousands."""
    return " ".join(chance.choices(WORDS, k=chance.choice([3, 8, 8, 20, 20, 60, 200, 3000])))


async def good(client: httpx.AsyncClient, figures: Figures, chance: random.Random) -> None:
    """A request that has to be answered in full, or refused because too much waits."""
    texts = [text(chance) for _ in range(chance.choice([1, 1, 1, 4, 16, 64]))]
    start = time.perf_counter()
    answer = await client.post("/v1/classify", json={"texts": texts})
    figures.statuses[str(answer.status_code)] += 1
    if answer.status_code == 200:
        figures.seconds.append(time.perf_counter() - start)
        figures.texts += len(texts)
        if [one.get("label") is not None for one in answer.json()["results"]] != [True] * len(texts):
            figures.wrong.append(answer.text[:200])


async def bad(client: httpx.AsyncClient, figures: Figures, chance: random.Random) -> None:
    """What is no request."""
    answer = await client.post("/v1/classify", content=chance.choice(BAD), headers={"content-type": "application/json"})
    figures.statuses[str(answer.status_code)] += 1
    await asyncio.sleep(0.05)  # else most of what the server does is to refuse


async def slow(host: str, port: int, figures: Figures, chance: random.Random) -> None:
    """A client that sends byte by byte, and leaves before the end in one case of two."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        body = json.dumps({"text": text(chance)[:40]}).encode()
        head = f"POST /v1/classify HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        stop = chance.choice([len(body), len(body) // 2])
        for part in (head.encode(), *(bytes([one]) for one in body[:stop])):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)
        if stop == len(body):
            figures.statuses[(await reader.readline()).split()[1].decode()] += 1
        else:
            figures.statuses["left"] += 1
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def load(url: str, end: float, figures: Figures, clients: int) -> None:
    """All clients until `end`, by time.monotonic()."""
    host, port = url.removeprefix("http://").split(":")

    async def keep(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=90) as client:
            while time.monotonic() < end:
                try:
                    if number % 8 == 7:
                        await slow(host, int(port), figures, chance)
                    elif number % 8 == 6:
                        await bad(client, figures, chance)
                    else:
                        await good(client, figures, chance)
                except (httpx.TransportError, OSError, IndexError) as error:
                    figures.statuses[type(error).__name__] += 1
                    await asyncio.sleep(0.1)

    await asyncio.gather(*(keep(number) for number in range(clients)))


def replicas(process: psutil.Process) -> list[psutil.Process]:
    """The processes that hold models."""
    return [one for one in process.children(recursive=True) if "ServeReplica" in " ".join([*one.cmdline()[:1], one.name()])]


def main() -> int:
    """Start, load, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="st-") as scratch:
        command = [*SELFTRAIN, "serve", "--bundle", options.bundle, "--port", str(port)]
        process = subprocess.Popen(command, env={**os.environ, "RAY_TMPDIR": scratch}, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            if "Serving" not in process.stdout.readline():
                raise SystemExit("the server did not start")
            found = replicas(psutil.Process(process.pid))
            figures = Figures()
            memory: list[tuple[float, float]] = []
            start = time.monotonic()

            async def measure() -> None:
                task = asyncio.create_task(load(f"http://127.0.0.1:{port}", start + 60 * options.minutes, figures, options.clients))
                while not task.done():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        memory.append((time.monotonic() - start, sum(one.memory_info().rss for one in found) / 2**20))
                    await asyncio.wait([task], timeout=2)
                await task

            asyncio.run(measure())
            died = sum(not one.is_running() for one in found) + (process.poll() is not None)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
    elapsed = memory[-1][0]
    first = float(np.median([used for at, used in memory if 0.8 * min(60, elapsed / 2) <= at <= 1.2 * min(60, elapsed / 2)]))
    last = float(np.median([used for at, used in memory if at >= elapsed - min(60, elapsed / 4)]))
    facts = {
        "minutes": round(elapsed / 60, 2),
        "answers": dict(sorted(figures.statuses.items())),
        "texts_a_second": round(figures.texts / elapsed, 1),
        "seconds": {name: round(float(np.quantile(figures.seconds, q)), 3) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        "died": died,
        "wrong_answers": len(figures.wrong),
        "memory_mib": {
            "each_minute": [
                round(float(np.median([used for at, used in memory if int(at // 60) == minute]))) for minute in range(int(elapsed // 60))
            ],
            "after_first_minute": round(first),
            "at_the_end": round(last),
            "growth_percent": round(100 * (last / first - 1), 1),
        },
    }
    print(json.dumps(facts, indent=2))
    return int(died > 0 or bool(figures.wrong) or figures.statuses["500"] > 0 or last > 1.05 * first)


if __name__ == "__main__":
    sys.exit(main())
