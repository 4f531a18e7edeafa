"""Does nonsense get an answer? `python benchmarks/nonsense.py [--set bbc_news] [--train head] [--documents 300] [--out FILE.csv]`.

A classifier of a set is trained on 70 % of its documents without a label (equation 5 of GenCo, seed 0). Its bundle keeps some of these, and is asked about texts of
no class, and about documents of the rest. A line is a text, or all of these documents:

probability   the highest, or its mean
typicality    or its mean
at_1, at_5    whether it is none of these at a share of .01 and .05, or how many of the documents are
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lines import tell
from none_of_these import TRAINED_ON, experiment, part, trained

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.handover import card_of, reference_of, write_student
from selftrain.bundle.reference import TEXTS
from selftrain.data.loading import load_corpus
from selftrain.methods.recipe import resolve

NONSENSE = (
    "<script>alert(9)</script>",
    "{{7*7}}${7*7}",
    "' OR 1=1; DROP TABLE users; --",
    "asdf qwer zxcv jkl; uiop",
    "x" * 60,
    "4111 1111 1111 1111",
    "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk",
    "SELECT name FROM customers WHERE id = 7",
    "def add(a, b): return a + b",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit",
    "Hello, how are you?",
)


def lines(name: str, train: str, documents: int) -> Iterator[dict[str, Any]]:
    """All lines.

    Args:
        name: of the set.
        train: all weights of the encoder (full), or a head.
        documents: of the rest that are asked about.
    """
    corpus, _ = load_corpus(experiment(name, 0).data)
    places = np.random.default_rng(0).permutation(len(corpus.unlabeled))
    learned, rest = np.split(places, [round(TRAINED_ON * len(places))])
    known = replace(corpus, unlabeled=part(corpus.unlabeled, learned))
    student, described = trained(name, known, 1, train), experiment(name, 1, train)
    reference = reference_of(student, known.unlabeled.contents, TEXTS)
    card = card_of(student, name=name, recipe=resolve(described), corpus=known, experiment=described, supervision="none")
    card = card.model_copy(update={"reference": reference.facts(reference.probabilities, held_out=False)})
    with tempfile.TemporaryDirectory() as folder:
        classifier = Classifier.load(write_student(Path(folder) / name, student, card, reference), device="cpu")
        asked = part(corpus.unlabeled, rest[:documents]).contents
        for texts in (asked, *((text,) for text in NONSENSE)):
            probabilities, typicality = classifier.typicality(texts)
            figures = {"probability": probabilities.max(axis=1).mean(), "typicality": typicality.mean()}
            figures |= {f"at_{share}": (typicality <= share / 100).mean() for share in (1, 5)}
            facts = {
                "set": name,
                "train": train,
                "known": len(classifier.known),
                "text": texts[0] if len(texts) == 1 else "documents",
                "texts": len(texts),
            }
            yield facts | {key: round(float(value), 4) for key, value in figures.items()}


def main() -> None:
    """One set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="bbc_news")
    parser.add_argument("--train", choices=("head", "full"), default="head")
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for found in lines(options.set, options.train, options.documents):
        tell(found, options.out)


if __name__ == "__main__":
    main()
