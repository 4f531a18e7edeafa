"""What a document costs, by how many there are: `python benchmarks/flat.py [--passes 10000:100,100000:10,1000000:1] [--out FILE.csv]`.

The work of benchmarks/million.py by one warm process without Ray, so that nothing that starts hides it:

    read       Parquet files -> a corpus (`load_corpus`)
    rank       embed, score, keep the most confident documents of each class, block by block, and merge: a round of GenCo (`Ranking`)
    predict    the same files -> Parquet files with labels (`predict_file`)

**The encoders are stubs**, as there. The numbers of documents are taken in turn, small ones more often, after a pass of a thousand that is not counted. Figures are
processor time of this process, which depends less than seconds do on what else the machine does. A line is a pass; at the end comes the mean of each number, with
its standard error.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lines import tell
from prediction import write_documents, write_model
from pseudo_labeling import CLASSES, SHARE, LetterCounts

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.predict import predict_file
from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus
from selftrain.methods.zero_shot.genco import GenCoScorer
from selftrain.methods.zero_shot.selection import Ranking, blocks, embedded

STAGES = ("read", "rank", "predict")


def one_pass(folder: Path, documents: int, classifier: Classifier) -> dict[str, float]:
    """Microseconds of processor time a document, by stage."""
    figures: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        before = time.process_time()
        yield
        figures[name] = 1e6 * (time.process_time() - before) / documents

    with stage("read"):
        corpus, _ = load_corpus(DataConfig(source=str(folder / "docs"), classes=CLASSES, test_documents=0))
    contents, encoder, size = corpus.unlabeled.contents, LetterCounts(), max(1, round(SHARE * documents / len(CLASSES)))
    with stage("rank"):
        scorer = GenCoScorer(encoder.encode(CLASSES), 1.0, 0.1)
        rankings = (Ranking.of(*scorer(embedded(encoder, list(contents[one.start : one.stop]), None)), size, one) for one in blocks(range(documents)))
        ranking = Ranking.merged(rankings, size)
    with stage("predict"):
        for file in sorted((folder / "docs").iterdir()):
            predict_file(classifier, file, folder / "labeled" / file.name, "text")
    assert ranking.seen == documents
    shutil.rmtree(folder / "labeled")
    return figures | {"all": sum(figures.values())}


def main() -> None:
    """The passes in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", default="10000:100,100000:10,1000000:1", help="documents, and how many passes of them")
    parser.add_argument("--out", type=Path, help="CSV that a line a pass is added to")
    options = parser.parse_args()
    wanted = {int(number): int(count) for number, count in (one.split(":") for one in options.passes.split(","))}
    torch.set_num_threads(1)
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="flat-") as place:
        write_model(Path(place) / "bundle", "static")
        classifier = Classifier.load(Path(place) / "bundle", device="cpu", threads=1)
        for documents in (1000, *wanted):
            write_documents(Path(place) / str(documents) / "docs", documents)
        one_pass(Path(place) / "1000", 1000, classifier)
        for turn in range(max(wanted.values())):
            for documents in (number for number, count in wanted.items() if turn < count):
                found[documents].append(one_pass(Path(place) / str(documents), documents, classifier))
                figures = {f"{stage}_processor_us": round(value, 2) for stage, value in found[documents][-1].items()}
                tell({"documents": documents, "turn": turn, **figures, "load": round(os.getloadavg()[0], 1)}, options.out)
    for documents, passes in found.items():
        errors = {
            stage: statistics.stdev(one[stage] for one in passes) / len(passes) ** 0.5 if len(passes) > 1 else float("nan") for stage in passes[0]
        }
        words = [f"{stage} {statistics.mean(one[stage] for one in passes):.1f} +- {error:.1f}" for stage, error in errors.items()]
        print(f"{documents:,} documents, {len(passes)} passes, us of processor time a document: {', '.join(words)}")


if __name__ == "__main__":
    main()
