"""The crops of a batch beside torchvision's transforms on PIL images: images per second of one thread, in its CPU time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from benchmarks.bench import Bench
from benchmarks.reference.augmentation import augmentation
from benchmarks.timing import Limit, Measurement
from data.store.store import ImageBatch
from data.views.maker import ViewMaker
from data.views.spec import View
from methods.dino import DINOConfig


def photos(count: int, size: int) -> list[Image.Image]:
    """Crops of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    sources = [Image.fromarray(image) for image in load_sample_images().images]
    draw = random.Random(0)
    found = []
    for i in range(count):
        source = sources[i % 2]
        left, top = draw.randint(0, source.width - 400), draw.randint(0, source.height - 400)
        found.append(source.resize((size, size), Image.BICUBIC, box=(left, top, left + 400, top + 400)))
    return found


def views(bench: Bench) -> list[Measurement]:
    """Augmentation, decoding not included. Always on the CPU: what one core of it makes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = bench.pick(64, 4)
        return [
            *_compare(bench, "2×224 + 8×96 from 256 pixels", DINOConfig().views(224), 256, batch),
            *_compare(bench, "2×32 + 8×16 from 48 pixels", DINOConfig(local_size=16).views(32), 48, batch),
        ]
    finally:
        torch.set_num_threads(threads)


def _compare(bench: Bench, case: str, wanted: list[View], image_size: int, batch: int) -> list[Measurement]:
    images = photos(batch, image_size)
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).contiguous()
    stored = ImageBatch.padded(pixels, torch.full((batch, 2), image_size))
    sources = torch.arange(batch).expand(len(wanted), batch)
    maker, generator = ViewMaker(wanted), torch.Generator().manual_seed(0)
    transforms = [augmentation(view) for view in wanted]
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: maker.make(stored, sources, maker.sample(batch, generator)),
        "reference": lambda: [view(image) for image in images for view in transforms],
    }
    if bench.authors and image_size == 256:
        crops = bench.authors.augmentation()
        contenders["authors"] = lambda: [crops(image) for image in images]
    written = sum(4 * 3 * view.size**2 for view in wanted)
    limits = {}
    if bench.device.type == "cpu":
        # The least it has to move: the pixels read, the crops written.
        moved = 3 * image_size**2 + written
        limits = {name: Limit("memory copy, one thread", bench.copy(threads=1), moved) for name in contenders}
    case = f"{case}, batch {batch}, one thread"
    return bench.measure("views", case, contenders, batch, "images/s", limits, clock=time.thread_time)
