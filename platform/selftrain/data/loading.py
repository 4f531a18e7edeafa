"""From a configuration to (Corpus, Truth): find the source, clean its rows, name the classes, split by content, and keep the true labels apart.

What a method gets is the `Corpus`; it holds no label until supervision.py grants some.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter

from selftrain.config import DataConfig
from selftrain.data.catalogue import DEFAULT_PROMPTS
from selftrain.data.classes import check_class_names, classes_of, describe, nothing_matches, same_classes
from selftrain.data.cleaning import Document, Row, clean
from selftrain.data.corpus import Corpus, Documents, Label, Skipped, Truth
from selftrain.data.images import check_sizes, common_size, stacked, thinned
from selftrain.data.sources import find_source
from selftrain.data.splits import hash_order, hold_out
from selftrain.errors import SelfTrainError


def load_corpus(config: DataConfig) -> tuple[Corpus, Truth]:
    """Read a source and split it.

    What is tested on is the test split of `test_source` where one is named. A source with a labeled test split keeps it whole. Of any other source with labels,
    the `test_documents` labeled documents that come first in hash order are held out. A source without labels has no test split: every document is unlabeled.
    Nor has one that a language model wrote: nobody knows whether its labels are true. Of images, `unlabeled_documents` are chosen by their encoded bytes, so
    that no others are decoded; those of them that cannot be used are not replaced.

    Raises:
        SelfTrainError: whatever the user can mend, from a missing file to too few usable documents.
    """
    if config.classes is not None:
        check_class_names(config.classes, "data.classes")
    prompts = _prompts(config.prompts)
    source = find_source(config if config.test_source is None else config.model_copy(update={"test_split": None, "test_source": None}))
    labels, index = classes_of(source, config.classes)
    labels = describe(labels, config.descriptions)
    test_rows, test_index, tested = source.test or (), index, source.name
    if config.test_source is not None:
        other = find_source(config.model_copy(update={"source": config.test_source, "train_split": None}))
        if other.kind != source.kind:
            raise SelfTrainError(
                f"data.test_source {other.name} holds {other.kind}s and {source.name} {source.kind}s; test on documents of the same kind."
            )
        test_rows, test_index, tested = other.test or other.train, same_classes(other, labels, source.name), other.name
        if other.generated and not other.test:
            raise SelfTrainError(
                f"data.test_source {other.name} was written by a language model, and nobody claims that its labels are true; test on real documents."
            )

    images = source.kind == "image"
    size = common_size(source.train) if images else None

    def cleaned(rows: Sequence[Row], index: Mapping[str, int], known: Iterable[str] = ()) -> tuple[dict[str, Document], tuple[Skipped, ...]]:
        result = clean(
            rows,
            index=index,
            max_characters=config.max_characters,
            known=frozenset(known),
            known_reason="in test already",
            images=images,
            size=size,
        )
        return {document.id: document for document in result.documents}, result.skipped

    if images:
        check_sizes([*source.train, *test_rows], size, source.name)
    given, skipped_test = cleaned(test_rows, test_index)
    # A test row without a label cannot be scored; a test split without any (the hub has such) is no test split.
    given = {id_: document for id_, document in given.items() if document.label is not None}
    if (config.test_split is not None or config.test_source is not None) and not given:
        key, value = ("test_source", config.test_source) if config.test_split is None else ("test_split", config.test_split)
        raise SelfTrainError(f"data.{key} {value!r} of {tested} holds no labeled document to test on; name another, or leave it out.")
    train = source.train
    if images and config.unlabeled_documents is not None:
        train = thinned(train, config.unlabeled_documents + config.validation_documents + (0 if given else config.test_documents))
    rest, skipped = cleaned(train, index, given)
    skipped = (*(skipped_test if given else ()), *skipped)
    labeled = {id_ for id_, document in rest.items() if document.label is not None}
    if not labeled and not given and any(item.reason == "unknown label" for item in skipped):
        raise SelfTrainError(nothing_matches(source, labels))

    documents = {**rest, **given}
    test, unlabeled = (hash_order(given), hash_order(rest)) if given else hold_out(rest, 0 if source.generated else config.test_documents, labeled)
    validation, unlabeled = hold_out(unlabeled, config.validation_documents, labeled) if config.validation_documents else ([], unlabeled)
    if config.validation_documents and not validation:
        raise SelfTrainError(
            f"data.validation_documents wants labeled documents and {source.name} has none to spare; set data.label_column, or leave it at 0."
        )
    if len(unlabeled) < config.min_documents:
        raise SelfTrainError(_too_few(source.name, len(unlabeled), 0 if given else len(test), skipped, config.min_documents))
    unlabeled = unlabeled[: config.unlabeled_documents]
    if len(unlabeled) < config.min_documents:
        raise SelfTrainError(
            f"data.unlabeled_documents ({config.unlabeled_documents}) is below data.min_documents ({config.min_documents}); raise it."
        )

    weak = {id_: label for id_ in unlabeled if (label := documents[id_].weak) is not None}
    truth = Truth(_true_labels(documents, unlabeled), _true_labels(documents, test), _true_labels(documents, validation), weak)
    corpus = Corpus(
        name=source.name if config.test_source is None else f"{source.name} (tested on {tested})",
        labels=labels,
        prompts=prompts or (source.named.prompts if source.named is not None else DEFAULT_PROMPTS),
        unlabeled=_split(documents, unlabeled, images),
        test=_split(documents, test, images),
        skipped=skipped,
        validation=_split(documents, validation, images),
        fingerprint=fingerprint([label.name for label in labels], unlabeled, test, validation),
        kind=source.kind,
        mirrored=source.named is None or source.named.mirrored,
    )
    return corpus, truth


def corpus_of(texts: Sequence[object], config: DataConfig) -> Corpus:
    """A corpus of texts that are in memory already: all of them unlabeled, cleaned as the rows of a source are.

    Raises:
        SelfTrainError: `config.classes` are not at least two different names, or too few texts are usable.
    """
    if isinstance(texts, str | bytes | Mapping):
        raise SelfTrainError(f"texts is a {type(texts).__name__}, not a list of texts; for one text write [text].")
    names = config.classes or ()
    check_class_names(names, "classes")
    labels = describe(tuple(Label(name, name, name) for name in names), config.descriptions)
    found = clean([Row(f"text {place}", text) for place, text in enumerate(texts)], index={}, max_characters=config.max_characters)
    if len(found.documents) < config.min_documents:
        raise SelfTrainError(_too_few("texts", len(found.documents), 0, found.skipped, config.min_documents))
    documents = {document.id: document for document in found.documents}
    ids = hash_order(documents)[: config.unlabeled_documents]
    return Corpus(
        name="texts",
        labels=labels,
        prompts=_prompts(config.prompts) or DEFAULT_PROMPTS,
        unlabeled=_split(documents, ids),
        test=Documents(),
        skipped=found.skipped,
        fingerprint=fingerprint(names, ids, ()),
    )


def fingerprint(class_names: Sequence[str], unlabeled: Sequence[str], test: Sequence[str], validation: Sequence[str] = ()) -> str:
    """SHA-256 over the class names and the document ids of each split that there is, in order."""
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
        raise SelfTrainError("data.prompts is empty; leave it out for the default, or list prompts with {label}.")
    for prompt in prompts:
        if not _is_template(prompt):
            raise SelfTrainError(f"data.prompts: {prompt[:200]!r} must hold {{label}} and no other braces, e.g. 'It is about {{label}}.'.")
    return tuple(prompts)


def _is_template(prompt: str) -> bool:
    """Whether a prompt holds plain `{label}` fields and nothing else to be filled in: a width such as `{label:>2000000000}` would take its bytes."""
    try:
        fields = [part for part in Formatter().parse(prompt) if part[1] is not None]
    except ValueError:  # a brace without its partner
        return False
    return bool(fields) and all(name == "label" and not form and conversion is None for _, name, form, conversion in fields)


def _too_few(name: str, left: int, held: int, skipped: Sequence[Skipped], minimum: int) -> str:
    reasons = Counter(item.reason for item in skipped)
    because = f" ({len(skipped)} rows were skipped: {', '.join(f'{count} {reason}' for reason, count in reasons.most_common())})" if skipped else ""
    if held and left + held >= minimum:
        return (
            f"{name} has {left + held} usable documents{because}; data.test_documents holds out {held} of them and leaves {left} to learn from, "
            f"fewer than data.min_documents ({minimum}); lower data.test_documents."
        )
    return f"{name} has {left + held} usable documents{because}, fewer than data.min_documents ({minimum}); add documents."
