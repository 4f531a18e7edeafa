"""What a pass over many files costs beside `predict_file`: `python benchmarks/prediction.py [--rows 10000,100000,1000000] [--encoder static] [--out FILE.csv]`.

Writes synthetic documents of 30 words into Parquet files of 50,000 rows, and a bundle with random weights: a static encoder of 256 dimensions (the fastest kind
that there is, so that all else shows), or a transformer of one tiny layer. Each measurement is one process on an idle machine:

file     every file after the other by `predict_file`, one thread
pass     `selftrain predict` on a local Ray, `--at-once` processes of one thread

Seconds are those of the whole command, imports and the start of Ray included, and those of rows alone (the pass: from its first to its last part, as its bar
counts). Memory is resident: the peak of the process that was started, the peak of the largest process under it that classifies, and the peak of all together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from lines import add

FILE_ROWS = 50_000
WORDS = [f"{start}{middle}{end}" for start in "bdfglmnprst" for middle in ("a", "e", "i", "o", "u") for end in ("", "n", "r", "st", "ll", "ck")]


def write_documents(folder: Path, rows: int) -> None:
    """Parquet files of `FILE_ROWS` rows with an id and a text."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    for start in range(0, rows, FILE_ROWS):
        numbers = range(start, min(start + FILE_ROWS, rows))
        texts = [" ".join(draw.choices(WORDS, k=30)) for _ in numbers]
        pq.write_table(pa.table({"id": list(numbers), "text": texts}), folder / f"{start:09d}.parquet", row_group_size=10_000)


def write_model(folder: Path, encoder: str) -> None:
    """A bundle of four classes."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from selftrain.bundle.format import BundleCard, write_bundle

    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    dimensions = 256 if encoder == "static" else 32
    if encoder == "static":
        modules: list[Any] = [StaticEmbedding(tokenizer, embedding_dim=dimensions)]
    else:
        parts = folder.parent / "encoder"
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(parts)
        sizes = {"hidden_size": dimensions, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128}
        BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(parts)
        modules = [Transformer(str(parts), max_seq_length=64), Pooling(dimensions, "mean")]
    prototypes = torch.nn.functional.normalize(torch.randn(4, dimensions), dim=-1)
    card = BundleCard(name="benchmark", labels=("a", "b", "c", "d"), method="genco", scale=5.0)
    write_bundle(folder, backbone=SentenceTransformer(modules=modules, device="cpu"), prototypes=prototypes, card=card)


def one_process(bundle: Path, docs: Path, out: Path) -> None:
    """`predict_file` for every file."""
    from selftrain.bundle.classifier import Classifier
    from selftrain.bundle.predict import predict_file

    classifier = Classifier.load(bundle, device="cpu", threads=1)
    started = time.perf_counter()
    for file in sorted(docs.iterdir()):
        predict_file(classifier, file, out / file.name, "text")
    print(json.dumps({"seconds_of_rows": time.perf_counter() - started}))


class Memory(threading.Thread):
    """Peaks of resident memory, in MiB, looked at five times a second: of a process, of the largest below it that classifies, of all together."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(process)
        self.driver = self.worker = self.all = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        """Look until `over`."""
        while not self.over.wait(0.2):
            with suppress(psutil.Error):
                total = own = self.root.memory_info().rss
                for child in self.root.children(recursive=True):
                    with suppress(psutil.Error):
                        size = child.memory_info().rss
                        total += size
                        if "MapWorker" in " ".join(child.cmdline()):
                            self.worker = max(self.worker, size / 2**20)
                self.driver, self.all = max(self.driver, own / 2**20), max(self.all, total / 2**20)


def measure(way: str, folder: Path, at_once: int) -> dict[str, Any]:
    """One command in a process of its own."""
    out = folder / way
    bundle, docs = folder / "bundle", folder / "docs"
    if way == "file":
        out.mkdir()
        command = [sys.executable, __file__, "--one-process", str(bundle), str(docs), str(out)]
    else:
        words = ["predict", "--bundle", str(bundle), "--file", str(docs), "--out", str(out), "--at-once", str(at_once), "--gpus", "0"]
        command = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    memory = Memory(process.pid)
    memory.start()
    said = process.communicate()[0]
    seconds = time.perf_counter() - started
    memory.over.set()
    assert process.returncode == 0
    rows = seconds_of_parts(out, at_once) if way == "pass" else json.loads(said)["seconds_of_rows"]
    figures = {"seconds": seconds, "seconds_of_rows": rows, "driver_mb": memory.driver, "worker_mb": memory.worker, "all_mb": memory.all}
    shutil.rmtree(out)
    return {name: round(value, 1) for name, value in figures.items()}


def seconds_of_parts(out: Path, at_once: int) -> float:
    """How long the parts took, from when they were written: the first ones of each process had begun as long before as the later ones took."""
    times = sorted(path.stat().st_mtime for path in out.glob("part-*"))
    between = (times[-1] - times[0]) / max(1, len(times) - 1)
    return times[-1] - times[0] + between


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--ways", default="file,pass")
    parser.add_argument("--encoder", choices=("static", "transformer"), default="static")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--one-process", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_process:
        one_process(*options.one_process)
        return
    for rows in map(int, options.rows.split(",")):
        folder = Path(tempfile.mkdtemp(prefix="prediction-"))
        try:
            write_documents(folder / "docs", rows)
            write_model(folder / "bundle", options.encoder)
            for way in options.ways.split(","):
                at_once = options.at_once if way == "pass" else 1
                figures = measure(way, folder, at_once)
                line = {"way": way, "encoder": options.encoder, "rows": rows, "processes": at_once, **figures}
                line |= {
                    "rows_a_second": round(rows / figures["seconds_of_rows"]) if figures["seconds_of_rows"] else "",
                    "load": round(os.getloadavg()[0], 1),
                }
                line |= {"date": time.strftime("%Y-%m-%d"), "command": f"python benchmarks/prediction.py --rows {rows} --encoder {options.encoder}"}
                print(line, flush=True)
                if options.out:
                    add(options.out, line)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
