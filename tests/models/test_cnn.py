"""Encoders of images: shapes and sizes of the networks, normalisation, the two halves, running statistics, and who reads what."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import toy_images

from selftrain.config import parse
from selftrain.errors import SelfTrainError
from selftrain.models.cnn import NETWORKS, ImageEncoder
from selftrain.models.locate import IMAGE_ENCODERS
from selftrain.models.open import open_encoder

# With a linear classifier for ten classes: 1,467,610 is what Oliver et al.'s WRN-28-2 has, 269,722 He et al.'s ResNet-20 (0.27 million in their table 6).
PARAMETERS = {"small-cnn": 94_762, "wrn-28-2": 1_467_610, "wrn-28-8": 23_354_842, "resnet-20": 269_722, "resnet-32": 464_154, "resnet-44": 658_586}
DIMENSIONS = {"small-cnn": 128, "wrn-28-2": 128, "wrn-28-8": 512, "resnet-20": 64, "resnet-32": 64, "resnet-44": 64, "resnet-18": 512}


def encoder(name="small-cnn", seed=0, **how):
    torch.manual_seed(seed)
    return ImageEncoder(name, toy_images(20)[0], **how)


def test_the_names_that_may_be_known_without_torch_are_the_networks():
    assert tuple(NETWORKS) == IMAGE_ENCODERS


@pytest.mark.parametrize("name", NETWORKS)
def test_dimensions_and_parameters(name):
    with torch.device("meta"):
        network = NETWORKS[name]()
    count = sum(parameter.numel() for parameter in network.parameters()) + 10 * network.dimensions + 10
    assert network.dimensions == DIMENSIONS[name]
    assert count == PARAMETERS.get(name, 11_173_962)  # He et al.'s ResNet-18 with a 3 x 3 first layer


@pytest.mark.parametrize("name", ["small-cnn", "wrn-28-2", "resnet-20", "resnet-18"])
def test_networks_give_finite_embeddings_of_any_size_and_pass_gradients_to_all(name):
    found = encoder(name)
    for side in (8, 12):
        rows = found(toy_images(3, side=side)[0])
        assert rows.shape == (3, DIMENSIONS[name]) and torch.isfinite(rows).all()
    rows.pow(2).sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in found.parameters())


def test_inputs_are_normalised_and_make_the_first_half():
    pixels = toy_images(20)[0]
    found = encoder().eval()
    rows = found.inputs(pixels)
    assert torch.allclose(rows.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4) and torch.allclose(rows.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3)
    assert torch.equal(found.inputs([torch.from_numpy(one) for one in pixels]), rows) and torch.equal(found.inputs(list(pixels)), rows)
    assert torch.equal(found.of_inputs(rows), found(pixels))
    assert found.tensors and found.continuous and not found.frozen


def test_encode_takes_batches_leaves_the_mode_and_has_no_gradient():
    pixels = toy_images(11)[0]
    found = encoder(batch_size=4).train()
    before = copy.deepcopy(found.state_dict())
    rows = found.encode(pixels)
    assert found.training and not rows.requires_grad and rows.shape == (11, 128)
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
    assert torch.allclose(rows, torch.cat([found.encode(pixels[i : i + 1]) for i in range(11)]), atol=1e-5)
    assert found.encode([]).shape == (0, 128)


def test_running_statistics_stand_still_where_they_are_told_to():
    pixels, found = toy_images(8)[0], encoder().train()
    norm = next(module for module in found.modules() if isinstance(module, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    with found.fixed_statistics():
        inside = found(pixels)
    assert torch.equal(norm.running_mean, before)
    outside = found(pixels)
    assert not torch.equal(norm.running_mean, before) and norm.momentum == 0.1
    assert torch.equal(inside, outside)  # the batch's own statistics were used either way


def test_weights_follow_the_seed_and_fresh_ones_are_others():
    one, same, other = encoder(seed=1), encoder(seed=1), encoder(seed=2)
    assert torch.equal(one.encode(toy_images(3)[0]), same.encode(toy_images(3)[0]))
    assert not torch.equal(one.encode(toy_images(3)[0]), other.encode(toy_images(3)[0]))
    fresh, own = one.fresh(), dict(one.named_parameters())
    assert fresh.keys() == own.keys() and all(fresh[name].shape == own[name].shape for name in own)
    assert not torch.equal(fresh["network.0.weight"], own["network.0.weight"])


def test_bfloat16_convolutions_give_float32_embeddings():
    pixels = toy_images(4)[0]
    fine, coarse = encoder().eval(), encoder(precision="bfloat16").eval()
    assert coarse(pixels).dtype == torch.float32
    assert torch.allclose(fine(pixels), coarse(pixels), atol=0.01) and not torch.equal(fine(pixels), coarse(pixels))  # measured: .002


def test_opening_and_what_is_refused(corpus):
    pixels = toy_images(6)[0]
    images = replace(corpus, kind="image", unlabeled=replace(corpus.unlabeled, ids=tuple("abcdef"), contents=pixels))
    found = open_encoder(parse({"model": {"encoder": "small-cnn", "batch_size": 7}}).model, images)
    assert isinstance(found, ImageEncoder) and found.batch_size == 7
    assert np.allclose(found.mean.flatten().numpy(), pixels.mean(axis=(0, 2, 3)) / 255)
    with pytest.raises(SelfTrainError, match=r"model\.encoder must be one of small-cnn, wrn-28-2.*toy are images \(got 'all-MiniLM-L6-v2'\)"):
        open_encoder(parse({}).model, images)
    with pytest.raises(SelfTrainError, match=r"model\.encoder must be a sentence encoder: the documents of toy are texts \(got 'wrn-28-2'"):
        open_encoder(parse({"model": {"encoder": "wrn-28-2"}}).model, corpus)
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'full'"):
        open_encoder(parse({"model": {"encoder": "wrn-28-2", "train": "head"}}).model, images)
