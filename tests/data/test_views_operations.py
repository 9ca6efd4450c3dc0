"""Each operation of the views against PIL and torchvision, for the same parameters, over many images and parameters: as a CPU makes
crops, one by one, and as an accelerator does, together."""

import numpy as np
import PIL
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from benchmarks.fidelity import difference as fidelity
from data.views.maker import ViewMaker
from data.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Crops
from data.views.spec import Augmentation, View
from data.views.tensors import bicubic_weights, blur_weights, box_radius, down_first, small_blur_weights, spread

WAYS = ("_one_by_one", "_together")


@pytest.fixture(params=WAYS)
def made(request):
    """``made(images, size, boxes, flips, order, factors, grey, sigmas, solarize)``: levels ``[n, 3, size, size]``; what is not
    given is not done."""
    maker = ViewMaker([], mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)

    def make(images: list[np.ndarray], size: int, **given: object) -> Tensor:
        n = len(images)
        plan = {
            "rows": np.arange(n),
            "boxes": [(0, 0, *image.shape[:2]) for image in images],
            "flips": [False] * n,
            "order": np.full((n, 4), -1),
            "factors": np.ones((n, 4)),
            "grey": [False] * n,
            "sigmas": np.zeros(n),
            "solarize": np.full(n, np.inf),
        }
        pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
        crops = Crops(**{name: np.array(value) for name, value in {**plan, **given}.items()})
        return getattr(maker, request.param)(pixels, crops, size)

    return make


def one_operation(kinds, factors) -> dict[str, np.ndarray]:
    """A jitter of one operation for each image."""
    order, all_factors = np.full((len(kinds), 4), -1), np.ones((len(kinds), 4))
    order[:, 2] = kinds
    all_factors[np.arange(len(kinds)), kinds] = factors
    return {"order": order, "factors": all_factors}


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
def test_crop_is_within_one_level_of_pil(shape, made):
    rng = np.random.default_rng(sum(shape))
    for size in SIZES:
        images = [noise(rng, *shape) for _ in range(4)]
        boxes = [(0, 0, *shape), *(random_box(rng, *shape) for _ in range(3))]
        flips = [bool(rng.integers(2)) for _ in boxes]
        theirs = []
        for image, (top, left, height, width), flip in zip(images, boxes, flips, strict=True):
            crop = pil_resize(Image.fromarray(image).crop((left, top, left + width, top + height)), size, size)
            theirs.append(TF.hflip(crop) if flip else crop)
        assert difference(made(images, size, boxes=boxes, flips=flips), theirs).max() <= 1


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


def test_nothing_outside_its_box_enters_a_crop(made):
    rng = np.random.default_rng(3)
    boxes = [random_box(rng, 40, 50) for _ in range(20)]
    flips = [bool(rng.integers(2)) for _ in boxes]
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    outside = np.full((20, 40, 50, 3), 255, np.uint8)
    for pixels, (top, left, height, width) in zip(outside, boxes, strict=True):
        window = (slice(top, top + height), slice(left, left + width))
        pixels[window] = image[window]
    inside = made([image] * 20, 24, boxes=boxes, flips=flips)
    assert torch.equal(inside, made(list(outside), 24, boxes=boxes, flips=flips))


def test_bicubic_weights_sum_to_one_and_keep_an_image_of_the_same_size():
    weights = bicubic_weights(torch.tensor([0, 3, 9]), torch.tensor([10, 4, 1]), 6, 10)
    assert torch.allclose(weights.sum(dim=2), torch.ones(3, 6))
    assert (weights[1, :, :3] == 0).all() and (weights[1, :, 7:] == 0).all() and (weights[2, :, 9] == 1).all()
    assert torch.equal(bicubic_weights(torch.tensor([2]), torch.tensor([5]), 5, 8)[0, :, 2:7], torch.eye(5))


@pytest.mark.parametrize("size", [1, 2, 5, 16, 33, 45, 47, 96, 131, 224])
def test_blur_is_within_two_levels_of_pil(size, made):
    rng = np.random.default_rng(size)
    for sigmas in (rng.uniform(0.1, 2, 4).tolist(), [0.1, 0.5, 1.0, 2.0], [0.3, 1.5, 4.0, 7.5]):
        images = [noise(rng, size, size) for _ in sigmas]
        theirs = [Image.fromarray(i).filter(ImageFilter.GaussianBlur(s)) for i, s in zip(images, sigmas, strict=True)]
        assert difference(made(images, size, sigmas=sigmas), theirs).max() <= 2


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
def test_blends_are_within_one_level_of_pil(kind, reference, made):
    rng = np.random.default_rng(kind)
    for size in (1, 2, 17, 64, 150):
        images = [noise(rng, size, size) for _ in range(6)]
        factors = [0.0, 1.0, 2.0, *rng.uniform(0, 2, 3)]
        theirs = [reference(Image.fromarray(image), factor) for image, factor in zip(images, factors, strict=True)]
        assert difference(made(images, size, **one_operation([kind] * 6, factors)), theirs).max() <= 1


def test_different_blends_of_one_batch_equal_those_of_single_images(made):
    rng = np.random.default_rng(5)
    kinds = [BRIGHTNESS, SATURATION, CONTRAST, CONTRAST, BRIGHTNESS, SATURATION]
    factors = list(rng.uniform(0.5, 1.5, 6))
    images = [noise(rng, 30, 30) for _ in kinds]
    together = made(images, 30, **one_operation(kinds, factors))
    alone = [
        made([image], 30, **one_operation([kind], [factor]))
        for image, kind, factor in zip(images, kinds, factors, strict=True)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-3)


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.003, 0.0, 0.031, 0.1, 0.37, 0.5])
def test_hue_is_within_one_level_of_pil_on_the_whole_colour_cube(shift, made):
    # Every level of one channel and every fifth of the others: pure and mixed colours, greys, ties.
    fifth = np.arange(0, 256, 5)
    cube = np.stack(np.meshgrid(fifth, fifth, np.arange(256), indexing="ij"), axis=-1).astype(np.uint8)
    for colours in (cube, cube[..., ::-1], np.roll(cube, 1, axis=-1)):
        image = np.ascontiguousarray(colours.reshape(832, 832, 3))
        ours = made([image], 832, **one_operation([HUE], [shift]))
        assert difference(ours, [TF.adjust_hue(Image.fromarray(image), shift)]).max() <= 1 + 1e-4


def test_hue_takes_a_shift_for_each_image(made):
    rng = np.random.default_rng(6)
    images, shifts = [noise(rng, 40, 40) for _ in range(8)], rng.uniform(-0.5, 0.5, 8)
    theirs = [TF.adjust_hue(Image.fromarray(image), shift) for image, shift in zip(images, shifts, strict=True)]
    assert difference(made(images, 40, **one_operation([HUE] * 8, shifts)), theirs).max() <= 1 + 1e-4


@pytest.mark.parametrize("threshold", [0, 1, 128, 200, 255])
def test_greyscale_and_solarisation_are_within_one_level_of_pil(threshold, made):
    rng = np.random.default_rng(threshold)
    images = [noise(rng, 33, 33) for _ in range(8)]
    theirs = [TF.rgb_to_grayscale(Image.fromarray(image), 3) for image in images]
    assert difference(made(images, 33, grey=[True] * 8), theirs).max() <= 1
    theirs = [ImageOps.solarize(Image.fromarray(image), threshold) for image in images]
    assert difference(made(images, 33, solarize=[float(threshold)] * 8), theirs).max() <= 1e-4


@pytest.mark.parametrize("size", [2, 7, 8, 31, 96])
def test_spread_blur_matrices_are_those_of_the_size(size):
    for sigma in (0.1, 0.7, 1.3, 2.0):
        radii = [box_radius(sigma), box_radius(sigma / 2)]
        torch.testing.assert_close(
            spread(small_blur_weights(radii, size), size), blur_weights(radii, size), rtol=0, atol=2e-7
        )


def test_whole_jitters_differ_from_pil_by_what_the_docs_say(photo, monkeypatch):
    """Each operation is within a level, but PIL cuts to whole levels after each, so chains add up."""
    view = View(name="jitter", size=64, scale=(0.25, 1.0), augmentation=Augmentation(jitter_p=1.0, grayscale_p=0.0))
    for way in WAYS:
        monkeypatch.setattr(ViewMaker, "_one_by_one", getattr(ViewMaker, way))
        each = [fidelity(np.asarray(photo(90, 120, seed)), view, seed) for seed in range(60)]
        assert 0.5 < np.mean(each) < 1.6 and max(part.mean() for part in each) < 2.6 and np.max(each) < 16
