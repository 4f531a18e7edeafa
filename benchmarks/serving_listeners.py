"""Who should listen: `python benchmarks/serving_listeners.py replica|proxy|haproxy [--bundle FOLDER]`.

Serves a bundle (default: the one-layer model of the tests, with which the model is not the limit) by the replica itself, behind Serve's Python proxy, or behind its
HAProxy, asks for one text at a time over 1, 16 and 32 connections that are kept open, and prints requests a second, latencies and who listens where.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import psutil
from endpoint_load import closed_loop, request, wait_until_ready


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
            wait_until_ready(options.port, seconds=60)
            asked = [request(["the team won the match of the league"])]
            asyncio.run(closed_loop(options.port, asked, 4, 2))  # the first ones are the slowest
            for clients in (1, 16, 32):
                print(json.dumps({"clients": clients} | asyncio.run(closed_loop(options.port, asked, clients, options.seconds))), flush=True)
            ours = {one.pid for one in psutil.Process().children(recursive=True)}
            for one in psutil.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.pid in ours and one.laddr.port in (options.port, 8404, 9101):
                    print(f"{psutil.Process(one.pid).name()} listens on {one.laddr.ip}:{one.laddr.port}")
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
