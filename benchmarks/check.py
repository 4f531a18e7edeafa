"""What `selftrain check` notices: `python benchmarks/check.py [--sets bbc_news,ag_news,trec,sst2] [--kinds own,swapped,...] [--simulations 500] [--out FILE.csv]`.

Each set is read with its own names, with two names swapped (every pair), and with one name replaced by a vague one, by one that misleads, or by one that says what
another class's name says (`NAMES`, written down before any of it was measured). A simulation draws 500 documents, chooses ten questions, and has the true labels
answer them. A line has

accuracy            zero-shot, with these names, on all documents
wrong_names         names to which documents of another class are nearest more often than those of their own
separation, warned  without a label, in the first 100 simulations: the separation, and the share with a warning about the changed name (of own names: about any)
found               share of simulations in which the changed name, or one of the two that were swapped, is called wrong
named               and said to stand for the class whose documents are in fact nearest to it most often (swapped: to be swapped, with the right one)
wrong_found         of all `wrong_names`, the share that is called wrong
false_alarms        share of simulations in which a name is called wrong that is right for more than half of its documents
with_words          accuracy with three typical words added to every name
with_its_words      and with those of the changed name added to it alone
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lines import tell

from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.evaluation.naming.answers import questions, verdicts
from selftrain.evaluation.naming.figures import ADDED, figures, margins, warnings
from selftrain.evaluation.naming.words import typical_words
from selftrain.models.encoder import Encoder
from selftrain.models.names import NameScores
from selftrain.models.open import open_encoder
from selftrain.runs.naming import words_of

SETS = "bbc_news,ag_news,trec,sst2"
KINDS = "own,swapped,vague,misleading,merged"
DATA = {"sst2": {"test_split": "test"}}
DOCUMENTS, SAMPLE = 4000, 500  # of a set, and of a simulation
LOOKED = 100  # simulations in which figures without a label are made
NAMES: dict[str, dict[str, dict[str, str]]] = {  # set -> kind -> class -> what it is called instead
    "bbc_news": {
        "vague": {"tech": "other", "business": "miscellaneous", "politics": "general", "sport": "things", "entertainment": "topic"},
        "misleading": {
            "entertainment": "competitions and prizes",
            "politics": "taxes and budgets",
            "tech": "companies and products",
            "business": "governments",
            "sport": "stars and celebrities",
        },
        "merged": {
            "tech": "economy and trade",
            "entertainment": "sports",
            "politics": "companies and markets",
            "business": "computers and technology",
            "sport": "film and music",
        },
    },
    "ag_news": {
        "vague": {"technology": "other", "business": "miscellaneous", "world": "general", "sports": "things"},
        "misleading": {"technology": "companies and products", "business": "governments", "world": "oil and money", "sports": "countries"},
        "merged": {"technology": "economy and trade", "business": "science and computers", "world": "sport", "sports": "world affairs"},
    },
    "trec": {
        "vague": {
            "abbreviation": "other",
            "entity": "miscellaneous",
            "description": "general",
            "human": "things",
            "location": "something",
            "number": "topic",
        },
        "misleading": {
            "abbreviation": "a word",
            "entity": "a name",
            "description": "how many",
            "human": "a country",
            "location": "a year",
            "number": "a title",
        },
        "merged": {
            "abbreviation": "a definition",
            "entity": "a man or a woman",
            "description": "a thing",
            "human": "a city",
            "location": "an amount",
            "number": "a location",
        },
    },
    "sst2": {
        "vague": {"negative": "other", "positive": "miscellaneous"},
        "misleading": {"negative": "exciting", "positive": "long"},
        "merged": {"negative": "wonderful", "positive": "terrible"},
    },
}


class Known(NamedTuple):
    """A set with its truth."""

    names: tuple[str, ...]  # of the classes
    words: tuple[str, ...]  # that stand for them in prompts
    prompts: tuple[str, ...]
    embeddings: Any  # [N, D]
    labels: np.ndarray  # [N]
    bags: list[frozenset[str]]  # words of each document
    encoder: Encoder

    def scores(self, words: tuple[str, ...]) -> NameScores:
        """Of all documents, where `words` stand for the classes."""
        flat = self.encoder.encode([prompt.format(label=one) for one in words for prompt in self.prompts])
        prototypes = flat.reshape(len(words), len(self.prompts), -1).mean(dim=1)
        return NameScores.of(self.embeddings, prototypes, range(len(self.labels)), most=len(self.labels))


class Case(NamedTuple):
    """A way to name the classes of a set."""

    kind: str
    changed: tuple[int, ...]  # classes
    words: tuple[str, ...]


def known(name: str) -> Known:
    """Read and embed a set."""
    data = {"source": name, "test_documents": 0, "unlabeled_documents": DOCUMENTS, **DATA.get(name, {})}
    experiment = load(None, [], {"data": data, "model": {"train": "head"}})
    corpus, truth = load_corpus(experiment.data)
    encoder = open_encoder(experiment.model, corpus)
    texts = list(corpus.unlabeled.contents)
    labels = np.array([truth.unlabeled[id_] for id_ in corpus.unlabeled.ids])
    words = tuple(label.words for label in corpus.labels)
    return Known(corpus.class_names, words, corpus.prompts, encoder.encode(texts), labels, words_of(texts), encoder)


def cases(name: str, view: Known) -> Iterator[Case]:
    """All of a set."""
    yield Case("own", (), view.words)
    for first, second in combinations(range(len(view.words)), 2):
        words = list(view.words)
        words[first], words[second] = words[second], words[first]
        yield Case("swapped", (first, second), tuple(words))
    for kind, table in NAMES[name].items():
        for label, instead in table.items():
            changed = view.names.index(label)
            yield Case(kind, (changed,), (*view.words[:changed], instead, *view.words[changed + 1 :]))


def line(name: str, view: Known, case: Case, simulations: int, answers: int) -> dict[str, Any]:
    """The figures of one case."""
    read = view.scores(case.words)
    scores, classes = read.scores.numpy(), len(view.names)
    nearest = scores.argmax(axis=1)
    table = np.zeros((classes, classes), dtype=np.int64)  # [nearest name, true class]
    np.add.at(table, (nearest, view.labels), 1)
    right = np.diagonal(table) / np.maximum(table.sum(axis=1), 1)
    wrong = (table.argmax(axis=1) != np.arange(classes)) & (table.sum(axis=1) > 0)
    found = named = alarms = warned = 0
    called = np.zeros(classes)
    looked, separation = min(LOOKED, simulations), 0.0
    for seed in range(simulations):
        rows = np.random.default_rng([seed, len(scores)]).permutation(len(scores))[:SAMPLE]
        if seed < looked:
            seen = figures(scores[rows], read.names.numpy(), view.names)
            separation += seen.separation / looked
            said = " ".join(warnings(seen, [()] * classes))
            warned += any(f"{view.names[index]!r}" in said for index in case.changed or range(classes))
        documents, names = questions(scores[rows], answers, seed)
        told = verdicts(names, view.labels[rows][documents], classes)
        flags = np.array([one.wrong for one in told])
        called += flags
        alarms += bool(np.any(flags & (right > 0.5)))
        found += bool(any(flags[index] for index in case.changed))
        if case.kind == "swapped":
            first, second = case.changed
            named += any(told[one].swapped and told[one].stands_for == other for one, other in ((first, second), (second, first)))
        elif case.changed:
            named += told[case.changed[0]].stands_for == table[case.changed[0]].argmax()
    changed = bool(case.changed)
    figures_of = {
        "accuracy": float((nearest == view.labels).mean()),
        "separation": separation,
        "warned": warned / looked,
        "found": found / simulations if changed else None,
        "named": named / simulations if changed else None,
        "wrong_found": float(called[wrong].mean() / simulations) if wrong.any() else None,
        "false_alarms": alarms / simulations,
        "with_words": _with_words(view, case, scores, range(classes)),
        "with_its_words": _with_words(view, case, scores, case.changed) if case.kind in NAMES[name] else None,
    }
    described = {
        "classes": "+".join(view.names[index] for index in case.changed),
        "words": "+".join(case.words[index] for index in case.changed),
        "wrong_names": "+".join(view.names[index] for index in np.flatnonzero(wrong)),
    }
    rounded = {key: None if value is None else round(float(value), 4) for key, value in figures_of.items()}
    facts = {"documents": len(scores), "sample": SAMPLE, "answers": answers, "simulations": simulations}
    return {"set": name, "kind": case.kind, **described, **facts, **rounded}


def _with_words(view: Known, case: Case, scores: np.ndarray, to: Sequence[int]) -> float:
    added = typical_words(view.bags, margins(scores)[0], len(view.names), ADDED)
    names = tuple(", ".join([one, *(own if index in to else ())]) for index, (one, own) in enumerate(zip(case.words, added, strict=True)))
    return float((view.scores(names).scores.numpy().argmax(axis=1) == view.labels).mean())


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--answers", type=int, default=10)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        view = known(name)
        for case in (one for one in cases(name, view) if one.kind in options.kinds.split(",")):
            tell(line(name, view, case, options.simulations, options.answers), options.out)


if __name__ == "__main__":
    main()
