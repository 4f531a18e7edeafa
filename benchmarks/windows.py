"""How windows of a document are pooled, and what they cost: `python benchmarks/windows.py [--data bbc_news] [--out FOLDER]`.

windows_pooling.csv    ways of making one answer from all windows of a document, compared without a label: a document's even windows answer, its odd ones answer, and
                       `agreement` is how often both give the same class, over the unlabeled documents of at least four windows. `accuracy` is that of all windows
                       on the test documents; nothing was chosen by it. The encoder is untrained, and documents are compared with the label prompts.
windows_time.csv       milliseconds a text of classifiers that read one window of 64 tokens, and of others that read more; they take turns, round by round, in one
                       process of one thread, PyTorch, on the first test documents. `ratio` is that of the medians to the first line's, tokenizing included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from lines import add

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.config import DataConfig, ModelConfig
from selftrain.data.corpus import Corpus, Documents
from selftrain.data.loading import load_corpus
from selftrain.models.head import HeadEncoder
from selftrain.models.open import open_encoder
from selftrain.models.windows import splitter_of

WHOLE = 64  # windows of 64 tokens: more than any document here has
SCALE = 10.0  # 1 / tau, GenCo's default
READ = ((64, 1), (64, 2), (56, 3), (64, 3), (64, 4), (32, 6), (192, 1), (256, 1), (64, WHOLE))  # (max_tokens, windows)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def first_counts_double(cosines: np.ndarray) -> int:
    """The class by the mean of similarities, in which the first window has twice the weight of another."""
    return int((cosines.sum(axis=0) + cosines[0]).argmax())


def vote(cosines: np.ndarray) -> int:
    """The class of most windows; where several have as many, the one with the highest mean similarity among them."""
    votes = np.bincount(cosines.argmax(axis=1), minlength=cosines.shape[1])
    return int(np.where(votes == votes.max(), cosines.mean(axis=0), -np.inf).argmax())


POOLINGS: dict[str, Callable[[np.ndarray], int]] = {  # cosines [windows, classes] -> class
    "first window alone": lambda cosines: int(cosines[0].argmax()),
    "mean of similarities": lambda cosines: int(cosines.mean(axis=0).argmax()),
    "first window counts double": first_counts_double,
    "mean of probabilities": lambda cosines: int(softmax(SCALE * cosines).mean(axis=0).argmax()),
    "vote": vote,
    "most confident window": lambda cosines: int(cosines[softmax(SCALE * cosines).max(axis=1).argmax()].argmax()),
    "highest similarity": lambda cosines: int(cosines.max(axis=0).argmax()),
}


def cosines_of(encoder: HeadEncoder, documents: Documents, prototypes: torch.Tensor) -> list[np.ndarray]:
    """Cosines of all windows of each document with the classes, `[windows, classes]` each."""
    split = splitter_of(encoder.trunk, encoder.max_tokens, WHOLE)(list(documents.contents))
    rows = (encoder.encode([window for one in split for window in one.windows]) @ prototypes.T).numpy()
    return np.split(rows, np.cumsum([len(one.windows) for one in split])[:-1])


def compare_poolings(encoder: HeadEncoder, corpus: Corpus, labels: list[int], prototypes: torch.Tensor, out: Path, about: dict[str, str]) -> None:
    """Write windows_pooling.csv."""
    unlabeled, test = (cosines_of(encoder, documents, prototypes) for documents in (corpus.unlabeled, corpus.test))
    long = [one for one in unlabeled if len(one) >= 4]
    for name, pooled in POOLINGS.items():
        agreement = float(np.mean([pooled(one[::2]) == pooled(one[1::2]) for one in long]))
        accuracy = float(np.mean([pooled(one) == label for one, label in zip(test, labels, strict=True)]))
        line = {"pooling": name, "agreement": round(agreement, 4), "unlabeled": len(long), "accuracy": round(accuracy, 4), "test": len(test)}
        add(out / "windows_pooling.csv", line | about)
        print(line)


def compare_times(encoder: HeadEncoder, corpus: Corpus, prototypes: torch.Tensor, out: Path, about: dict[str, str], rounds: int) -> None:
    """Write windows_time.csv."""
    texts = list(corpus.test.contents[:32])
    opened = {}
    for tokens, windows in READ:
        card = BundleCard(name="n", labels=corpus.class_names, method="genco", scale=SCALE, max_tokens=tokens, windows=windows)
        opened[tokens, windows] = Classifier(encoder.trunk, prototypes, card)
    seconds: dict[tuple[tuple[int, int], int], list[float]] = {}
    for turn in range(rounds + 1):
        for read, classifier in opened.items():
            for at_once in (1, 32):
                some = texts[:8] if at_once == 1 else texts
                start = time.perf_counter()
                for place in range(0, len(some), at_once):
                    classifier.predict_proba(some[place : place + at_once])
                if turn:  # the first round warms up
                    seconds.setdefault((read, at_once), []).append((time.perf_counter() - start) / len(some))
    for read, classifier in opened.items():
        found = classifier.tokenize(corpus.test.contents)
        line: dict[str, object] = {"max_tokens": read[0], "windows": read[1]}
        line["tokens_read"] = round(sum(len(ids) for one in found for ids in one.windows) / len(found), 1)
        line["truncated"] = sum(one.truncated for one in found)
        for at_once, name in ((1, "one"), (32, "many")):
            median, first = statistics.median(seconds[read, at_once]), statistics.median(seconds[READ[0], at_once])
            line |= {f"{name}_ms": round(1000 * median, 2), f"{name}_ratio": round(median / first, 2)}
        add(out / "windows_time.csv", line | {"test": len(found), "rounds": rounds} | about)
        print(line)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="bbc_news")
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    parser.add_argument("--unlabeled", type=int, default=500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("pooling", "time"))
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus, truth = load_corpus(DataConfig(source=options.data, unlabeled_documents=options.unlabeled, test_documents=options.test))
    encoder = open_encoder(ModelConfig(encoder=options.encoder, train="head"), corpus)  # which keeps embeddings
    assert isinstance(encoder, HeadEncoder)
    prototypes = torch.stack([encoder.encode(group).mean(dim=0) for group in corpus.label_prompts()])
    command = f"python benchmarks/windows.py --data {options.data} --unlabeled {options.unlabeled} --test {options.test}"
    about = {"data": options.data, "date": date.today().isoformat(), "command": command}
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only != "time":
        labels = [dict(truth.test)[id_] for id_ in corpus.test.ids]
        compare_poolings(encoder, corpus, labels, prototypes, options.out, about)
    if options.only != "pooling":
        compare_times(encoder, corpus, prototypes, options.out, about, options.rounds)


if __name__ == "__main__":
    main()
