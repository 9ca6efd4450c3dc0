"""Images per second and core of the views, beside the reference augmentation (torchvision's transforms on PIL images, as in
dino/main_dino.py), on one thread of the CPU, on both of two scales:

    python -m benchmarks.views [--rounds N]

The two take turns, and each round gives one ratio; the median and the range of the ratios are printed. Time is the thread's CPU
time. Decoding is in neither.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

from data.store import ImageBatch
from data.views import IMAGENET_MEAN, IMAGENET_STD, View, ViewMaker, dino_views


def reference(view: View) -> transforms.Compose:
    """The same view by torchvision on a PIL image."""
    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)

    def blur(image: Image.Image) -> Image.Image:
        if random.random() >= view.blur_p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*view.blur_sigma)))

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                view.size, view.scale, view.ratio, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(view.flip),
            transforms.RandomApply([jitter], view.jitter_p),
            transforms.RandomGrayscale(view.grayscale_p),
            blur,
            lambda image: ImageOps.solarize(image) if random.random() < view.solarize_p else image,
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


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


def seconds(work) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def compare(name: str, views: list[View], image_size: int, batch: int, rounds: int) -> None:
    images = photos(batch, image_size)
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).contiguous()
    ours = ImageBatch(pixels, torch.full((batch, 2), image_size))
    sources = torch.arange(batch).expand(len(views), batch)
    maker, generator = ViewMaker(views), torch.Generator().manual_seed(0)
    theirs = [reference(view) for view in views]

    def make() -> None:
        maker.make(ours, sources, maker.sample(batch, generator))

    def make_reference() -> None:
        for image in images:
            for view in theirs:
                view(image)

    make(), make_reference()
    mine, other = [], []
    for _ in range(rounds):
        mine.append(seconds(make) / batch)
        other.append(seconds(make_reference) / batch)
    ratios = sorted(b / a for a, b in zip(mine, other, strict=True))
    print(
        f"{name}: {1 / statistics.median(mine):.0f} images/s ({1e3 * statistics.median(mine):.2f} ms an image), "
        f"reference {1 / statistics.median(other):.0f} ({1e3 * statistics.median(other):.2f} ms), "
        f"{statistics.median(ratios):.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f} in {rounds} rounds)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    compare("2×224 + 8×96 from 256 pixels, batch 64", dino_views(), 256, 64, rounds)
    compare("2×32 + 8×16 from 48 pixels, batch 64", dino_views(32, 16), 48, 64, rounds)


if __name__ == "__main__":
    main()
