"""What does `selftrain serve --seen` cost an answer? `python benchmarks/seen.py BUNDLE [--data bbc_news] [--requests 320]`.

Three endpoints in this process, without Ray, get requests of one text each, one at a time, 20 of the one and 20 of the next in turn:

plain   without --seen
seen    with --seen, as it is by default: a text is noted, and a file is written every five minutes, after this is over
all     with a file every .3 s, of all texts that were answered, so that the second reading goes on beside the first all the time: the worst that can be

It prints median, 95th percentile and mean of the milliseconds, and the microseconds that noting a text takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.serving.metrics import Metrics
from selftrain.serving.models import ModelSource
from selftrain.serving.seen import Seen, SeenSettings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

TURN = 20


def asked(url: str, text: str) -> float:
    """Milliseconds of one answer."""
    request = urllib.request.Request(f"{url}/v1/classify", json.dumps({"text": text}).encode(), {"content-type": "application/json"})
    start = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - start)


def noted(folder: str, text: str, count: int = 2000) -> float:
    """Microseconds that noting a text takes."""
    seen = Seen(SeenSettings(folder=folder), Metrics())
    model = SimpleNamespace(name="a", version="1", fingerprint="a", backend="torch", card=SimpleNamespace(labels=("a", "b")), classifier=seen)
    start = time.perf_counter()
    for _ in range(count):
        seen.offer(model, [text])  # type: ignore[arg-type]
    return 1e6 * (time.perf_counter() - start) / count


def main() -> None:
    """Ask in turns."""
    from endpoint import endpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", default="bbc_news", help="whose unlabeled documents are asked about")
    parser.add_argument("--requests", type=int, default=320, help="of each endpoint")
    options = parser.parse_args()
    texts = load_corpus(load(None, [], {"data": {"source": options.data}}).data)[0].unlabeled.contents
    source = ModelSource(bundle=options.bundle)
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        with ExitStack() as stack:
            urls = {"plain": stack.enter_context(endpoint(source)).url}
            urls["seen"] = stack.enter_context(endpoint(source, seen=SeenSettings(folder=folder))).url
            with patch("endpoint.Seen", partial(Seen, interval=0.3)):
                urls["all"] = stack.enter_context(endpoint(source, seen=SeenSettings(folder=folder, rows_per_day=100_000_000))).url
            found: dict[str, list[float]] = {name: [] for name in urls}
            for turn in range(-1, options.requests // TURN):  # the first turn is not counted
                for name, url in urls.items():
                    took = [asked(url, texts[(max(turn, 0) * TURN + place) % len(texts)]) for place in range(TURN)]
                    found[name] += took if turn >= 0 else []
        for name, took in found.items():
            figures = {"median": np.median(took), "p95": np.percentile(took, 95), "mean": np.mean(took)}
            print(json.dumps({"endpoint": name, "requests": len(took)} | {key: round(float(value), 2) for key, value in figures.items()}))
        print(json.dumps({"noting a text, us": round(noted(folder, texts[0]), 2)}))


if __name__ == "__main__":
    main()
