"""What users notice when models change and replicas die: `python benchmarks/serving_failures.py BUNDLE [--swaps 10] [--kills 3] [--replicas 1]`.

Registers the bundle twice in a registry of its own, serves the champion, and asks for it all the time by eight clients (`selftrain.Client`). Meanwhile the alias
moves from version to version, and then replicas are killed (SIGKILL). Prints JSON: requests, those that failed, the longest that one took, and for each swap
and each kill the seconds until the other version answers, or until every client is answered again. Goal: no failed request. Exit code 1 where one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from endpoint_load import SELFTRAIN, free_port, server
from mlflow import MlflowClient

from selftrain import Client
from selftrain.errors import SelfTrainError
from selftrain.runs.register import register

CLIENTS, PATIENCE = 8, 180.0
TEXTS = ["the team won the match", "shares fell after the bank said that profit was lower", "a new phone", "the minister lost the vote"]


class Load:
    """Clients that ask until `stop`."""

    def __init__(self, url: str) -> None:
        self.stop = threading.Event()
        self.answered = [0.0] * CLIENTS  # when each was answered last
        self.version = ""
        self.requests, self.longest = 0, 0.0
        self.failed: list[str] = []
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._ask, args=(url, number), daemon=True) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _ask(self, url: str, number: int) -> None:
        with Client(url, patience_seconds=PATIENCE) as client:
            while not self.stop.is_set():
                start = time.monotonic()
                try:
                    found = client.classify(TEXTS)
                    problem = next((one.error for one in found if one.label is None), None)
                except SelfTrainError as error:
                    problem = str(error)
                now = time.monotonic()
                with self._lock:
                    self.requests += 1
                    self.longest = max(self.longest, now - start)
                    if problem is not None:
                        self.failed.append(problem)
                    else:
                        self.answered[number] = now
                        self.version = found[0].model


def seconds_until(condition: Callable[[], bool]) -> float:
    """How long it takes until `condition` holds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > PATIENCE:
            raise SystemExit("nothing happened for minutes")
        time.sleep(0.02)
    return round(time.monotonic() - start, 2)


def main() -> int:
    """Register, serve, swap, kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    bundle = Path(options.bundle).resolve()
    with tempfile.TemporaryDirectory(prefix="st-") as scratch:
        os.chdir(scratch)  # where MLflow puts what is registered
        uri = f"sqlite:///{scratch}/mlflow.db"
        for _ in range(2):
            register(bundle, "model", promote=True, uri=uri)
        registry, port = MlflowClient(uri, uri), free_port()
        command = [*SELFTRAIN, "serve", "--model", "model", "--tracking-uri", uri, "--port", str(port), "--replicas", str(options.replicas)]
        with server(command, port) as process:
            load = Load(f"http://127.0.0.1:{port}")
            seconds_until(lambda: all(load.answered))
            swaps = []
            for turn in range(options.swaps):
                wanted = str(1 + turn % 2)
                registry.set_registered_model_alias("model", "champion", wanted)
                swaps.append(seconds_until(lambda wanted=wanted: load.version == f"model@{wanted}"))
            kills = []
            for _ in range(options.kills):
                time.sleep(5)
                for one in process.children(recursive=True):
                    if "ServeReplica" in " ".join(one.cmdline()[:1]):
                        one.kill()
                        break
                killed = time.monotonic()
                psutil.wait_procs([one], timeout=10)
                kills.append(seconds_until(lambda killed=killed: min(load.answered) > killed))
            load.stop.set()
            for thread in load.threads:
                thread.join()
        os.chdir("/")
    facts = {
        "requests": load.requests,
        "failed": len(load.failed),
        "reasons": sorted(set(load.failed))[:5],
        "longest_seconds": round(load.longest, 2),
        "seconds_to_swap": swaps,
        "seconds_to_recover": kills,
        "replicas": options.replicas,
    }
    print(json.dumps(facts, indent=1))
    return int(bool(load.failed))


if __name__ == "__main__":
    sys.exit(main())
