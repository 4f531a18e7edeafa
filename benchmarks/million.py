"""A corpus through everything that is done with each document: `python benchmarks/million.py [--documents 10000,100000,1000000] [--out FILE.csv]`.

    read       Parquet files -> a corpus (`load_corpus`)
    rank       embed, score, keep the most confident documents of each class, merge: a round of GenCo by actors of a local Ray (`ClusterRanking`)
    predict    the same files -> Parquet files with labels, by processes of a local Ray (`predict_files`)

**The encoders are stubs**, so that all else shows: one that counts letters ranks, and one of random word vectors predicts (a static encoder, the fastest kind that
there is). The second is in no way what the first ranking would lead to; nothing is trained.

Each number of documents is a process of its own, which is the driver of all three stages. Every second it looks at itself and at all that it has started.
Memory: resident for the driver; for the others what is their own alone (`Private_*` of smaps_rollup), since they share the documents. Processor time is that of
all of them together, and depends less than seconds do on what else the machine does.

A stage starts processes, which costs the same seconds whatever there is to do: each pass has one process, so that it is the same for every number of documents.
What a further document costs is then the difference of two lines over the difference of their documents; benchmarks/flat.py measures it without what starts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from lines import add
from prediction import write_documents, write_model
from pseudo_labeling import CLASSES, SHARE, LetterCounts, private_mb

from selftrain.config import DataConfig, Experiment, TrainingConfig
from selftrain.data.loading import load_corpus
from selftrain.data.texts import no_texts
from selftrain.methods.zero_shot.genco import GenCoScorer
from selftrain.passes.prediction import predict_files
from selftrain.passes.pseudo_labeling import ClusterRanking
from selftrain.runtime.cluster import Needs, session

CORES = len(os.sched_getaffinity(0))  # as many as an actor that ranks is given, so that there is one
STAGES = ("read", "rank", "predict")


class Watch(threading.Thread):
    """Looks at this process and at all that it starts, until `over`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.peaks: dict[str, float] = {}  # kind of process -> MB of the largest
        self._lock = threading.Lock()
        self._seconds: dict[tuple[int, float], float] = {}  # process -> its processor time when it was seen last
        self._me = psutil.Process()

    def run(self) -> None:
        """Look once a second: memory maps take milliseconds to read."""
        while not self.over.wait(1.0):
            self.processor_seconds()

    def processor_seconds(self) -> float:
        """Of all processes that were ever seen, together."""
        with self._lock:
            for process in [self._me, *self._me.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                    memory = process.memory_info().rss / 2**20 if process == self._me else private_mb(process)
                    kind = "driver" if process == self._me else kind_of(process)
                    self._seconds[process.pid, process.create_time()] = times.user + times.system
                except (psutil.Error, OSError):  # gone
                    continue
                self.peaks[kind] = max(self.peaks.get(kind, 0.0), memory)
            return sum(self._seconds.values())


def kind_of(process: psutil.Process) -> str:
    """What a process of Ray is for, in a few words."""
    command = " ".join(process.cmdline())
    for mark, kind in (
        ("_Actor)", "ranking actor"),
        ("Predictor)", "predicting actor"),
        ("raylet/raylet", "raylet"),
        ("gcs_server", "control store"),
    ):
        if mark in command:
            return kind
    if command.startswith("ray::"):
        return command.split("(")[0].split()[0].removeprefix("ray::")
    words = [word for word in command.split() if word.endswith(".py")]
    return Path(words[0]).name if words else process.name()


def measure(folder: Path) -> dict[str, Any]:
    """All stages, in this process."""
    torch.set_num_threads(1)
    watch = Watch()
    watch.start()
    figures: dict[str, Any] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        seconds, processor = time.perf_counter(), watch.processor_seconds()
        yield
        figures[f"{name}_seconds"] = time.perf_counter() - seconds
        figures[f"{name}_processor_seconds"] = watch.processor_seconds() - processor

    with stage("read"):
        corpus, _ = load_corpus(DataConfig(source=str(folder / "docs"), classes=CLASSES, test_documents=0))
    encoder, size = LetterCounts(), max(1, round(SHARE * len(corpus.unlabeled) / len(CLASSES)))
    with session(Experiment(), Needs(float(CORES), 0, 2.0)), stage("rank"):
        training = TrainingConfig(threads=CORES, gpu=False, pseudo_labeling="cluster")
        scorer = GenCoScorer(encoder.encode(CLASSES), 1.0, 0.1)
        ranking = ClusterRanking(corpus, LetterCounts, no_texts, training)(encoder, scorer, size, 0)
    assert ranking.seen == len(corpus.unlabeled)
    with stage("predict"):
        made = predict_files(folder / "bundle", folder / "docs", folder / "labeled", at_once=1, gpus=0)
    assert made.failed == 0
    watch.over.set()
    watch.join()
    kept = {"kept": len(ranking.documents), "checksum": int(ranking.documents.sum()), "predicted": made.rows}
    return {"figures": figures | kept, "peaks": watch.peaks}


def main() -> None:
    """Each number of documents in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="10000,100000,1000000")
    parser.add_argument(
        "--out", type=Path, help="CSV that a line a number of documents is added to; FILE_memory.csv beside it gets one a kind of process"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.folder)))
        return
    before: dict[str, Any] = {}
    for documents in map(int, options.documents.split(",")):
        with tempfile.TemporaryDirectory(prefix="million-") as place:
            folder = Path(place)
            write_documents(folder / "docs", documents)
            write_model(folder / "bundle", "static")
            done = subprocess.run([sys.executable, __file__, "--folder", place], check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        line = {"documents": documents, **found["figures"]}
        for name in ("seconds", "processor_seconds"):
            line[name] = sum(found["figures"][f"{stage}_{name}"] for stage in STAGES)
        for name in ("seconds", "processor_seconds"):
            for key in (*(f"{stage}_{name}" for stage in STAGES), name):
                line[f"us_a_further_document_{key}"] = 1e6 * (line[key] - before[key]) / (documents - before["documents"]) if before else ""
        before = line
        line = {name: round(value, 2) if isinstance(value, float) else value for name, value in line.items()}
        line |= {"driver_mb": round(found["peaks"]["driver"]), "load": round(os.getloadavg()[0], 1), "date": time.strftime("%Y-%m-%d")}
        print(json.dumps(line), json.dumps(found["peaks"]), sep="\n", flush=True)
        if options.out:
            add(options.out, line)
            for kind, peak in sorted(found["peaks"].items(), key=lambda one: -one[1]):
                add(options.out.with_name(f"{options.out.stem}_memory.csv"), {"documents": documents, "process": kind, "peak_mb": round(peak)})


if __name__ == "__main__":
    main()
