"""What the pseudo-labels of a large corpus cost: `python benchmarks/pseudo_labeling.py [--documents 10000,100000,1000000] [--out FILE.csv]`.

Synthetic documents of about 300 characters are written to Parquet, read as a corpus, and ranked for one round of GenCo by actors of a local Ray (`ClusterRanking`):
embed, score, keep the most confident of each class, merge. **The encoder is a stub**: it counts letters, so that what is measured is everything but the encoder, and
none of these rates is that of a training. `--here` ranks in one process instead, without Ray.

Each number of documents is a process of its own. Memory is sampled twice a second over that process and all that it starts: resident memory for the driver, and
for each of the others the memory that is its own (`Private_*` of smaps_rollup), since Ray's workers share the documents. Rates depend on what else the machine
does; the load average is in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lines import tell
from repeated import repeated

from selftrain.config import DataConfig, Experiment, TrainingConfig
from selftrain.data.loading import load_corpus
from selftrain.data.texts import no_texts
from selftrain.methods.zero_shot.genco import GenCoScorer
from selftrain.methods.zero_shot.selection import Ranking, blocks
from selftrain.models.encoder import Encoder
from selftrain.passes.pseudo_labeling import ClusterRanking
from selftrain.runtime.cluster import Needs, session

WORDS = (
    *("goal", "match", "team", "coach", "league", "bank", "market", "profit", "shares", "price", "party", "vote"),
    *("minister", "law", "film", "music", "star", "album", "phone", "software", "network", "data"),
)
CLASSES = ["sport", "business", "politics", "entertainment", "tech"]
SHARE = 0.1  # of the documents that a round keeps (GenCo starts with less)
ACTORS = 2


class LetterCounts(Encoder):
    """The stub: how often each letter is in a text, as a vector of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(26))

    @property
    def dimensions(self) -> int:
        """Letters."""
        return 26

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def encode(self, documents: Sequence[Any]) -> torch.Tensor:
        """`[documents, 26]`."""
        letters = [np.frombuffer(text.encode("ascii", "ignore"), np.uint8) for text in documents]
        counts = np.stack([np.bincount(row & 31, minlength=32)[1:27] for row in letters]).astype(np.float32)
        found: torch.Tensor = torch.nn.functional.normalize(torch.from_numpy(counts) * self.weight.detach(), dim=-1)
        return found


def write(file: Path, documents: int) -> None:
    """Synthetic documents, in row groups of ten thousand."""
    draw = random.Random(0)
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, documents, 10_000):
            texts = [f"{' '.join(draw.choices(WORDS, k=45))} {number}" for number in range(start, min(start + 10_000, documents))]
            writer.write_table(pa.table({"text": texts}, schema=schema))


def private_mb(process: psutil.Process) -> float:
    """Memory that no other process has, in MB."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) / 1024


def sampled(peaks: dict[str, float]) -> AbstractContextManager[None]:
    """The highest memory of this process and of each kind of process that it starts, in a `with` block."""
    me = psutil.Process()

    def look() -> None:
        for process in [me, *me.children(recursive=True)]:
            try:
                name = "driver" if process == me else process.name() if process.name() == "raylet" else " ".join(process.cmdline()[:1])[:40]
                used = process.memory_info().rss / 2**20 if process == me else private_mb(process)
            except (psutil.Error, OSError):
                continue
            peaks[name] = max(peaks[name], used)

    return repeated(look, 0.5)


def measure(file: Path, here: bool) -> dict[str, Any]:
    """One corpus in this process."""
    peaks: dict[str, float] = defaultdict(float)
    torch.set_num_threads(1)
    with sampled(peaks):
        started = time.perf_counter()
        corpus, _ = load_corpus(DataConfig(source=str(file), classes=CLASSES, test_documents=0))
        loaded = time.perf_counter()
        documents = corpus.unlabeled
        encoder, size = LetterCounts(), max(1, round(SHARE * len(documents) / len(CLASSES)))
        scorer = GenCoScorer(encoder.encode(CLASSES), 1.0, 0.1)
        if here:
            begun = time.perf_counter()
            every = (block for block in blocks(range(len(documents))))
            ranking = Ranking.merged(
                (Ranking.of(*scorer(encoder.encode([documents.contents[i] for i in block])), size, block) for block in every), size
            )
            ranked = time.perf_counter()
        else:
            with session(Experiment(), Needs(1.0 + ACTORS, 0, 2.0)):
                begun = time.perf_counter()
                training = TrainingConfig(threads=1, gpu=False, pseudo_labeling="cluster")
                ranking = ClusterRanking(corpus, LetterCounts, no_texts, training)(encoder, scorer, size, 0)
                ranked = time.perf_counter()
    assert ranking.seen == len(documents)
    others = {name: peak for name, peak in peaks.items() if name != "driver"}
    return {
        "read_seconds": loaded - started,
        "rank_seconds": ranked - begun,
        "kept": len(ranking.documents),
        "checksum": int(ranking.documents.sum()),
        "driver_peak_mb": peaks["driver"],
        "largest_other_mb": max(others.values(), default=0.0),
        "largest_other": max(others, key=others.__getitem__, default=""),
    }


def main() -> None:
    """Each number of documents in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="10000,100000,1000000")
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        print(json.dumps(measure(options.file, options.here)))
        return
    for documents in map(int, options.documents.split(",")):
        with tempfile.TemporaryDirectory(prefix="pseudo-labeling-") as folder:
            file = Path(folder) / "documents.parquet"
            write(file, documents)
            command = [sys.executable, __file__, "--file", str(file), *(["--here"] if options.here else [])]
            figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        line = {
            "way": "one process" if options.here else f"Ray, up to {ACTORS} actors",
            "documents": documents,
            **{name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()},
            "read_us_a_document": round(1e6 * figures["read_seconds"] / documents, 1),
            "rank_us_a_document": round(1e6 * figures["rank_seconds"] / documents, 1),
            "load": round(os.getloadavg()[0], 1),
        }
        tell(line, options.out)


if __name__ == "__main__":
    main()
