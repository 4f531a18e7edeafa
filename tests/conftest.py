"""Fixtures shared by all rooms. What takes seconds to import is imported where it is used: the process that hands out the tests needs none of it."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from selftrain.data.corpus import Corpus, Documents, Label, document_id

if TYPE_CHECKING:
    from selftrain.models.encoder import TextEncoder

ROOT = Path(__file__).resolve().parents[1]

# The collector looks through a million objects of torch and transformers again and again, for a tenth of the suite's time.
gc.set_threshold(100_000, 50, 50)

# A busy machine is no reason to fail.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


# Words of a file whose tests start Ray or the engine (minutes), and of one whose tests start other processes or say that they are slow (up to a minute).
TIERS = (("mark.ray", "mark.engine"), ("subprocess", "multiprocessing", "results_of_group", "mark.slow"))


@cache
def tier(path: str) -> int:
    """0 for a file of tests that takes longest."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return next((place for place, words in enumerate(TIERS) if any(word in text for word in words)), len(TIERS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: short files at the end keep both processes of `make test` busy."""
    items.sort(key=lambda item: tier(item.nodeid.partition("::")[0]))


def pytest_collection_finish() -> None:
    """What the tests import stays; nobody needs to look at it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries in C++ complain of objects that are left when Python ends."""
    gc.unfreeze()


WORDS = {
    "sport": ["match", "goal", "team", "player", "coach", "league", "score", "win"],
    "money": ["bank", "market", "profit", "share", "price", "trade", "company", "cash"],
}


@pytest.fixture
def texts_by_class() -> dict[str, list[str]]:
    """Twelve different short texts a class."""
    return {name: [" ".join([words[i % 8], words[(i * 3 + 1) % 8], words[(i + 5) % 8], str(i)]) for i in range(12)] for name, words in WORDS.items()}


@pytest.fixture
def one_thread():
    """For many steps on tiny tensors: threads that wait for each other make seconds into minutes on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def corpus(texts_by_class) -> Corpus:
    texts = [text for group in texts_by_class.values() for text in group]
    labels = tuple(Label(name, name, f"{name} and the like") for name in texts_by_class)
    documents = Documents(tuple(document_id(text) for text in texts), tuple(texts))
    return Corpus(name="toy", labels=labels, prompts=("Category: {label}.", "It is about {label}."), unlabeled=documents, test=Documents())


@pytest.fixture
def with_sets(corpus) -> Corpus:
    """Every third document has both classes in its candidate set, the others their label alone."""
    ids = corpus.unlabeled.ids
    return replace(corpus, candidates={id_: (0, 1) if index % 3 == 0 else (int(index >= 12),) for index, id_ in enumerate(ids)})


@pytest.fixture
def encoder(tmp_path) -> TextEncoder:
    import torch
    from tiny import tiny_backbone

    from selftrain.models.encoder import TextEncoder

    torch.manual_seed(0)
    return TextEncoder(tiny_backbone(tmp_path / "encoder"), max_tokens=16, batch_size=8)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """For runs of seconds (tests/light_runs.py)."""
    from light_runs import furnish

    return furnish(tmp_path_factory.mktemp("light"))
