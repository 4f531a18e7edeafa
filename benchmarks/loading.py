"""What reading a corpus costs at scale: `python benchmarks/loading.py [--documents 10000,100000,1000000] [--limit N] [--out FILE.csv]`.

Writes synthetic documents of about 300 characters with labels as Parquet (a hundred thousand rows a file), and loads them in a new process, in which the
figures are taken. Memory is that of the process, less what it had before it loaded: `peak_mb` and `after_mb` are resident (true labels included), of which
`own_peak_mb` and `own_after_mb` are in no file (`RssAnon`, looked at a hundred times a second); `file_mb` is in files that are mapped, resident or not. `tuples_mb`
is what the same ids and texts take as tuples of Python's strings. `--limit` sets data.unlabeled_documents. Another version of the library is measured by its path in
PYTHONPATH, with a name for it in `--code`, and `--one-file` where it reads no folders.

Rates depend on what else the machine does, processor time (of the thread that reads) less so; the load average is in the result.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from lines import tell
from repeated import repeated

CLASSES = ("business", "sport", "technology", "politics")
WORDS = ("the", "coach", "said", "that", "his", "team", "would", "not", "give", "up", "before", "last", "goal", "of", "a", "long", "season", "was")
FILE_ROWS = 100_000
BATCH = 10_000


def table(start: int, stop: int) -> pa.Table:
    """Synthetic documents by number."""
    draw = random.Random(start)
    texts = [f"{' '.join(draw.choices(WORDS, k=58))} {number}" for number in range(start, stop)]
    return pa.table({"text": texts, "label": [CLASSES[number % len(CLASSES)] for number in range(start, stop)]})


def write(folder: Path, documents: int, file_rows: int) -> None:
    """The documents as Parquet files of `file_rows` rows."""
    for first in range(0, documents, file_rows):
        last = min(first + file_rows, documents)
        with pq.ParquetWriter(folder / f"part-{first // file_rows:05d}.parquet", table(0, 1).schema) as writer:
            for start in range(first, last, BATCH):
                writer.write_table(table(start, min(start + BATCH, last)))


def memory(field: str) -> float:
    """A figure of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def own_memory(peaks: list[float]) -> AbstractContextManager[None]:
    """The highest memory that is in no file, in MB, in a `with` block."""

    def look() -> None:
        peaks[0] = max(peaks[0], memory("RssAnon"))

    return repeated(look, 0.01)


def mapped_files() -> float:
    """Files without a name that this process maps, in MB."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    places = [line.split()[0].split("-") for line in maps if line.endswith("(deleted)") and tempfile.gettempdir() in line]
    return sum(int(end, 16) - int(start, 16) for start, end in places) / 2**20


def measure(source: str, limit: int | None) -> dict[str, float]:
    """Load `source` in this process."""
    from selftrain.config import DataConfig
    from selftrain.data.loading import load_corpus

    with tempfile.TemporaryDirectory(prefix="loading-") as folder:  # what is imported on the way is no cost of the documents
        pq.write_table(table(0, 1000), f"{folder}/few.parquet")
        load_corpus(DataConfig(source=f"{folder}/few.parquet", label_column="label", classes=CLASSES, test_documents=100))
    config = DataConfig(source=source, label_column="label", classes=CLASSES, unlabeled_documents=limit, test_documents=100)
    before, own = memory("VmRSS"), memory("RssAnon")
    peaks = [own]
    started, processor = time.perf_counter(), time.thread_time()
    with own_memory(peaks):
        corpus, truth = load_corpus(config)
    seconds, processor = time.perf_counter() - started, time.thread_time() - processor
    peak = memory("VmHWM") - before
    gc.collect()
    pa.default_memory_pool().release_unused()
    after, own_after = memory("VmRSS") - before, memory("RssAnon") - own
    parts = (corpus.unlabeled, corpus.test)
    size = sum(sys.getsizeof(one) + 8 for part in parts for column in (part.ids, part.contents) for one in column)
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_mb": peak,
        "after_mb": after,
        "own_peak_mb": peaks[0] - own,
        "own_after_mb": own_after,
        "file_mb": mapped_files(),
        "tuples_mb": size / 2**20,
        "kept": sum(map(len, parts)),
        "labels": len(truth.unlabeled),
    }


def main() -> None:
    """Load corpora of several sizes, each in a process of its own, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="10000,100000,1000000")
    parser.add_argument("--limit", type=int, help="data.unlabeled_documents")
    parser.add_argument("--code", default="now", help="name of the version that is measured, for the result")
    parser.add_argument("--one-file", action="store_true", help="write one file, for versions that read no folders")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(measure(options.load, options.limit)))
        return
    for documents in map(int, options.documents.split(",")):
        with tempfile.TemporaryDirectory(prefix="loading-") as folder:
            write(Path(folder), documents, documents if options.one_file else FILE_ROWS)
            source = f"{folder}/part-00000.parquet" if options.one_file else folder
            command = [sys.executable, __file__, "--load", source, *(["--limit", str(options.limit)] if options.limit else [])]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        line = {
            "code": options.code,
            "documents": documents,
            "limit": options.limit or "",
            "kept": found["kept"],
            "seconds": round(found["seconds"], 2),
            "microseconds_a_document": round(found["seconds"] / documents * 1e6, 1),
            "processor_microseconds_a_document": round(found["processor_seconds"] / documents * 1e6, 1),
            **{name: round(found[name], 1) for name in ("peak_mb", "after_mb", "own_peak_mb", "own_after_mb", "file_mb", "tuples_mb")},
            "load": round(os.getloadavg()[0], 1),
        }
        tell(line, options.out)


if __name__ == "__main__":
    main()
