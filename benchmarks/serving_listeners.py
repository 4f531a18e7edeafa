"""Who should listen: `python benchmarks/serving_listeners.py replica|proxy|haproxy [--bundle FOLDER]`.

Serves a bundle (default: the one-layer model of the tests, with which the model is not the limit) by the replica itself, behind Serve's Python proxy, or behind its
HAProxy, asks for one text at a time over 1, 16 and 32 connections that are kept open, and prints requests a second, latencies, statuses and who listens where.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

BODY = json.dumps({"text": "the team won the match of the league"}).encode()
REQUEST = b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


async def ask(port: int, end: float, found: list[tuple[float, str]]) -> None:
    """Ask again and again over one connection; `found` gets seconds and status of each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        start = time.perf_counter()
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        else:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        found.append((time.perf_counter() - start, head.split()[1].decode()))
    writer.close()


async def load(port: int, clients: int, seconds: float) -> dict[str, object]:
    """The figures of `clients` connections."""
    found: list[tuple[float, str]] = []
    await asyncio.gather(*(ask(port, time.monotonic() + seconds, found) for _ in range(clients)))
    times = 1000 * np.array([one for one, _ in found])
    return {
        "clients": clients,
        "requests_a_second": round(len(found) / seconds),
        "p50_ms": round(float(np.quantile(times, 0.5)), 1),
        "p99_ms": round(float(np.quantile(times, 0.99)), 1),
        "answers": Counter(status for _, status in found),
    }


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listener", choices=("replica", "proxy", "haproxy"))
    parser.add_argument("--bundle")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    if options.listener == "haproxy":  # read when Ray Serve is imported
        os.environ |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    import ray
    from ray import serve
    from selftrain_serve.app import build

    with tempfile.TemporaryDirectory(prefix="st-") as scratch:
        bundle = options.bundle
        if bundle is None:
            sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
            from endpoint import make_bundle

            bundle = str(make_bundle(Path(scratch) / "bundle"))
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, num_cpus=4)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        args: dict[str, object] = {"models": [{"bundle": bundle}], "port": options.port, "no_token": True}
        if options.listener == "replica":
            args["host"] = "127.0.0.1"
            serve.start(proxy_location="Disabled", logging_config=quiet)
        else:
            address = {"port": options.port} | ({"host": "127.0.0.1"} if options.listener == "proxy" else {})
            serve.start(http_options=address, logging_config=quiet)
        try:
            serve.run(build(args), name="selftrain", route_prefix="/", logging_config=quiet)
            end = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{options.port}/readyz", timeout=5).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)
            asyncio.run(load(options.port, 4, 2))  # the first ones are the slowest
            for clients in (1, 16, 32):
                print(json.dumps(asyncio.run(load(options.port, clients, options.seconds))), flush=True)
            ours = {one.pid for one in psutil.Process().children(recursive=True)}
            for one in psutil.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.pid in ours and one.laddr.port in (options.port, 8404, 9101):
                    print(f"{psutil.Process(one.pid).name()} listens on {one.laddr.ip}:{one.laddr.port}")
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
