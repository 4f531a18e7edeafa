"""The start is handed over where training made neighbours agree less: a whole encoder in this process, and what a training that is over says again."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.corpus import Documents, document_id
from selftrain.evaluation.neighbours import Agreement
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.training.fit import fit
from selftrain.training.loop import Fitted
from selftrain.training.start_check import FEWEST, better_of_both, worse_than

PLAIN = {"input_augmentation": False, "conditional_augmentation": False, "rounds": 1, "steps_per_round": 1, "learning_rate": 1e-6}


@pytest.mark.parametrize(
    ("after", "worse"),
    [((0.7, 0.4), False), ((0.8, 0.5), False), ((0.69, 0.5), True), ((1.0, 0.0), True)],
    ids=["as good", "better", "smaller share", "one class"],
)
def test_neither_the_share_nor_agreement_above_chance_may_fall(after, worse):
    assert worse_than(Agreement(0.7, 0.4), Agreement(*after)) is worse


@pytest.fixture
def many(corpus):
    texts = [f"{text} {number}" for number in range(5) for text in corpus.unlabeled.contents]
    return replace(corpus, unlabeled=Documents(tuple(document_id(text) for text in texts), tuple(texts)))


@pytest.fixture
def opened(tmp_path):
    backbone = tiny_backbone(tmp_path / "encoder")
    return lambda: TextEncoder(copy.deepcopy(backbone), max_tokens=16)


def recipe_of(**options):
    return resolve(parse({"method": {"name": "genco", **PLAIN, **options}}))


def weights(method):
    return torch.cat([value.flatten() for value in method.encoder.state_dict().values()])


def spoiled(recipe, corpus, opened):
    """A training that is over, in which the classes of documents are random."""
    method = recipe.untrained(corpus, seed=0, opened=opened)
    rows = torch.randn(2, method.encoder.dimensions, generator=torch.Generator().manual_seed(0))
    method.prototypes = lambda: rows
    encode = method.encoder.encode
    method.encoder.encode = lambda texts, *rest: torch.randn(encode(texts, *rest).shape, generator=torch.Generator().manual_seed(1))
    return Fitted(method, [{"round": 1.0}])


def test_the_start_is_handed_over_where_training_made_labels_random(many, opened):
    recipe = recipe_of()
    found = better_of_both(spoiled(recipe, many, opened), lambda: recipe.untrained(many, seed=0, opened=opened))
    (figures,) = found.rounds
    assert figures["start_kept"] == 1 and figures["neighbours_agree"] < figures["neighbours_agree_start"]
    assert torch.equal(weights(found.method), weights(recipe.untrained(many, seed=0, opened=opened)))


def test_what_was_trained_is_kept_where_neighbours_agree_as_before(many, opened):
    recipe = recipe_of()
    found = fit(recipe, many, seed=0, opened=opened)
    assert found.rounds[-1]["start_kept"] == 0
    assert found.rounds[-1]["neighbours_agree"] == found.rounds[-1]["neighbours_agree_start"]  # a rate of 1e-6 moves no document
    assert not torch.equal(weights(found.method), weights(recipe.untrained(many, seed=0, opened=opened)))
    unchecked = fit(recipe_of(start_check=False), many, seed=0, opened=opened)
    assert torch.equal(weights(found.method), weights(unchecked.method)) and "start_kept" not in unchecked.rounds[-1]


def test_a_training_that_is_over_decides_nothing_twice(many, opened):
    recipe = recipe_of()
    first = better_of_both(spoiled(recipe, many, opened), lambda: recipe.untrained(many, seed=0, opened=opened))
    again = fit(recipe, many, seed=0, opened=opened, resume=first.state())
    assert again.rounds == first.rounds and torch.equal(weights(again.method), weights(first.method))


def test_of_few_documents_nothing_is_said(corpus, opened):
    assert len(corpus.unlabeled) < FEWEST
    assert "start_kept" not in fit(recipe_of(), corpus, seed=0, opened=opened).rounds[-1]


def test_without_rounds_there_is_nothing_to_compare(many, opened):
    assert fit(recipe_of(rounds=0), many, seed=0, opened=opened).rounds == []
