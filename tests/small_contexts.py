"""A small data set, and contexts to evaluate on it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import build_backbone
from data.datasets import open_dataset
from eval.core.context import EvalContext

COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40], [220, 40, 220], [40, 220, 220]])


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An image folder of six classes, which differ in colour under heavy noise: 20 train and 8 val images each, 20 × 24 pixels."""
    rng = np.random.default_rng(0)
    root = tmp_path / "colours"
    for split, count in (("train", 20), ("val", 8)):
        for label, colour in enumerate(COLOURS):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                tinted = 0.3 * colour + 90 + rng.normal(0, 25, 3) + rng.normal(0, 60, (20, 24, 3))
                Image.fromarray(tinted.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def make_test_context(colours: Path, tmp_path: Path) -> Callable[..., EvalContext]:
    """``make_test_context(backbone_name, out="run", seed=0)`` on the colours at 16 pixels, untrained."""

    def make(backbone: str = "vit_nano", out: str = "run", seed: int = 0) -> EvalContext:
        torch.manual_seed(seed)
        network = build_backbone(backbone, 16)
        train, test = (open_dataset("imagefolder", split, colours, 18, progress=False) for split in ("train", "test"))
        device = torch.device("cpu")
        return EvalContext(
            backbone=network,
            backbone_name=backbone,
            weights="untrained",
            train=train,
            test=test,
            image_size=16,
            device=device,
            precision="fp32",
            run_dir=tmp_path / out,
        )

    return make
