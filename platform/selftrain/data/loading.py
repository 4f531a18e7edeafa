"""From a configuration to (Corpus, TrueLabels): find the source, clean its rows, name the classes, split by content, and keep the true labels apart.

What a method gets is the `Corpus`; it holds no label until supervision.py grants some.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from string import Formatter
from typing import NamedTuple

import numpy as np

from selftrain.config import DataConfig
from selftrain.data.catalogue import DEFAULT_PROMPTS
from selftrain.data.classes import check_class_paths, classes_of, no_label_matches, same_classes, with_descriptions, with_parents
from selftrain.data.cleaning import NO_LABEL, SourceRow, clean, label_key
from selftrain.data.columns import SkippedBuilder, SkippedRows
from selftrain.data.corpus import Corpus, Documents, Label, TrueLabels
from selftrain.data.gathering import Cut, Gathered, gather
from selftrain.data.id_set import IdSet, LabelsById
from selftrain.data.images import check_sizes, common_size, thinned
from selftrain.data.label_sets import check_multi_label, sets_of, with_single_labels
from selftrain.data.sources import DataSource, find_source
from selftrain.data.splits import hold_out
from selftrain.errors import ConfigError, DataError

_HASHED_IDS = 4096  # of a split at a time
_LEARNS_FROM_LABELS = ("few", "all", "candidates")  # values of data.supervision with which some of the true labels are granted


def load_corpus(config: DataConfig) -> tuple[Corpus, TrueLabels]:
    """Read a source and split it.

    What is tested on is the test split of `test_source` where one is set. A source with a labeled test split keeps it whole. Of any other source with labels,
    the `test_documents` labeled documents that come first in hash order are held out (of a source that labels some rows alone: `_may_be_held_out`). A source
    without labels has no test split: every document is unlabeled. Nor has one that a language model wrote: its labels may be wrong. Of images,
    `unlabeled_documents` are chosen by their encoded bytes, so that no others are decoded; those of them that cannot be used are not replaced.

    Raises:
        DataError: the source cannot be used: from a missing file to too few usable documents.
        ConfigError: a split, a prompt or a description is wrong.
        ServiceError: the source is on the hub, which cannot be reached.
    """
    check_multi_label(config)
    paths = config.class_paths
    if paths is not None:
        check_class_paths(paths, "data.classes")
    prompts = _prompts(config.prompts)
    source = find_source(config if config.test_source is None else config.model_copy(update={"test_split": None, "test_source": None}))
    named = with_single_labels(source, config.label_separator) if config.multi_label else source
    labels, index = classes_of(named, None if paths is None else [path[-1] for path in paths])
    sets: tuple[tuple[int, ...], ...] = ()
    if config.multi_label:
        index, sets = sets_of(chain(source.train, source.test or ()), index, config.label_separator)
    labels = with_parents(with_descriptions(labels, config.descriptions), paths)
    tested = _tested(config, source, labels, index)
    given, rest, skipped = _cleaned(config, source, tested, index)
    if not _tests(given) and not np.any(rest.labels != NO_LABEL) and skipped.counts["unknown label"]:
        raise DataError(no_label_matches(named, labels))

    test, validation, unlabeled = _splits(config, source, given, rest, skipped)
    held = given if _tests(given) else rest  # what has the test documents
    truth = TrueLabels(
        _by_id(rest, rest.labels, unlabeled),
        _by_id(held, held.labels, test),
        _by_id(rest, rest.labels, validation),
        _by_id(rest, rest.weak, unlabeled),
        sets,
    )
    parts = rest.documents(unlabeled), held.documents(test), rest.documents(validation)
    corpus = Corpus(
        name=source.name if config.test_source is None else f"{source.name} (tested on {tested.name})",
        labels=labels,
        prompts=prompts or (source.named.prompts if source.named is not None else DEFAULT_PROMPTS),
        unlabeled=parts[0],
        test=parts[1],
        skipped=skipped,
        validation=parts[2],
        fingerprint=corpus_fingerprint([label.name for label in labels], *(part.ids for part in parts)),
        kind=source.kind,
        mirrored=source.named is None or source.named.mirrored,
    )
    return corpus, truth


class _Tested(NamedTuple):
    """What is tested on, where a source has it apart."""

    rows: Iterable[SourceRow]
    classes: Mapping[str, int]  # its labels as `label_key` writes them -> class index
    name: str


def _tested(config: DataConfig, source: DataSource, labels: Sequence[Label], index: Mapping[str, int]) -> _Tested:
    if config.test_source is None:
        return _Tested(source.test or (), index, source.name)
    other = find_source(config.model_copy(update={"source": config.test_source, "train_split": None}))
    if other.kind != source.kind:
        raise DataError(
            f"data.test_source {other.name} holds {other.kind}s and {source.name} {source.kind}s; test on documents of the same kind.",
            parameter="data.test_source",
        )
    classes = same_classes(other, labels, source.name)
    test = other.test if other.test is not None and any(True for _ in other.test) else None
    if other.generated and test is None:
        raise DataError(
            f"data.test_source {other.name} was written by a language model, and its labels may be wrong; test on real documents.",
            parameter="data.test_source",
        )
    return _Tested(other.train if test is None else test, classes, other.name)


def _tests(given: Gathered) -> bool:
    """Whether there are documents that are given to test on. One without a label cannot be scored; a test split without any (the hub has such) is none."""
    return bool(np.any(given.labels != NO_LABEL))


def _cleaned(config: DataConfig, source: DataSource, tested: _Tested, index: Mapping[str, int]) -> tuple[Gathered, Gathered, SkippedRows]:
    """(documents that are given to test on, all others, what was skipped)."""
    images = source.kind == "image"
    train, size = source.train, None
    if images:
        train, rows = list(train), list(tested.rows)
        tested, size = tested._replace(rows=rows), common_size(train)
        check_sizes([*train, *rows], size, source.name)
    given_skipped = SkippedBuilder()
    batches = clean(tested.rows, index=tested.classes, max_characters=config.max_characters, images=images, size=size)
    given = gather(batches, given_skipped, images=images)
    if (config.test_split is not None or config.test_source is not None) and not _tests(given):
        key, value = ("test_source", config.test_source) if config.test_split is None else ("test_split", config.test_split)
        raise DataError(
            f"data.{key} {value!r} of {tested.name} holds no labeled document to test on; set another, or leave it out.", parameter=f"data.{key}"
        )
    learns, cut = config.supervision in _LEARNS_FROM_LABELS, None
    if config.unlabeled_documents is not None:
        wanted = config.unlabeled_documents + config.validation_documents + (0 if _tests(given) else config.test_documents)
        if images:
            train = thinned(list(train), wanted, (lambda row: label_key(row.label) is not None) if learns else None)
        else:
            cut = Cut(wanted, by_class=learns)
    known = IdSet()
    known.add(given.ids[given.labels != NO_LABEL])
    batches = clean(train, index=index, max_characters=config.max_characters, known=known, known_reason="in test already", images=images, size=size)
    skipped = given_skipped if _tests(given) else SkippedBuilder()
    return given, gather(batches, skipped, images=images, cut=cut), skipped.column()


def _splits(
    config: DataConfig, source: DataSource, given: Gathered, rest: Gathered, skipped: SkippedRows
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (to test on, for validation, unlabeled), each in hash order; the first are of `given` where that has labels, the others of `rest`."""
    if _tests(given):
        test, unlabeled = given.ordered[given.labels[given.ordered] != NO_LABEL], rest.ordered
    else:
        test, unlabeled = hold_out(rest.ordered, 0 if source.generated else config.test_documents, _may_be_held_out(config, rest, rest.ordered))
    validation = unlabeled[:0]
    if config.validation_documents:
        validation, unlabeled = hold_out(unlabeled, config.validation_documents, _may_be_held_out(config, rest, unlabeled))
        if not len(validation):
            raise DataError(
                f"data.validation_documents must be 0 (got {config.validation_documents}), as {source.name} has no labeled documents to spare; "
                "or set data.label_column.",
                parameter="data.validation_documents",
            )
    if len(unlabeled) < config.min_documents:
        raise DataError(
            _too_few(source.name, len(unlabeled), 0 if _tests(given) else len(test), skipped, config.min_documents), parameter="data.test_documents"
        )
    if config.unlabeled_documents is not None:
        if config.unlabeled_documents < config.min_documents:
            raise DataError(
                f"data.unlabeled_documents ({config.unlabeled_documents}) is below data.min_documents ({config.min_documents}); raise it.",
                parameter="data.unlabeled_documents",
            )
        kept = unlabeled
        if config.supervision in _LEARNS_FROM_LABELS:  # those that labels can be granted to come first
            kept = unlabeled[np.argsort(rest.labels[unlabeled] == NO_LABEL, kind="stable")]
        chosen = np.zeros(len(rest), dtype=bool)
        chosen[kept[: config.unlabeled_documents]] = True
        unlabeled = unlabeled[chosen[unlabeled]]
    return test, validation, unlabeled


def _may_be_held_out(config: DataConfig, rest: Gathered, ordered: np.ndarray) -> np.ndarray:
    """Which documents may be held out, `[documents]`: all of `ordered` with a label. Where a run learns from labels and some rows have none, at most half of
    every class.

    Labels are scarce where some rows have none; without this, `test_documents` would take all of them. The half is the one that comes first in hash order.
    """
    may = np.zeros(len(rest), dtype=bool)
    labeled = ordered[rest.labels[ordered] != NO_LABEL]
    if config.supervision not in _LEARNS_FROM_LABELS or np.all(rest.labels != NO_LABEL):
        may[labeled] = True
        return may
    for label in np.unique(rest.labels[labeled]):
        group = labeled[rest.labels[labeled] == label]
        may[group[: len(group) // 2]] = True
    return may


def corpus_of(texts: Sequence[object], config: DataConfig) -> Corpus:
    """A corpus of texts that are in memory already: all of them unlabeled, cleaned as the rows of a source are.

    Args:
        texts: at least `config.min_documents` usable ones.
        config: the classes, prompts, descriptions and limits.

    Raises:
        DataError: `config.classes` are not at least two different names, or too few texts are usable.
        ConfigError: a prompt or a description is wrong.
    """
    if isinstance(texts, str | bytes | Mapping):
        raise DataError(f"texts must be a list of texts (got a {type(texts).__name__}); for one text pass [text].", parameter="texts")
    paths = config.class_paths or ()
    check_class_paths(paths, "classes")
    names = [path[-1] for path in paths]
    labels = with_parents(with_descriptions([Label(name, name, name) for name in names], config.descriptions), paths)
    rows, skipped = (SourceRow(f"text {place}", text) for place, text in enumerate(texts)), SkippedBuilder()
    cut = None if config.unlabeled_documents is None else Cut(config.unlabeled_documents, by_class=False)
    found = gather(clean(rows, index={}, max_characters=config.max_characters), skipped, cut=cut)
    unused = skipped.column()
    if len(found) < config.min_documents:
        raise DataError(_too_few("texts", len(found), 0, unused, config.min_documents), parameter="data.test_documents")
    unlabeled = found.documents(found.ordered[: config.unlabeled_documents])
    return Corpus(
        name="texts",
        labels=labels,
        prompts=_prompts(config.prompts) or DEFAULT_PROMPTS,
        unlabeled=unlabeled,
        test=Documents(),
        skipped=unused,
        fingerprint=corpus_fingerprint(names, unlabeled.ids, ()),
    )


def corpus_fingerprint(class_names: Sequence[str], unlabeled: Sequence[str], test: Sequence[str], validation: Sequence[str] = ()) -> str:
    """SHA-256 over the class names and the document ids of each split that there is, in order.

    Args:
        class_names: in index order.
        unlabeled: ids, in the order of the split; likewise the others.
        test: of the test split.
        validation: of the validation split; it does not count where it is empty.
    """
    splits = [class_names, unlabeled, test, *([validation] if len(validation) else [])]
    digest = hashlib.sha256(b"[")
    for number, split in enumerate(splits):  # as `json.dumps` of all of it, which would take 90 bytes an id
        digest.update(b"[" if not number else b", [")
        items = iter(split)
        before = ""
        while ids := list(islice(items, _HASHED_IDS)):
            digest.update(f"{before}{json.dumps(ids)[1:-1]}".encode())
            before = ", "
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()


def _by_id(documents: Gathered, labels: np.ndarray, positions: np.ndarray) -> LabelsById:
    """The labels of the documents at `positions` that have one."""
    labeled = positions[labels[positions] != NO_LABEL]
    return LabelsById(documents.ids[labeled], labels[labeled])


def _prompts(prompts: Sequence[str] | None) -> tuple[str, ...] | None:
    if prompts is None:
        return None
    if not prompts:
        raise ConfigError("data.prompts is empty; leave it out for the default, or list prompts with {label}.", parameter="data.prompts")
    for prompt in prompts:
        if not _is_template(prompt):
            raise ConfigError(
                f"data.prompts: {prompt[:200]!r} must hold {{label}} and no other braces, e.g. 'It is about {{label}}.'.", parameter="data.prompts"
            )
    return tuple(prompts)


def _is_template(prompt: str) -> bool:
    """Whether a prompt holds plain `{label}` fields and no other fields: a width such as `{label:>2000000000}` would take as many bytes."""
    try:
        fields = [part for part in Formatter().parse(prompt) if part[1] is not None]
    except ValueError:  # a brace without its partner
        return False
    return bool(fields) and all(name == "label" and not form and conversion is None for _, name, form, conversion in fields)


def _too_few(name: str, left: int, held: int, skipped: SkippedRows, minimum: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.counts.most_common())
    because = f" ({len(skipped)} rows were skipped: {reasons})" if skipped else ""
    if held and left + held >= minimum:
        return (
            f"{name} has {left + held} usable documents{because}; data.test_documents holds out {held} of them and leaves {left} to learn from, "
            f"fewer than data.min_documents ({minimum}); lower data.test_documents."
        )
    return f"{name} has {left + held} usable documents{because}, fewer than data.min_documents ({minimum}); add documents."
