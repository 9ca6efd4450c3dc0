"""A tiny data set in VOC's layout, whose classes have colours of their own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import BACKBONES, build_backbone
from backbones.vit import VisionTransformer
from data.datasets import open_dataset
from eval.core.context import EvalContext

#: Mask values of VOC that occur, and their colours.
COLOURS = {0: (90, 90, 90), 3: (220, 40, 40), 8: (40, 220, 40), 15: (40, 40, 220)}


def vit_plain(image_size: int, **hints: object) -> VisionTransformer:
    """A tiny ViT whose patches see nothing of each other before the first block, as those of the published ViTs."""
    return VisionTransformer(patch_size=4, width=128, depth=4, heads=4, position_size=32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache; those of this folder share one, and a backbone of their own."""
    monkeypatch.setitem(BACKBONES._items, "vit_plain", vit_plain)
    base = tmp_path_factory.getbasetemp() / "segmentation-cache"
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(base))


def draw(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image with two rectangles of different classes and a void line, and its mask. Borders lie on multiples of 4."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for place, value in enumerate(rng.permutation([3, 8, 15])[:2]):
        top, left = (4 * rng.integers(1, 3) for _ in range(2))
        mask[top : top + 16, left + place * width // 2 : left + place * width // 2 + 8] = value
    image = np.zeros((height, width, 3))
    for value, colour in COLOURS.items():
        image[mask == value] = colour
    image += rng.normal(0, 8, image.shape)
    mask[-2:] = 255
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """The folder: 8 train images of 32 × 32 pixels, 5 val images of other sizes."""
    root = tmp_path_factory.mktemp("shapes")
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    sizes = {"train": [(32, 32)] * 8, "val": [(32, 32), (48, 40), (40, 64), (32, 48), (64, 64)]}
    seed = 0
    for split, of_split in sizes.items():
        names = []
        for size in of_split:
            image, mask = draw(*size, seed)
            # PNG under a JPEG's name: pixels are then exactly what is written here.
            Image.fromarray(image).save(base / "JPEGImages" / f"s{seed}.jpg", format="PNG")
            Image.fromarray(mask).save(base / "SegmentationClass" / f"s{seed}.png")
            names.append(f"s{seed}")
            seed += 1
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
    return root


@pytest.fixture
def stores(shapes: Path):
    return tuple(open_dataset("voc2012", split, shapes, None, progress=False) for split in ("train", "test"))


@pytest.fixture
def make_context(stores, tmp_path: Path) -> Callable[..., EvalContext]:
    """``make_context(backbone_name, out="run")`` on the shapes at 32 pixels, untrained."""

    def make(backbone: str = "vit_nano", out: str = "run") -> EvalContext:
        torch.manual_seed(0)
        network = build_backbone(backbone, 32)
        return EvalContext(
            backbone=network,
            backbone_name=backbone,
            weights="untrained",
            train=stores[0],
            test=stores[1],
            image_size=32,
            device=torch.device("cpu"),
            precision="fp32",
            run_dir=tmp_path / out,
        )

    return make
