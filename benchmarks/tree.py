"""What a tree of classes is worth: `python benchmarks/tree.py [--sets news,joined,trec] [--forms leaf,joined,...] [--seeds 5] [--out FILE.csv]`.

A set is made of sets with true labels (`SETS`); the groups of its tree are the sets that were joined, but for trec, whose groups are ours. Its classes are learned
without a label, by the encoder alone (zero-shot) and by equation 5 of GenCo with a head, in one process. A form says which prompts stand for a class:

    leaf     its name: what flat training has
    joined   its name with its group's: "film review: good"
    behind   the same the other way round, which is what selftrain does: "good (film review)"
    both     leaf and joined, whose embeddings are averaged
    group    leaf and the prompts of the group alone, averaged: the similarity to the class plus that to its group

A line has, of the test documents,

    accuracy    share in the right class
    group       share whose class is in the right group
    by_sum      share whose most probable group, by the sum of its classes, is the right one
    down        share in the right class where that group is chosen first, and the class among its own
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lines import add

from selftrain.config import load
from selftrain.data.corpus import Corpus
from selftrain.data.loading import load_corpus
from selftrain.evaluation.levels import levels_of
from selftrain.methods.recipe import resolve
from selftrain.training.fit import fit, probabilities

FORMS = "leaf,joined,behind,both,group"
DOCUMENTS, TEST = 1500, 1500  # of each joined set at most; of the result, held out
# Set -> group -> (source, its class -> the class's name here); None: of no group.
SETS: dict[str, dict[str | None, tuple[str, dict[str, str]]]] = {
    "news": {
        "news article": (
            "bbc_news",
            {"business": "business", "entertainment": "entertainment", "politics": "politics", "sport": "sport", "tech": "technology"},
        ),
        "film review": ("imdb_generated", {"negative": "bad", "positive": "good"}),
    },
    "joined": {
        "news article": ("ag_news", {"world": "world affairs", "sports": "sports", "business": "business", "technology": "technology"}),
        "question": (
            "trec",
            {
                "abbreviation": "abbreviation",
                "entity": "thing",
                "description": "description",
                "human": "person",
                "location": "place",
                "number": "number",
            },
        ),
        "film review": ("sst2", {"negative": "bad", "positive": "good"}),
    },
    "trec": {
        "name": ("trec", {"human": "person", "location": "place", "entity": "thing"}),
        "explanation": ("trec", {"description": "description", "abbreviation": "abbreviation"}),
        None: ("trec", {"number": "number"}),
    },
}
DATA: dict[str, dict[str, Any]] = {"imdb_generated": {"test_split": "gold_test", "train_split": "gpt2_xl"}}


@dataclass(frozen=True)
class Formed(Corpus):
    """A corpus whose classes are stood for as a form says."""

    form: str = "leaf"

    def label_prompts(self) -> list[list[str]]:
        """The prompts of every class, `[class][prompt]`."""
        return [[prompt.format(label=words) for words in self._words(label) for prompt in self.prompts] for label in self.labels]

    def _words(self, label: Any) -> list[str]:
        group = ", ".join(label.parents)
        if not group:
            return [label.words]
        joined, behind = f"{group}: {label.words}", f"{label.words} ({group})"
        return {"leaf": [label.words], "joined": [joined], "behind": [behind], "both": [label.words, joined], "group": [label.words, group]}[
            self.form
        ]


def documents_of(source: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(text, name of its class) of a source's documents of some of its classes."""
    config = load(None, [], {"data": {"source": source, **DATA.get(source, {})}}).data
    corpus, truth = load_corpus(config)
    split, labels = (corpus.test, truth.test) if source in DATA else (corpus.unlabeled, truth.unlabeled)  # of IMDb the real reviews
    chosen = [(text, names.get(corpus.class_names[labels[id_]])) for id_, text in zip(split.ids, split.contents, strict=True)]
    yield from [(text, name) for text, name in chosen if name is not None][:DOCUMENTS]


def experiment(name: str, file: Path, rounds: int) -> Any:
    """Of a set that is written into `file`."""
    tree: list[Any] = []
    for group, (_, names) in SETS[name].items():
        tree += [{group: list(names.values())}] if group is not None else list(names.values())
    method = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False} | ({} if rounds else {"rounds": 0})
    data = {"source": str(file), "label_column": "label", "classes": tree, "test_documents": TEST}
    return load(None, [], {"data": data, "model": {"train": "head"}, "training": {"threads": 1}, "method": method})


def figures(found: np.ndarray, labels: np.ndarray, corpus: Corpus) -> dict[str, float]:
    """Of probabilities `[documents, classes]`."""
    (level,) = levels_of(corpus.class_names, corpus.class_parents)
    group_of = np.array(level.group_of)
    chosen = level.sums(found).argmax(axis=1)
    down = np.where(group_of == chosen[:, None], found, -1.0).argmax(axis=1)
    values = {
        "accuracy": found.argmax(axis=1) == labels,
        "group": group_of[found.argmax(axis=1)] == group_of[labels],
        "by_sum": chosen == group_of[labels],
        "down": down == labels,
    }
    return {key: round(float(value.mean()), 4) for key, value in values.items()}


def lines(name: str, forms: list[str], seeds: int) -> Iterator[dict[str, Any]]:
    """Every way to train with every form."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.jsonl"
        rows = [(text, label) for source, names in SETS[name].values() for text, label in documents_of(source, names)]
        file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
        asked = {rounds: experiment(name, file, rounds) for rounds in (0, 5)}
        corpus, truth = load_corpus(asked[0].data)
    labels = np.array([truth.test[id_] for id_ in corpus.test.ids])
    for form in forms:
        formed = Formed(**vars(replace(corpus)), form=form)
        for way, rounds in (("zero-shot", 0), ("equation 5", 5)):
            for seed in range(seeds if rounds else 1):
                start = time.perf_counter()
                student = fit(resolve(asked[rounds]), formed, seed=seed).student
                seconds = round(time.perf_counter() - start, 2)
                facts = {"set": name, "documents": len(corpus.unlabeled), "tested": len(labels), "classes": len(corpus.labels)}
                yield (
                    facts
                    | {"form": form, "way": way, "seed": seed}
                    | figures(probabilities(student, corpus.test), labels, corpus)
                    | {
                        "seconds": seconds,
                        "date": time.strftime("%Y-%m-%d"),
                    }
                )


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--forms", default=FORMS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for line in lines(name, options.forms.split(","), options.seeds):
            print(line, flush=True)
            if options.out:
                add(options.out, line)


if __name__ == "__main__":
    main()
