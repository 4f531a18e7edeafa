"""Lists of texts through the endpoint, and by its backend alone: `python benchmarks/serving_lists.py [--repeats 15] [--out FILE.csv]`.

`lists`        texts a second of processor time: of the one replica of `selftrain serve`, and of `Classifier.predict_proba` in a loop, by the best batch size
`lists_clock`  the same turns by the clock; the load is made on the same cores

Requests hold 64 texts and come over 4 connections that are kept open. The model has the form of a static student of all-MiniLM-L6-v2 (its vocabulary, 256
dimensions, the classes of BBC News), and vectors that were drawn at random: what it answers does not matter, but that both sides answer alike. Texts are articles of
BBC News, of which the first 240 characters are kept (the mean of AG News). A turn has 10,240 of them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from endpoint_load import SELFTRAIN, Connection, free_port, request, server
from paired import Compared, arguments, tell
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from selftrain import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus
from selftrain.models.locate import encoder_folder
from selftrain.runtime.memory import settle

CHARACTERS, LISTS, LIST_TEXTS, REQUESTS, DIMENSIONS = 240, 4, 64, 160, 256


async def ask(port: int, requests: Sequence[bytes]) -> None:
    """Send all of them over a few connections, each as soon as the last one of its connection is answered."""
    supply = iter(requests)

    async def client() -> None:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        for sent in supply:
            if (status := await connection.ask(sent)) != "200":
                raise SystemExit(f"a request was not answered: {status}")
        connection.writer.close()

    await asyncio.gather(*(client() for _ in range(LISTS)))


def listener_of(process: psutil.Process, port: int) -> psutil.Process:
    """The replica: the one process below `process` that listens on `port`."""
    ours = {one.pid for one in process.children(recursive=True)}
    found = {one.pid for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid in ours}
    (pid,) = found
    return psutil.Process(pid)


def processor_seconds(process: psutil.Process) -> float:
    """Of all its threads so far, in nanoseconds' precision: what psutil says has hundredths of a second."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat")) / 1e9


def static_bundle(folder: Path, labels: Sequence[str]) -> Path:
    """A bundle of a static student's form."""
    torch.manual_seed(0)
    tokenizer = SentenceTransformer(str(encoder_folder("all-MiniLM-L6-v2")), device="cpu").tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    vectors = torch.randn(tokenizer.get_vocab_size(), DIMENSIONS)
    backbone = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")
    card = BundleCard(name="static", labels=tuple(labels), method="random", similarity="dot")
    return write_bundle(folder, backbone=backbone, prototypes=torch.randn(len(labels), DIMENSIONS), card=card)


def best_of(bundle: Path, texts: Sequence[str]) -> Classifier:
    """The classifier with the batch size at which it is fastest."""
    taken = {}
    for size in (16, 64, 256):
        classifier = Classifier.load(bundle, threads=1, batch_size=size)
        in_a_loop(classifier, texts)
        start = time.process_time()
        in_a_loop(classifier, texts)
        taken[size] = time.process_time() - start
    return Classifier.load(bundle, threads=1, batch_size=min(taken, key=taken.__getitem__))


def in_a_loop(classifier: Classifier, texts: Sequence[str]) -> None:
    """Classify all texts, 256 a call."""
    for start in range(0, len(texts), 256):
        classifier.predict_proba(texts[start : start + 256])


def check_labels(port: int, classifier: Classifier, texts: Sequence[str]) -> None:
    """End the program unless both sides answer alike."""
    import urllib.request

    body = json.dumps({"texts": list(texts)}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/classify", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        found = [one["label"] for one in json.load(answer)["results"]]
    if found != classifier.predict(texts).tolist():
        raise SystemExit("the two sides do not answer alike")


def main() -> None:
    """Measure, and print a line each."""
    options = arguments(__doc__, ["lists", "lists_clock"], 15)
    corpus, _ = load_corpus(DataConfig(source="bbc_news", unlabeled_documents=2000, test_documents=100))
    texts = [text[:CHARACTERS] for text in corpus.unlabeled.contents][: 64 * (len(corpus.unlabeled) // 64)]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = static_bundle(Path(scratch) / "static", corpus.class_names)
        classifier = best_of(bundle, texts)
        requests = [request(texts[at : at + LIST_TEXTS]) for at in range(0, len(texts), LIST_TEXTS)]
        sent = list(itertools.islice(itertools.cycle(requests), REQUESTS))
        looped = list(itertools.islice(itertools.cycle(texts), REQUESTS * LIST_TEXTS))
        settle()  # as a replica does when its models are loaded
        port = free_port()
        taken: dict[str, tuple[list[float], list[float]]] = {"lists": ([], []), "lists_clock": ([], [])}
        with server([*SELFTRAIN, "serve", "--bundle", str(bundle), "--port", str(port), "--threads", "1"], port) as process:
            replica = listener_of(process, port)
            check_labels(port, classifier, texts[:LIST_TEXTS])
            for pair in range(-1, options.repeats):  # the first does not count
                for ours in (True, False) if pair % 2 else (False, True):
                    used, start = processor_seconds(replica) if ours else time.process_time(), time.perf_counter()
                    asyncio.run(ask(port, sent)) if ours else in_a_loop(classifier, looped)
                    clock, used = time.perf_counter() - start, (processor_seconds(replica) if ours else time.process_time()) - used
                    if pair >= 0:
                        for name, seconds in (("lists", used), ("lists_clock", clock)):
                            taken[name][0 if ours else 1].append(seconds)
        for name in options.only:
            tell(Compared(name, "texts a second", len(looped), *taken[name]), "serving_lists.py", options)


if __name__ == "__main__":
    sys.exit(main())
