"""What parts of a training step cost, and what they did: `python benchmarks/steps.py [--only order] [--repeats 5] [--out FILE.csv]`.

order       the batches of an epoch over 3.6 million documents: one permutation an epoch (`methods.orders.LatestOrder`) against one a step, as up to 0.1.0
tokens      features of batches of 16 documents of BBC News for MiniLM: kept (`models.tokens.KeptTokens`) against tokenised in every step
rows        frozen embeddings of 32 of 300 documents of BBC News: `models.head.EmbeddingCache` against a hash of each text, twice a step
parameters  a net of a head called with other weights: without and with PyTorch's search for weights that are used twice
fused       AdamW on MiniLM's weights: one weight after the other, PyTorch's way on a CPU, against one pass over all (`fused`), which is not in use
reduction   gradients of MiniLM's 101 weights averaged in two processes on this machine: one message against one a weight; seconds of the clock
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from paired import Compared, arguments, compare, tell
from torch.func import functional_call

from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus
from selftrain.methods.bilevel import Net, called, parameters_of
from selftrain.methods.orders import LatestOrder
from selftrain.models.head import EmbeddingCache, HeadEncoder, _key
from selftrain.models.locate import encoder_folder
from selftrain.models.tokens import KeptTokens
from selftrain.models.workers import Workers

Work = Callable[[], object]


def documents(count: int) -> list[str]:
    """Documents of BBC News."""
    corpus, _ = load_corpus(DataConfig(source="bbc_news", unlabeled_documents=count, test_documents=100))
    return list(corpus.unlabeled.contents)


def batches(texts: Sequence[str], size: int, steps: int) -> list[list[str]]:
    """Random ones."""
    rng = np.random.default_rng(0)
    return [[texts[int(place)] for place in rng.choice(len(texts), size=size, replace=False)] for _ in range(steps)]


def order(repeats: int) -> Compared:
    """See the module's docstring."""
    count, size, steps = 3_600_000, 16, 5

    def drawn() -> np.ndarray:
        return np.random.default_rng([0, 0]).permutation(count)

    def kept() -> None:
        latest = LatestOrder()
        for step in range(steps):
            latest(0, drawn)[step * size : (step + 1) * size]

    def every_step() -> None:
        for step in range(steps):
            drawn()[step * size : (step + 1) * size]

    return compare("order", "steps a second", steps, lambda _: kept, lambda _: every_step, repeats)


def tokens(repeats: int) -> Compared:
    """See the module's docstring."""
    from sentence_transformers import SentenceTransformer

    backbone = SentenceTransformer(str(encoder_folder("all-MiniLM-L6-v2")), device="cpu")
    backbone.max_seq_length = 64
    asked, kept = batches(documents(300), 16, 100), KeptTokens()

    def ours() -> None:
        for batch in asked:
            kept.features(backbone, batch, 64)

    def every_step() -> None:
        for batch in asked:
            backbone.preprocess(batch)

    return compare("tokens", "batches a second", len(asked), lambda _: ours, lambda _: every_step, repeats)


def rows(repeats: int) -> Compared:
    """See the module's docstring."""
    texts, cache = documents(300), EmbeddingCache(None)
    cache.add(texts, np.random.default_rng(0).random((len(texts), 384), dtype=np.float32))
    asked = batches(texts, 32, 500)

    def ours() -> None:
        for batch in asked:
            np.stack([row for text in batch if (row := cache.get(text)) is not None])

    def hashed() -> None:
        for batch in asked:
            if not any(cache._rows.get(_key(text)) is None for text in batch):
                np.stack([cache._rows[_key(text)] for text in batch])

    return compare("rows", "batches a second", len(asked), lambda _: ours, lambda _: hashed, repeats)


def parameters(repeats: int) -> Compared:
    """See the module's docstring."""
    from sentence_transformers import SentenceTransformer

    encoder = HeadEncoder(SentenceTransformer(str(encoder_folder("all-MiniLM-L6-v2")), device="cpu"))
    net = Net(encoder, torch.nn.Linear(encoder.dimensions, 5))
    at, inputs = parameters_of(net), torch.randn(32, encoder.dimensions)

    def ours() -> None:
        for _ in range(500):
            called(net, at, inputs)

    def searched() -> None:
        for _ in range(500):
            functional_call(net, at, (inputs,))

    return compare("parameters", "calls a second", 500, lambda _: ours, lambda _: searched, repeats)


def fused(repeats: int) -> Compared:
    """See the module's docstring."""
    from transformers import AutoModel

    weights = list(AutoModel.from_pretrained(encoder_folder("all-MiniLM-L6-v2")).parameters())
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    sides = [torch.optim.AdamW(weights, lr=5e-5, weight_decay=0.01, fused=one) for one in (False, True)]
    return compare("fused", "steps a second", 1, lambda _: lambda: sides[0].step(), lambda _: lambda: sides[1].step(), 4 * repeats)


def _reduce(rank: int, file: str, sizes: list[tuple[int, ...]], repeats: int, found: multiprocessing.Queue[object]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    for weight in weights:
        weight.grad = torch.ones_like(weight)

    def one_each() -> None:
        for weight in weights:
            assert weight.grad is not None
            dist.all_reduce(weight.grad)
            weight.grad /= 2

    with patch.object(time, "process_time", time.perf_counter):  # most of it is waiting for the other process
        compared = compare(
            "reduction", "reductions a second", 1, lambda _: lambda: Workers(rank, 2).average_gradients(weights), lambda _: one_each, repeats
        )
    if rank == 0:
        found.put(compared)
    dist.destroy_process_group()


def reduction(repeats: int) -> Compared:
    """See the module's docstring."""
    from transformers import AutoModel

    sizes = [
        tuple(weight.shape)
        for name, weight in AutoModel.from_pretrained(encoder_folder("all-MiniLM-L6-v2")).named_parameters()
        if "pooler" not in name
    ]
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_reduce, args=(rank, f"{folder}/group", sizes, 2 * repeats, found)) for rank in range(2)]
        for process in processes:
            process.start()
        result: Compared = found.get(timeout=600)
        for process in processes:
            process.join()
    return result


QUESTIONS: dict[str, Callable[[int], Compared]] = {
    "order": order,
    "tokens": tokens,
    "rows": rows,
    "parameters": parameters,
    "fused": fused,
    "reduction": reduction,
}


def main() -> None:
    """Measure, and print a line each."""
    options = arguments(__doc__, list(QUESTIONS), 5)
    torch.set_num_threads(1)
    for name in options.only:
        tell(QUESTIONS[name](options.repeats), "steps.py", options)


if __name__ == "__main__":
    sys.exit(main())
