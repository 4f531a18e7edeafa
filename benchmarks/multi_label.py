"""Several labels a document, without a label to learn from: `python benchmarks/multi_label.py [--sets news,leads,questions] [--seeds 5] [--out FILE.csv]`.

Documents are made from sets with one label: of AG News (news), of the first 200 characters of BBC News (leads) and of TREC's questions (questions). A fifth have
none of the classes (one or two sentences of film reviews, SST-2), two fifths one class (one document, or two of it joined), and two fifths two classes (two
documents joined). A seed is a split of the same documents: two thirds to learn from, a third to test on. A line is one way to train with one way to cut:

    zero-shot     the method with rounds: 0, the label prompts against the mean of all; its own cut
    trained       the method as it is
    flat          zero-shot, softmax of the label prompts, as for one label a document
    equation 5    the ordinary training for one label a document (equation 5 of GenCo with a head), softmax

    own           where the method itself cuts; of a softmax 1/2
    one_over_L    a class is there with a probability of at least 1 / classes
    best          the one threshold of all classes that gives the highest micro-F1 on the test documents: chosen by their true labels, a bound and no way to do it
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lines import add

from selftrain.config import load
from selftrain.data.corpus import Corpus, Documents
from selftrain.data.loading import load_corpus
from selftrain.evaluation.multi_label import evaluate_sets
from selftrain.methods.recipe import resolve
from selftrain.training.fit import fit, probabilities

SETS = {"news": "ag_news", "leads": "bbc_news", "questions": "trec"}
NONE_SHARE, TWO_SHARE, CHARACTERS = 0.2, 0.4, 200
FLAT = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, "start_check": False}
WAYS: dict[str, dict[str, Any]] = {
    "zero-shot": {"name": "binary_relevance", "rounds": 0},
    "trained": {"name": "binary_relevance"},
    "flat": FLAT | {"rounds": 0},
    "equation 5": FLAT,
}
FIGURES = ("accuracy", "micro_f1", "macro_f1", "ece", "labels", "predicted_labels")


def documents_of(source: str) -> tuple[Corpus, list[tuple[str, str]]]:
    """(the set, the beginnings of its documents with the names of their classes)."""
    corpus, truth = load_corpus(load(None, [], {"data": {"source": source, "test_documents": 0}}).data)
    names = corpus.class_names
    return corpus, [(_short(text), names[truth.unlabeled[id_]]) for id_, text in zip(corpus.unlabeled.ids, corpus.unlabeled.contents, strict=True)]


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= CHARACTERS else words[:CHARACTERS].rsplit(" ", 1)[0]


def written(name: str, documents: int, folder: Path) -> tuple[Path, Corpus]:
    """(a file of joined documents, the set whose classes they have)."""
    source, pool = documents_of(SETS[name])
    reviews = [text for text, _ in documents_of("sst2")[1]]
    file = folder / f"{name}.jsonl"
    rows = [{"text": text, "labels": "|".join(classes) or "|"} for text, classes in joined(pool, reviews, documents)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file, source


def joined(pool: list[tuple[str, str]], reviews: list[str], count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(text, its classes), `count` times; no document is used twice."""
    rng = random.Random(0)
    rng.shuffle(pool)
    waiting: dict[str, list[str]] = {}
    for text, name in pool:
        waiting.setdefault(name, []).append(text)
    rest = iter(reviews)
    for _ in range(count):
        kind = rng.random()
        there = [name for name in sorted(waiting) if len(waiting[name]) > 1]
        sizes = [len(waiting[name]) for name in there]
        if kind < NONE_SHARE:
            yield " ".join(next(rest) for _ in range(rng.choice((1, 2)))), ()
        elif kind < NONE_SHARE + TWO_SHARE:
            first = rng.choices(there, sizes)[0]
            second = rng.choice([name for name in there if name != first])
            yield f"{waiting[first].pop()} {waiting[second].pop()}", tuple(sorted((first, second)))
        else:
            name = rng.choices(there, sizes)[0]
            yield " ".join(waiting[name].pop() for _ in range(rng.choice((1, 2)))), (name,)


def experiment(file: Path, names: tuple[str, ...], prompts: tuple[str, ...], method: dict[str, Any]) -> Any:
    """Of documents in `file`."""
    data = {"source": str(file), "label_column": "labels", "label_separator": "|", "classes": names, "prompts": prompts}
    data |= {"multi_label": True, "test_documents": 0}
    return load(None, [], {"data": data, "model": {"train": "head", "max_tokens": 128}, "training": {"threads": 1, "gpu": False}, "method": method})


def cuts(found: np.ndarray, truth: np.ndarray, names: tuple[str, ...], *, softmax: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of every way to cut."""
    yield "own", evaluate_sets(found, truth, names)
    if softmax:
        yield "one_over_L", evaluate_sets(found, truth, names, threshold=1 / len(names))
    tried = (evaluate_sets(found, truth, names, threshold=float(one)) for one in np.quantile(found, np.linspace(0.4, 0.98, 30)))
    yield "best", max(tried, key=lambda figures: figures["micro_f1"])


def lines(name: str, seeds: int, documents: int) -> Iterator[dict[str, Any]]:
    """All ways with every seed."""
    with tempfile.TemporaryDirectory() as folder:
        file, source = written(name, documents, Path(folder))
        asked = {way: experiment(file, source.class_names, source.prompts, method) for way, method in WAYS.items()}
        corpus, truth = load_corpus(asked["trained"].data)
    # The catalogue's words stand for the classes, as they do for one label.
    corpus = replace(corpus, labels=source.labels)
    ids, texts = list(corpus.unlabeled.ids), list(corpus.unlabeled.contents)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(ids))
        held = len(ids) // 3
        parts = [Documents(tuple(ids[place] for place in part), tuple(texts[place] for place in part)) for part in (order[held:], order[:held])]
        split = replace(corpus, unlabeled=parts[0], test=parts[1])
        memberships = truth.memberships(split.test.ids, len(source.labels))
        for way in WAYS:
            start = time.perf_counter()
            student = fit(resolve(asked[way]), split, seed=seed).student
            found, seconds = probabilities(student, split.test), round(time.perf_counter() - start, 2)
            for cut, figures in cuts(found, memberships, source.class_names, softmax=not student.independent):
                facts = {"set": name, "classes": len(source.labels), "documents": len(split.unlabeled), "tested": len(split.test)}
                kept = {figure: round(figures[figure], 4) for figure in FIGURES}
                yield facts | {"way": way, "cut": cut, "seed": seed} | kept | {"seconds": seconds, "date": time.strftime("%Y-%m-%d")}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=900)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for line in lines(name, options.seeds, options.documents):
            print(line, flush=True)
            if options.out:
                add(options.out, line)


if __name__ == "__main__":
    main()
