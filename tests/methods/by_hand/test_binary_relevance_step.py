"""Binary relevance by hand: scores, who is a positive and who a negative, the least squares fit, and the cut."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.data.texts import no_texts
from selftrain.errors import ConfigError
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.binary_relevance import BinaryRelevance, BinaryRelevanceOptions, cut_in_two, least_squares
from selftrain.models.head import HeadEncoder
from selftrain.training.loop import train

TEXTS = [f"{words} {number}" for number in range(4) for words in ("the team won", "the bank lost", "film and music", "team and bank")]
NAMES = ("sport", "market", "film")


@pytest.fixture(autouse=True)
def single_precision():
    """A head keeps embeddings in single precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


def built(backbone, **options):
    labels = tuple(Label(name, name, name) for name in NAMES)
    corpus = Corpus("tiny", labels, ("It is about {label}.",), Documents(tuple(map(str, range(16))), tuple(TEXTS)), Documents())
    recipe = resolve(parse({"model": {"train": "head"}, "method": {"name": "binary_relevance", **options}}))
    return recipe.build(corpus, HeadEncoder(backbone, max_tokens=16), seed=0)


def by_hand(backbone, shares, penalty=3.0):
    """Scores before the first round and after each, before the cut."""
    embeddings = backbone.encode(TEXTS).astype(np.float64)
    prompts = backbone.encode([f"It is about {name}." for name in NAMES]).astype(np.float64)
    weights, offsets = prompts - prompts.mean(axis=0), np.zeros(3)
    found = [embeddings @ weights.T + offsets]
    for share in shares:
        scores = found[-1]
        positives, negatives = max(1, round(share * 16 / 3)), max(1, round(share * 32 / 3))
        for label in range(3):
            order = np.argsort(-scores[:, label], kind="stable")
            rows = embeddings[[*order[:positives], *order[-negatives:]]]
            targets = np.array([1.0] * positives + [-1.0] * negatives)
            added = penalty * rows.var(axis=0).mean() * len(rows)
            # Ridge regression with an intercept, by its extended system.
            design = np.vstack([rows - rows.mean(axis=0), np.sqrt(added) * np.eye(rows.shape[1])])
            weights[label] = np.linalg.lstsq(design, np.append(targets - targets.mean(), np.zeros(rows.shape[1])), rcond=None)[0]
            offsets[label] = targets.mean() - rows.mean(axis=0) @ weights[label]
        found.append(embeddings @ weights.T + offsets)
    return found


@pytest.mark.parametrize(("options", "shares"), [({"rounds": 0}, []), ({"rounds": 1}, [1.0]), ({"rounds": 3, "first_share": 0.4}, [0.4, 0.7, 1.0])])
def test_rounds_end_as_by_hand(backbone, options, shares):
    method = built(backbone, **options)
    train(method, texts=no_texts, report=lambda figures, state: None, seed=0)
    scores = by_hand(backbone, shares)[-1]
    found = method.student().predict(TEXTS).numpy()
    for label in range(3):
        cut, slope = cut_in_two(scores[:, label])
        expected = 1 / (1 + np.exp(-slope * (scores[:, label] - cut)))
        assert found[:, label] == pytest.approx(expected, abs=2e-3)
    assert not np.allclose(found.sum(axis=1), 1)
    again = built(backbone, **options)
    again.load_state(method.state())
    assert np.array_equal(again.student().predict(TEXTS).numpy(), found)


def test_each_round_says_how_many_documents_it_fits_and_how_far_the_scores_moved(backbone):
    method, rounds, encoded = built(backbone, rounds=3, first_share=0.4), [], []
    encode = method.encoder.encode
    method.encoder.encode = lambda texts: encoded.append(len(texts)) or encode(texts)
    train(method, texts=no_texts, report=lambda figures, state: rounds.append(figures), seed=0)
    assert [(one["positives"], one["negatives"]) for one in rounds] == [(2, 4), (4, 7), (5, 11)]
    scores = by_hand(backbone, [0.4, 0.7, 1.0])
    moved = [float(((after - before) ** 2).mean()) for before, after in pairwise(scores)]
    assert [one["change"] for one in rounds] == pytest.approx(moved, rel=1e-3)
    assert encoded.count(16) == 1, "the encoder stays as it is, so documents are encoded once"
    assert method.name_scores is not None


def test_every_class_is_fitted_to_at_least_one_document_of_either_side(backbone):
    method = built(backbone, first_share=0.01, last_share=0.01)
    assert [method._counts(round_) for round_ in (0, 4)] == [(1, 1), (1, 1)]
    method = built(backbone, rounds=1)
    method.corpus = replace(method.corpus, unlabeled=Documents(("a",), ("one text",)))
    assert method._counts(0) == (1, 1)
    method.corpus = replace(method.corpus, labels=method.corpus.labels * 2, unlabeled=Documents(("a", "b"), ("one text", "another")))
    assert method._counts(0) == (1, 1), "no document is on both sides"


def test_a_cut_is_where_the_parts_differ_most():
    cut, slope = cut_in_two(np.array([0.0, 0.2, 1.0, 1.2, 0.1]))
    within = (0.01 + 0.01 + 0.0 + 0.01 + 0.01) / 5
    assert cut == pytest.approx(0.6) and slope == pytest.approx((1.1 - 0.1) / within)
    assert cut_in_two(np.array([0.0, 0.0, 1.0])) == (0.5, 1000.0)  # equal values are not parted, and a slope has a bound
    assert cut_in_two(np.array([2.0, 2.0])) == (2.0, 1.0) == cut_in_two(np.array([2.0]))
    assert cut_in_two(np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0]))[0] == 0.5  # one against five differ as far as they may


def test_the_cut_leaves_the_smallest_variance_within_the_parts():
    """Which is where the variance between them is highest."""
    for seed in range(30):
        values = np.random.default_rng(seed).exponential(size=12)
        ordered = np.sort(values)
        within = [ordered[:place].var() * place + ordered[place:].var() * (12 - place) for place in range(1, 12)]
        place = int(np.argmin(within)) + 1
        cut, slope = cut_in_two(values)
        gap = ordered[place:].mean() - ordered[:place].mean()
        assert cut == pytest.approx((ordered[place - 1] + ordered[place]) / 2) and slope == pytest.approx(gap / (min(within) / 12))


def test_equal_rows_have_no_weights():
    weights, offset = least_squares(torch.ones(4, 3, dtype=torch.float64), torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64), 1.0)
    assert torch.equal(weights, torch.zeros(3, dtype=torch.float64)) and float(offset) == 0.5


def test_it_needs_three_classes_and_documents_with_several_labels(backbone):
    corpus, options = built(backbone).corpus, BinaryRelevanceOptions()
    BinaryRelevance.check(options, corpus)
    with pytest.raises(ConfigError, match=r"data\.classes must be at least 3 for the method binary_relevance \(got 2\)"):
        BinaryRelevance.check(options, replace(corpus, labels=corpus.labels[:2]))
    assert BinaryRelevance.multi_label and options.trains and not BinaryRelevanceOptions(rounds=0).trains


def test_the_share_must_not_shrink():
    with pytest.raises(ConfigError, match="last_share must be at least first_share"):
        resolve(parse({"method": {"name": "binary_relevance", "first_share": 0.9, "last_share": 0.5}}))
