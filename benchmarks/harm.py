"""Does GenCo harm, and does a run notice? `python benchmarks/harm.py [--sets sst2,trec] [--seeds 0,1,2] [--without-texts] [--out FILE.csv]`.

Heads on frozen all-MiniLM-L6-v2, Gemma 3 270M, the defaults, at most 300 unlabeled documents (`--unlabeled`) and 1,000 test documents. Sets are those of `SETS`:
whole ones, and parts in which classes have other shares, in training and in test alike. A line is one set with one seed:

zero_shot, equation_5, genco   accuracy of the start, and after the last round of self-training without texts and of GenCo without checks (empty without texts)
default                        accuracy of what a run with the defaults hands over, and `harm`, how far it is below the better of zero_shot and equation_5
texts_filed                    share of the first round's conditional texts that the start files under their class; texts_used: what the default made of it
agree, above (_0, _5, _genco)  neighbours with the same class, as a share and above chance: of the start, and after the last round of both
start_kept                     whether the default handed over its start
rounds                         accuracy of equation 5 and of GenCo after each round, for the eye alone

`--without-texts` leaves the language model out; `--prompts` prints the label prompts and the accuracy of the start, and trains nothing; `--table FILE.csv` prints
the lines of a file, means over their seeds, as the table of docs/howto/harm.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lines import add

from selftrain.config import Experiment, load
from selftrain.data.corpus import Corpus, Documents, TrueLabels
from selftrain.data.loading import load_corpus
from selftrain.data.texts import TextChannel, no_texts
from selftrain.methods.recipe import resolve
from selftrain.models.locate import language_model_of
from selftrain.runtime.cluster import needs, session
from selftrain.runtime.devices import alone
from selftrain.texts.channel import open_texts
from selftrain.texts.engines import engine_needs
from selftrain.training.fit import fit
from selftrain.training.loop import Fitted, Validation

TEST = 1000  # documents at most
WITHOUT_TEXTS = {"input_augmentation": False, "conditional_augmentation": False}
SST2 = {"source": "sst2", "test_split": "test"}
GENERATED = {"source": "imdb_generated", "train_split": "gpt2_xl", "test_split": "gold_test"}
IMDB = {
    "source": "imdb_generated",
    "train_split": "gold_test",
    "test_split": "gpt2_xl",
    "prompts": ["It was a {label} movie.", "In summary, the movie is {label}."],
    "descriptions": {"negative": "a negative opinion of the movie", "positive": "a positive opinion of the movie"},
}
AGREEMENT = {"agree": "neighbours_agree", "above": "neighbours_agree_above_chance"}
BBC, AG, TREC = {"source": "bbc_news"}, {"source": "ag_news"}, {"source": "trec"}


@dataclass(frozen=True)
class Chosen:
    """A set, or a part of one."""

    data: Mapping[str, Any]  # section of the experiment
    shares: Mapping[str, float] = field(
        default_factory=dict
    )  # class name -> its share of the documents; other classes are left out; empty: all as they are
    held_out: bool = False  # whether test documents are taken from the unlabeled ones
    texts: bool = False  # whether there is a language model


SETS = {
    "bbc_news": Chosen(BBC, texts=True),
    "sst2": Chosen(SST2, texts=True),
    "generated_reviews": Chosen(GENERATED, texts=True),
    "imdb": Chosen(IMDB, held_out=True, texts=True),
    "ag_news": Chosen(AG, texts=True),
    "trec": Chosen(TREC, texts=True),
    "bbc_news 4 3 1 1 1": Chosen(BBC, {"sport": 0.4, "business": 0.3, "entertainment": 0.1, "politics": 0.1, "tech": 0.1}, texts=True),
    "sst2 20 % positive": Chosen(SST2, {"negative": 0.8, "positive": 0.2}, texts=True),
    "ag_news business 80 % technology": Chosen(AG, {"business": 0.8, "technology": 0.2}, texts=True),
    "imdb 80 % positive": Chosen(IMDB, {"negative": 0.2, "positive": 0.8}, held_out=True, texts=True),
    "trec human location number": Chosen(TREC, {"human": 1 / 3, "location": 1 / 3, "number": 1 / 3}, texts=True),
    "sst2 80 % positive": Chosen(SST2, {"negative": 0.2, "positive": 0.8}),
    "sst2 65 % positive": Chosen(SST2, {"negative": 0.35, "positive": 0.65}),
    "generated_reviews 20 % positive": Chosen(GENERATED, {"negative": 0.8, "positive": 0.2}),
    "generated_reviews 80 % positive": Chosen(GENERATED, {"negative": 0.2, "positive": 0.8}),
    "imdb 20 % positive": Chosen(IMDB, {"negative": 0.8, "positive": 0.2}, held_out=True),
    "ag_news business technology": Chosen(AG, {"business": 0.5, "technology": 0.5}),
    "ag_news business 20 % technology": Chosen(AG, {"business": 0.2, "technology": 0.8}),
    "ag_news world 80 % sports": Chosen(AG, {"world": 0.8, "sports": 0.2}),
    "ag_news 1 4 1 4": Chosen(AG, {"world": 0.1, "sports": 0.4, "business": 0.1, "technology": 0.4}),
    "ag_news 4 1 4 1": Chosen(AG, {"world": 0.4, "sports": 0.1, "business": 0.4, "technology": 0.1}),
    "bbc_news business 80 % tech": Chosen(BBC, {"business": 0.8, "tech": 0.2}),
    "bbc_news sport 20 % politics": Chosen(BBC, {"sport": 0.2, "politics": 0.8}),
    "trec human 80 % location": Chosen(TREC, {"human": 0.8, "location": 0.2}),
    "trec entity description": Chosen(TREC, {"entity": 0.5, "description": 0.5}),
}


def part(documents: Documents, labels: Mapping[str, int], shares: Mapping[int, float], most: int) -> Documents:
    """At most `most` documents, in an order that does not depend on `shares`, with these shares of the classes.

    Args:
        documents: to choose from.
        labels: document id -> class index.
        shares: class index -> share; empty: all classes as they are.
        most: documents.
    """
    order = [int(index) for index in np.random.default_rng(0).permutation(len(documents))]
    if shares:
        by_class = {label: [index for index in order if labels[documents.ids[index]] == label] for label in shares}
        total = min(most, *(int(len(found) / shares[label]) for label, found in by_class.items()))
        kept = {index for label, found in by_class.items() for index in found[: round(total * shares[label])]}
        order = [index for index in order if index in kept]
    chosen = order[:most]
    return Documents(tuple(documents.ids[index] for index in chosen), tuple(documents.contents[index] for index in chosen))


def experiment_of(chosen: Chosen, **method: Any) -> Experiment:
    """The experiment of a set: its method, a head, and the language model."""
    document = {"data": dict(chosen.data), "model": {"train": "head"}, "training": {"threads": 1}, "augment": {"model": "gemma-3-270m"}}
    return load(None, [], document | {"method": {"name": "genco", **method}})


def documents_of(chosen: Chosen, most: int) -> tuple[Corpus, TrueLabels]:
    """The documents of a set, at most `most` unlabeled ones, and their labels."""
    corpus, truth = load_corpus(experiment_of(chosen).data)
    unlabeled, test, of_test = corpus.unlabeled, corpus.test, truth.test
    if chosen.held_out:
        half = len(unlabeled) // 2
        test, of_test = Documents(unlabeled.ids[half:], unlabeled.contents[half:]), truth.unlabeled
        unlabeled = Documents(unlabeled.ids[:half], unlabeled.contents[:half])
    shares = {corpus.class_names.index(name): share for name, share in chosen.shares.items()}
    unlabeled, test = part(unlabeled, truth.unlabeled, shares, most), part(test, of_test, shares, TEST)
    kept = sorted(shares) or list(range(len(corpus.labels)))
    new = {label: place for place, label in enumerate(kept)}
    labels = TrueLabels({id_: new[truth.unlabeled[id_]] for id_ in unlabeled.ids}, {id_: new[of_test[id_]] for id_ in test.ids})
    return replace(corpus, labels=tuple(corpus.labels[label] for label in kept), unlabeled=unlabeled, test=test), labels


@contextmanager
def texts_of(chosen: Chosen, corpus: Corpus) -> Iterator[TextChannel]:
    """The text channel of a set, with Ray around it; texts that the cache has start no engine."""
    if not chosen.texts:
        yield no_texts
        return
    experiment = experiment_of(chosen)
    model = language_model_of(experiment.augment)
    with (
        session(experiment, lambda there: needs(experiment, engine_needs(alone(experiment.augment, there), model))),
        open_texts(experiment.augment, corpus, model, progress=False) as texts,
    ):
        yield texts


def by_round(fitted: Fitted) -> str:
    """Accuracy after each round."""
    return " ".join(f"{figures['test_accuracy']:.4f}" for figures in fitted.rounds)


def lines_of(name: str, chosen: Chosen, seeds: list[int], corpus: Corpus, labels: TrueLabels, texts: TextChannel) -> Iterator[dict[str, Any]]:
    """A line for each seed.

    Args:
        name: of the set.
        chosen: what it is.
        seeds: of the trainings.
        corpus: its documents.
        labels: of the test documents.
        texts: its text channel.
    """
    tested = Validation.of_test(corpus, labels)
    assert tested is not None
    without = {} if chosen.texts else WITHOUT_TEXTS
    recipes = {
        "zero_shot": resolve(experiment_of(chosen, rounds=0)),
        "equation_5": resolve(experiment_of(chosen, **WITHOUT_TEXTS)),
        "genco": resolve(experiment_of(chosen, text_check=None)) if chosen.texts else None,
        "default": resolve(experiment_of(chosen, **without)),
    }
    for seed in seeds:
        found = {key: fit(recipe, corpus, texts, seed=seed, tested=tested) for key, recipe in recipes.items() if recipe is not None}
        start, handed_over = (tested.accuracy(found[key].student) for key in ("zero_shot", "default"))
        last = {key: found[key].rounds[-1] for key in found if key != "zero_shot"}
        first = found["default"].rounds[0]
        figures = {
            "zero_shot": start,
            "equation_5": last["equation_5"]["test_accuracy"],
            "genco": last["genco"]["test_accuracy"] if "genco" in last else None,
            "default": handed_over,
            "harm": max(start, last["equation_5"]["test_accuracy"]) - handed_over,
            "texts_filed": first.get("texts_filed"),
            "texts_used": first.get("texts_used"),
            "agree_0": last["equation_5"]["neighbours_agree_start"],
            "above_0": last["equation_5"]["neighbours_agree_above_chance_start"],
        }
        for key, name_of in (("equation_5", "5"), ("genco", "genco")):
            figures |= {f"{short}_{name_of}": last[key][long] if key in last else None for short, long in AGREEMENT.items()}
        yield {
            "set": name,
            "seed": seed,
            "classes": len(corpus.labels),
            "unlabeled": len(corpus.unlabeled),
            "test": len(corpus.test),
            **{key: value if value is None else round(value, 4) for key, value in figures.items()},
            "start_kept": int(last["default"]["start_kept"]),
            "rounds_equation_5": by_round(found["equation_5"]),
            "rounds_genco": by_round(found["genco"]) if "genco" in found else None,
            "date": time.strftime("%Y-%m-%d"),
        }


def table(file: Path) -> Iterator[str]:
    """The lines of a CSV as Markdown, a row a set: means over seeds, of the seeds how many did what, and the largest harm of a seed."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    yield "| set | documents | zero-shot | equation 5 | GenCo | default | texts used | start kept | harm | largest |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]

        def mean(key: str, own: list[dict[str, str]] = own) -> str:
            return f"{statistics.mean(float(row[key]) for row in own):.3f}".replace("0.", ".", 1) if own[0][key] else "–"

        def count(key: str, own: list[dict[str, str]] = own) -> str:
            return f"{sum(float(row[key]) == 1 for row in own)} of {len(own)}" if own[0][key] else "–"

        largest = f"{max(float(row['harm']) for row in own):.3f}".replace("0.", ".", 1)
        cells = [name, own[0]["unlabeled"], *(mean(key) for key in ("zero_shot", "equation_5", "genco", "default"))]
        yield "| " + " | ".join([*cells, count("texts_used"), count("start_kept"), mean("harm"), largest]) + " |"


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--unlabeled", type=int, default=300, help="unlabeled documents at most")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--prompts", action="store_true", help="print the label prompts and the start's accuracy, and train nothing")
    parser.add_argument("--without-texts", action="store_true", help="leave the language model out")
    parser.add_argument("--table", type=Path, help="print the table of a CSV, and train nothing")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(options.table)))
        return
    for name in options.sets.split(","):
        corpus, labels = documents_of(SETS[name], options.unlabeled)
        if options.prompts:
            tested = Validation.of_test(corpus, labels)
            assert tested is not None
            accuracy = tested.accuracy(fit(resolve(experiment_of(SETS[name], rounds=0)), corpus, seed=0).student)
            print(f"{name}: {accuracy:.3f}", *(" | ".join(group) for group in corpus.label_prompts()), sep="\n  ", flush=True)
            continue
        chosen = replace(SETS[name], texts=SETS[name].texts and not options.without_texts)
        with texts_of(chosen, corpus) as texts:
            for line in lines_of(name, chosen, [int(seed) for seed in options.seeds.split(",")], corpus, labels, texts):
                print(line, flush=True)
                if options.out:
                    add(options.out, line)


if __name__ == "__main__":
    main()
