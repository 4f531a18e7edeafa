"""The endpoint against its limit and against a plain server: `python benchmarks/serving.py BUNDLE FILE [--column text] [--seconds 10] [--threads 1]`.

In one run, on the texts of a Parquet, CSV or JSONL file:
  limit     `Classifier.predict_proba` in a loop, at the best batch size: what the backend gives where nothing is in between
  endpoint  `selftrain serve`: lists of 64 texts over 4 connections; one text a request over 32; single texts at 50 requests/s and at half of its capacity
  plain     FastAPI and sentence-transformers, as one writes it in ten lines: one text a request over 32 connections
  vllm      vLLM's own server with the encoder, if the bundle holds a transformer, same load: a maintained server of embeddings, which does not classify
Prints JSON. Goals: lists at 0.8 of the limit; single texts 3 times the plain server; p99 below 50 ms at 50 requests/s and below 100 ms at half load.
The load is made on the same cores. `serving_listeners.py` compares the ways to listen.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from endpoint_load import SELFTRAIN, closed_loop, free_port, http, open_loop, request, server

CLIENTS, LISTS, LIST_TEXTS, RATE = 32, 4, 64, 50.0


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


def embedding_server(bundle: str, folder: str, port: int) -> list[str]:
    """The command that serves the bundle's encoder by vLLM, in the precision of the others and with its defaults in all that is not about a small CPU.

    vLLM takes every safetensors file for weights of the encoder, so it gets a copy in `folder` without the others.
    """
    shutil.copytree(bundle, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("prototypes.safetensors", "reference.safetensors", "onnx"))
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "encoder", "--runner", "pooling"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**28)),
    ]


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

    config = Path(options.bundle) / "config.json"
    if config.exists() and json.loads(config.read_text()).get("architectures"):
        os.environ |= {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": threads,
        }
        longest = json.loads((Path(options.bundle) / "selftrain.json").read_text())["max_tokens"]
        embed = [http("/v1/embeddings", {"model": "encoder", "input": one, "truncate_prompt_tokens": longest}) for one in texts]
        port = free_port()
        with (
            tempfile.TemporaryDirectory() as folder,
            server(embedding_server(options.bundle, folder, port), port, ready="/health") as process,
        ):
            asyncio.run(closed_loop(port, embed, 4, 2))
            found["vllm"] = asyncio.run(closed_loop(port, embed, CLIENTS, seconds)) | {"memory_mb": memory_mb(process)}

    found["ratios"] = {
        "lists_to_limit": round(ours["lists"]["texts_a_second"] / found["limit"]["texts_a_second"], 2),
        **{
            f"single_to_{other}": round(ours["single"]["requests_a_second"] / found[other]["requests_a_second"], 2)
            for other in ("plain", "vllm")
            if other in found
        },
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
