"""Small things to build methods from."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import build_backbone
from backbones.base import Backbone
from methods.core.base import METHODS, Method, Progress, StepOutput, ViewBatch

#: Options under which a method is small; they change no rule.
SMALL = {
    "dino": {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16, "local_crops": 2},
    "barlow_twins": {"projector": "32-32-32"},
    "simclr": {"projector": "32-16"},
    "supcon": {"projector": "32-16"},
    "byol": {"projector": "32-16", "predictor_dim": 32},
    "mocov2": {"projector": "32-16", "queue": 32},
    "mocov3": {"projector": "32-32-16", "predictor_dim": 32},
    "vicreg": {"projector": "32-32-16"},
    "swav": {"projector": "32-16", "prototypes": 12, "local_crops": 2, "freeze_prototypes": 1},
}
SMALL["weak_dino"] = SMALL["dino"]


class TinyBackbone(Backbone):
    """Two convolutions with BatchNorm, for images of any size."""

    width = 16

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, self.width, 3, 2, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


class LinearBackbone(Backbone):
    """A linear map of the 4 × 4 thumbnail: no normalisation that would keep features apart by itself."""

    width = 16

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, self.width)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(F.adaptive_avg_pool2d(images, 4).flatten(1))


OWN = {"tiny": TinyBackbone, "linear": LinearBackbone}


@pytest.fixture
def make_method() -> Callable[..., Method]:
    """``make_method("dino", backbone="tiny", num_classes=3, seed=0, image_size=32, **options)``: a small one."""

    def make(
        name: str, backbone: str = "tiny", num_classes: int = 3, seed: int = 0, image_size: int = 32, **options: Any
    ) -> Method:
        torch.manual_seed(seed)
        cls = METHODS.get(name)
        config = cls.Config(**{**SMALL.get(name, {}), **options})
        build = (lambda **_: OWN[backbone]()) if backbone in OWN else partial(build_backbone, backbone, image_size)
        return cls(config, build, num_classes)

    return make


@pytest.fixture
def make_batch() -> Callable[..., ViewBatch]:
    """``make_batch(method, batch=4, image_size=32, seed=0)``: views of the method's sizes, those of an image being the same
    smooth noise under a little noise of their own; labels 0, 1, 2, 0, …"""

    def make(method: Method, batch: int = 4, image_size: int = 32, seed: int = 0) -> ViewBatch:
        images = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(12))
        generator = torch.Generator().manual_seed(seed)
        views = []
        for view in method.views(method.config, image_size):
            noise = torch.randn(batch, 3, view.size, view.size, generator=generator)
            views.append(F.interpolate(images, size=view.size, mode="bilinear") + 0.3 * noise)
        return ViewBatch(views, torch.arange(batch) % 3)

    return make


@pytest.fixture
def train(make_batch) -> Callable[..., list[StepOutput]]:
    """``train(method, steps, lr)``: what each of so many AdamW steps returned, in the trainer's order, each on new noise."""

    def run(method: Method, steps: int, lr: float, batch: int = 8) -> list[StepOutput]:
        optimizer = torch.optim.AdamW(method.parameter_groups(), lr=lr)
        outputs = []
        for step in range(steps):
            progress = Progress(step, steps, 1)
            method.before_step(progress)
            output = method(make_batch(method, batch, seed=step))
            optimizer.zero_grad()
            output.loss.backward()
            method.after_backward(progress)
            optimizer.step()
            method.after_step(progress)
            outputs.append(output)
        return outputs

    return run
