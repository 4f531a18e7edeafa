"""From a configuration to (Corpus, TrueLabels): find the source, clean its rows, name the classes, split by content, and keep the true labels apart.

What a method gets is the `Corpus`; it holds no label until supervision.py grants some.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from string import Formatter
from typing import NamedTuple

from selftrain.config import DataConfig
from selftrain.data.catalogue import DEFAULT_PROMPTS
from selftrain.data.classes import check_class_names, classes_of, no_label_matches, same_classes, with_descriptions
from selftrain.data.cleaning import Document, SourceRow, clean, label_key
from selftrain.data.corpus import Corpus, Documents, Label, TrueLabels, UnusedRow
from selftrain.data.images import check_sizes, common_size, stacked, thinned
from selftrain.data.sources import DataSource, find_source
from selftrain.data.splits import hash_order, hold_out
from selftrain.errors import ConfigError, DataError

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
    if config.classes is not None:
        check_class_names(config.classes, "data.classes")
    prompts = _prompts(config.prompts)
    source = find_source(config if config.test_source is None else config.model_copy(update={"test_split": None, "test_source": None}))
    labels, index = classes_of(source, config.classes)
    labels = with_descriptions(labels, config.descriptions)
    tested = _tested(config, source, labels, index)
    given, rest, skipped = _cleaned(config, source, tested, index)
    if not given and not any(document.label is not None for document in rest.values()) and any(item.reason == "unknown label" for item in skipped):
        raise DataError(no_label_matches(source, labels))

    test, validation, unlabeled = _splits(config, source, given, rest, skipped)
    documents, images = {**rest, **given}, source.kind == "image"
    weak = {id_: label for id_ in unlabeled if (label := documents[id_].weak) is not None}
    truth = TrueLabels(_true_labels(documents, unlabeled), _true_labels(documents, test), _true_labels(documents, validation), weak)
    corpus = Corpus(
        name=source.name if config.test_source is None else f"{source.name} (tested on {tested.name})",
        labels=labels,
        prompts=prompts or (source.named.prompts if source.named is not None else DEFAULT_PROMPTS),
        unlabeled=_split(documents, unlabeled, images),
        test=_split(documents, test, images),
        skipped=skipped,
        validation=_split(documents, validation, images),
        fingerprint=corpus_fingerprint([label.name for label in labels], unlabeled, test, validation),
        kind=source.kind,
        mirrored=source.named is None or source.named.mirrored,
    )
    return corpus, truth


class _Tested(NamedTuple):
    """What is tested on, where a source has it apart."""

    rows: Sequence[SourceRow]
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
    if other.generated and not other.test:
        raise DataError(
            f"data.test_source {other.name} was written by a language model, and its labels may be wrong; test on real documents.",
            parameter="data.test_source",
        )
    return _Tested(other.test or other.train, classes, other.name)


def _cleaned(
    config: DataConfig, source: DataSource, tested: _Tested, index: Mapping[str, int]
) -> tuple[dict[str, Document], dict[str, Document], tuple[UnusedRow, ...]]:
    """(documents that are given to test on, all others, what was skipped)."""
    images = source.kind == "image"
    size = common_size(source.train) if images else None
    if images:
        check_sizes([*source.train, *tested.rows], size, source.name)

    def cleaned(
        rows: Sequence[SourceRow], index: Mapping[str, int], known: Collection[str] = ()
    ) -> tuple[dict[str, Document], tuple[UnusedRow, ...]]:
        result = clean(
            rows, index=index, max_characters=config.max_characters, known=frozenset(known), known_reason="in test already", images=images, size=size
        )
        return {document.id: document for document in result.documents}, result.skipped

    given, skipped_test = cleaned(tested.rows, tested.classes)
    # A test row without a label cannot be scored; a test split without any (the hub has such) is no test split.
    given = {id_: document for id_, document in given.items() if document.label is not None}
    if (config.test_split is not None or config.test_source is not None) and not given:
        key, value = ("test_source", config.test_source) if config.test_split is None else ("test_split", config.test_split)
        raise DataError(
            f"data.{key} {value!r} of {tested.name} holds no labeled document to test on; set another, or leave it out.", parameter=f"data.{key}"
        )
    train = source.train
    if images and config.unlabeled_documents is not None:
        count = config.unlabeled_documents + config.validation_documents + (0 if given else config.test_documents)
        train = thinned(train, count, (lambda row: label_key(row.label) is not None) if config.supervision in _LEARNS_FROM_LABELS else None)
    rest, skipped = cleaned(train, index, given)
    return given, rest, (*(skipped_test if given else ()), *skipped)


def _splits(
    config: DataConfig, source: DataSource, given: Mapping[str, Document], rest: Mapping[str, Document], skipped: Sequence[UnusedRow]
) -> tuple[list[str], list[str], list[str]]:
    """(ids to test on, for validation, unlabeled)."""
    if given:
        test, unlabeled = hash_order(given), hash_order(rest)
    else:
        test, unlabeled = hold_out(rest, 0 if source.generated else config.test_documents, _may_be_held_out(config, rest, rest))
    validation: list[str] = []
    if config.validation_documents:
        validation, unlabeled = hold_out(unlabeled, config.validation_documents, _may_be_held_out(config, rest, unlabeled))
        if not validation:
            raise DataError(
                f"data.validation_documents must be 0 (got {config.validation_documents}), as {source.name} has no labeled documents to spare; "
                "or set data.label_column.",
                parameter="data.validation_documents",
            )
    if len(unlabeled) < config.min_documents:
        raise DataError(_too_few(source.name, len(unlabeled), 0 if given else len(test), skipped, config.min_documents))
    if config.unlabeled_documents is not None:
        if config.unlabeled_documents < config.min_documents:
            raise DataError(
                f"data.unlabeled_documents ({config.unlabeled_documents}) is below data.min_documents ({config.min_documents}); raise it.",
                parameter="data.unlabeled_documents",
            )
        kept = unlabeled
        if config.supervision in _LEARNS_FROM_LABELS:  # those that labels can be granted to come first
            kept = sorted(unlabeled, key=lambda id_: rest[id_].label is None)
        chosen = set(kept[: config.unlabeled_documents])
        unlabeled = [id_ for id_ in unlabeled if id_ in chosen]
    return test, validation, unlabeled


def _may_be_held_out(config: DataConfig, rest: Mapping[str, Document], ids: Iterable[str]) -> set[str]:
    """Those of `ids` that may be held out: all that carry a label. Where a run learns from labels and some rows have none, at most half of every class.

    Labels are scarce where some rows have none; without this, `test_documents` would take all of them. The half is the one that comes first in hash order.
    """
    labeled = [id_ for id_ in hash_order(ids) if rest[id_].label is not None]
    if config.supervision not in _LEARNS_FROM_LABELS or all(document.label is not None for document in rest.values()):
        return set(labeled)
    of_class: dict[int | None, list[str]] = {}
    for id_ in labeled:
        of_class.setdefault(rest[id_].label, []).append(id_)
    return {id_ for group in of_class.values() for id_ in group[: len(group) // 2]}


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
    names = config.classes or ()
    check_class_names(names, "classes")
    labels = with_descriptions(tuple(Label(name, name, name) for name in names), config.descriptions)
    found = clean([SourceRow(f"text {place}", text) for place, text in enumerate(texts)], index={}, max_characters=config.max_characters)
    if len(found.documents) < config.min_documents:
        raise DataError(_too_few("texts", len(found.documents), 0, found.skipped, config.min_documents))
    documents = {document.id: document for document in found.documents}
    ids = hash_order(documents)[: config.unlabeled_documents]
    return Corpus(
        name="texts",
        labels=labels,
        prompts=_prompts(config.prompts) or DEFAULT_PROMPTS,
        unlabeled=_split(documents, ids),
        test=Documents(),
        skipped=found.skipped,
        fingerprint=corpus_fingerprint(names, ids, ()),
    )


def corpus_fingerprint(class_names: Sequence[str], unlabeled: Sequence[str], test: Sequence[str], validation: Sequence[str] = ()) -> str:
    """SHA-256 over the class names and the document ids of each split that there is, in order.

    Args:
        class_names: in index order.
        unlabeled: ids, in the order of the split; likewise the others.
        test: of the test split.
        validation: of the validation split; it does not count where it is empty.
    """
    splits = [list(class_names), list(unlabeled), list(test), *([list(validation)] if validation else [])]
    return hashlib.sha256(json.dumps(splits).encode()).hexdigest()


def _split(documents: Mapping[str, Document], ids: Sequence[str], images: bool = False) -> Documents:
    contents = tuple(documents[id_].text for id_ in ids)
    return Documents(tuple(ids), stacked(contents) if images else contents)


def _true_labels(documents: Mapping[str, Document], ids: Iterable[str]) -> dict[str, int]:
    return {id_: label for id_ in ids if (label := documents[id_].label) is not None}


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


def _too_few(name: str, left: int, held: int, skipped: Sequence[UnusedRow], minimum: int) -> str:
    reasons = Counter(item.reason for item in skipped)
    because = f" ({len(skipped)} rows were skipped: {', '.join(f'{count} {reason}' for reason, count in reasons.most_common())})" if skipped else ""
    if held and left + held >= minimum:
        return (
            f"{name} has {left + held} usable documents{because}; data.test_documents holds out {held} of them and leaves {left} to learn from, "
            f"fewer than data.min_documents ({minimum}); lower data.test_documents."
        )
    return f"{name} has {left + held} usable documents{because}, fewer than data.min_documents ({minimum}); add documents."
