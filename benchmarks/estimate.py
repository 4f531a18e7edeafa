"""Accuracy without an answer: how far is what can be computed without a label? `python benchmarks/estimate.py [--sets sst2,trec] [--seeds 0,1,2] [--out FILE.csv]`.

The sets, heads and settings are those of `benchmarks/harm.py`, without a language model. A line is one classifier: the zero-shot start (`start`) of a set, or what
equation 5 made of it with one seed (`trained`). `accuracy` is on the unlabeled documents, by labels that nothing else here sees. What stands for it without a label:

confidence         mean probability of the predicted class
start, seeds, rounds, prompts
                   share of documents that get the same class from the start; from other seeds (mean over them); from the same training after each earlier round
                   (mean); from the start with one label prompt instead of all (mean over prompts). Of the start, `start` is the mean over trained seeds
neighbours, vote   share of (document, neighbour) pairs of one class; of documents whose class most of their ten nearest neighbours have, too
*_temperature      mean confidence after the temperature at which the classes of the start, the seeds, all of those or the neighbours' votes are likeliest

`--renamed` reads bbc_news, ag_news, trec and sst2 with one class name replaced by a vague one, one that misleads, or one that says what another class's says
(`NAMES` of `benchmarks/check.py`); the set of a line is then "trec vague human".

`--table FILE.csv ...` prints, for each, mean error, mean absolute error and largest, over sets and seeds, and two that know labels of other sets: `constant`, the
mean accuracy on the other sources, and `regression`, a least-squares fit to all of the above and log(classes) on the other sources.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from check import NAMES
from harm import SETS, WITHOUT_TEXTS, documents_of, experiment_of
from lines import add
from scipy.optimize import minimize_scalar

from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.evaluation.neighbours import nearest, neighbour_agreement
from selftrain.methods.recipe import resolve
from selftrain.models.student import Student
from selftrain.training.fit import fit
from selftrain.training.loop import Validation

AGREEMENTS = ("start", "seeds", "rounds", "prompts")
TEMPERATURES = ("start", "seeds", "all", "vote")
CANDIDATES = ("confidence", *AGREEMENTS, "neighbours", "vote", *(f"{name}_temperature" for name in TEMPERATURES))
FITTED = ("constant", "regression")
SOURCES = {"sst2": "sst2", "generated_reviews": "reviews", "imdb": "reviews", "ag_news": "ag_news", "bbc_news": "bbc_news", "trec": "trec"}


@dataclass(frozen=True)
class Rounds(Validation):
    """Keeps the probabilities of all documents after every round."""

    found: list[np.ndarray] = field(default_factory=list)

    def figures(self, student: Student) -> dict[str, float]:
        """See `Validation`; no label is read."""
        self.found.append(student.predict(self.documents).cpu().numpy())
        return {}


@dataclass(frozen=True)
class Seen:
    """One set without its labels: probabilities `[N, L]`, and classes `[N]`."""

    start: np.ndarray
    trained: list[list[np.ndarray]]  # [seed][round]
    prompts: list[np.ndarray]  # classes by one prompt of each class
    neighbours: np.ndarray


def seen(name: str, seeds: list[int], corpus: Corpus) -> Seen:
    """Train on a set.

    Args:
        name: of the set.
        seeds: of the trainings.
        corpus: its documents.
    """
    contents = corpus.unlabeled.contents
    start = fit(resolve(experiment_of(SETS[name], rounds=0)), corpus, seed=0).student
    recipe = resolve(experiment_of(SETS[name], **WITHOUT_TEXTS, start_check=False))
    trained = []
    for seed in seeds:
        kept = Rounds(contents, [])
        fit(recipe, corpus, seed=seed, tested=kept)
        trained.append(kept.found)
    encoded = start.encoder.encode(contents).cpu().numpy()
    prompts = []
    for group in zip(*corpus.label_prompts(), strict=True):
        of_class = start.encoder.encode(list(group)).cpu().numpy()
        prompts.append((encoded @ (of_class / np.linalg.norm(of_class, axis=1, keepdims=True)).T).argmax(axis=1))
    return Seen(start.predict(contents).cpu().numpy(), trained, prompts, nearest(encoded))


def agree(classes: np.ndarray, others: list[np.ndarray]) -> float | None:
    """Mean share of documents that get the same class."""
    return float(np.mean([(classes == other).mean() for other in others])) if others else None


def confidence_of(probabilities: np.ndarray, targets: list[np.ndarray]) -> float | None:
    """Mean confidence after the temperature at which `targets`, classes by others, are likeliest."""
    if not targets:
        return None
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-300))
    shares = np.mean([np.eye(logits.shape[1])[one] for one in targets], axis=0)

    def unlikely(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - (shares * scaled).sum(axis=1)))

    scaled = logits / np.exp(minimize_scalar(unlikely, bounds=(-6, 6), method="bounded").x)
    return float(np.exp(scaled.max(axis=1) - np.logaddexp.reduce(scaled, axis=1)).mean())


def estimates(probabilities: np.ndarray, others: Mapping[str, list[np.ndarray]], neighbours: np.ndarray) -> dict[str, float | None]:
    """All candidates of one classifier.

    Args:
        probabilities: its, `[N, L]`.
        others: name of an agreement -> classes by others, `[N]` each.
        neighbours: of every document, `[N, k]`.
    """
    classes = probabilities.argmax(axis=1)
    votes = np.stack([(classes[neighbours] == label).sum(axis=1) for label in range(probabilities.shape[1])], axis=1).argmax(axis=1)
    targets = {"start": others["start"], "seeds": others["seeds"], "all": [one for found in others.values() for one in found], "vote": [votes]}
    return {
        "confidence": float(probabilities.max(axis=1).mean()),
        **{name: agree(classes, others[name]) for name in AGREEMENTS},
        "neighbours": neighbour_agreement(neighbours, classes).share,
        "vote": float((votes == classes).mean()),
        **{f"{name}_temperature": confidence_of(probabilities, targets[name]) for name in TEMPERATURES},
    }


def named(name: str, corpus: Corpus, *, renamed: bool) -> Iterator[tuple[str, Corpus]]:
    """(what a line calls it, the set with the names that it is read with).

    Args:
        name: of the set.
        corpus: its documents.
        renamed: one name replaced in turn, instead of its own names.
    """
    if not renamed:
        yield name, corpus
        return
    for kind, of_kind in NAMES[name].items():
        for one, words in of_kind.items():
            labels = tuple(replace(label, words=words) if label.name == one else label for label in corpus.labels)
            yield f"{name} {kind} {one}", replace(corpus, labels=labels)


def lines_of(name: str, seeds: list[int], most: int, *, renamed: bool) -> Iterator[dict[str, Any]]:
    """A line for each classifier of a set.

    Args:
        name: of the set.
        seeds: of the trainings.
        most: documents.
        renamed: as in `named`.
    """
    documents, truth = documents_of(SETS[name], most)
    for called, corpus in named(name, documents, renamed=renamed):
        for line in lines_of_names(name, seeds, corpus, truth):
            yield {"set": called} | line


def lines_of_names(name: str, seeds: list[int], corpus: Corpus, truth: TrueLabels) -> Iterator[dict[str, Any]]:
    """The same of a set with these names.

    Args:
        name: of the set.
        seeds: of the trainings.
        corpus: its documents and names.
        truth: their labels.
    """
    labels = np.array([truth.unlabeled[id_] for id_ in corpus.unlabeled.ids])
    found = seen(name, seeds, corpus)
    start, last = found.start.argmax(axis=1), [rounds[-1].argmax(axis=1) for rounds in found.trained]
    classifiers: list[tuple[str, Any, np.ndarray, dict[str, list[np.ndarray]]]] = [
        ("start", None, found.start, {"start": last, "seeds": [], "rounds": [], "prompts": found.prompts})
    ]
    for place, (seed, rounds) in enumerate(zip(seeds, found.trained, strict=True)):
        others = {"start": [start], "seeds": last[:place] + last[place + 1 :], "rounds": [one.argmax(axis=1) for one in rounds[:-1]]}
        classifiers.append(("trained", seed, rounds[-1], others | {"prompts": found.prompts}))
    for classifier, seed, probabilities, others in classifiers:
        figures = {"accuracy": float((probabilities.argmax(axis=1) == labels).mean()), **estimates(probabilities, others, found.neighbours)}
        yield {
            "classifier": classifier,
            "seed": seed,
            "classes": len(corpus.labels),
            "documents": len(labels),
            **{key: value if value is None else round(value, 4) for key, value in figures.items()},
            "date": time.strftime("%Y-%m-%d"),
        }


def errors_of(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Candidate -> its error for each of some lines; what one of them lacks is left out."""
    truth = np.array([float(row["accuracy"]) for row in rows])
    source = np.array([SOURCES[row["set"].split()[0]] for row in rows])
    names = [name for name in CANDIDATES if all(row[name] for row in rows)]
    known = np.array([[1.0, np.log(float(row["classes"]))] + [float(row[name]) for name in names] for row in rows])
    found = {name: known[:, 2 + column] for column, name in enumerate(names)} | {name: np.empty(len(rows)) for name in FITTED}
    for one in set(source):
        held, kept = source == one, source != one
        found["constant"][held] = truth[kept].mean()
        found["regression"][held] = known[held] @ np.linalg.lstsq(known[kept], truth[kept], rcond=None)[0]
    return {name: values - truth for name, values in found.items()}


def table(files: list[Path]) -> Iterator[str]:
    """The errors of every candidate as Markdown, a column for each file and classifier."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        for classifier in ("start", "trained"):
            own = [row for row in rows if row["classifier"] == classifier]
            accuracy = [float(row["accuracy"]) for row in own]
            columns[f"{file.stem}, {classifier} ({len(own)}, accuracy {min(accuracy):.3f} to {max(accuracy):.3f})"] = errors_of(own)
    yield f"| without a label | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}"
    for name in (*CANDIDATES, *FITTED):
        cells = [
            f"{found[name].mean():+.3f}, {np.abs(found[name]).mean():.3f}, {np.abs(found[name]).max():.3f}" if name in found else "–"
            for found in columns.values()
        ]
        yield f"| {name} | {' | '.join(cells)} |".replace("0.", ".")


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--unlabeled", type=int, default=400, help="documents at most")
    parser.add_argument("--renamed", action="store_true", help="with one class name replaced in turn")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of such files, and train nothing")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(options.table)))
        return
    for name in options.sets.split(","):
        for line in lines_of(name, [int(seed) for seed in options.seeds.split(",")], options.unlabeled, renamed=options.renamed):
            print(line, flush=True)
            if options.out:
                add(options.out, line)


if __name__ == "__main__":
    main()
