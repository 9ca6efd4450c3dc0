"""Training from image files to weights: how much of the step alone is left when crops are made beside it."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.bench import Bench
from benchmarks.reference.augmentation import augmentation
from benchmarks.timing import Measurement
from benchmarks.training import our_stepper, plain_dino_step, random_views
from benchmarks.views import photos
from common.environment import processors
from data.datasets import open_dataset
from methods.core.base import Progress, ViewBatch
from methods.dino import DINOConfig
from training.batches import Batches, short_side_for
from training.machine.devices import synchronize


def end_to_end(bench: Bench) -> Iterator[list[Measurement]]:
    """From files to weights: DINO, 2×224 + 8×96, on JPEG files of 500×500 pixels.

    Ours from the store, the reference with a torchvision data set in a loader worker for each core, in the last of the precisions
    that are timed. By the clock on the wall, since loader workers are processes of their own."""
    cuda = bench.device.type == "cuda"
    name, batch, steps = ("vit_s16", 64, 20) if cuda else ("vit_t16", bench.pick(8, 2), bench.pick(3, 1))
    out_dim, wanted, precision = bench.pick(65536, 1024), DINOConfig().views(224), bench.precisions[-1]
    with tempfile.TemporaryDirectory(prefix="bench-end-to-end-") as folder:
        root = Path(folder)
        for number, image in enumerate(photos(bench.pick(512, 8), 500)):
            path = root / "data" / "train" / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=90)

        stepper = our_stepper("dino", name, batch, bench.device, precision, out_dim=out_dim)
        config = dataclasses.replace(stepper.config, data="imagefolder")
        store = open_dataset("imagefolder", "train", root / "data", short_side_for(224), root / "cache", progress=False)
        source = Batches(store, wanted, config, bench.device)
        stream = source.stream(0, 10**9)
        progress = Progress(step=20_000, steps_per_epoch=1000, epochs=config.epochs)
        labels = torch.full((batch,), -1, device=bench.device)
        fixed = ViewBatch(random_views(batch, [view.size for view in wanted], bench.device), labels)

        def ours(batches: Iterator[ViewBatch]) -> None:
            for _ in range(steps):
                stepper.step([next(batches)], progress)
            synchronize(bench.device)

        def alone() -> Iterator[ViewBatch]:
            while True:
                yield fixed

        plain = plain_dino_step(name, out_dim, bench.device)
        loaded = _forever(_loader(root / "data" / "train", wanted, batch, cuda))

        def reference() -> None:
            for _ in range(steps):
                plain([view.to(bench.device, non_blocking=True) for view in next(loaded)[0]], precision == "bf16")
            synchronize(bench.device)

        contenders = {
            f"ours, {precision}": lambda: ours(stream),
            f"ours, the step alone, {precision}": lambda: ours(alone()),
            f"reference, {processors()} loader workers, {precision}": reference,
        }
        case = f"DINO {name}, 2×224 + 8×96 from files, out_dim {out_dim}, batch {batch}"
        try:
            amount = batch * steps
            yield bench.measure(case, contenders, amount, "images/s", clock=time.perf_counter)
        finally:
            stream.close()


def _loader(folder: Path, wanted: list, batch: int, pin: bool) -> DataLoader:
    transforms = [augmentation(view) for view in wanted]
    data = ImageFolder(str(folder), transform=lambda image: [view(image) for view in transforms])
    return DataLoader(
        data, batch, shuffle=True, num_workers=processors(), drop_last=True, pin_memory=pin, persistent_workers=True
    )


def _forever(loader: DataLoader) -> Iterator[tuple[list[Tensor], Tensor]]:
    while True:
        yield from loader
