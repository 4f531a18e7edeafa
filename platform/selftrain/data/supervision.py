"""Which labels the learner may see: a setting of the experiment, the same for all methods.

`grant` is the only place where true labels go over into a `Corpus`. Which documents get a label, and which of the labels are wrong, follows from the seed
and the documents' content alone, so all methods of an experiment are compared on the same ones.

A label is what the source's label column says. For texts that a language model wrote (a train split of imdb_generated) that is the label that they were
written for: it is granted like any other, though it may be wrong.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from selftrain.config import DataConfig
from selftrain.data.corpus import Corpus, TrueLabels
from selftrain.data.splits import hash_order
from selftrain.errors import ConfigError, DataError


def grant(corpus: Corpus, truth: TrueLabels, config: DataConfig, seed: int) -> Corpus:
    """`corpus` with the labels that `config.supervision` grants.

    Args:
        corpus: without granted labels.
        truth: the true labels.
        config: `supervision`, `labels_per_class`, `label_noise`, `flip_probability`.
        seed: of the draw of documents (few, oracle), of the noise and of the candidate sets.

    Raises:
        ConfigError: label noise with candidate sets, or sets that could not be, or would all be the same: `flip_probability` 0, or two classes.
        DataError: labels are to be granted and the source has none (for an oracle: not for every document), or a class has no labeled document.
    """
    if config.supervision == "none":
        return corpus
    if config.supervision == "candidates" and config.label_noise:
        raise ConfigError(
            f"data.label_noise {config.label_noise:g} replaces single labels, and data.supervision is 'candidates'; leave it out (data.flip_probability says how "
            "large the sets are).",
            parameter="data.label_noise",
        )
    if config.supervision == "candidates" and not config.flip_probability:
        raise ConfigError(
            "data.flip_probability must be above 0 (got 0): a candidate set holds a wrong class beside the label; for certain labels set data.supervision: all.",
            parameter="data.flip_probability",
        )
    if config.supervision == "candidates" and len(corpus.labels) < 3:
        raise ConfigError(
            f"data.supervision must not be 'candidates' where there are {len(corpus.labels)} classes: every set would hold them all and say nothing; "
            "use few, all or weak.",
            parameter="data.supervision",
        )
    labels = truth.weak if config.supervision == "weak" else truth.unlabeled
    known = {id_: label for id_ in corpus.unlabeled.ids if (label := labels.get(id_)) is not None}
    if not known and config.supervision == "weak":
        raise DataError(
            f"data.supervision is 'weak', but {corpus.name} has no weak labels; set data.weak_label_column to the column that holds them."
        )
    if not known:
        raise DataError(
            f"data.supervision is {config.supervision!r}, but {corpus.name} has no labels; set data.label_column, or data.supervision: none."
        )
    oracle = dict(known) if config.supervision == "oracle" else {}
    if oracle and (missing := len(corpus.unlabeled) - len(oracle)):
        raise DataError(
            f"data.supervision is 'oracle', but {missing} documents of {corpus.name} have no label; use a source that labels all, or few."
        )
    classes = len(corpus.labels)
    if config.supervision in ("few", "oracle"):
        ordered = hash_order(known, salt=f"selftrain labels 1, seed {seed}")
        groups = [[id_ for id_ in ordered if known[id_] == label][: config.labels_per_class] for label in range(classes)]
        if empty := [corpus.class_names[label] for label, group in enumerate(groups) if not group]:
            raise DataError(
                f"data.supervision is {config.supervision!r}, but no document of {corpus.name} is labeled {empty[0]!r}; "
                "raise data.unlabeled_documents, lower data.test_documents, or leave the class out."
            )
        known = {id_: known[id_] for group in groups for id_ in group}
    if config.supervision == "candidates":
        return replace(corpus, candidates={id_: _candidates(id_, label, classes, config.flip_probability, seed) for id_, label in known.items()})
    granted = {id_: _noisy(id_, label, classes, config.label_noise, seed) for id_, label in known.items()}
    return replace(corpus, granted=granted, oracle=oracle)


def describe_supervision(config: DataConfig) -> str:
    """The supervision in a few words, for tables: none, 10 a class, 10 a class and an oracle, all, all with 30 % noise, weak labels, candidates with q = 0.3."""
    few = f"{config.labels_per_class} a class"
    sets = f"candidates, q = {config.flip_probability:g}"
    words = {"none": "none", "few": few, "all": "all", "weak": "weak labels", "candidates": sets, "oracle": f"{few} and an oracle"}[
        config.supervision
    ]
    if config.supervision == "candidates":
        return words
    return f"{words}, {config.label_noise:.0%} noise" if config.label_noise and config.supervision != "none" else words


def _noisy(id_: str, label: int, classes: int, rate: float, seed: int) -> int:
    """Symmetric noise: with probability `rate` another class, all others being equally likely."""
    digest = hashlib.sha256(f"selftrain noise 1, seed {seed}: {id_}".encode()).digest()
    if int.from_bytes(digest[:8], "big") / 2**64 >= rate:
        return label
    return (label + 1 + int.from_bytes(digest[8:16], "big") % (classes - 1)) % classes


def _candidates(id_: str, label: int, classes: int, rate: float, seed: int) -> tuple[int, ...]:
    """The label, and every other class with probability `rate`, independently; drawn anew while no other is in it (Lv et al. 2020, SEAL's section 4.4.2)."""
    others = [other for other in range(classes) if other != label]
    found = {other for other in others if _share(f"selftrain candidates 1, seed {seed}, {other}: {id_}") < rate}
    if not found:
        # One draw that is not empty, class after class: what a loop of draws would end with, in one pass however small the rate. Where none has joined yet and
        # `left` classes may, one joins with probability rate / (1 - (1 - rate)^left).
        for left, other in zip(range(len(others), 0, -1), others, strict=True):
            chance = rate if found else rate / -math.expm1(left * math.log1p(-rate))
            if _share(f"selftrain candidates 1, seed {seed}, again, {other}: {id_}") < chance:
                found.add(other)
    return tuple(sorted({label, *found}))


def _share(words: str) -> float:
    """A number in [0, 1) that follows from `words` and is uniform over them."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") / 2**64
