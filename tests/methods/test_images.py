"""The family with few labels on toy images: every member learns, follows its seed and resumes; what batch normalisation must not spoil."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import toy_images

from selftrain import methods
from selftrain.config import parse
from selftrain.data import image_views
from selftrain.data.corpus import Documents
from selftrain.data.images import image_id
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.recipe import resolve
from selftrain.models.cnn import ImageEncoder
from selftrain.training.loop import train

FAMILY = ["ns3l", "ssc", "seal", "cross_entropy", "pseudo_label", "pi_model", "mean_teacher", "vat", "mixmatch", "fixmatch"]
SHORT = {"rounds": 2, "steps_per_round": 2, "batch_size": 6, "unlabeled_ratio": 2}
# SEAL's steps of size 10 are meant for a head on embeddings of length one.
OPTIONS = {"seal": {"generator_rate": 0.1, "virtual_rate": 0.1, "objective_steps": 2}, "pi_model": {"weight": 1.0}, "mixmatch": {"weight": 1.0}}


@pytest.fixture
def images(corpus):
    """Forty toy images, four of each class labeled."""
    pixels, labels = toy_images(40)
    ids = tuple(image_id(one) for one in pixels)
    return replace(
        corpus, kind="image", unlabeled=Documents(ids, pixels), granted={id_: int(label) for id_, label in list(zip(ids, labels, strict=True))[:8]}
    )


def built(images, seed=0, **method):
    experiment = parse({"method": {**SHORT, **OPTIONS.get(method["name"], {}), **method}})
    torch.manual_seed(seed)
    return resolve(experiment).build(images, ImageEncoder("small-cnn", images.unlabeled.contents), seed=seed)


def run(method, seed=0, **how):
    return train(method, texts=no_texts, report=how.pop("report", lambda figures, state: None), seed=seed, **how)


def predictions(method, images):
    return method.student().predict(images.unlabeled.contents)


def test_the_family_reads_images_and_others_say_that_they_do_not(images):
    for name in FAMILY:
        methods.check_kind(name, images)
    with pytest.raises(SelfTrainError, match="toy are images, which the method genco does not learn from; choose one of ns3l, ssc, seal"):
        methods.check_kind("genco", images)
    with pytest.raises(SelfTrainError, match=r"method\.views must be 'edits' for images"):
        built(images, name="ns3l", views="continuations")


def test_batch_normalization_and_biases_do_not_decay(images):
    method = built(images, name="fixmatch", optimizer="sgd", weight_decay=0.1)
    decaying, kept = method.optimizer.param_groups
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    norms = {id(value) for module in method.encoder.modules() if isinstance(module, torch.nn.BatchNorm2d) for value in module.parameters()}
    assert {id(value) for value in kept["params"]} == norms | {id(method.classifier.bias)}
    assert len(decaying["params"]) == 3 + 1  # convolutions and the classifier
    (everything,) = built(images, name="fixmatch", decayed="all").optimizer.param_groups
    assert len(everything["params"]) == len(decaying["params"]) + len(kept["params"])


def test_labels_alone_means_that_batch_normalization_sees_no_other_image(images):
    """Other images without a label, and the same training; NS3L on top reads them."""
    pixels = [*images.unlabeled.contents[:8], *toy_images(32, seed=5)[0]]
    other = replace(images, unlabeled=Documents((*images.unlabeled.ids[:8], *map(image_id, pixels[8:])), pixels))
    for name, more in (("cross_entropy", {}), ("seal", {}), ("cross_entropy", {"ns3l_weight": 1.0, "ns3l_threshold": 0.4})):
        found = []
        for corpus in (images, other):
            torch.manual_seed(0)
            encoder = ImageEncoder("small-cnn", images.unlabeled.contents)  # one mean and deviation of the channels
            method = resolve(parse({"method": {**SHORT, **OPTIONS.get(name, {}), "name": name, **more}})).build(corpus, encoder)
            run(method)
            found.append(method.encoder.state_dict())
        assert all(torch.equal(value, found[1][key]) for key, value in found[0].items()) == (not more)


@pytest.mark.parametrize("name", FAMILY)
def test_every_member_learns_the_toy_classes(images, name):
    method = built(images, name=name, steps_per_round=8)
    history = run(method)
    assert all(np.isfinite(value) for figures in history.rounds for value in figures.values())
    pixels, labels = toy_images(60, seed=9)
    assert (method.student().predict(pixels).argmax(1).numpy() == labels).mean() > 0.8


@pytest.mark.parametrize("name", FAMILY)
def test_a_resumed_training_ends_as_the_one_that_was_never_stopped(images, name):
    states = []
    whole = built(images, name=name)
    first = run(whole, report=lambda figures, state: states.append(copy.deepcopy(state)))
    torch.manual_seed(99)
    rest = built(images, seed=1, name=name)  # other weights at the start: all of them come from the state
    rest.seed = 0
    assert run(rest, resume=states[0]).rounds == first.rounds
    assert torch.equal(predictions(whole, images), predictions(rest, images))


def test_every_step_sees_new_views_and_no_document_changes(images, monkeypatch):
    seen = []
    method = built(images, name="fixmatch")
    own = method.unlabeled_losses
    monkeypatch.setattr(method, "unlabeled_losses", lambda batch: seen.append(batch) or own(batch))
    before = images.unlabeled.contents.copy()
    run(method)
    assert np.array_equal(images.unlabeled.contents, before)
    place, views = seen[0].unlabeled[0], []
    for batch in seen:
        assert len(batch.strong) == 1 and len(batch.labeled_views) == 6 and len(batch.texts) == 12
        views += [view.numpy().tobytes() for index, view in zip(batch.unlabeled, batch.strong[0], strict=True) if index == place]
    assert len(set(views)) == len(views)


def test_labels_of_a_batch_belong_to_its_views(images):
    method = built(images, name="cross_entropy")
    rng = np.random.default_rng(0)
    drawn = method.draw_labeled(8, rng)
    views = method.weak_views(drawn, rng)
    for index, view in zip(drawn, views, strict=True):
        redder = view[0].float().mean() > view[2].float().mean()
        assert method.targets[index] == int(not redder)


@pytest.mark.parametrize(("name", "passes"), [("fixmatch", 1), ("ssc", 1), ("pi_model", 2), ("vat", 3)])
def test_running_statistics_follow_the_first_pass_of_a_step(images, name, passes):
    method = built(images, name=name)
    norm = next(module for module in method.encoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    calls = []
    norm.register_forward_pre_hook(lambda module, arguments: calls.append((len(arguments[0]), module.momentum)))
    method.encoder.train()
    method.step(0, 0)
    assert [momentum for _, momentum in calls] == [0.1] + [0.0] * (passes - 1)
    # FixMatch and SSC: labeled, weak and strong views in one pass. VAT: the pass of its first prediction again, or the difference would be of the batch.
    sizes = {"fixmatch": [30], "ssc": [42], "pi_model": [18, 12], "vat": [18, 18, 18]}[name]
    assert [size for size, _ in calls] == sizes
    assert int(norm.num_batches_tracked) == passes


def test_vat_without_a_perturbation_finds_no_difference(images):
    method = built(images, name="vat")
    rng = np.random.default_rng(0)
    method.encoder.train()
    labeled, rows = (method.encoder.inputs(method.weak_views(range(a, b), rng)) for a, b in ((0, 6), (6, 18)))
    target = torch.softmax(method.classifier(method.encoder.of_inputs(torch.cat([labeled, rows]))), dim=1)[6:].detach()
    assert float(method._difference(rows, target, labeled).detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(method._difference(rows, target, rows[:0]).detach()) > 1e-5  # without the labeled images the batch is another one


def test_the_teachers_running_statistics_are_those_of_the_student(images):
    method = built(images, name="mean_teacher")
    run(method)
    for teacher, student in zip(method.teacher.encoder.buffers(), method.encoder.buffers(), strict=True):
        assert torch.equal(teacher, student)


def test_seals_generator_starts_from_weights_of_its_own(images):
    method = built(images, name="seal")
    assert method.generator["encoder.network.0.weight"].abs().sum() > 0
    assert not torch.equal(method.generator["encoder.network.0.weight"], method.encoder.network[0].weight)


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_strong_view_is_flipped_only_where_that_keeps_the_class(images, monkeypatch, mirrored):
    told = []
    monkeypatch.setattr(image_views, "strong_views", lambda documents, rng, *, mirrored, device: told.append(mirrored) or documents)
    built(replace(images, mirrored=mirrored), name="fixmatch").strong_views_of([0, 1], 1, np.random.default_rng(0))
    assert told == [mirrored]
