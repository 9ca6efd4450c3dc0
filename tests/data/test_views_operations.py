"""Each operation of the views against PIL and torchvision, for the same parameters, over many images and parameters."""

import numpy as np
import PIL
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from data import colour, resample
from data.colour import BRIGHTNESS, CONTRAST, SATURATION, Scratch
from data.resample import GaussianBlur, Source, bicubic_weights, blur_weights, crop_by_products, down_first


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Random images of several kinds: any colours, black and white levels only, smooth, almost one colour."""
    kind = rng.integers(4)
    if kind == 0:
        image = rng.integers(0, 256, (height, width, 3))
    elif kind == 1:
        image = 255 * rng.integers(0, 2, (height, width, 3))
    elif kind == 2:
        image = np.clip(128 + np.cumsum(rng.integers(-12, 13, (height, width, 3)), axis=1), 0, 255)
    else:
        image = rng.integers(0, 253) + rng.integers(0, 4, (height, width, 3))
    return image.astype(np.uint8)


def tensor(*images: np.ndarray) -> Tensor:
    return torch.stack([torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) for image in images]).contiguous()


def difference(ours: Tensor, theirs: list[Image.Image]) -> np.ndarray:
    return np.abs(ours.permute(0, 2, 3, 1).numpy() - np.stack([np.asarray(image) for image in theirs]).astype(float))


def pil_resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """As Pillow 13 does; older ones always resize along x first."""
    if down_first(image.height, image.width, height, width):
        image = image.resize((image.width, height), Image.BICUBIC)
    else:
        image = image.resize((width, image.height), Image.BICUBIC)
    return image.resize((width, height), Image.BICUBIC)


def random_box(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w


#: Height and width of images, and sizes of crops: square and not, tiny, up and down.
SHAPES = [(1, 1), (2, 3), (5, 300), (300, 5), (17, 48), (64, 64), (150, 97), (256, 256)]
SIZES = (1, 7, 32, 96, 224)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_by_products_is_within_one_level_of_pil(shape):
    rng = np.random.default_rng(sum(shape))
    for size in SIZES:
        images = [noise(rng, *shape) for _ in range(4)]
        boxes = [(0, 0, *shape), *(random_box(rng, *shape) for _ in range(3))]
        flips = [bool(rng.integers(2)) for _ in boxes]
        ours = crop_by_products(tensor(*images).byte(), range(4), boxes, flips, size)
        theirs = []
        for image, (top, left, height, width), flip in zip(images, boxes, flips, strict=True):
            crop = pil_resize(Image.fromarray(image).crop((left, top, left + width, top + height)), size, size)
            theirs.append(TF.hflip(crop) if flip else crop)
        assert difference(ours, theirs).max() <= 1


@pytest.mark.parametrize("shape", [(300, 5), (150, 97), (256, 256)])
def test_crop_one_by_one_is_within_one_level_of_pil_but_for_a_few_in_a_million(shape, monkeypatch):
    monkeypatch.setattr(resample, "SMALL_PRODUCT", 0)
    rng = np.random.default_rng(sum(shape))
    differences = []
    for size in SIZES:
        images = [noise(rng, *shape) for _ in range(6)]
        boxes = [(0, 0, *shape), *(random_box(rng, *shape) for _ in range(5))]
        flips = [bool(rng.integers(2)) for _ in boxes]
        ours = Source(tensor(*images).byte()).crop(range(6), boxes, flips, size)
        theirs = []
        for image, (top, left, height, width), flip in zip(images, boxes, flips, strict=True):
            crop = pil_resize(Image.fromarray(image).crop((left, top, left + width, top + height)), size, size)
            theirs.append(TF.hflip(crop) if flip else crop)
        differences.append(difference(ours, theirs).ravel())
    differences = np.concatenate(differences)
    assert differences.max() <= 2
    assert (differences > 1).sum() <= 3 + 2e-5 * len(differences)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 resizes along x first, always")
def test_order_of_the_axes_is_pillows():
    rng = np.random.default_rng(0)
    orders = set()
    for _ in range(300):
        height, width, new_height, new_width = (int(side) for side in rng.integers(3, 90, 4))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert image.resize((new_width, new_height), Image.BICUBIC) == pil_resize(image, new_width, new_height)
        orders.add(down_first(height, width, new_height, new_width))
    assert orders == {True, False}


@pytest.mark.parametrize("products", [True, False])
def test_nothing_outside_its_box_enters_a_crop(products, monkeypatch):
    monkeypatch.setattr(resample, "SMALL_PRODUCT", 10**9 if products else 0)
    rng = np.random.default_rng(3)
    boxes = [random_box(rng, 40, 50) for _ in range(20)]
    flips = [bool(rng.integers(2)) for _ in boxes]
    image = torch.from_numpy(rng.integers(0, 256, (3, 40, 50), dtype=np.uint8))
    outside = torch.full((20, 3, 40, 50), 255, dtype=torch.uint8)
    for pixels, (top, left, height, width) in zip(outside, boxes, strict=True):
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        pixels[window] = image[window]
    inside = Source(image[None]).crop([0] * 20, boxes, flips, 24)
    assert torch.equal(inside, Source(outside).crop(range(20), boxes, flips, 24))


def test_bicubic_weights_sum_to_one_and_keep_an_image_of_the_same_size():
    weights = bicubic_weights(torch.tensor([0, 3, 9]), torch.tensor([10, 4, 1]), 6, 10)
    assert torch.allclose(weights.sum(dim=2), torch.ones(3, 6))
    assert (weights[1, :, :3] == 0).all() and (weights[1, :, 7:] == 0).all() and (weights[2, :, 9] == 1).all()
    assert torch.equal(bicubic_weights(torch.tensor([2]), torch.tensor([5]), 5, 8)[0, :, 2:7], torch.eye(5))


@pytest.mark.parametrize("size", [1, 2, 5, 16, 33, 45, 47, 96, 131, 224])
def test_blur_is_within_two_levels_of_pil(size):
    rng = np.random.default_rng(size)
    for sigmas in (rng.uniform(0.1, 2, 4).tolist(), [0.1, 0.5, 1.0, 2.0], [0.3, 1.5, 4.0, 7.5]):
        images = [noise(rng, size, size) for _ in sigmas]
        ours = tensor(*images)
        GaussianBlur(sigmas, size)(ours, torch.arange(4))
        theirs = [Image.fromarray(i).filter(ImageFilter.GaussianBlur(s)) for i, s in zip(images, sigmas, strict=True)]
        assert difference(ours, theirs).max() <= 2


def test_blur_matrices_of_a_constant_image_change_nothing():
    weights = blur_weights([0.02, 0.7, 1.56, 5.2], 31)
    assert torch.allclose(weights.sum(dim=2), torch.ones(4, 31), atol=1e-6) and (weights >= 0).all()


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        (BRIGHTNESS, TF.adjust_brightness),
        (CONTRAST, TF.adjust_contrast),
        (SATURATION, TF.adjust_saturation),
    ],
)
def test_blends_are_within_one_level_of_pil(kind, reference):
    rng = np.random.default_rng(kind)
    for shape in SHAPES:
        images = [noise(rng, *shape) for _ in range(6)]
        factors = [0.0, 1.0, 2.0, *rng.uniform(0, 2, 3)]
        ours = tensor(*images)
        colour.blend(ours, [kind] * 6, factors, Scratch())
        theirs = [reference(Image.fromarray(image), factor) for image, factor in zip(images, factors, strict=True)]
        assert difference(ours, theirs).max() <= 1


def test_different_blends_of_one_batch_equal_those_of_single_images():
    rng = np.random.default_rng(5)
    kinds = [BRIGHTNESS, SATURATION, CONTRAST, CONTRAST, BRIGHTNESS, SATURATION]
    factors = list(rng.uniform(0.5, 1.5, 6))
    together = tensor(*(noise(rng, 20, 30) for _ in kinds))
    alone = together.clone()
    colour.blend(together, kinds, factors, Scratch())
    for image, kind, factor in zip(alone.split(1), kinds, factors, strict=True):
        colour.blend(image, [kind], [factor], Scratch())
    assert torch.allclose(together, alone, atol=1e-3)


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.003, 0.0, 0.031, 0.1, 0.37, 0.5])
def test_hue_is_within_one_level_of_pil_on_the_whole_colour_cube(shift):
    # Every level of one channel and every third of the others: pure and mixed colours, greys, ties.
    third = np.arange(0, 256, 3)
    cube = np.stack(np.meshgrid(third, third, np.arange(256), indexing="ij"), axis=-1).astype(np.uint8)
    for colours in (cube, cube[..., ::-1], np.roll(cube, 1, axis=-1)):
        image = np.ascontiguousarray(colours.reshape(86, -1, 3))
        ours = tensor(image)
        colour.shift_hue(ours, [shift], Scratch())
        assert difference(ours, [TF.adjust_hue(Image.fromarray(image), shift)]).max() <= 1 + 1e-4


def test_hue_takes_a_shift_for_each_image():
    rng = np.random.default_rng(6)
    images, shifts = [noise(rng, 30, 40) for _ in range(8)], rng.uniform(-0.5, 0.5, 8)
    ours = tensor(*images)
    colour.shift_hue(ours, list(shifts), Scratch())
    theirs = [TF.adjust_hue(Image.fromarray(image), shift) for image, shift in zip(images, shifts, strict=True)]
    assert difference(ours, theirs).max() <= 1 + 1e-4


@pytest.mark.parametrize("threshold", [0, 1, 128, 200, 255])
def test_greyscale_and_solarisation_are_within_one_level_of_pil(threshold):
    rng = np.random.default_rng(threshold)
    images = [noise(rng, 33, 21) for _ in range(8)]
    ours = tensor(*images)
    colour.to_grey(ours, Scratch())
    theirs = [TF.rgb_to_grayscale(Image.fromarray(image), 3) for image in images]
    assert difference(ours, theirs).max() <= 1
    ours = tensor(*images)
    colour.solarize(ours, threshold, Scratch())
    assert difference(ours, [ImageOps.solarize(Image.fromarray(image), threshold) for image in images]).max() == 0
