"""Building the image store, and batches decoded on the way, beside decoding alone: images per second."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from benchmarks.bench import Bench
from benchmarks.timing import Measurement, measure
from benchmarks.views import photos
from common.environment import processors
from data.datasets import open_dataset
from training.batches import AHEAD


def decode(path: Path) -> None:
    with Image.open(path) as image:
        np.asarray(image)


def cpu_time() -> float:
    """Seconds of the processors that this process, its threads and its workers that have ended have used."""
    return sum(os.times()[:4])


def store(bench: Bench) -> Iterator[list[Measurement]]:
    """The store built of JPEG files of 500×500 pixels, and batches streamed from them.

    Kept at full size. With ``--threads 1`` per second of the processors, not of the wall."""
    images, workers = bench.pick(300, 16), processors()
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        root = Path(folder)
        for number, image in enumerate(photos(images, 500)):
            path = root / "data" / "train" / f"class{number % 10}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=90)
        files = sorted(root.glob("data/train/*/*.jpg"))
        numbers = count()
        checked = open_dataset(
            "imagefolder", "train", root / "data", None, root / "checked", progress=False, stream=True
        )
        batches = np.array_split(np.random.default_rng(0).permutation(images), max(1, images // 50))

        def ours() -> None:
            cache = root / f"cache{next(numbers)}"
            open_dataset("imagefolder", "train", root / "data", None, cache=cache, progress=False)
            shutil.rmtree(cache)  # or each round would write into memory that is new to the system

        def streamed() -> None:
            with ThreadPoolExecutor(AHEAD) as pool:  # as training gathers
                assert sum(len(batch.sizes) for batch in pool.map(checked.batch, batches)) == images

        def reference() -> None:
            data = ImageFolder(str(root / "data" / "train"), transform=PILToTensor())
            assert sum(1 for _ in DataLoader(data, batch_size=None, num_workers=workers)) == images

        def all_cores() -> None:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(decode, files))

        contenders = {
            f"ours, the store, {workers} threads": ours,
            f"ours, streamed in batches of 50, {workers} threads": streamed,
            f"ImageFolder in {workers} loader workers": reference,
            f"JPEG decoding alone, {workers} threads": all_cores,
            "JPEG decoding alone, one thread": lambda: [decode(file) for file in files],
        }
        case = f"{images} JPEG files of 500×500, quality 90"
        shared = bench.clock is time.thread_time
        clock = cpu_time if shared else time.perf_counter
        yield measure(case, contenders, bench.rounds, images, "images/s", clock=clock)
