"""The crops of a batch beside torchvision's transforms on PIL images: images per second of one thread, in its CPU time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from benchmarks.bench import Bench
from benchmarks.reference.augmentation import augmentation
from benchmarks.timing import Limit, Measurement
from data.store.store import ImageBatch
from data.views.maker import ViewMaker
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


def views(bench: Bench, size: int) -> Iterator[list[Measurement]]:
    """Augmentation, decoding not included. Always on the CPU: what one core of it makes."""
    small, image_size = {224: (96, 256), 32: (16, 48)}[size]
    wanted, batch = DINOConfig(local_size=small).views(size), bench.pick(64, 4)
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
    case = f"2×{size} + 8×{small} from {image_size} pixels, batch {batch}, one thread"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield bench.measure(case, contenders, batch, "images/s", limits, clock=time.thread_time)
    finally:
        torch.set_num_threads(threads)
