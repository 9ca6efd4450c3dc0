import numpy as np
import pytest
import torch

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.views.dense import SegmentationAugmentation, fit_image, fit_mask


def pair(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image that shows its own mask: class k has the grey value 12 · k."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 21, (-(-height // 16), -(-width // 16)), dtype=np.uint8))
    mask = coarse.repeat_interleave(16, 0).repeat_interleave(16, 1)[:height, :width].contiguous()
    return (12 * mask).expand(3, -1, -1).contiguous(), mask


def grey(image: torch.Tensor) -> torch.Tensor:
    return 255 * (image[1] * IMAGENET_STD[1] + IMAGENET_MEAN[1])


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (40, 30)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0), (0.5, 0.5)])
def test_image_and_mask_stay_together(size, scale):
    augmentation = SegmentationAugmentation(crop_size=96, scale=scale, distort_p=0.0)
    image, mask = pair(*size)
    for seed in range(8):
        crop, classes = augmentation(image, mask, seed)
        assert crop.shape == (3, 96, 96) and classes.shape == (96, 96) and classes.dtype == torch.uint8
        inside = classes != 255
        wrong = (grey(crop)[inside] - 12 * classes[inside].float()).abs() > 6
        assert inside.any() and wrong.float().mean() < 0.3  # what is interpolated lies at the classes' borders
        assert (crop[:, ~inside] == 0).all()


def test_a_whole_image_is_what_evaluation_sees():
    augmentation = SegmentationAugmentation(crop_size=64, scale=(1, 1), flip_p=0.0, distort_p=0.0)
    image, mask = pair(75, 100)
    crop, classes = augmentation(image, mask, 3)
    fitted, size = fit_image(image, 64)
    assert size == (48, 64)
    assert torch.equal(crop, fitted) and torch.equal(classes, fit_mask(mask, 64))
    assert (classes[48:] == 255).all() and (classes[:48] != 255).all()


def test_random_scale_is_spread_over_its_range():
    augmentation = SegmentationAugmentation(crop_size=64, scale=(0.5, 1.0))
    image, mask = pair(64, 64)
    shares = [(augmentation(image, mask, seed)[1] != 255).float().mean().sqrt().item() for seed in range(60)]
    assert 0.49 < min(shares) < 0.55 and 0.95 < max(shares) <= 1.0


def test_a_sample_depends_on_its_seed_alone():
    augmentation = SegmentationAugmentation(crop_size=48)
    image, mask = pair(96, 128)
    torch.rand(3)
    first, again, other = (augmentation(image, mask, seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_flips_half_of_the_samples_and_says_which():
    augmentation = SegmentationAugmentation(crop_size=64, scale=(1, 1), distort_p=0.0)
    image, mask = pair(64, 64)
    flips = [augmentation.flips(seed) for seed in range(200)]
    assert 70 < sum(flips) < 130
    for seed in range(6):
        expected = mask.flip(-1) if flips[seed] else mask
        assert torch.equal(augmentation(image, mask, seed)[1], expected)


def test_distortion_changes_colours_and_nothing_else():
    plain = SegmentationAugmentation(crop_size=64, scale=(1, 1), flip_p=0.0, distort_p=0.0)
    distorting = SegmentationAugmentation(crop_size=64, scale=(1, 1), flip_p=0.0, distort_p=1.0)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = pair(64, 64)[1]
    changed = 0
    for seed in range(4):
        a, b = plain(image, mask, seed), distorting(image, mask, seed)
        assert torch.equal(a[1], b[1])
        changed += not torch.equal(a[0], b[0])
    assert changed == 4
