"""Views of images: they follow from the generator, treat every image alone, and do what their operations say."""

import numpy as np
import pytest
import torch
from tiny import toy_images

from selftrain.data.image_views import OPERATIONS, cutout, rand_augment, strong_views, weak_views


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 256, size=(12, 3, 16, 16), dtype=np.uint8)


@pytest.mark.parametrize("views", [weak_views, strong_views])
def test_views_follow_from_the_generator_alone(pixels, views):
    before = pixels.copy()
    torch.manual_seed(0)
    first = views(pixels, np.random.default_rng(1))
    torch.manual_seed(1)  # torch's own generator has no say
    again, other = views(pixels, np.random.default_rng(1)), views(pixels, np.random.default_rng(2))
    assert len(first) == 12 and all(view.dtype == torch.uint8 and view.shape == (3, 16, 16) for view in first)
    assert torch.equal(torch.stack(first), torch.stack(again)) and not torch.equal(torch.stack(first), torch.stack(other))
    assert np.array_equal(pixels, before)  # documents stay as they are
    from_tensors = views([torch.from_numpy(one) for one in pixels], np.random.default_rng(1))
    assert torch.equal(torch.stack(first), torch.stack(from_tensors))


def test_a_weak_view_is_a_shift_of_the_image_or_of_its_mirror(pixels):
    """Every view is found among the 2 x 5 x 5 crops of the reflected image (16 pixels: by up to 2)."""

    def crops(image):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        return {padded[:, top : top + 16, left : left + 16].tobytes(): (top, left) for top in range(5) for left in range(5)}

    rng, seen = np.random.default_rng(0), []
    for _ in range(10):
        for image, view in zip(pixels, weak_views(pixels, rng), strict=True):
            own, mirror = crops(image), crops(image[:, :, ::-1])
            key = view.numpy().tobytes()
            assert key in own or key in mirror
            seen.append((key in own, own.get(key) or mirror[key]))
    assert {place for _, place in seen} == {(top, left) for top in range(5) for left in range(5)}
    assert 0.3 < np.mean([straight for straight, _ in seen]) < 0.7
    for image, view in zip(pixels, weak_views(pixels, rng, mirrored=False), strict=True):
        assert view.numpy().tobytes() in crops(image)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_treats_every_image_of_a_batch_as_if_it_were_alone(pixels, name):
    batch = 0.1 + 0.6 * torch.from_numpy(pixels).float() / 255
    strengths = torch.linspace(0, 1, len(batch))
    together = OPERATIONS[name](batch, strengths)
    alone = torch.cat([OPERATIONS[name](batch[i : i + 1], strengths[i : i + 1]) for i in range(len(batch))])
    assert together.shape == batch.shape and torch.isfinite(together).all()
    assert torch.allclose(together, alone, atol=1e-5)
    if name != "identity":
        assert not torch.allclose(together, batch, atol=0.02)


def test_operations_by_hand():
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, :, :4], image[:, 0, 0, 0] = 0.5, 0.8
    strength = torch.tensor([0.25])
    assert OPERATIONS["brightness"](image, strength)[0, 0, 0, 0] == pytest.approx(0.8 * (0.05 + 0.25 * 0.9))
    assert OPERATIONS["solarize"](image, strength)[0, 0, 0].tolist() == pytest.approx([0.2, 0.5, 0.5, 0.5, 0, 0, 0, 0])
    assert OPERATIONS["autocontrast"](image, strength)[0, 1, 0].tolist() == pytest.approx([1, 1, 1, 1, 0, 0, 0, 0])
    assert torch.equal(OPERATIONS["autocontrast"](torch.full((1, 3, 4, 4), 0.3), strength), torch.full((1, 3, 4, 4), 0.3))
    mean = image.mean()
    assert OPERATIONS["contrast"](image, strength)[0, 0, 0, 7] == pytest.approx(float(mean * (1 - (0.05 + 0.25 * 0.9))), abs=1e-6)
    coarse = OPERATIONS["posterize"](torch.full((1, 3, 4, 4), 0xFF / 255), torch.tensor([0.0]))
    assert coarse[0, 0, 0, 0] == pytest.approx(0xF0 / 255)  # four bits
    moved = OPERATIONS["translate_x"](image, torch.tensor([5 / 6]))  # 0.2 of the side: 1.6 pixels to the right
    assert moved[0, 1, 4].tolist() == pytest.approx([0, 0.2, 0.5, 0.5, 0.5, 0.3, 0, 0], abs=1e-5)
    assert OPERATIONS["translate_y"](image, torch.tensor([1.0]))[0, 1, 0].sum() == pytest.approx(0.0, abs=1e-5)
    half = torch.tensor([0.5])  # in the middle of their ranges, rotation, shear and shift are none
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        assert torch.allclose(OPERATIONS[name](image, half), image, atol=1e-5)


def test_cutout_is_a_grey_square_with_half_of_the_side():
    batch = torch.zeros(200, 3, 16, 16)
    found = cutout(batch, np.random.default_rng(0))
    areas = (found[:, 0] == 0.5).sum(dim=(1, 2))
    assert areas.max() == 64 and areas.min() < 64  # smaller where it lies over the border
    assert torch.equal((found == 0.5).any(dim=1), (found == 0.5).all(dim=1))


def test_every_image_gets_operations_of_its_own(pixels):
    same = torch.from_numpy(pixels[:1]).float().repeat(30, 1, 1, 1) / 255
    found = rand_augment(same, np.random.default_rng(0))
    assert len({one.numpy().tobytes() for one in found}) > 20
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert torch.equal(rand_augment(same, np.random.default_rng(0), operations=0), same)


def test_images_of_other_sizes():
    for side in (8, 28, 33):
        pixels = toy_images(3, side=side)[0]
        assert strong_views(pixels, np.random.default_rng(0))[0].shape == (3, side, side)
