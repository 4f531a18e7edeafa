"""Are many classes slow? `python benchmarks/many_classes.py [--classes 6,50,150] [--out FILE.csv]`.

The classes are the most frequent longer words of 1,000 documents of AG News; only the time is looked at. A document's true class is the rarest of these words in it.
Times are seconds of processor time, which other work on the machine does not change by much, the better of two:

    training    equation 5 of GenCo with a head (5 rounds of 20 steps; a batch holds three documents a class), embeddings from the cache
    scoring     probabilities of the documents, embeddings from the cache, and all figures of them
    pictures    those of the report of one row
    file        1,000 rows of text with their probabilities into a CSV file, the classifier's time left out
    answer      1,000 results of the endpoint as JSON, likewise
    step        one step of training the whole encoder on 300 of the documents, on one core, timed once; `batch` documents beside the label prompts
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lines import tell
from pydantic_core import to_json

from selftrain.bundle.predict import predict_file
from selftrain.config import load
from selftrain.data.loading import corpus_of, load_corpus
from selftrain.data.texts import no_texts
from selftrain.data.words import bare_words
from selftrain.evaluation import plots
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.genco import GenCo
from selftrain.runs.rows import row
from selftrain.serving.schemas import CheckedText, TextProbabilities, result
from selftrain.training.fit import fit, probabilities

DOCUMENTS, STEP_DOCUMENTS = 1000, 300
METHOD = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False}


class Known:
    """A classifier whose answers are known."""

    def __init__(self, names: list[str], found: np.ndarray) -> None:
        self.classes_, self.card = np.array(names), SimpleNamespace(levels=0)
        self._rest = iter(found)

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        """The next rows."""
        return np.array([next(self._rest) for _ in texts])


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """(what it gives, processor seconds of the better of two)."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        found = action()
        seconds.append(time.process_time() - start)
    return found, round(min(seconds), 3)


def step(texts: list[str], names: list[str]) -> dict[str, Any]:
    """The time of a step that trains the encoder."""
    data = {"source": "texts", "classes": names, "test_documents": 0}
    asked = load(None, [], {"data": data, "training": {"threads": 1}, "method": METHOD})
    torch.set_num_threads(1)
    method = resolve(asked).untrained(corpus_of(texts[:STEP_DOCUMENTS], asked.data), seed=0)
    assert isinstance(method, GenCo)
    method.refresh(0, no_texts)
    start = time.process_time()
    method.step(0, 0)
    return {"step": round(time.process_time() - start, 2), "batch": method.options.per_class * sum(bool(group) for group in method.selection.groups)}


def line(texts: list[str], words: list[frozenset[str]], count: int) -> dict[str, Any]:
    """The times of `count` classes."""
    frequent = Counter(word for own in words for word in own if len(word) > 4)
    names = [word for word, _ in frequent.most_common(count)]
    place = {name: index for index, name in enumerate(names)}
    labels = np.array([max((place[word] for word in own if word in place), default=0) for own in words])
    data = {"source": "texts", "classes": names, "test_documents": 0}
    asked = load(None, [], {"data": data, "model": {"train": "head"}, "training": {"threads": 1}, "method": METHOD})
    corpus = corpus_of(texts, asked.data)
    order = {text: index for index, text in enumerate(texts)}
    labels = labels[[order[text] for text in corpus.unlabeled.contents]]
    fitted, training = timed(lambda: fit(resolve(asked), corpus, seed=0))
    found = probabilities(fitted.student, corpus.unlabeled)
    scored, scoring = timed(lambda: row("genco", 0, asked.data, probabilities(fitted.student, corpus.unlabeled), labels, names))
    metrics: Any = {"asked": {"classes": names}, "rows": [scored], "summary": [], "rounds": []}
    _, pictures = timed(lambda: plots.from_metrics(metrics))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "x.csv", Path(folder) / "y.csv"
        source.write_text("text\n" + "\n".join('"' + text.replace('"', '""') + '"' for text in texts), encoding="utf-8")
        _, file = timed(lambda: predict_file(Known(names, found), source, out, "text"))  # type: ignore[arg-type]
    item, answers = CheckedText("a", None), [TextProbabilities(own.tolist()) for own in found]
    _, answer = timed(lambda: to_json([result(item, one, names) for one in answers]))
    times = {
        "classes": count,
        "documents": len(found),
        "training": training,
        "scoring": scoring,
        "pictures": pictures,
        "file": file,
        "answer": answer,
    }
    return times | step(texts, names)


def main() -> None:
    """Every number of classes in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="6,50,150")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    corpus, _ = load_corpus(load(None, [], {"data": {"source": "ag_news", "test_documents": 0}}).data)
    texts = list(dict.fromkeys(corpus.unlabeled.contents[:DOCUMENTS]))
    words = [frozenset(bare_words(text.lower())) for text in texts]
    for count in map(int, options.classes.split(",")):
        tell(line(texts, words, count), options.out)


if __name__ == "__main__":
    main()
