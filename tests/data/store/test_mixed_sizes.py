"""Panoramas in a batch: memory for their own pixels, and the results that each image gives alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.datasets import open_dataset
from data.store.store import MOST_PADDING
from data.views.central import eval_images
from data.views.maker import ViewMaker
from data.views.spec import Augmentation, View


@pytest.fixture(params=[False, True], ids=["stored", "streamed"])
def store(request, tmp_path, photo):
    """A wide, a tall and ten usual photos."""
    (tmp_path / "train/a").mkdir(parents=True)
    sizes = [(8, 790), (790, 8), *((20 + i % 3, 30 - i) for i in range(10))]
    for i, (height, width) in enumerate(sizes):
        photo(height, width, i).save(tmp_path / f"train/a/{i:02}.png")
    return open_dataset("imagefolder", "train", str(tmp_path), 16, stream=request.param)


@pytest.fixture(params=["_one_by_one", "_together"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setattr(ViewMaker, "_one_by_one", getattr(ViewMaker, request.param))


def test_a_batch_takes_a_few_times_the_memory_of_its_own_pixels(store):
    images = np.array([3, 0, 1, 0, *range(2, 12)])
    batch = store.batch(images)
    own = 3 * batch.sizes.prod(dim=1).sum().item()
    assert sum(pixels.numel() for _, pixels in batch.blocks) <= MOST_PADDING * own
    assert sorted(torch.cat([rows for rows, _ in batch.blocks]).tolist()) == list(range(len(images)))
    for rows, pixels in batch.blocks:
        for row, image in zip(rows.tolist(), pixels, strict=True):
            height, width = batch.sizes[row].tolist()
            assert (image[:, :height, :width].permute(1, 2, 0).numpy() == store.image(images[row])).all()
            assert not image[:, height:].any() and not image[:, :, width:].any()
    assert len(store.batch(np.arange(2, 12)).blocks) == 1  # usual photos stay in one tensor


def test_views_and_evaluation_images_are_those_of_each_image_alone(store):
    batch, alone = store.batch(np.arange(12)), [store.batch([i]) for i in range(12)]
    assert torch.equal(eval_images(batch, 14), torch.cat([eval_images(image, 14) for image in alone]))
    maker = ViewMaker(
        [View(name=name, size=size, blur_p=0.5, augmentation=Augmentation()) for name, size in (("a", 16), ("b", 8))]
    )
    sources = torch.stack([torch.randperm(12), torch.randint(0, 12, (12,))])
    params = maker.sample(12, torch.Generator().manual_seed(0))
    views = maker.make(batch, sources, params)
    for i in range(12):
        for v, view in enumerate(views):
            one = ViewMaker(maker.views[v : v + 1])
            (expected,) = one.make(
                alone[sources[v, i]], torch.zeros(1, 1, dtype=torch.int64), params[v : v + 1, i : i + 1]
            )
            assert torch.equal(view[i], expected[0]) or (view[i] - expected[0]).abs().max() < 1e-3


def test_a_panorama_beside_usual_photos_costs_no_more_than_itself(tmp_path):
    """The numbers of a training of 224 pixels: padded to one size, this batch took 1.5 GiB."""
    (tmp_path / "train/a").mkdir(parents=True)
    for name, size in (("wide", (17_000, 448)), ("tall", (448, 17_000)), ("usual", (600, 448))):
        Image.new("RGB", size).save(tmp_path / f"train/a/{name}.png")
    store = open_dataset("imagefolder", "train", str(tmp_path), 448)
    batch = store.batch([0, 1, 1, 2])
    assert sum(pixels.numel() for _, pixels in batch.blocks) < 3 * 448 * 17_000 * 3
