"""How soon does `selftrain watch` see a change, and how often one that is not there? `python benchmarks/watch.py [--sets ag_news,bbc_news,trec] [--out FILE.csv]`.

A set's documents are divided into three parts: a classifier is trained on the first without a label (equation 5 of GenCo, a head on the frozen encoder), the second
is its reference, and a stream of texts is drawn from the third. The detector is the product's. A line is a set, a shift and its strength:

none           texts of the third part, in `--quiet` streams of `--length` texts; the reference is drawn from the same part, so that nothing differs but chance
unlike         the third part once through, in an order of its own for every stream, with a reference of the second part: other documents of the same kind
trained_on     the same with a reference of the first part, which the classifier was trained on
mix            after 500 quiet texts, one class (each in turn) has `strength` more of the texts, the others less
class          a class (each in turn) that the classifier was not trained for, and that is in neither first part nor reference, has `strength` of the texts
domain         documents of another set have `strength` of the texts

streams        of the line; a false alarm ends a quiet stream, which begins again
texts          in them, before and after the shift
false          alarms without a shift, or before it
found          share of the streams with an alarm within 500 texts of the shift; median: texts until it, of all streams (2,000: none by then)
said           share of the alarms that name the kind of the shift first
estimate, counted   mean absolute error of the class shares in the 500 texts after the shift: estimated (evaluation/drift/shares.py), and of the predictions

`--backend graph` looks at probabilities alone, as for a graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lines import tell
from none_of_these import experiment, part, trained

from selftrain.data.loading import load_corpus
from selftrain.evaluation.drift.bets import Detector, even_weights
from selftrain.evaluation.drift.scores import Sample, Scores
from selftrain.evaluation.drift.shares import expected_shares
from selftrain.models.student import Student

SETS = "ag_news,bbc_news,trec"
REFERENCE = 2000
BEFORE, AFTER, WITHIN = 500, 2000, 500
MIX, NEW, OTHER = (0.1, 0.2, 0.4), (0.1, 0.3, 0.5), (0.1, 0.3, 0.5)
REFERENCES = 5  # of a line, each with a part of its streams


@dataclass(frozen=True)
class Source:
    """A set's documents, their labels, and the three parts."""

    corpus: Any
    labels: np.ndarray
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]


def source(name: str, most: int) -> Source:
    """A set, divided by a fixed order."""
    corpus, truth = load_corpus(experiment(name, 0).data)
    places = np.random.default_rng(0).permutation(len(corpus.unlabeled))[:most]
    documents = part(corpus.unlabeled, places)
    labels = np.array([truth.unlabeled[id_] for id_ in documents.ids])
    first, second = len(places) // 3, 2 * len(places) // 3
    order = np.arange(len(places))
    return Source(replace(corpus, unlabeled=documents), labels, (order[:first], order[first:second], order[second:]))


def seen(student: Student, found: Source, *, graph: bool) -> Sample:
    """All documents of a set, as a classifier sees them."""
    rows = student.encoder.encode(found.corpus.unlabeled.contents)
    return Sample(student.probabilities(rows).numpy().astype(np.float32), None if graph else rows.detach().numpy().astype(np.float16))


def classifier_of(name: str, found: Source, left_out: int | None = None) -> Student:
    """Trained on the first part, without the documents and the name of a class."""
    places = found.parts[0] if left_out is None else found.parts[0][found.labels[found.parts[0]] != left_out]
    labels = tuple(label for index, label in enumerate(found.corpus.labels) if index != left_out)
    return trained(name, replace(found.corpus, labels=labels, unlabeled=part(found.corpus.unlabeled, places)), 1)


@dataclass(frozen=True)
class Watched:
    """A reference and its scores."""

    scores: Scores
    bins: np.ndarray  # of its second half

    @classmethod
    def of(cls, reference: Sample, names: tuple[str, ...]) -> Watched:
        """A reference's, as the product divides it."""
        half = len(reference) // 2
        scores = Scores(reference[:half], names)
        return cls(scores, scores.bins(reference[half:]))

    def detector(self, streams: int) -> Detector:
        """Of streams side by side."""
        bins = np.broadcast_to(self.bins, (streams, *self.bins.shape))
        return Detector(bins, even_weights(self.scores.kinds))


def quiet(watched: Watched, bins: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> int:
    """False alarms in streams of texts; an account that alarms is emptied.

    Args:
        watched: the reference.
        bins: of texts, `[n, K]`.
        places: of the streams' texts among them, `[length, streams]`.
        rng: breaks ties.
    """
    detector, false = watched.detector(places.shape[1]), 0
    for text in places:
        level = detector.step(bins[text], rng.random((len(text), bins.shape[1])))
        alarmed = np.flatnonzero(level.max(axis=1) >= 1)
        false += len(alarmed)
        detector.evidence[alarmed] = 0
    return false


def shifted(watched: Watched, before: np.ndarray, after: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """(texts from the shift to the alarm `[streams]`, `AFTER` where there is none; its kind, -1; false alarms before).

    Args:
        watched: the reference.
        before: bins of the texts before the shift, `[texts, streams, K]`.
        after: and after it.
        rng: breaks ties.
    """
    streams = before.shape[1]
    detector, false = watched.detector(streams), 0
    kinds = list(dict.fromkeys(watched.scores.kinds))
    places = np.array([kinds.index(kind) for kind in watched.scores.kinds])
    for text in before:
        level = detector.step(text, rng.random(text.shape))
        alarmed = np.flatnonzero(level.max(axis=1) >= 1)
        false += len(alarmed)
        detector.evidence[alarmed] = 0
    until, said = np.full(streams, AFTER), np.full(streams, -1)
    for number, text in enumerate(after, 1):
        level = detector.step(text, rng.random(text.shape))
        new = np.flatnonzero((level.max(axis=1) >= 1) & (said < 0))
        until[new], said[new] = number, places[level[new].argmax(axis=1)]
        if (said >= 0).all():
            break
    return until, np.array([kinds.index(kinds[one]) if one >= 0 else -1 for one in said]), false


def drawn(rng: np.random.Generator, pool: np.ndarray, texts: int, streams: int) -> np.ndarray:
    """Places of texts, `[texts, streams]`, with replacement."""
    return pool[rng.integers(0, len(pool), (texts, streams))]


def different(rng: np.random.Generator, pool: np.ndarray, texts: int, streams: int) -> np.ndarray:
    """The same without replacement: a small pool that is drawn from again and again is not like the reference, and a long look at it would say so."""
    return rng.permuted(np.tile(pool[:, None], (1, streams)), axis=0)[:texts]


def shifts(name: str, found: Source, others: dict[str, Source], *, graph: bool) -> Iterator[tuple[dict[str, Any], Any]]:
    """(facts of a line; what makes a stream of it: reference sample, names, pool before, function (rng, texts, streams) -> samples' places, sample, kind)."""
    names, labels = found.corpus.class_names, found.labels
    student = classifier_of(name, found)
    own = seen(student, found, graph=graph)
    _, second, third = found.parts
    for label, title in enumerate(names):
        share = (labels[third] == label).mean()
        for more in MIX:
            if share + more > 0.95:
                continue

            def mixed(rng: np.random.Generator, texts: int, streams: int, label: int = label, to: float = share + more) -> np.ndarray:
                of, rest = third[labels[third] == label], third[labels[third] != label]
                return np.where(rng.random((texts, streams)) < to, drawn(rng, of, texts, streams), drawn(rng, rest, texts, streams))

            yield {"set": name, "shift": "mix", "what": title, "strength": more}, (own, names, second, third, mixed, own, "classes")
    for other, there in others.items():
        sample = seen(student, there, graph=graph)
        whole = Sample(
            np.concatenate([own.probabilities, sample.probabilities]),
            None if own.embeddings is None else np.concatenate([own.embeddings, sample.embeddings]),
        )
        foreign = len(labels) + np.arange(len(there.labels))
        for share in OTHER:

            def mixed_in(rng: np.random.Generator, texts: int, streams: int, share: float = share, foreign: np.ndarray = foreign) -> np.ndarray:
                return np.where(rng.random((texts, streams)) < share, drawn(rng, foreign, texts, streams), drawn(rng, third, texts, streams))

            yield {"set": name, "shift": "domain", "what": other, "strength": share}, (own, names, second, third, mixed_in, whole, "domain")
    if len(names) < 3:
        return
    for label, title in enumerate(names):
        student = classifier_of(name, found, left_out=label)
        sample = seen(student, found, graph=graph)
        known = tuple(one for one in names if one != title)
        reference, before = (places[labels[places] != label] for places in (second, third))
        new = third[labels[third] == label]
        for share in NEW:

            def arriving(
                rng: np.random.Generator, texts: int, streams: int, share: float = share, new: np.ndarray = new, before: np.ndarray = before
            ) -> np.ndarray:
                return np.where(rng.random((texts, streams)) < share, drawn(rng, new, texts, streams), drawn(rng, before, texts, streams))

            yield {"set": name, "shift": "class", "what": title, "strength": share}, (sample, known, reference, before, arriving, sample, "topics")


def line_of(facts: dict[str, Any], made: Any, labels: np.ndarray, streams: int) -> dict[str, Any]:
    """One shift."""
    sample, names, reference, before, after, whole, kind = made
    kinds = ["classes", "confidence", "topics", "domain"]
    until, said, false, errors = [], [], 0, []
    for seed in range(REFERENCES):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(reference)[:REFERENCE]
        watched = Watched.of(sample[chosen], names)
        bins = watched.scores.bins(whole)
        first, then = different(rng, before, BEFORE, streams // REFERENCES), after(rng, AFTER, streams // REFERENCES)
        texts, named, wrong = shifted(watched, bins[first], bins[then], rng)
        until.append(texts)
        said.append(named)
        false += wrong
        if facts["shift"] == "mix":
            prior = sample.probabilities[chosen].astype(np.float64).mean(axis=0)
            for stream in range(0, streams // REFERENCES, 5):
                places = then[:WITHIN, stream]
                truth = np.bincount(labels[places], minlength=len(names)) / WITHIN
                probabilities = whole.probabilities[places].astype(np.float64)
                counted = np.bincount(probabilities.argmax(axis=1), minlength=len(names)) / WITHIN
                errors.append([np.abs(expected_shares(probabilities, prior) - truth).mean(), np.abs(counted - truth).mean()])
    all_until, all_said = np.concatenate(until), np.concatenate(said)
    alarmed = all_said >= 0
    mean = np.mean(errors, axis=0).tolist() if errors else None
    return facts | {
        "streams": len(all_until),
        "texts": BEFORE * len(all_until),
        "false": false,
        "found": round(float((all_until <= WITHIN).mean()), 4),
        "median": int(np.median(all_until)),
        "said": round(float((all_said[alarmed] == kinds.index(kind)).mean()), 4) if alarmed.any() else "",
        "estimate": round(mean[0], 4) if mean else "",
        "counted": round(mean[1], 4) if mean else "",
    }


def quiet_lines(name: str, found: Source, streams: int, length: int, *, graph: bool) -> Iterator[dict[str, Any]]:
    """Streams without a shift."""
    sample = seen(classifier_of(name, found), found, graph=graph)
    first, second, third = found.parts
    for shift, reference in (("none", third), ("unlike", second), ("trained_on", first)):
        false, texts = 0, length if shift == "none" else len(third)
        for seed in range(REFERENCES):
            rng = np.random.default_rng(seed)
            chosen = rng.choice(reference, REFERENCE) if shift == "none" else rng.permutation(reference)[:REFERENCE]
            watched = Watched.of(sample[chosen], found.corpus.class_names)
            places = (drawn if shift == "none" else different)(rng, third, texts, streams // REFERENCES)
            false += quiet(watched, watched.scores.bins(sample), places, rng)
        empty = dict.fromkeys(("found", "median", "said", "estimate", "counted"), "")
        yield {"set": name, "shift": shift, "what": "", "strength": ""} | {"streams": streams, "texts": streams * texts, "false": false} | empty


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--documents", type=int, default=6000, help="of a set at most")
    parser.add_argument("--streams", type=int, default=200, help="of a shift")
    parser.add_argument("--quiet", type=int, default=100, help="streams without a shift")
    parser.add_argument("--length", type=int, default=10_000, help="texts of such a stream")
    parser.add_argument("--backend", choices=("torch", "graph"), default="torch")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    sets = {name: source(name, options.documents) for name in options.sets.split(",")}
    graph = options.backend == "graph"

    def lines() -> Iterator[dict[str, Any]]:
        for name, found in sets.items():
            if options.quiet:
                yield from quiet_lines(name, found, options.quiet, options.length, graph=graph)
            if options.streams:
                others = {other: there for other, there in sets.items() if other != name}
                for facts, made in shifts(name, found, others, graph=graph):
                    yield line_of(facts, made, found.labels, options.streams)

    for line in lines():
        tell({"backend": options.backend} | line, options.out)


if __name__ == "__main__":
    main()
