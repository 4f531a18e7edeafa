"""A training on documents of several windows: a checkpoint leads to the same weights, half batches give the rows of the whole, and the bundle answers the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.bundle.handover import write_student
from selftrain.config import parse
from selftrain.data.corpus import Documents, document_id
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.models.workers import Workers


@pytest.fixture
def long(corpus):
    """The corpus with documents of one to three windows, and a continuation of each."""
    contents = tuple(" ".join([text] * (1 + place % 4)) for place, text in enumerate(corpus.unlabeled.contents))
    return replace(corpus, unlabeled=Documents(tuple(document_id(text) for text in contents), contents))


def build(folder, corpus, kind):
    torch.manual_seed(0)
    encoder = kind(tiny_backbone(folder / "encoder"), max_tokens=8, windows=3)
    experiment = parse({"method": {"name": "genco", "rounds": 3, "steps_per_round": 2, "learning_rate": 0.01}})
    return resolve(experiment).build(corpus, encoder, seed=1)


def train(method, rounds):
    for round_ in rounds:
        method.refresh(round_, lambda requests: {one: f"about {one.document_id[:3]} and the team {one.label}" for one in requests})
        method.encoder.eval()  # no dropout: a draw of torch's is not the question here
        for step in range(method.steps(round_)):
            method.step(round_, step)


@pytest.mark.parametrize("kind", [TextEncoder, HeadEncoder])
def test_it_goes_on_to_the_same_weights_and_the_bundle_answers_as_the_student(long, tmp_path, kind, one_thread):
    whole, first, second = (build(tmp_path / name, long, kind) for name in ("whole", "first", "second"))
    train(whole, range(3))
    train(first, range(1))
    second.load_state(first.state())
    train(second, range(1, 3))
    for name, value in whole.encoder.state_dict().items():
        torch.testing.assert_close(second.encoder.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    student, labels = whole.student(), long.class_names
    card = BundleCard(name="n", labels=labels, method="genco", scale=student.scale, max_tokens=8, windows=3)
    bundle = Classifier.load(write_student(tmp_path / "bundle", student, card), device="cpu")
    expected = student.predict(list(long.unlabeled.contents)).numpy()
    np.testing.assert_allclose(bundle.predict_proba(long.unlabeled.contents), expected, atol=1e-5)
    assert {len(one.windows) for one in bundle.tokenize(long.unlabeled.contents)} == {1, 2, 3}
    beginning = replace(student, encoder=build(tmp_path / "beginning", long, kind).encoder)
    assert not np.allclose(beginning.predict(list(long.unlabeled.contents)).numpy(), expected, atol=1e-3)  # it was trained


@pytest.mark.parametrize("kind", [TextEncoder, HeadEncoder])
def test_the_parts_of_two_workers_are_the_rows_of_the_whole(long, tmp_path, kind):
    encoder, texts = build(tmp_path, long, kind).encoder.eval(), list(long.unlabeled.contents[:7])
    whole = encoder(texts)
    for rank in (0, 1):
        torch.testing.assert_close(encoder(Workers(rank, 2).share(texts)), whole[rank::2])
