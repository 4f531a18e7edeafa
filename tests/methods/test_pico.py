"""PiCO: its contrastive loss by hand, where prototypes and weights go, and what it learns and keeps."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_backbone, toy_images
from trained import run, tensors

from selftrain import methods
from selftrain.config import parse
from selftrain.data.corpus import Documents
from selftrain.data.images import image_id
from selftrain.methods.candidate_labels.pico import pool_contrastive
from selftrain.methods.recipe import resolve
from selftrain.models.cnn import ImageEncoder
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, -0.5]], dtype=torch.float64), dim=1)
KEYS = torch.nn.functional.normalize(torch.tensor([[0.8, 0.6, 0.1], [0.3, 0.2, 1.0], [-1.0, 0.4, 0.3]], dtype=torch.float64), dim=1)


def test_the_contrastive_loss_by_hand():
    pool = torch.cat([QUERIES, KEYS])
    positives = torch.tensor([[True, False, True, False, True], [False, True, False, True, False]])
    scores = (QUERIES @ pool.T / 0.5).tolist()
    first, second = (math.log(sum(math.exp(score) for place, score in enumerate(row) if place != own)) for own, row in enumerate(scores))
    by_hand = ((first - scores[0][2]) + (first - scores[0][4])) / 2 + (second - scores[1][3])  # a query is no positive of itself
    assert pool_contrastive(QUERIES, pool, positives, 0.5).item() == pytest.approx(by_hand / 2)
    alone = torch.tensor([[True, False, False, False, False], [False, True, False, True, False]])
    assert pool_contrastive(QUERIES, pool, alone, 0.5).item() == pytest.approx(second - scores[1][3])  # the first has no positive


def test_the_gradient_by_differences():
    positives = torch.tensor([[False, False, True, False, True], [False, False, False, True, False]])
    assert torch.autograd.gradcheck(
        lambda queries: pool_contrastive(queries, torch.cat([queries, KEYS]), positives, 0.3), (QUERIES.clone().requires_grad_(),)
    )


def test_without_any_positive_there_is_no_loss_and_no_gradient():
    queries = QUERIES.clone().requires_grad_()
    loss = pool_contrastive(queries, torch.cat([queries, KEYS]), torch.zeros(2, 5, dtype=torch.bool), 0.07)
    loss.backward()
    assert loss.item() == 0.0 and queries.grad.abs().max() == 0.0


def build(corpus, folder, kind=HeadEncoder, **options):
    torch.manual_seed(0)
    experiment = parse({"method": {"name": "pico", "rounds": 3, "steps_per_round": 4, "batch_size": 8, "queue": 20, "key_momentum": 0.9, **options}})
    return resolve(experiment).build(corpus, kind(tiny_backbone(folder), max_tokens=16), seed=0)


def test_prototypes_move_to_the_queries_of_their_class(with_sets, tmp_path):
    method = build(with_sets, tmp_path / "e", projected=3, prototype_momentum=0.5)
    queries = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    method._move_prototypes(queries, torch.tensor([0, 0]))
    assert torch.allclose(method.class_prototypes[0], torch.nn.functional.normalize(torch.tensor([0.25, 0.5, 0.0]), dim=0))
    assert method.class_prototypes[1].abs().max() == 0.0  # nothing was predicted to be of that class


def test_it_finds_the_labels_in_the_sets(with_sets, tmp_path):
    method = build(with_sets, tmp_path / "e", rounds=6, steps_per_round=15, learning_rate=0.02, weights_momentum=[0.9, 0.5])
    before = method.weights.clone()
    run(method)
    right = method.student().predict(with_sets.unlabeled.contents).argmax(1) == (torch.arange(24) >= 12)
    assert right.float().mean() > 0.9  # of 24 the sets of 16 leave no choice: guessing the others gives .83
    assert torch.allclose(method.weights.sum(dim=1), torch.ones(24), atol=1e-5)
    assert all(method.weights[index, 1 - int(index >= 12)] == 0 for index in range(24) if index % 3)  # never outside of its set
    assert not torch.equal(before, method.weights)
    assert len(method.keys) == len(method.key_classes) == 20  # the queue is full and no longer than it may be


def test_weights_stay_uniform_before_the_start(with_sets, tmp_path):
    method = build(with_sets, tmp_path / "e", start=1.0)
    before = method.weights.clone()
    run(method)
    assert torch.equal(before, method.weights)


def test_a_resumed_training_ends_as_the_one_that_was_never_stopped(with_sets, tmp_path):
    whole = build(with_sets, tmp_path / "a")
    _, states = run(whole)
    rest = build(with_sets, tmp_path / "b")
    run(rest, resume=states[0])
    assert len(tensors(whole.state())) == len(tensors(rest.state()))
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole.state()), tensors(rest.state()), strict=True))


def test_a_full_encoder_is_trained_too_and_its_copy_follows_slowly(with_sets, tmp_path):
    method = build(with_sets, tmp_path / "e", kind=TextEncoder, rounds=1, steps_per_round=2, key_momentum=0.5)
    before, states = copy.deepcopy(method.encoder.state_dict()), []
    update = method.update
    method.update = lambda: (update(), states.append(copy.deepcopy(method.encoder.state_dict())))
    run(method)
    name = next(name for name, value in method.encoder.state_dict().items() if not torch.equal(before[name], value))
    start, new, follower = before[name], method.encoder.state_dict()[name], method.key_encoder.state_dict()[name]
    # Two steps, each followed before it is taken: half of the first one, and of the second one nothing yet.
    middle = states[0][name]
    assert torch.allclose(follower, start + (middle - start) / 2, atol=1e-7) and not torch.allclose(new, middle, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if methods.method_class(name).supervision == "candidates"])
def test_methods_for_sets_learn_the_classes_of_images(corpus, name):
    pixels, labels = toy_images(40)
    ids = tuple(image_id(one) for one in pixels)
    sets = {id_: (0, 1) if place % 3 == 0 else (int(labels[place]),) for place, id_ in enumerate(ids)}
    images = replace(corpus, kind="image", unlabeled=Documents(ids, pixels), candidates=sets)
    # SEAL's steps of size 10 are meant for a head on embeddings of length one.
    options = (
        {"generator_rate": 0.1, "virtual_rate": 0.1, "objective_steps": 2}
        if name == "seal_partial"
        else {"key_momentum": 0.9}
        if name == "pico"
        else {}
    )
    experiment = parse({"method": {"name": name, "rounds": 2, "steps_per_round": 10, "batch_size": 8, **options}})
    torch.manual_seed(0)
    method = resolve(experiment).build(images, ImageEncoder("small-cnn", pixels), seed=0)
    run(method)
    right = method.student().predict(pixels).argmax(1).numpy() == labels
    assert right[::3].mean() > 0.9 and right.mean() > 0.9  # every third set leaves a choice
