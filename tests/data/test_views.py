"""The views as a whole: what is drawn, that the operations come in the references' order, and that nothing else matters."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision import transforms

from benchmarks.reference.augmentation import planned
from common.errors import UsageError
from common.images import IMAGENET_MEAN, IMAGENET_STD
from common.options import facts_of
from data.store.store import ImageBatch
from data.views.central import eval_images
from data.views.maker import ViewMaker
from data.views.plan import FLIP, RANDOMS, crop_boxes, plan_crops
from data.views.spec import Augmentation, View
from data.views.tensors import bicubic_weights, down_first
from methods.barlow_twins import BarlowTwinsConfig
from methods.dino import DINOConfig

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


def dino_views(size: int, local_size: int, local_crops: int = 8) -> list[View]:
    return DINOConfig(local_size=local_size, local_crops=local_crops).views(size)


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))


def batch(images: list[np.ndarray], fill: int = 0) -> ImageBatch:
    sizes = torch.tensor([image.shape[:2] for image in images])
    height, width = sizes.max(dim=0).values.tolist()
    pixels = torch.full((len(images), 3, height + 3, width + 2), fill, dtype=torch.uint8)
    for target, image in zip(pixels, images, strict=True):
        target[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return ImageBatch.padded(pixels, sizes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(maker: ViewMaker, count: int) -> Tensor:
    return torch.arange(count).expand(len(maker.views), count)


IMAGES = [(60, 70), (1, 1), (5, 90), (90, 4), (64, 64), (33, 80)]


@pytest.fixture(params=["_one_by_one", "_together"], autouse=True)
def way(request, monkeypatch):
    """Crops are made on this CPU as on any, and as an accelerator makes them."""
    monkeypatch.setattr(ViewMaker, "_one_by_one", getattr(ViewMaker, request.param))


@pytest.fixture
def images() -> ImageBatch:
    rng = np.random.default_rng(0)
    return batch([smooth(rng, *shape) for shape in IMAGES])


def test_views_have_their_sizes_and_are_normalised(images):
    maker = ViewMaker(dino_views(32, 16, 3))
    views = maker.make(images, rows(maker, 6), maker.sample(6, generator()))
    assert [view.shape for view in views] == [(6, 3, 32, 32)] * 2 + [(6, 3, 16, 16)] * 3
    plain = ViewMaker(maker.views, **PLAIN).make(images, rows(maker, 6), maker.sample(6, generator()))
    for view, levels in zip(views, plain, strict=True):
        assert view.dtype == torch.float32 and levels.min() > -1e-3 and levels.max() < 255.001
        expected = TF.normalize(levels / 255, IMAGENET_MEAN, IMAGENET_STD)
        assert torch.allclose(view, expected, atol=1e-5)


def test_a_view_is_the_operations_of_torchvision_in_the_references_order(images):
    """With the parameters that were drawn, PIL gives the same view but for the rounding of seven operations."""
    view = View(name="v", size=24, blur_p=0.6, solarize_p=0.4, augmentation=Augmentation(grayscale_p=0.3))
    maker = ViewMaker([view], **PLAIN)
    count = 200
    sources = torch.randint(0, len(IMAGES), (1, count), generator=generator(1))
    params = maker.sample(count, generator(2))
    ours = maker.make(images, sources, params)[0]
    plan = plan_crops(view, sources[0], images.sizes[sources[0]], params[0])
    for i in range(count):
        height, width = images.sizes[plan.rows[i]].tolist()
        image = Image.fromarray(images.pixels[plan.rows[i], :, :height, :width].permute(1, 2, 0).numpy())
        theirs = torch.from_numpy(np.array(planned(image, plan, i, view.size))).permute(2, 0, 1).float()
        distance = (ours[i] - theirs).abs()
        # A level at the threshold of solarisation, and a hue at a border of its grid, make a single operation's rounding larger.
        assert distance.mean() < 4 and distance.quantile(0.9) < 8, (i, plan.order[i], distance.max())


def test_drawn_options_have_their_probabilities_and_ranges():
    augmentation = Augmentation(
        flip=0.3,
        jitter_p=0.7,
        brightness=0.3,
        contrast=1.5,
        saturation=0.2,
        hue=0.1,
        grayscale_p=0.25,
        blur_sigma=(0.5, 1.5),
    )
    view = View(name="v", size=8, blur_p=0.4, solarize_p=0.15, augmentation=augmentation)
    count = 20_000
    params = ViewMaker([view]).sample(count, generator())[0]
    plan = plan_crops(view, torch.zeros(count, dtype=torch.int64), torch.full((count, 2), 50), params)
    jittered = plan.order[:, 0] >= 0
    for drawn, probability in [
        (plan.flips, 0.3),
        (jittered, 0.7),
        (plan.grey, 0.25),
        (plan.sigmas > 0, 0.4),
        (plan.solarize == 128, 0.15),
    ]:
        assert stats.binomtest(int(drawn.sum()), count, probability).pvalue > 1e-3
    for operation, (low, high) in enumerate([(0.7, 1.3), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)]):
        assert stats.kstest(plan.factors[:, operation], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert stats.kstest(plan.sigmas[plan.sigmas > 0], stats.uniform(0.5, 1).cdf).pvalue > 1e-3
    orders = Counter(map(tuple, plan.order[jittered].tolist()))
    assert len(orders) == 24 and stats.chisquare(list(orders.values())).pvalue > 1e-3
    independent = np.corrcoef(np.stack([plan.flips, jittered, plan.grey, plan.sigmas > 0, plan.solarize == 128]))
    assert np.abs(independent - np.eye(5)).max() < 0.04


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (256, 256, (0.4, 1.0)),
        (256, 256, (0.05, 0.4)),
        (120, 200, (0.08, 1.0)),
        (50, 400, (0.3, 1.0)),
        (9, 7, (0.08, 1.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    count = 4000
    view = View(name="v", size=8, scale=scale)
    params = ViewMaker([view]).sample(count, generator(height + width))[0]
    ours = crop_boxes(torch.tensor([[height, width]]).expand(count, 2), view, params).numpy()
    torch.manual_seed(height)
    empty = torch.empty(3, height, width)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(empty, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    )
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    both = np.concatenate([ours, theirs])
    for measure in (*both.T, both[:, 2] * both[:, 3], both[:, 2] / both[:, 3], both[:, 0] + both[:, 1]):
        assert stats.ks_2samp(measure[:count], measure[count:]).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(5, 300), (300, 5), (1, 9), (9, 1)])
def test_where_no_box_fits_the_centre_is_taken_as_by_torchvision(height, width):
    view = View(name="v", size=8, scale=(0.9, 1.0))
    params = ViewMaker([view]).sample(50, generator())[0]
    ours = crop_boxes(torch.tensor([[height, width]]).expand(50, 2), view, params)
    theirs = transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
    assert (ours == torch.tensor(theirs)).all()


def test_a_rank_makes_its_part_of_the_global_batch(images):
    maker = ViewMaker(dino_views(32, 16, 2))
    sources = torch.randint(0, len(IMAGES), (4, 16), generator=generator(3))
    params = maker.sample(16, generator(4))
    whole = maker.make(images, sources, params)
    for low, high in [(0, 8), (8, 16), (5, 6)]:
        part = maker.make(images, sources[:, low:high], params[:, low:high])
        for ours, expected in zip(part, whole, strict=True):
            assert torch.allclose(ours, expected[low:high], atol=1e-4)


def test_views_come_from_their_sources_and_are_a_function_of_their_arguments(images):
    maker = ViewMaker(BarlowTwinsConfig().views(24))
    params = maker.sample(3, generator(5))
    sources = torch.tensor([[0, 4, 5], [5, 0, 0]])
    views = maker.make(images, sources, params)
    again = maker.make(images, sources, params)
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    turned = maker.make(ImageBatch.padded(images.pixels[order], images.sizes[order]), 5 - sources, params)
    assert all(torch.equal(a, b) for a, b in zip(views, turned, strict=True))
    assert not torch.equal(views[0], maker.make(images, sources, maker.sample(3, generator(6)))[0])


@pytest.mark.parametrize("size", [16, 96])
def test_padding_has_no_part_in_a_view(size):
    rng = np.random.default_rng(7)
    contents = [smooth(rng, *shape) for shape in [*IMAGES, (130, 150)]]
    maker = ViewMaker([View(name="v", size=size, blur_p=0.5, augmentation=Augmentation(jitter_p=0.5, grayscale_p=0.0))])
    params = maker.sample(7, generator(8))
    black, white = (maker.make(batch(contents, fill), rows(maker, 7), params)[0] for fill in (0, 255))
    assert torch.equal(black, white)


def test_flip_turns_the_view(images):
    maker = ViewMaker([View(name="v", size=20)])
    params = maker.sample(6, generator(9))
    params[..., FLIP] = 0.9
    plain = maker.make(images, rows(maker, 6), params)[0]
    params[..., FLIP] = 0.1
    assert torch.allclose(maker.make(images, rows(maker, 6), params)[0], plain.flip(-1), atol=0.02)


def test_both_ways_make_the_same_views(images):
    maker = ViewMaker(dino_views(64, 32, 4), **PLAIN)
    params = maker.sample(6, generator(12))
    one_by_one = maker.make(images, rows(maker, 6), params)
    maker._one_by_one = maker._together
    for a, b in zip(one_by_one, maker.make(images, rows(maker, 6), params), strict=True):
        # A level more or less after the resize changes the hue of a grey by much.
        assert (a - b).abs().mean() < 0.5


def test_threads_do_not_change_a_view(images):
    maker = ViewMaker(dino_views(96, 32, 2))
    params = maker.sample(6, generator(10))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(maker.make(images, rows(maker, 6), params))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 0),
        ("scale", (0.5, 0.2)),
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 1.5)),
        ("ratio", (2.0, 1.0)),
        ("flip", 1.2),
        ("blur_p", -0.1),
        ("hue", 0.7),
        ("contrast", -1.0),
        ("blur_sigma", (0.0, 2.0)),
        ("solarize_threshold", 300),
    ],
)
def test_options_out_of_range_are_refused_by_name(option, value):
    own = option in {field.name for field in fields(View)}
    given = {option: value} if own else {"augmentation": Augmentation(**{option: value})}
    with pytest.raises(UsageError, match=f"view local1: --{option} .*: give "):
        View(**{"name": "local1", "size": 16, **given})


def test_every_option_of_an_augmentation_has_a_range():
    assert all(facts_of(kind, field.name) for kind in (Augmentation, DINOConfig) for field in fields(Augmentation))


def test_arguments_that_do_not_fit_are_refused(images):
    maker = ViewMaker(BarlowTwinsConfig().views(16))
    params = maker.sample(6, generator())
    assert params.shape == (2, 6, RANDOMS)
    with pytest.raises(ValueError, match="do not fit together"):
        maker.make(images, rows(maker, 5), params)
    with pytest.raises(ValueError, match="the batch has 6 images"):
        maker.make(images, rows(maker, 6) + 1, params)
    with pytest.raises(ValueError, match="too few to cut out 32"):
        eval_images(images, 32, resize=31)


@pytest.mark.parametrize(("size", "resize"), [(16, None), (96, None), (224, None), (32, 32)])
def test_eval_images_are_within_one_level_of_torchvisions(size, resize):
    rng = np.random.default_rng(size)
    contents = [
        rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in [*IMAGES, (60, 70), (300, 200), (129, 128)]
    ]
    reference = transforms.Compose(
        [transforms.Resize(resize or round(size * 256 / 224), interpolation=3), transforms.CenterCrop(size)]
    )
    ours = eval_images(batch(contents, fill=255), size, resize, **PLAIN)
    for image, content in zip(ours, contents, strict=True):
        theirs = torch.from_numpy(np.array(reference(Image.fromarray(content)))).permute(2, 0, 1)
        assert (image - theirs).abs().max() <= 1.001


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (48, 48), (70, 100), (200, 90), (20, 33)])
def test_parts_of_evaluation_images_are_those_of_whole_products(shape):
    """Images that have the size already are cut out, others resized in bands: both as one product along each axis has it."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    new = [int(48 * side / min(shape)) for side in shape]
    y, x = (
        bicubic_weights(torch.tensor([0]), torch.tensor([old]), side, old)[0]
        for old, side in zip(shape, new, strict=True)
    )
    levels = torch.from_numpy(image).permute(2, 0, 1).float()
    if down_first(*shape, *new):
        whole = (y @ levels).clamp(0, 255) @ x.mT
    else:
        whole = y @ (levels @ x.mT).clamp(0, 255)
    top, left = (round((side - 42) / 2) for side in new)
    expected = whole[:, top : top + 42, left : left + 42].round().clamp(0, 255)
    torch.testing.assert_close(eval_images(batch([image]), 42, 48, **PLAIN)[0], expected, atol=1e-3, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_of_a_cuda_device_are_those_of_the_cpu(images):
    maker = ViewMaker(dino_views(64, 32), **PLAIN)
    params = maker.sample(6, generator(11))
    on_cpu = maker.make(images, rows(maker, 6), params)
    on_cuda = maker.make(images.to("cuda"), rows(maker, 6), params)
    for a, b in zip(on_cpu, on_cuda, strict=True):
        assert (a - b.cpu()).abs().mean() < 1
