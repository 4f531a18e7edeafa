"""The class names of a corpus, seen without a label: from the scores of documents and names to what is shown of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from selftrain.data.corpus import Corpus
from selftrain.data.words import bare_words
from selftrain.evaluation.naming.report import NamesFound
from selftrain.files.durable import explained, write_whole
from selftrain.models.names import NameScores

NAMES = "names.json"  # in a run's folder
_CHARACTERS = 400  # of a document whose words are counted: about what an encoder reads of it


def words_of(texts: Sequence[str]) -> list[frozenset[str]]:
    """The words of each text, in lower case."""
    return [frozenset(bare_words(text[:_CHARACTERS].lower())) for text in texts]


def names_found(corpus: Corpus, read: NameScores) -> NamesFound:
    """What is shown of the class names.

    Args:
        corpus: of texts.
        read: scores of some of its unlabeled documents.
    """
    texts = [corpus.unlabeled.contents[index] for index in read.documents]
    return NamesFound.of(read.scores.numpy(), read.names.numpy(), corpus.class_names, texts, words_of(texts))


def write_names(folder: Path, found: NamesFound) -> None:
    """Keep what was seen in a run's folder.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    with explained(folder):
        write_whole(folder / NAMES, json.dumps(found.to_json(), indent=1, ensure_ascii=False))


def read_names(folder: Path) -> NamesFound | None:
    """What `write_names` kept; None where the run has compared no document with a name, or the file is damaged."""
    try:
        return NamesFound.from_json(json.loads((folder / NAMES).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
